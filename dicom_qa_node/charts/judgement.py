"""One chart judged: values on their scale, in the order of acquisition, against the limits of the baseline."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicom_qa_node.charts.baselines import Baseline, ChartRules, Measured
from dicom_qa_node.charts.control_charts import Drift, Marks, Span, Violation, drift, drift_width, ewma, marks_of

__all__ = ["Judgement", "judge"]

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a chart shows beside its values; all positions are those of the values given.

    ``adjusted`` are the values on the chart (NaN where a value cannot be judged). ``judged`` are the positions that
    count, and ``smoothed``, ``lower`` and ``upper`` belong to them: the EWMA and its limits in the unit of the values.
    """

    adjusted: Values
    judged: tuple[int, ...] = ()
    smoothed: tuple[float, ...] = ()
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    marks: Marks = field(default_factory=Marks)
    drift: Drift | None = None


def judge(
    measured: Measured,
    acquired: Sequence[dt.datetime],
    late: NDArray[np.bool_],
    baseline: Baseline | None,
    rules: ChartRules,
) -> Judgement:
    """Judge the values of one quantity, which stand in the order of the chart.

    Left out are late arrivals, what was acquired before the baseline began, and what has no place on the scale.
    """
    if baseline is None:
        return Judgement(measured.values)
    adjusted = baseline.scale.adjusted(measured.values, measured.sizes_mm)
    counts = np.isfinite(adjusted) & ~late
    if baseline.begins_at is not None:
        counts &= np.array([time >= baseline.begins_at for time in acquired], dtype=bool)
    where = np.flatnonzero(counts)
    limits = baseline.limits
    if limits.sigma <= 0 or not where.size:
        return Judgement(adjusted, tuple(int(i) for i in where))
    values, weight = adjusted[where], rules.ewma_weight
    leverage = baseline.scale.leverage(measured.sizes_mm[where], weight)
    width, run = rules.ewma_width, rules.drift_run
    smoothed = ewma(limits.distance(values), 0.0, weight)
    half = drift_width(len(values), limits.count, weight=weight, width=width, leverage=leverage)
    marks = marks_of(values, limits, weight=weight, width=width, run=run, leverage=leverage)
    found = drift(values, limits, weight=weight, width=width, run=run, leverage=leverage)
    return Judgement(
        adjusted,
        tuple(int(i) for i in where),
        tuple(limits.at(float(z)) for z in smoothed),
        tuple(limits.at(-float(k)) for k in half),
        tuple(limits.at(float(k)) for k in half),
        Marks(
            tuple(Span(int(where[span.first]), int(where[span.last]), span.side) for span in marks.spans),
            tuple(Violation(int(where[point.index]), point.rule, point.side) for point in marks.points),
        ),
        None if found is None else Drift(int(where[found.first]), found.side, found.shift_sigma),
    )
