"""Statistical process control, as pure functions: individuals and EWMA charts, runs rules, drift, spread.

Formulas follow D. C. Montgomery, Introduction to Statistical Quality Control, and the NIST/SEMATECH e-Handbook of
Statistical Methods (6.3.2); the tests hold their worked examples. Nothing here knows scanners, patients or tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "D2_PAIRS",
    "Distribution",
    "Drift",
    "Limits",
    "Marks",
    "Rule",
    "Span",
    "Violation",
    "distribution",
    "drift",
    "drift_width",
    "ewma",
    "ewma_limits",
    "limits_of",
    "marks_of",
    "sides_of",
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
    """Centre and short-term spread of a baseline of ``count`` values.

    ``centre`` is in the unit of the values. ``sigma`` is too, unless ``log``: then it is that of the natural logarithm
    of the values, about the relative spread, and ``centre`` the geometric mean.
    """

    centre: float
    sigma: float
    count: int
    log: bool = False

    def at(self, sigmas: float) -> float:
        """Return the line so many sigmas above (or, negative, below) the centre, in the unit of the values."""
        return self.centre * math.exp(sigmas * self.sigma) if self.log else self.centre + sigmas * self.sigma

    def distance(self, values: Sequence[float] | Values) -> Values:
        """Return how many sigmas values lie above the centre; what has no logarithm is NaN where ``log``."""
        found = np.asarray(values, dtype=np.float64)
        if not self.log:
            return (found - self.centre) / self.sigma
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(found > 0, np.log(found / self.centre), np.nan) / self.sigma

    def relative_shift(self, sigmas: float) -> float:
        """Return a shift of so many sigmas as a share of the centre: 0.15 is 15 % above it."""
        return abs(self.at(sigmas) / self.centre - 1.0) if self.centre else math.inf

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


def limits_of(baseline: Sequence[float] | Values, *, log: bool = False) -> Limits | None:
    """Estimate centre and sigma from a baseline: the mean, and the mean moving range over d2.

    With ``log`` both are those of the logarithms; every value must be positive. Returns None for fewer than two values:
    they have no spread.
    """
    values = np.asarray(baseline, dtype=np.float64)
    if values.size < 2:
        return None
    used = np.log(values) if log else values
    moving_range = float(np.mean(np.abs(np.diff(used))))
    centre = float(np.mean(used))
    return Limits(math.exp(centre) if log else centre, moving_range / D2_PAIRS, int(values.size), log)


def ewma(values: Sequence[float] | Values, start: float, weight: float) -> Values:
    """Return z[i] = weight x[i] + (1 - weight) z[i-1] with z[-1] = ``start``; ``weight`` is Montgomery's lambda.

    ``values`` may have any shape; the last axis is time.
    """
    found = np.asarray(values, dtype=np.float64)
    smoothed = np.empty_like(found)
    last = np.full(found.shape[:-1], start, dtype=np.float64)
    for index in range(found.shape[-1]):
        last = weight * found[..., index] + (1.0 - weight) * last
        smoothed[..., index] = last
    return smoothed


def ewma_limits(limits: Limits, count: int, weight: float, width: float) -> tuple[Values, Values]:
    """Return lower and upper limit of each of ``count`` EWMA points, in the unit of the values.

    The variance is the exact one, sigma^2 weight / (2 - weight) (1 - (1 - weight)^(2 i)), so that the first points are
    judged as sharply as the later ones; ``width`` is Montgomery's L. The uncertainty of the baseline is not in them.
    """
    half = width * np.sqrt(_ewma_variance(count, weight))
    return np.array([limits.at(-k) for k in half]), np.array([limits.at(k) for k in half])


def drift_width(count: int, baseline: int, *, weight: float, width: float, leverage: float | Values = 0.0) -> Values:
    """Return how many sigmas from the centre the EWMA is beyond chance, at each of ``count`` points.

    Centre and sigma of a baseline are estimates: with limits from 50 values that are taken for known, every fifth chart
    alarms within 500 series though nothing changed. Three things widen them: the variance of the centre, 1 / n; the
    uncertainty of sigma, by Student's t with the 0.61 (n - 1) degrees of freedom of a mean moving range of pairs; and,
    where size was taken out, ``leverage``, the variance of the size curve at the patients' sizes.

    Parameters
    ----------
    baseline
        Values of the baseline, n.
    width
        Montgomery's L, in normal quantiles.
    leverage
        Variance of what the values were adjusted by, in sigma^2; one number, or one for each point.
    """
    variance = _ewma_variance(count, weight) + 1.0 / baseline + leverage
    half: Values = _student(width, 0.61 * (baseline - 1)) * np.sqrt(variance)
    return half


def _ewma_variance(count: int, weight: float) -> Values:
    step = np.arange(1, count + 1, dtype=np.float64)
    variance: Values = weight / (2.0 - weight) * (1.0 - (1.0 - weight) ** (2.0 * step))
    return variance


def _student(normal: float, freedom: float) -> float:
    """Return the quantile of Student's t with the probability of a normal quantile (Abramowitz and Stegun 26.7.5)."""
    x, nu = normal, max(freedom, 3.0)
    first = (x**3 + x) / 4
    second = (5 * x**5 + 16 * x**3 + 3 * x) / 96
    third = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
    return x + first / nu + second / nu**2 + third / nu**3


