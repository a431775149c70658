"""Generated PET of QC phantoms: NEMA IQ body phantom and uniform cylinder, with the activities they were drawn with."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy import ndimage

from dicom_qa_node.phantom.image_header import Identity, Scanner, phantom_uid
from dicom_qa_node.phantom.pet import PetForm, PetSeries, pet_image
from dicom_qa_node.phantom.qc_ct import qc_identity
from dicom_qa_node.phantom.volumes import Frame

__all__ = ["SPHERES", "PetPhantomForm", "nema_iq_activity", "nema_iq_series", "uniform_pet_series"]

FloatArray = npt.NDArray[np.float32]
SPHERES = ((37.0, 0.0), (28.0, 60.0), (22.0, 120.0), (17.0, 180.0), (13.0, 240.0), (10.0, 300.0))
"""Inner diameter in mm and angle in degrees of the spheres, on a circle of 57.2 mm radius."""

_CIRCLE_MM = 57.2
_FINE = 3


@dataclass(frozen=True)
class PetPhantomForm:
    """How a phantom is scanned; ``fwhm_mm`` is the resolution, ``cov`` the relative noise of the background."""

    rows: int = 128
    pixel_mm: float = 2.5
    spacing_mm: float = 2.5
    slices: int = 72
    background: float = 1.0
    ratio: float = 4.0
    lung: float = 0.0
    fwhm_mm: float = 5.0
    cov: float = 0.02
    turn_deg: float = 0.0
    shift_mm: tuple[float, float] = (0.0, 0.0)
    seed: int = 1


def nema_iq_series(
    form: PetPhantomForm | None = None, *, identity: Identity | None = None, scanner: Scanner | None = None,
    pet_form: PetForm | None = None,
) -> list[Dataset]:  # fmt: skip
    """The body phantom of NEMA NU 2 (IEC 61675-1) with six hot spheres and a lung insert, in SUV."""
    form = form or PetPhantomForm()
    return _series("nema", form, nema_iq_activity(form), identity, scanner, pet_form)


def uniform_pet_series(
    form: PetPhantomForm | None = None, *, diameter_mm: float = 200.0, gradient: float = 0.0,
    identity: Identity | None = None, scanner: Scanner | None = None, pet_form: PetForm | None = None,
) -> list[Dataset]:  # fmt: skip
    """A cylinder; ``gradient`` is the relative rise of the activity over its length."""
    form = form or PetPhantomForm()
    y, x, z = _grid(form)
    edge = np.clip((diameter_mm / 2 - np.hypot(x, y)) / form.pixel_mm + 0.5, 0.0, 1.0)
    along = np.clip((85.0 - np.abs(z)) / form.spacing_mm + 0.5, 0.0, 1.0)
    activity = form.background * edge * along * (1.0 + gradient * z / 170.0)
    return _series("uniform", form, _blurred(activity.astype(np.float32), form), identity, scanner, pet_form)


def nema_iq_activity(form: PetPhantomForm) -> FloatArray:
    """Activity in SUV, shape (slices, rows, columns), blurred by the resolution; without noise."""
    fine = [_phantom(form, *_grid(form, (sub + 0.5) / _FINE - 0.5)) for sub in range(_FINE)]
    return _blurred(np.mean(fine, axis=0, dtype=np.float32), form)


def _phantom(form: PetPhantomForm, y: FloatArray, x: FloatArray, z: FloatArray) -> FloatArray:
    # The cross section: a half disc of 147 mm above, two quarter discs of 77 mm with a straight piece between below.
    upper = (np.hypot(x, y + 35.0) <= 147.0) & (y <= -35.0 + 0.0)
    sides = np.hypot(np.abs(x) - 70.0, y + 35.0) <= 77.0
    middle = (np.abs(x) <= 70.0) & (y >= -35.0) & (y <= 42.0)
    lower = (y > -35.0) & (sides | middle)
    body = (upper | lower) & (np.abs(z) <= 90.0)
    activity = np.where(body, np.float32(form.background), np.float32(0.0))
    for diameter, angle in SPHERES:
        turn = np.deg2rad(angle + form.turn_deg)
        apart = np.sqrt((x - _CIRCLE_MM * np.cos(turn)) ** 2 + (y + _CIRCLE_MM * np.sin(turn)) ** 2 + z**2)
        activity = np.where(apart <= diameter / 2, np.float32(form.background * form.ratio), activity)
    return np.where((np.hypot(x, y) <= 25.0) & body, np.float32(form.lung), activity).astype(np.float32)


def _grid(form: PetPhantomForm, sub: float = 0.0) -> tuple[FloatArray, FloatArray, FloatArray]:
    plane = (np.arange(form.rows) - (form.rows - 1) / 2 + sub) * form.pixel_mm
    level = (np.arange(form.slices) - (form.slices - 1) / 2 + sub) * form.spacing_mm
    z, y, x = np.meshgrid(level, plane - form.shift_mm[1], plane - form.shift_mm[0], indexing="ij")
    return y.astype(np.float32), x.astype(np.float32), z.astype(np.float32)


def _blurred(activity: FloatArray, form: PetPhantomForm) -> FloatArray:
    sigma = form.fwhm_mm / 2.3548
    steps = (sigma / form.spacing_mm, sigma / form.pixel_mm, sigma / form.pixel_mm)
    return np.asarray(ndimage.gaussian_filter(activity, steps), np.float32)


def _series(
    name: str, form: PetPhantomForm, activity: FloatArray, identity: Identity | None, scanner: Scanner | None,
    pet_form: PetForm | None,
) -> list[Dataset]:  # fmt: skip
    who = identity or qc_identity(form.seed, protocol="PET QC")
    rng = np.random.default_rng(form.seed)
    noise = form.cov * form.background * rng.standard_normal(activity.shape).astype(np.float32)
    voxels = np.maximum(activity + noise * np.sqrt(np.maximum(activity, 0.0) / form.background), 0.0)
    series = PetSeries(
        identity=who, scanner=scanner or Scanner(model="Phantom PET/CT", station="GENPET"),
        uid=phantom_uid(form.seed, who.study_uid, name, form), number=3, description=f"QC {name}",
        spacing_mm=form.spacing_mm, images=len(voxels), form=pet_form or PetForm(),
        begin=who.start + dt.timedelta(minutes=6), count_fraction=1.0, common_slope=float(voxels.max()) / 32767.0,
    )  # fmt: skip
    first = -(form.rows - 1) / 2 * form.pixel_mm
    levels = (np.arange(len(voxels)) - (len(voxels) - 1) / 2) * form.spacing_mm
    frames = [
        Frame(plane, (first, first, float(z)), (1, 0, 0, 0, 1, 0), (form.pixel_mm, form.pixel_mm), 1.0)
        for plane, z in zip(voxels, levels, strict=True)
    ]
    return [pet_image(series, frame, index) for index, frame in enumerate(frames)]
