"""Statistical process control, as pure functions: individuals and EWMA charts, runs rules, drift, spread.

Formulas follow D. C. Montgomery, Introduction to Statistical Quality Control, and the NIST/SEMATECH e-Handbook of
Statistical Methods (6.3.2); the tests hold their worked examples. Nothing here knows scanners, patients or tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "D2_PAIRS",
    "Distribution",
    "Drift",
    "Limits",
    "Rule",
    "Violation",
    "distribution",
    "drift",
    "ewma",
    "ewma_limits",
    "limits_of",
    "violations",
]

D2_PAIRS = 1.128
"""Expected range of two normal values in standard deviations (Montgomery, appendix VI, n = 2)."""

Values = NDArray[np.float64]


class Rule(Enum):
    """The Western Electric rules (Statistical Quality Control Handbook, 1956), the strongest first."""

    BEYOND_3_SIGMA = 1
    TWO_OF_THREE_BEYOND_2_SIGMA = 2
    FOUR_OF_FIVE_BEYOND_1_SIGMA = 3
    EIGHT_ON_ONE_SIDE = 4

    @property
    def sentence(self) -> str:
        """What a point did that breaks the rule."""
        return _SENTENCES[self]


_SENTENCES = {
    Rule.BEYOND_3_SIGMA: "beyond 3 sigma",
    Rule.TWO_OF_THREE_BEYOND_2_SIGMA: "two of three beyond 2 sigma on one side",
    Rule.FOUR_OF_FIVE_BEYOND_1_SIGMA: "four of five beyond 1 sigma on one side",
    Rule.EIGHT_ON_ONE_SIDE: "eight in a row on one side of the centre",
}
#: Points looked back on, how many of them must lie beyond, and beyond how many sigma.
_WINDOWS = {
    Rule.BEYOND_3_SIGMA: (1, 1, 3.0),
    Rule.TWO_OF_THREE_BEYOND_2_SIGMA: (3, 2, 2.0),
    Rule.FOUR_OF_FIVE_BEYOND_1_SIGMA: (5, 4, 1.0),
    Rule.EIGHT_ON_ONE_SIDE: (8, 8, 0.0),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Centre and short-term spread of a baseline of ``count`` values, in the unit of the values."""

    centre: float
    sigma: float
    count: int

    def at(self, sigmas: float) -> float:
        """Return the line that lies so many sigmas above (or, negative, below) the centre."""
        return self.centre + sigmas * self.sigma

    @property
    def lower(self) -> float:
        """Lower control limit of the individuals chart."""
        return self.at(-3.0)

    @property
    def upper(self) -> float:
        """Upper control limit of the individuals chart."""
        return self.at(3.0)


@dataclass(frozen=True, slots=True)
class Violation:
    """A point (its position, from 0) that completes the pattern of a rule; ``side`` is 1 above, -1 below the centre."""

    index: int
    rule: Rule
    side: int


@dataclass(frozen=True, slots=True)
class Drift:
    """A drift that lasts to the end of a sequence: where it began, to which side, how far the EWMA is off, in sigma."""

    first: int
    side: int
    shift_sigma: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """Five percentiles (5, 25, 50, 75, 95) and the mean of ``count`` values."""

    count: int
    p5: float
    q1: float
    median: float
    q3: float
    p95: float
    mean: float

    @property
    def iqr(self) -> float:
        """Interquartile range: the spread that outliers do not move."""
        return self.q3 - self.q1


def limits_of(baseline: Sequence[float] | Values) -> Limits | None:
    """Estimate centre and sigma from a baseline: the mean, and the mean moving range over d2.

    Returns None for fewer than two values: they have no spread.
    """
    values = np.asarray(baseline, dtype=np.float64)
    if values.size < 2:
        return None
    moving_range = float(np.mean(np.abs(np.diff(values))))
    return Limits(float(np.mean(values)), moving_range / D2_PAIRS, int(values.size))


def ewma(values: Sequence[float] | Values, start: float, weight: float) -> Values:
    """Return z[i] = weight x[i] + (1 - weight) z[i-1] with z[-1] = ``start``; ``weight`` is Montgomery's lambda."""
    smoothed = np.empty(len(values), dtype=np.float64)
    last = start
    for index, value in enumerate(values):
        last = weight * float(value) + (1.0 - weight) * last
        smoothed[index] = last
    return smoothed


def ewma_limits(limits: Limits, count: int, weight: float, width: float) -> tuple[Values, Values]:
    """Return lower and upper limit of each of ``count`` EWMA points.

    The variance is the exact one, sigma^2 weight / (2 - weight) (1 - (1 - weight)^(2 i)), so that the first points are
    judged as sharply as the later ones; ``width`` is Montgomery's L.
    """
    step = np.arange(1, count + 1, dtype=np.float64)
    variance = weight / (2.0 - weight) * (1.0 - (1.0 - weight) ** (2.0 * step))
    half = width * limits.sigma * np.sqrt(variance)
    return limits.centre - half, limits.centre + half


def violations(values: Sequence[float] | Values, limits: Limits) -> list[Violation]:
    """Return every point that completes the pattern of a Western Electric rule, in order.

    A point breaks at most one rule, the strongest; a point counts for a pattern only if it lies beyond itself.
    Without spread (sigma 0) no rule can be judged and the list is empty.
    """
    if limits.sigma <= 0.0:
        return []
    distance = (np.asarray(values, dtype=np.float64) - limits.centre) / limits.sigma
    return list(_first_broken(distance))


def drift(values: Sequence[float] | Values, limits: Limits, *, weight: float, width: float, run: int) -> Drift | None:
    """Return the drift that lasts at the end of a sequence, or None.

    A drift is an EWMA outside its limits, on one side, for at least ``run`` points up to the last: one outlier moves
    an EWMA too, but does not hold it there.
    """
    if len(values) < run or limits.sigma <= 0.0:
        return None
    smoothed = ewma(values, limits.centre, weight)
    lower, upper = ewma_limits(limits, len(values), weight, width)
    outside = np.where(smoothed > upper, 1, np.where(smoothed < lower, -1, 0))
    side = int(outside[-1])
    same = np.flatnonzero(outside != side)
    first = int(same[-1]) + 1 if same.size else 0
    if side == 0 or len(values) - first < run:
        return None
    return Drift(first, side, float(smoothed[-1] - limits.centre) / limits.sigma)


def distribution(values: Sequence[float] | Values) -> Distribution | None:
    """Return percentiles by linear interpolation (Hyndman and Fan's type 7) and the mean; None without values."""
    found = np.asarray(values, dtype=np.float64)
    if not found.size:
        return None
    p5, q1, median, q3, p95 = (float(p) for p in np.percentile(found, [5, 25, 50, 75, 95]))
    return Distribution(int(found.size), p5, q1, median, q3, p95, float(np.mean(found)))


def _first_broken(distance: Values) -> Iterator[Violation]:
    broken = {(rule, side): _completes(side * distance, rule) for rule in Rule for side in (1, -1)}
    for index in range(distance.size):
        found = next((key for key in broken if broken[key][index]), None)
        if found is not None:
            yield Violation(index, *found)


def _completes(distance: Values, rule: Rule) -> NDArray[np.bool_]:
    window, needed, sigmas = _WINDOWS[rule]
    beyond = distance > sigmas
    # A running sum over the last `window` points; the sequence starts with none beyond.
    total = np.concatenate([np.zeros(window, dtype=np.int64), np.cumsum(beyond)])
    counted = total[window:] - total[:-window]
    completed: NDArray[np.bool_] = beyond & (counted >= needed)
    return completed
