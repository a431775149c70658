"""Generated CT of QC phantoms: how one is drawn slice by slice; ACR 464 and a water cylinder (CatPhan: `catphan`).

The arrangement follows the maker's manual (Gammex 464), as far as an analysis of the inserts, the bars and the uniform
module needs it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy import ndimage

from dicom_qa_node.phantom.ct import CtForm, CtSeries, ct_image
from dicom_qa_node.phantom.ct_acquisition import quality_named
from dicom_qa_node.phantom.image_header import Identity, Scanner, identity_of, phantom_uid
from dicom_qa_node.phantom.volumes import Frame

__all__ = ["ACR_INSERTS_HU", "CtPhantomForm", "DrawnSlice", "acr_ct_series", "qc_identity", "qc_series",
           "water_series"]  # fmt: skip

FloatArray = npt.NDArray[np.float32]
Draw = Callable[["DrawnSlice", float], None]

AIR_HU = -1000.0
ACR_INSERTS_HU: Mapping[str, float] = {
    "air": -990.0, "polyethylene": -95.0, "acrylic": 120.0, "bone": 910.0, "water": 0.0
}  # fmt: skip
_ACR_ANGLES = {"air": 45, "polyethylene": 225, "acrylic": 135, "bone": -45, "water": 180}


@dataclass(frozen=True)
class CtPhantomForm:
    """How a phantom is scanned.

    ``noise_hu`` is the standard deviation of white noise after a blur of ``blur_mm``; ``offset_hu`` is added to all
    material; ``cupping_hu`` is what the centre lies below the edge; ``centre_mm`` moves the phantom, (x, y);
    ``turn_deg`` turns it about its axis, clockwise as seen.
    """

    rows: int = 512
    fov_mm: float = 250.0
    thickness_mm: float = 1.0
    spacing_mm: float = 1.0
    noise_hu: float = 4.0
    blur_mm: float = 0.4
    offset_hu: float = 0.0
    cupping_hu: float = 0.0
    centre_mm: tuple[float, float] = (0.0, 0.0)
    turn_deg: float = 0.0
    table: bool = False
    seed: int = 1


@dataclass(frozen=True)
class DrawnSlice:
    """One slice while it is drawn; ``x`` and ``y`` are mm from the phantom's axis, to the left and to the back."""

    image: FloatArray
    x: FloatArray
    y: FloatArray
    pixel_mm: float

    def disc(self, hu: float, radius: float, angle: float = 0.0, distance: float = 0.0) -> None:
        """Draw a disc; ``angle`` in degrees, 0 to the left of the patient, 90 to the back."""
        turn = np.deg2rad(angle)
        apart = np.hypot(self.x - distance * np.cos(turn), self.y - distance * np.sin(turn))
        self.blend(hu, np.clip((radius - apart) / self.pixel_mm + 0.5, 0.0, 1.0))

    def box(self, hu: float, x: tuple[float, float], y: tuple[float, float]) -> None:
        """Draw a rectangle."""
        across = _inside(self.x, x, self.pixel_mm) * _inside(self.y, y, self.pixel_mm)
        self.blend(hu, across)

    def blend(self, hu: float, share: FloatArray) -> None:
        """Mix a material in by the share of each pixel that it fills."""
        self.image[:] += share * (hu - self.image)


def acr_ct_series(
    form: CtPhantomForm | None = None, *, slices: int = 64, identity: Identity | None = None,
    scanner: Scanner | None = None, uid: str = "",
) -> list[Dataset]:  # fmt: skip
    """An ACR 464: inserts of `ACR_INSERTS_HU`, a low-contrast rod of 6 HU, a uniform module of 0 HU."""
    form = form or CtPhantomForm(spacing_mm=2.5, thickness_mm=2.5)
    return qc_series("acr464", form, slices, 50.0, _acr, identity, scanner, uid)


def water_series(
    form: CtPhantomForm | None = None, *, slices: int = 24, diameter_mm: float = 200.0,
    identity: Identity | None = None, scanner: Scanner | None = None, uid: str = "",
) -> list[Dataset]:  # fmt: skip
    """A cylinder of water in 5 mm of acrylic."""
    form = form or CtPhantomForm(spacing_mm=5.0, thickness_mm=5.0)

    def draw(plane: DrawnSlice, _z: float) -> None:
        plane.disc(120.0, diameter_mm / 2)
        plane.disc(0.0, diameter_mm / 2 - 5.0)

    return qc_series(f"water{diameter_mm:g}", form, slices, 0.0, draw, identity, scanner, uid)