def violations(values: Sequence[float] | Values, limits: Limits) -> list[Violation]:
    """Return every point that completes the pattern of a Western Electric rule, in order.

    A point breaks at most one rule, the strongest; a point counts for a pattern only if it lies beyond itself.
    Without spread (sigma 0) no rule can be judged and the list is empty.
    """
    return [] if limits.sigma <= 0.0 else list(_first_broken(limits.distance(values)))


def sides_of(smoothed: Values, half: Values, run: int) -> NDArray[np.int8]:
    """Return where a drift is known: 1 above, -1 below, 0 where the EWMA is not beyond its limits for ``run`` points.

    Parameters
    ----------
    smoothed
        EWMA in sigma from the centre; the last axis is time.
    half
        Limits of `drift_width`, one for each point.
    run
        Points in a row, the last one included: one outlier moves an EWMA too, but does not hold it there.
    """
    outside = np.where(smoothed > half, 1, np.where(smoothed < -half, -1, 0)).astype(np.int8)
    known = np.zeros_like(outside)
    for side in (1, -1):
        beyond = np.cumsum(outside == side, axis=-1)
        before = np.zeros_like(beyond)
        before[..., run:] = beyond[..., :-run]
        known[beyond - before >= run] = side
    return known


def drift(
    values: Sequence[float] | Values,
    limits: Limits,
    *,
    weight: float,
    width: float,
    run: int,
    leverage: float | Values = 0.0,
) -> Drift | None:
    """Return the drift that lasts at the end of a sequence, or None.

    A drift is an EWMA beyond the limits of `drift_width`, on one side, for at least ``run`` points up to the last.
    Values that are not finite are passed over by the EWMA.
    """
    if len(values) < run or limits.sigma <= 0.0:
        return None
    smoothed = ewma(np.nan_to_num(limits.distance(values)), 0.0, weight)
    half = drift_width(len(values), limits.count, weight=weight, width=width, leverage=leverage)
    side = int(sides_of(smoothed, half, run)[-1])
    if side == 0:
        return None
    inside = np.flatnonzero(side * smoothed <= half)
    return Drift(int(inside[-1]) + 1 if inside.size else 0, side, float(smoothed[-1]))


@dataclass(frozen=True, slots=True)
class Span:
    """Points from ``first`` to ``last`` (positions from 0, both included) of one drift."""

    first: int
    last: int
    side: int


@dataclass(frozen=True, slots=True)
class Marks:
    """What a chart marks: each drift as one span, and points that break a rule outside of them."""

    spans: tuple[Span, ...] = ()
    points: tuple[Violation, ...] = ()


def marks_of(
    values: Sequence[float] | Values,
    limits: Limits,
    *,
    weight: float,
    width: float,
    run: int,
    leverage: float | Values = 0.0,
) -> Marks:
    """Return what to mark of a sequence.

    A drift is one span from where the EWMA left its limits to where it came back. Outside of spans a rule marks the
    point that breaks it first; the points after it that go on breaking it on the same side do not.
    """
    if limits.sigma <= 0.0 or not len(values):
        return Marks()
    smoothed = ewma(np.nan_to_num(limits.distance(values)), 0.0, weight)
    half = drift_width(len(values), limits.count, weight=weight, width=width, leverage=leverage)
    spans = tuple(_spans(smoothed, half, run))
    covered = {index for span in spans for index in range(span.first, span.last + 1)}
    points, before = [], Violation(-2, Rule.BEYOND_3_SIGMA, 0)
    for found in violations(values, limits):
        follows = found.index == before.index + 1 and found.side == before.side
        weaker = found.rule is not Rule.BEYOND_3_SIGMA
        if found.index not in covered and not (follows and weaker):
            points.append(found)
        before = found
    return Marks(spans, tuple(points))


def _spans(smoothed: Values, half: Values, run: int) -> Iterator[Span]:
    outside = np.where(smoothed > half, 1, np.where(smoothed < -half, -1, 0))
    edges = [0, *(np.flatnonzero(np.diff(outside)) + 1).tolist(), outside.size]
    for first, end in pairwise(edges):
        if outside[first] != 0 and end - first >= run:
            yield Span(first, end - 1, int(outside[first]))


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
