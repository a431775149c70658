"""Agreement between predicted and true scores, with bootstrap intervals that resample whole groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Agreement", "Estimate", "agreement", "within_slice_spearman"]

FloatArray = npt.NDArray[np.float64]
STEP = 0.2
"""The mean of five raters on 0-4 integers moves in these steps; rounding to them alone raises Kendall's tau-b."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % percentile bootstrap interval over groups; NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Signed Pearson, Spearman and Kendall (tau-b) correlation and root mean square error of ``n`` pictures."""

    plcc: Estimate
    srocc: Estimate
    krocc: Estimate
    rmse: Estimate
    n: int
    groups: int


def agreement(
    predicted: npt.ArrayLike,
    truth: npt.ArrayLike,
    groups: Sequence[str],
    rounded: bool = False,
    rounds: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare predictions with the truth.

    Parameters
    ----------
    predicted, truth
        Scores, shape (n,).
    groups
        What is resampled as a whole (reference, patient, set), one name per picture.
    rounded
        Round predictions to steps of 0.2 first.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape or p.ndim != 1 or len(groups) != p.size or p.size < 2:
        raise ValueError(f"{p.shape} predictions, {t.shape} scores and {len(groups)} groups do not match")
    if rounded:
        p = np.round(p / STEP) * STEP
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(index == i) for i in range(names.size)]
    rng = np.random.default_rng(seed)
    draws = [np.concatenate([members[i] for i in rng.integers(names.size, size=names.size)]) for _ in range(rounds)]
    measures: list[Callable[[FloatArray, FloatArray], float]] = [_pearson, _spearman, _kendall, _rmse]
    plcc, srocc, krocc, rmse = (_estimate(measure, p, t, draws) for measure in measures)
    return Agreement(plcc, srocc, krocc, rmse, n=int(p.size), groups=int(names.size))


def within_slice_spearman(predicted: npt.ArrayLike, severity: npt.ArrayLike, slices: Sequence[str]) -> FloatArray:
    """Spearman correlation of each slice's predictions with its severity; slices of fewer than three are left out."""
    p, s = np.asarray(predicted, np.float64), np.asarray(severity, np.float64)
    names = np.asarray(slices)
    found = []
    for name in np.unique(names):
        chosen = names == name
        if chosen.sum() >= 3 and np.ptp(s[chosen]) > 0:
            found.append(_spearman(p[chosen], s[chosen]))
    return np.array(found)


def _estimate(
    measure: Callable[[FloatArray, FloatArray], float],
    p: FloatArray,
    t: FloatArray,
    draws: Sequence[npt.NDArray[np.intp]],
) -> Estimate:
    values = np.array([measure(p[draw], t[draw]) for draw in draws])
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, [0.025, 0.975]) if finite.size else (np.nan, np.nan)
    return Estimate(measure(p, t), float(low), float(high))


def _constant(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.ptp(a) == 0 or np.ptp(b) == 0)


def _pearson(p: FloatArray, t: FloatArray) -> float:
    return float("nan") if _constant(p, t) else float(np.corrcoef(p, t)[0, 1])


def _spearman(p: FloatArray, t: FloatArray) -> float:
    return _pearson(stats.rankdata(p), stats.rankdata(t))


def _kendall(p: FloatArray, t: FloatArray) -> float:
    result: Any = stats.kendalltau(p, t)
    return float(result.statistic)


def _rmse(p: FloatArray, t: FloatArray) -> float:
    return float(np.sqrt(np.mean((p - t) ** 2)))
