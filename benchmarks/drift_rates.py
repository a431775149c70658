"""How often control charts alarm, and how soon: simulated with the functions that the node itself judges by.

    python -m benchmarks.drift_rates

prints the table of docs/alerts.md. Noise grows by 0.45 % per mm of patient size and scatters by 8 %; sizes are 300 mm,
standard deviation 40 mm. Each run is one chart: a baseline, then 500 series that follow it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicom_qa_node.charts.baselines import Baseline, ChartRules, Measured
from dicom_qa_node.charts.chart_scale import scale_of
from dicom_qa_node.charts.control_charts import D2_PAIRS, drift_width, ewma, sides_of
from dicom_qa_node.charts.judgement import judge

__all__ = ["SERIES", "Rates", "independent", "of_patients"]

SERIES = 500
SIZE_MM, SPREAD_MM = 300.0, 40.0
RISE_PER_MM, SCATTER, USUAL_HU = 0.0045, 0.08, 12.0
_QUANTITY = "global_noise_level"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """The share of charts that alarmed within 500 series, and the median series of the alarm (inf: most never did)."""

    alarmed: float
    median: float


def independent(baseline: int, runs: int, *, shift_sigma: float = 0.0, seed: int = 1) -> Rates:
    """Simulate charts of independent normal values without patient size, all at once.

    Parameters
    ----------
    baseline
        Values of each baseline.
    shift_sigma
        How far the values after the baseline lie above it.
    """
    rules, generator = ChartRules(), np.random.default_rng(seed)
    before = generator.standard_normal((runs, baseline))
    after = generator.standard_normal((runs, SERIES)) + shift_sigma
    centre = before.mean(axis=1, keepdims=True)
    sigma = np.abs(np.diff(before)).mean(axis=1, keepdims=True) / D2_PAIRS
    smoothed = ewma((after - centre) / sigma, 0.0, rules.ewma_weight)
    half = drift_width(SERIES, baseline, weight=rules.ewma_weight, width=rules.ewma_width)
    known = sides_of(smoothed, half, rules.drift_run) != 0
    return _rates(known)


def of_patients(
    baseline: int, runs: int, *, larger_mm: float = 0.0, noisier: float = 1.0, series: int = SERIES, seed: int = 1
) -> Rates:
    """Simulate charts of the noise of patients; size is taken out as the node does it.

    Parameters
    ----------
    larger_mm
        How much larger the patients after the baseline are.
    noisier
        The factor of their noise beside that of their size.
    """
    rules, generator = ChartRules(), np.random.default_rng(seed)
    known = np.zeros((runs, series), dtype=bool)
    for run in range(runs):
        sizes, noise = _patients(generator, baseline, 0.0, 1.0)
        scale = scale_of(_QUANTITY, noise, sizes)
        limits = scale.limits(noise, sizes)
        assert limits is not None
        sizes, noise = _patients(generator, series, larger_mm, noisier)
        leverage = scale.leverage(sizes, rules.ewma_weight)
        smoothed = ewma(limits.distance(scale.adjusted(noise, sizes)), 0.0, rules.ewma_weight)
        half = drift_width(series, limits.count, weight=rules.ewma_weight, width=rules.ewma_width, leverage=leverage)
        known[run] = sides_of(smoothed, half, rules.drift_run) != 0
    return _rates(known)


def agrees_with_judge(baseline: int = 50, seed: int = 7) -> bool:
    """Whether `judge`, which draws the charts and raises the alarms, finds a drift where `of_patients` does."""
    rules, generator = ChartRules(), np.random.default_rng(seed)
    sizes, noise = _patients(generator, baseline, 0.0, 1.0)
    scale = scale_of(_QUANTITY, noise, sizes)
    limits = scale.limits(noise, sizes)
    assert limits is not None
    sizes, noise = _patients(generator, 60, 0.0, 1.15)
    at = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=hour) for hour in range(60)]
    smoothed = ewma(limits.distance(scale.adjusted(noise, sizes)), 0.0, rules.ewma_weight)
    leverage = scale.leverage(sizes, rules.ewma_weight)
    half = drift_width(60, limits.count, weight=rules.ewma_weight, width=rules.ewma_width, leverage=leverage)
    known = sides_of(smoothed, half, rules.drift_run) != 0
    for end in range(1, 61):
        part = Measured(range(end), noise[:end], sizes[:end])
        found = judge(part, at[:end], np.zeros(end, dtype=bool), Baseline(limits, scale), rules).drift
        if (found is not None) != bool(known[end - 1]):
            return False
    return True


def _patients(generator: np.random.Generator, count: int, larger_mm: float, noisier: float) -> tuple[Values, Values]:
    sizes = generator.normal(SIZE_MM + larger_mm, SPREAD_MM, count)
    scatter = generator.normal(0.0, SCATTER, count)
    return sizes, USUAL_HU * noisier * np.exp(RISE_PER_MM * (sizes - SIZE_MM) + scatter)


def _rates(known: NDArray[np.bool_]) -> Rates:
    told = known.any(axis=1)
    first = np.where(told, known.argmax(axis=1) + 1.0, np.inf)
    return Rates(float(told.mean()), float(np.median(first)))


def main() -> None:
    """Print the table."""
    print("| series of the baseline | 50 | 100 | 200 | 1000 |\n|---|---|---|---|---|")
    rows: tuple[tuple[str, Callable[[int], Rates], bool], ...] = (
        ("nothing changed, no patient size: alarm within 500", lambda n: independent(n, 4000), True),
        ("nothing changed, size taken out: alarm within 500", lambda n: of_patients(n, 1000), True),
        ("patients 25 mm larger: alarm within 500", lambda n: of_patients(n, 1000, larger_mm=25), True),
        ("noise +15 %: told after", lambda n: of_patients(n, 300, noisier=1.15, series=100), False),
    )
    for words, simulate, share in rows:
        found = [simulate(baseline) for baseline in (50, 100, 200, 1000)]
        cells = [f"{100 * rates.alarmed:.1f} %" if share else f"{rates.median:.0f} series" for rates in found]
        print(f"| {words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