def qc_identity(seed: int, name: str = "QA^Daily", patient_id: str = "QA001", protocol: str = "QA Daily") -> Identity:
    """An identity as scanners' QC protocols write it."""
    return replace(
        identity_of(seed, "qc"), patient_name=name, patient_id=patient_id, protocol=protocol, body_part="PHANTOM",
        study_description="Quality control",
    )  # fmt: skip


def qc_series(
    name: str, form: CtPhantomForm, slices: int, middle_mm: float, draw: Draw, identity: Identity | None,
    scanner: Scanner | None, uid: str,
) -> list[Dataset]:  # fmt: skip
    """Draw ``slices`` slices whose middle lies at ``middle_mm``; ``draw`` is given each with its position in mm."""
    who = identity or qc_identity(form.seed)
    levels = middle_mm + (np.arange(slices) - (slices - 1) / 2) * form.spacing_mm
    rng = np.random.default_rng(form.seed)
    series = CtSeries(
        identity=who, scanner=scanner or Scanner(), uid=uid or phantom_uid(form.seed, who.study_uid, name, form),
        number=2, description=f"QC {name}", acquisition=1, spacing_mm=form.spacing_mm,
        thickness_mm=form.thickness_mm, fov_mm=form.fov_mm, images=slices, quality=quality_named("routine"),
        form=CtForm(images_in_acquisition=True), contrast=False, begin=who.start + dt.timedelta(minutes=4),
    )  # fmt: skip
    frames = (_frame(form, float(z), draw, rng) for z in levels)
    return [ct_image(series, frame, index) for index, frame in enumerate(frames)]


def _frame(form: CtPhantomForm, z: float, draw: Draw, rng: np.random.Generator) -> Frame:
    pixel = form.fov_mm / form.rows
    axis = ((np.arange(form.rows) - (form.rows - 1) / 2) * pixel).astype(np.float32)
    y, x = np.meshgrid(axis - form.centre_mm[1], axis - form.centre_mm[0], indexing="ij")
    image = np.full(x.shape, AIR_HU, np.float32)
    if form.table:
        DrawnSlice(image, x, y, pixel).box(-60.0, (-110.0, 110.0), (99.0, 112.0))
    turn = np.deg2rad(form.turn_deg)
    along, across = (x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)) if turn else (x, y)
    draw(DrawnSlice(image, along.astype(np.float32), across.astype(np.float32), pixel), z)
    image = ndimage.gaussian_filter(image, form.blur_mm / pixel) if form.blur_mm else image
    inside = np.hypot(x, y) < 200.0
    bowl = form.cupping_hu * (np.hypot(x, y) / 100.0) ** 2 - form.cupping_hu
    image = image + np.where(inside & (image > -500.0), form.offset_hu + bowl, 0.0)
    if form.noise_hu:
        image = image + rng.normal(0.0, form.noise_hu, image.shape)
    position = (float(axis[0]), float(axis[0]), z)
    return Frame(image.astype(np.float32), position, (1, 0, 0, 0, 1, 0), (pixel, pixel), 1.0)


def _acr(plane: DrawnSlice, z: float) -> None:
    plane.disc(0.0, 100.0)
    if -20.0 <= z < 20.0:
        for name, angle in _ACR_ANGLES.items():
            plane.disc(ACR_INSERTS_HU[name], 12.5, angle, 63.0)
    elif 20.0 <= z < 60.0:
        plane.disc(90.0, 75.0)
        plane.disc(96.0, 12.5, -90, 60.0)
    elif abs(z - 70.0) < 2.0:
        plane.disc(1500.0, 0.8, -45, 20.0)
        plane.disc(1500.0, 0.8, 135, 80.0)
    elif 85.0 <= z < 120.0:
        plane.disc(120.0, 95.0)
        for number, pairs in enumerate((0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)):
            _bars(plane, -135.0 - 45.0 * number, pairs)


def _bars(plane: DrawnSlice, angle: float, pairs_per_mm: float) -> None:
    turn = np.deg2rad(angle)
    x, y = plane.x - 70.0 * np.cos(turn), plane.y - 70.0 * np.sin(turn)
    square = (np.abs(x) < 7.5) & (np.abs(y) < 7.5)
    plane.image[square & ((x * pairs_per_mm) % 1.0 < 0.5)] = 1000.0


def _inside(values: Iterable[float] | FloatArray, ends: tuple[float, float], pixel_mm: float) -> FloatArray:
    middle, half = sum(ends) / 2, (ends[1] - ends[0]) / 2
    share = np.clip((half - np.abs(np.asarray(values) - middle)) / pixel_mm + 0.5, 0.0, 1.0)
    return np.asarray(share, np.float32)
