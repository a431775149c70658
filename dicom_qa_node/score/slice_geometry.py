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
_ZONE_GAPS = 4
_REPEATS = 3
_LOSSES = (2, 3)
_AXES = ("sagittal", "coronal", "axial")
# Patient axis (x, y, z) and its sign along which columns and rows of a displayed picture grow (PS3.3 C.7.6.1.1.1).
_DISPLAY = {"axial": ((0, 1), (1, 1)), "coronal": ((0, 1), (2, -1)), "sagittal": ((1, 1), (2, -1))}


@dataclass(frozen=True, slots=True)
class Spacing:
    """How slices follow each other along the normal.

    ``nominal_mm`` is the usual gap, 0 for a single slice. ``zones_mm`` are the gaps of zones that were planned with
    their own, in order; one where the stack is even. ``missing`` counts the slices that would fill single
    gaps, multiples of those around them; ``uneven`` says that gaps fit no zone, between ``low_mm`` and ``high_mm``.
    """

    nominal_mm: float
    missing: int
    uneven: bool
    low_mm: float
    high_mm: float
    zones_mm: tuple[float, ...] = ()


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
    """Judge the gaps between slices in ascending order; the one rule by which slices are missing.

    A gap is regular if it is a multiple of its zone's to within 2 % of that (at least 0.05 mm: origins are often
    written to a tenth). Four equal gaps in a row make a zone, the step from one zone to the next is not a gap, and gaps
    of one size that come back at equal distances all along the stack are those of step and shoot.
    """
    gaps = np.diff(ordered_mm)
    if gaps.size == 0:
        return Spacing(0.0, 0, False, 0.0, 0.0)
    zones = _zones(gaps)
    low, high = float(gaps.min()), float(gaps.max())
    if len(zones) > 1:
        missing, uneven = _between_zones(gaps, zones)
        return Spacing(float(np.median(gaps)), missing, uneven, low, high, tuple(zone.step_mm for zone in zones))
    nominal = zones[0].step_mm if zones else _usual(gaps)
    steps, fits = _steps(gaps, nominal)
    if _step_and_shoot(gaps, nominal):
        return Spacing(nominal, 0, False, low, high, (nominal,))
    uneven = not fits.all()
    if not uneven:
        nominal = float(gaps.sum() / steps.sum())
    return Spacing(nominal, int((steps - 1)[fits].sum()), uneven, low, high, (nominal,))


@dataclass(frozen=True, slots=True)
class _Zone:
    """Gaps ``first`` to ``last`` of one size."""

    first: int
    last: int
    step_mm: float


def _usual(gaps: FloatVector) -> float:
    """Return the median gap; of an even number the lower of the middle two, for a mean of both may be no gap at all."""
    return float(np.quantile(gaps, 0.5, method="lower"))


def _tolerance(step_mm: float) -> float:
    return max(_EVEN_SHARE * step_mm, _EVEN_MM)


def _zones(gaps: FloatVector) -> list[_Zone]:
    """Return the runs of equal gaps that are long enough to be planned; neighbours of one size are one zone."""
    runs: list[_Zone] = []
    first = 0
    for index in range(1, gaps.size + 1):
        if index < gaps.size and abs(gaps[index] - gaps[first]) <= _tolerance(float(gaps[first])):
            continue
        if index - first >= _ZONE_GAPS:
            runs.append(_Zone(first, index - 1, float(np.median(gaps[first:index]))))
        first = index
    zones: list[_Zone] = []
    for run in runs:
        if zones and abs(zones[-1].step_mm - run.step_mm) <= _tolerance(run.step_mm):
            zones[-1] = _Zone(zones[-1].first, run.last, zones[-1].step_mm)
        else:
            zones.append(run)
    return zones


def _between_zones(gaps: FloatVector, zones: Sequence[_Zone]) -> tuple[int, bool]:
    """Count the slices missing inside zones, and say whether any gap fits neither zone beside it."""
    missing, uneven = 0, False
    for index, gap in enumerate(gaps):
        before = next((zone.step_mm for zone in reversed(zones) if zone.first <= index), zones[0].step_mm)
        after = next((zone.step_mm for zone in zones if zone.last >= index), zones[-1].step_mm)
        low, high = min(before, after), max(before, after)
        if low - _tolerance(low) <= gap <= high + _tolerance(high):
            continue
        steps = round(float(gap) / high)
        if abs(gap - steps * high) <= _tolerance(high):
            missing += max(steps - 1, 0)
        else:
            uneven = True
    return missing, uneven


def _step_and_shoot(gaps: FloatVector, nominal: float) -> bool:
    """Whether the gaps that differ are of one size and come back at equal distances from end to end."""
    other = np.flatnonzero(np.abs(gaps - nominal) > _tolerance(nominal))
    if other.size < _REPEATS or np.ptp(gaps[other]) > 2 * _tolerance(float(gaps[other].mean())):
        return False
    if round(float(gaps[other[0]]) / nominal) in _LOSSES and _steps(gaps[other], nominal)[1].all():
        return False  # one or two slices were lost each time
    apart = np.diff(other)
    period: int = int(apart[0])
    return bool(period > 1 and (apart == period).all() and other[0] < period and other[-1] >= gaps.size - period)


def off_grid(ordered_mm: FloatVector) -> list[int]:
    """Return the few slices without which the others lie on an even grid; [] if there are none or too many."""
    gaps = np.diff(ordered_mm)
    nominal = _usual(gaps) if gaps.size else 0.0
    if gaps.size < 4 or _steps(gaps, nominal)[1].all():
        return []
    phase = (ordered_mm - ordered_mm[0]) / nominal
    turn = np.exp(2j * np.pi * phase)
    # The grid's own phase is where most slices are; a circular median is found among the slices themselves.
    candidates = turn[:: max(1, turn.size // 100)]
    distance = np.abs(np.angle(turn[:, None] * np.conj(candidates[None, :])) / (2 * np.pi)) * nominal
    centre = int(np.argmin(np.median(distance, axis=0)))
    stray = np.flatnonzero(distance[:, centre] > max(_EVEN_SHARE * nominal, _EVEN_MM))
    rest = np.delete(ordered_mm, stray)
    # an extra slice stands in a gap of the others: both of its own are smaller
    narrow = all(
        min(gaps[max(index - 1, 0)], gaps[min(index, gaps.size - 1)]) < 0.9 * nominal for index in stray.tolist()
    )
    few = stray.size <= _OFF_GRID_MOST * ordered_mm.size
    fits = few and narrow and bool(_steps(np.diff(rest), nominal)[1].all())
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


def _steps(gaps: FloatVector, nominal: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return how many nominal gaps each gap spans, and whether it does so evenly."""
    steps = np.maximum(np.rint(gaps / max(nominal, 1e-6)), 1).astype(np.int64)
    return steps, np.asarray(np.abs(gaps - steps * nominal) <= _tolerance(nominal))
