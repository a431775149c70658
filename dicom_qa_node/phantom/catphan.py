"""Generated CT of the CatPhan models 503, 504, 600, 604 and 700, with the values they were drawn with.

One table says how the models differ: inserts, order and distance of the modules, and where the line pairs lie. The
arrangement follows the manuals of The Phantom Laboratory as pylinac 3.49 reads them. Angles are in degrees, 0 to the
left of the patient, 90 to the back; distances in mm from the axis; positions in mm from the module of the inserts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_qa_node.phantom.image_header import Identity, Scanner
from dicom_qa_node.phantom.qc_ct import CtPhantomForm, DrawnSlice, qc_series

__all__ = ["CATPHANS", "NODES_MM", "WATER_HU", "CatPhan", "Insert", "catphan_series", "contrast_transfer",
           "frequency_of_contrast"]  # fmt: skip

NODES_MM = 50.0
WATER_HU = 5.0
"""CT number of the uniform module."""

_TAN_RAMP = 0.42
_BODY_HU = 110.0
_MODULE_HU = 95.0
_BARS_HU = 900.0
_LINE_RADIUS_MM = 47.0
_HALF_MODULE_MM = 15.0
_BARS = (2, 3, 4, 4, 4, 5, 5, 5)
_DISCS = ((-87.4, 7.5), (-69.1, 4.5), (-52.7, 4.0), (-38.5, 3.5), (-25.1, 3.0), (-12.9, 2.5))
_BLOCKS = ((-90, -7.0, 11.0), (-90, 11.0, 11.0), (-45, -5.5, 10.0), (-45, 9.5, 8.5), (0, -9.0, 8.0), (0, 2.0, 7.0),
           (0, 12.0, 6.0), (45, -10.5, 4.0))  # fmt: skip
"""Of the straight line pairs: angle of the row of blocks, middle along it and length in mm; 50 mm from the axis."""

_Distances = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Insert:
    """A rod of one material in the module of the inserts."""

    hu: float
    angle: float
    distance_mm: float = 58.7
    radius_mm: float = 6.0


@dataclass(frozen=True)
class _LinePairs:
    """Line pairs of 0.1 to 0.8 per mm on a circle; each group lies between two of ``ends``, in turns from ``start``.

    ``way`` is 1 for clockwise as seen, -1 for the other way.
    """

    ends: tuple[float, ...]
    start: float
    way: int


@dataclass(frozen=True)
class CatPhan:
    """What a model is made of; the positions are those of the modules, None where the model has no such module.

    ``air`` are holes without an entry of their own in an analysis; ``line_pairs`` is None for straight ones; ``ramps``
    are the sides that have wires.
    """

    inserts: Mapping[str, Insert]
    uniform_mm: float
    pairs_mm: float
    line_pairs: _LinePairs | None
    discs_mm: float | None = None
    discs_turn: float = 0.0
    radius_mm: float = 100.0
    air: tuple[Insert, ...] = ()
    nodes: bool = True
    ramps: tuple[str, ...] = field(default=("left", "right", "front", "back"))


_AIR, _PMP, _LDPE, _POLY, _ACRYLIC, _DELRIN, _TEFLON = -1000.0, -196.0, -104.0, -47.0, 115.0, 365.0, 990.0
_BONE_20, _BONE_50, _LUNG = 237.0, 725.0, -868.0
_OF_504 = {
    "air": Insert(_AIR, -90), "pmp": Insert(_PMP, -120), "ldpe": Insert(_LDPE, 180), "poly": Insert(_POLY, 120),
    "acrylic": Insert(_ACRYLIC, 60), "delrin": Insert(_DELRIN, 0), "teflon": Insert(_TEFLON, -60),
}  # fmt: skip
_BELOW = (Insert(_AIR, 90),)
_TURNS_504 = (0.0, 0.107, 0.173, 0.236, 0.286, 0.335, 0.387, 0.434, 0.479)

CATPHANS: Mapping[str, CatPhan] = {
    "503": CatPhan(
        _OF_504, uniform_mm=-110, pairs_mm=-30, radius_mm=97.0, air=_BELOW,
        line_pairs=_LinePairs((0.0, 0.111, 0.176, 0.240, 0.289, 0.339, 0.390, 0.436, 0.481), 0.0, 1),
    ),
    "504": CatPhan(
        _OF_504, uniform_mm=-65, pairs_mm=30, discs_mm=-30, air=_BELOW,
        line_pairs=_LinePairs(_TURNS_504, 180.0, -1),
    ),
    "600": CatPhan(
        {name: Insert(item.hu, item.angle + 180) for name, item in _OF_504.items()}
        | {"vial": Insert(3.0, -90)},
        uniform_mm=-160, pairs_mm=-70, discs_mm=-110, discs_turn=180.0,
        line_pairs=_LinePairs(
            (0.0, 0.127, 0.195, 0.255, 0.304, 0.354, 0.405, 0.453, 0.496), 180.0 - np.degrees(0.1), 1
        ),
    ),
    "604": CatPhan(
        _OF_504 | {"50_bone": Insert(_BONE_50, -150), "20_bone": Insert(_BONE_20, 30)},
        uniform_mm=-80, pairs_mm=40, discs_mm=-40, air=_BELOW, line_pairs=_LinePairs(_TURNS_504, 180.0, -1),
    ),
    "700": CatPhan(
        {
            "air": Insert(_AIR, -90), "pmp": Insert(_PMP, -60), "lung_7112": Insert(_LUNG, -15),
            "delrin": Insert(_DELRIN, 15), "poly": Insert(_POLY, 60), "teflon": Insert(_TEFLON, 90),
            "20_bone": Insert(_BONE_20, 120), "ldpe": Insert(_LDPE, 165), "50_bone": Insert(_BONE_50, 195),
            "acrylic": Insert(_ACRYLIC, 240), "vial": Insert(3.0, -45, 28.0),
        },
        uniform_mm=-160, pairs_mm=-40, discs_mm=-80, discs_turn=180.0, nodes=False, ramps=("front", "back"),
        line_pairs=None,
    ),
}  # fmt: skip
"""The models by number, with the CT numbers of their inserts."""


def catphan_series(
    model: str, form: CtPhantomForm | None = None, *, identity: Identity | None = None,
    scanner: Scanner | None = None, uid: str = "",
) -> list[Dataset]:  # fmt: skip
    """A scan of all modules, 20 mm beyond the middle of the outermost; ``model`` is a key of `CATPHANS`."""
    form, made = form or CtPhantomForm(), CATPHANS[model]
    modules = _modules(made, form)
    first, last = min(modules) - 20.0, max(modules) + 20.0
    # a slice lies in the very middle of the inserts
    slices = 2 * round((last - first) / 2 / form.spacing_mm) + 1
    middle = round((first + last) / 2 / form.spacing_mm) * form.spacing_mm

    def draw(plane: DrawnSlice, z: float) -> None:
        plane.disc(_BODY_HU, made.radius_mm)
        nearest = min(modules, key=lambda place: abs(z - place))
        if abs(z - nearest) <= _HALF_MODULE_MM:
            modules[nearest](plane, z - nearest)
        else:
            plane.disc(_MODULE_HU, 75.0)

    return qc_series(f"catphan{model}", form, slices, middle, draw, identity, scanner, uid)


def contrast_transfer(per_mm: float, blur_mm: float) -> float:
    """Return the contrast of bars of equal bars and gaps after a blur, relative to that of wide bars.

    The square wave's harmonics (Coltman), each weakened by exp(-2 (pi sigma f)^2).
    """
    odd = np.arange(1, 60, 2)
    signs = np.where(odd % 4 == 1, 1.0, -1.0)
    return float(4 / np.pi * np.sum(signs / odd * np.exp(-2 * (np.pi * blur_mm * odd * per_mm) ** 2)))


def frequency_of_contrast(share: float, blur_mm: float) -> float:
    """Return the line pairs per mm at which bars keep a share (0-1) of their contrast."""
    places = np.linspace(0.01, 3.0, 6000)
    contrast = np.array([contrast_transfer(float(place), blur_mm) for place in places])
    return float(places[np.argmax(contrast < share)])


def _modules(made: CatPhan, form: CtPhantomForm) -> dict[float, Callable[[DrawnSlice, float], None]]:
    pairs: Callable[[DrawnSlice, float], None] = (
        partial(_round_pairs, line_pairs=made.line_pairs) if made.line_pairs else _straight_pairs
    )
    found: dict[float, Callable[[DrawnSlice, float], None]] = {
        0.0: partial(_inserts, made=made, thickness_mm=form.thickness_mm),
        made.pairs_mm: pairs,
        made.uniform_mm: lambda plane, _z: plane.disc(WATER_HU, 75.0),
    }
    if made.discs_mm is not None:
        found[made.discs_mm] = partial(_low_contrast, turn=made.discs_turn)
    return found


def _inserts(plane: DrawnSlice, z: float, *, made: CatPhan, thickness_mm: float) -> None:
    plane.disc(_MODULE_HU, 75.0)
    for item in (*made.inserts.values(), *made.air):
        plane.disc(item.hu, item.radius_mm, item.angle, item.distance_mm)
    if made.nodes:
        side = NODES_MM / 2
        for x, y, hu in ((-side, -side, _TEFLON), (side, -side, _AIR), (-side, side, _AIR), (side, side, _AIR)):
            plane.disc(hu, 1.5, np.rad2deg(np.arctan2(y, x)), float(np.hypot(x, y)))
    # A wire on a ramp crosses the slice over thickness / tan(23 degrees); opposite ramps rise opposite ways.
    low, high = ((z + side * thickness_mm / 2) / _TAN_RAMP for side in (-1, 1))
    far = 38.0 if made.nodes else 40.0
    for name in made.ramps:
        side = far if name in ("right", "back") else -far
        ends = (low, high) if side > 0 else (-high, -low)
        across = (side - 0.5, side + 0.5)
        plane.box(600.0, *((across, ends) if name in ("left", "right") else (ends, across)))


def _round_pairs(plane: DrawnSlice, _z: float, *, line_pairs: _LinePairs) -> None:
    plane.disc(_MODULE_HU, 75.0)
    angle = np.arctan2(plane.y, plane.x) - np.deg2rad(line_pairs.start)
    along = (line_pairs.way * angle) % (2 * np.pi) * _LINE_RADIUS_MM
    out = np.hypot(plane.x, plane.y) - _LINE_RADIUS_MM
    for number, bars in enumerate(_BARS, 1):
        begin, end = line_pairs.ends[number - 1 : number + 1]
        middle = (begin + end) * np.pi * _LINE_RADIUS_MM
        _bars(plane, out, along - middle, 10.0 / number, bars)


def _straight_pairs(plane: DrawnSlice, _z: float) -> None:
    plane.disc(_MODULE_HU, 75.0)
    for number, (angle, middle, length) in enumerate(_BLOCKS, 1):
        turn = np.deg2rad(angle)
        out = plane.x * np.cos(turn) + plane.y * np.sin(turn) - 50.0
        along = plane.y * np.cos(turn) - plane.x * np.sin(turn) - middle
        # an odd number of bars has one in the middle of the region of an analysis and gaps within it
        _bars(plane, out, along, 10.0 / number, 2 * int((length * number / 10 + 0.5) / 2) + 1)


def _bars(plane: DrawnSlice, out: _Distances, along: _Distances, period_mm: float, count: int) -> None:
    """Draw bars and gaps of equal width about ``along`` 0, 12 mm long; pixels at an edge by their share."""
    place = along / period_mm + (0.0 if count % 2 else 0.5)
    nearest = np.rint(place)
    edge = (0.25 - np.abs(place - nearest)) * period_mm / plane.pixel_mm + 0.5
    inside = (np.abs(out) < 6.0) & (np.abs(along) < count * period_mm / 2)
    plane.blend(_BARS_HU, np.where(inside, np.clip(edge, 0.0, 1.0), 0.0).astype(np.float32))


def _low_contrast(plane: DrawnSlice, _z: float, *, turn: float) -> None:
    plane.disc(50.0, 75.0)
    for angle, radius in _DISCS:
        plane.disc(60.0, radius, angle + turn, 50.0)
