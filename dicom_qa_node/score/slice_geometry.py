"""Where slices lie: order along the normal, spacing, missing and extra slices, tilt, and how to turn one for display.

Everything is in patient coordinates (LPS, PS3.3 C.7.6.2.1.1) and millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Spacing", "Turn", "display_turn", "normal_of", "off_grid", "plane_of", "positions", "spacing_of", "tilt_of"]

FloatVector = npt.NDArray[np.float64]

SAME_POSITION_MM = 0.01
"""Slices nearer to each other than this are at one position: origins are written with two or more decimals."""

_EVEN_SHARE = 0.02
_EVEN_MM = 0.05
_OFF_GRID_MOST = 0.1
_AXES = ("sagittal", "coronal", "axial")
# Patient axis (x, y, z) and its sign along which columns and rows of a displayed picture grow (PS3.3 C.7.6.1.1.1).
_DISPLAY = {"axial": ((0, 1), (1, 1)), "coronal": ((0, 1), (2, -1)), "sagittal": ((1, 1), (2, -1))}


@dataclass(frozen=True, slots=True)
class Spacing:
    """How slices follow each other along the normal.

    ``nominal_mm`` is the usual gap, 0 for a single slice. ``missing`` counts the slices that would fill gaps which are
    multiples of it; ``uneven`` says that gaps are not such multiples, between ``low_mm`` and ``high_mm``.
    """

    nominal_mm: float
    missing: int
    uneven: bool
    low_mm: float
    high_mm: float


@dataclass(frozen=True, slots=True)
class Turn:
    """How to lay a stored slice on a screen: exchange rows and columns first, then mirror."""

    exchange: bool
    mirror_rows: bool
    mirror_columns: bool

    def apply(self, picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return the turned picture, a view; further axes stay where they are."""
        turned = picture.swapaxes(0, 1) if self.exchange else picture
        return turned[:: -1 if self.mirror_rows else 1, :: -1 if self.mirror_columns else 1]


def normal_of(orientation: Sequence[float]) -> FloatVector:
    """Return the unit normal of a slice: row direction x column direction of Image Orientation (Patient)."""
    normal = np.cross(np.asarray(orientation[:3], float), np.asarray(orientation[3:], float))
    return np.asarray(normal / np.linalg.norm(normal))


def positions(origins_mm: npt.ArrayLike, normal: FloatVector) -> FloatVector:
    """Return the positions of slices along the normal; origins have shape (slices, 3)."""
    return np.asarray(np.asarray(origins_mm, float).reshape(-1, 3) @ normal)


def spacing_of(ordered_mm: FloatVector) -> Spacing:
    """Judge the gaps between slices in ascending order.

    A gap is regular if it is a multiple of the median gap to within 2 % of that (at least 0.05 mm: origins are
    often written to a tenth).
    """
    gaps = np.diff(ordered_mm)
    if gaps.size == 0:
        return Spacing(0.0, 0, False, 0.0, 0.0)
    steps, fits = _steps(gaps)
    uneven = not fits.all()
    nominal = float(np.median(gaps)) if uneven else float(gaps.sum() / steps.sum())
    missing = int((steps - 1)[fits].sum())
    return Spacing(nominal, missing, uneven, float(gaps.min()), float(gaps.max()))


def off_grid(ordered_mm: FloatVector) -> list[int]:
    """Return the few slices without which the others lie on an even grid; [] if there are none or too many."""
    gaps = np.diff(ordered_mm)
    if gaps.size < 4 or _steps(gaps)[1].all():
        return []
    nominal = float(np.median(gaps))
    phase = (ordered_mm - ordered_mm[0]) / nominal
    turn = np.exp(2j * np.pi * phase)
    # The grid's own phase is where most slices are; a circular median is found among the slices themselves.
    candidates = turn[:: max(1, turn.size // 100)]
    distance = np.abs(np.angle(turn[:, None] * np.conj(candidates[None, :])) / (2 * np.pi)) * nominal
    centre = int(np.argmin(np.median(distance, axis=0)))
    stray = np.flatnonzero(distance[:, centre] > max(_EVEN_SHARE * nominal, _EVEN_MM))
    rest = np.delete(ordered_mm, stray)
    fits = stray.size <= _OFF_GRID_MOST * ordered_mm.size and bool(_steps(np.diff(rest))[1].all())
    return [int(index) for index in stray] if fits else []


def tilt_of(origins_mm: FloatVector, normal: FloatVector) -> float:
    """Return the angle in degrees between the way from the first to the last slice and the normal, 0 for one slice."""
    way = origins_mm[-1] - origins_mm[0]
    length = float(np.linalg.norm(way))
    if length < SAME_POSITION_MM:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(abs(way @ normal) / length, 0.0, 1.0))))


def plane_of(normal: FloatVector) -> tuple[str, float]:
    """Return the nearest of axial, coronal and sagittal, and the angle to it in degrees."""
    axis = int(np.argmax(np.abs(normal)))
    return _AXES[axis], float(np.degrees(np.arccos(np.clip(abs(normal[axis]), 0.0, 1.0))))


def display_turn(direction: FloatVector) -> Turn:
    """Return how to turn slices so that they are seen as radiologists see them, however the patient lay.

    Axial: front of the body up, its left on the right; coronal and sagittal: head up.

    Parameters
    ----------
    direction
        As in `volume.Volume`.
    """
    row, column = direction[:, 1], direction[:, 2]
    plane, _ = plane_of(np.cross(column, row))
    (across, across_sign), (down, down_sign) = _DISPLAY[plane]
    exchange = bool(abs(column[across]) < abs(row[across]))
    if exchange:
        row, column = column, row
    return Turn(exchange, bool(row[down] * down_sign < 0), bool(column[across] * across_sign < 0))


def _steps(gaps: FloatVector) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return how many nominal gaps each gap spans, and whether it does so evenly."""
    nominal = float(np.median(gaps))
    steps = np.maximum(np.rint(gaps / max(nominal, 1e-6)), 1).astype(np.int64)
    fits = np.abs(gaps - steps * nominal) <= max(_EVEN_SHARE * nominal, _EVEN_MM)
    return steps, np.asarray(fits)
