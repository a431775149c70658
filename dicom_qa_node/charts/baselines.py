"""What a chart is judged by: the period a physicist chose, else the first points of the group or after a change."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa

from dicom_qa_node.charts.chart_scale import SIZE, ChartScale, scale_of
from dicom_qa_node.charts.control_charts import Limits
from dicom_qa_node.charts.size_curve import FEWEST
from dicom_qa_node.config import Charts
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.chart_tables import Values, unpack

__all__ = [
    "EVERY_QUANTITY",
    "SCORE",
    "Baseline",
    "Baselines",
    "ChartRules",
    "Measured",
    "MeasuredRows",
    "TooFew",
    "chart_rules",
    "measured_of",
]

SCORE = "score"
EVERY_QUANTITY = "*"
_FEWEST_CHOSEN = 20
_ROWS = 200
"""Series that are looked through for an automatic baseline: some have no size, or lack the quantity."""
_MOST_CHOSEN = 5000


@dataclass(frozen=True, slots=True)
class ChartRules:
    """How charts are drawn and judged; see section ``charts`` of the configuration.

    ``least_shift`` holds shares of the centre by name of a quantity, see `chart_scale.least_shift`.
    """

    baseline_points: int = 50
    ewma_weight: float = 0.1
    ewma_width: float = 3.0
    drift_run: int = 8
    least_shift: Mapping[str, float] = field(default_factory=dict)


def chart_rules(charts: Charts) -> ChartRules:
    """Return the rules of the configuration."""
    shares = {name: percent / 100 for name, percent in charts.least_shift_percent.items()}
    return ChartRules(charts.baseline_points, charts.ewma_weight, charts.ewma_width, charts.drift_run, shares)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The limits of one chart, and the scale on which they hold.

    A period without days is an automatic one: the first points of the group, or those from ``from_at`` on.
    """

    limits: Limits
    scale: ChartScale = field(default_factory=ChartScale)
    first_day: dt.date | None = None
    last_day: dt.date | None = None
    reason: str = ""
    author: str = ""
    created_at: dt.datetime | None = None
    from_at: dt.datetime | None = None

    @property
    def automatic(self) -> bool:
        """Whether nobody chose a period."""
        return self.first_day is None

    @property
    def begins_at(self) -> dt.datetime | None:
        """What was acquired before this is past: a repair or a change has come between. None: nothing is."""
        if self.first_day is None:
            return self.from_at
        return dt.datetime.combine(self.first_day, dt.time(), dt.UTC)


@dataclass(frozen=True, slots=True)
class TooFew:
    """There is no baseline yet: ``count`` of ``needed`` values, since ``from_at`` where a change was accepted."""

    count: int
    needed: int
    from_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of one quantity in some rows, with the patients' sizes in mm (NaN where unknown)."""

    positions: Sequence[int]
    values: Values
    sizes_mm: Values


class MeasuredRows:
    """Rows with ``measured`` and ``score``, unpacked once for all of their quantities."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.count = len(rows)
        self.found = unpack([row.measured for row in rows], [row.score for row in rows])


def measured_of(rows: MeasuredRows, quantity_id: int, size_id: int | None) -> Measured:
    """Take one quantity out of rows, in their order."""
    none = np.zeros(0)
    positions, values = rows.found.get(quantity_id, (np.zeros(0, dtype=np.intp), none))
    every = np.full(rows.count, np.nan)
    if size_id is not None and size_id in rows.found:
        at, sizes = rows.found[size_id]
        every[at] = sizes
    return Measured([int(position) for position in positions], values, every[positions])


class Baselines:
    """Reads the baselines of one group; rows are read once for all of its quantities."""

    def __init__(self, connection: sa.Connection, group_id: int, rules: ChartRules) -> None:
        self._connection, self._group_id, self._rules = connection, group_id, rules
        self._rows: dict[Any, MeasuredRows] = {}
        size = sa.select(s.quantities.c.quantity_id).where(s.quantities.c.name == SIZE)
        self.size_id = connection.execute(size).scalar_one_or_none()
        mine = s.baselines.c.group_id == group_id
        query = sa.select(s.baselines).where(mine).order_by(s.baselines.c.baseline_id)
        # Later choices replace earlier ones, those for every quantity too.
        self._choices: dict[str, Any] = {}
        for row in connection.execute(query):
            if row.quantity == EVERY_QUANTITY:
                self._choices.clear()
            self._choices[row.quantity] = row

    def of(self, quantity_id: int, name: str) -> Baseline | TooFew:
        """Return what the chart of a quantity is judged by."""
        choice = self._choices.get(name) or self._choices.get(EVERY_QUANTITY)
        if choice is not None and choice.first_day is not None:
            chosen = self.of_period(quantity_id, name, choice.first_day, choice.last_day, choice.created_at)
            if chosen is not None:
                limits, scale = chosen
                days, words = (choice.first_day, choice.last_day), (choice.reason, choice.author, choice.created_at)
                return Baseline(limits, scale, *days, *words)
        from_at = None if choice is None else choice.from_at
        needed = self._rules.baseline_points
        rows = self._first(from_at, quantity_id)
        measured = measured_of(rows, quantity_id, self.size_id)
        # The curve is that of the baseline alone: later series would teach it what is to be noticed.
        sized = np.flatnonzero(np.isfinite(measured.sizes_mm))[: max(needed, FEWEST)]
        teaching = sized if sized.size >= FEWEST else np.arange(min(needed, measured.values.size))
        scale = scale_of(name, measured.values[teaching], measured.sizes_mm[teaching])
        adjusted = scale.adjusted(measured.values, measured.sizes_mm)
        usable = np.flatnonzero(np.isfinite(adjusted))[:needed]
        found = scale.limits(measured.values[usable], measured.sizes_mm[usable])
        if found is None or usable.size < needed:
            return TooFew(int(usable.size), needed, from_at)
        if choice is None:
            return Baseline(found, scale)
        return Baseline(found, scale, None, None, choice.reason, choice.author, choice.created_at, from_at)

    def of_period(
        self, quantity_id: int, name: str, first_day: dt.date, last_day: dt.date, known_at: dt.datetime
    ) -> tuple[Limits, ChartScale] | None:
        """Return the limits that a period gives, both days included; None if it holds fewer than 20 values.

        What was scored after ``known_at``, the time of the choice, is not in them: a choice stays what it was.
        """
        begin = dt.datetime.combine(first_day, dt.time(), dt.UTC)
        end = dt.datetime.combine(last_day, dt.time(), dt.UTC) + dt.timedelta(days=1)
        key = ("period", begin, end, known_at)
        if key not in self._rows:
            point = s.points.c
            inside = (point.group_id == self._group_id) & (point.acquired_at >= begin) & (point.acquired_at < end)
            query = _columns().where(inside & (point.at <= known_at)).order_by(point.acquired_at, point.result_id)
            self._rows[key] = MeasuredRows(self._connection.execute(query.limit(_MOST_CHOSEN)).all())
        measured = measured_of(self._rows[key], quantity_id, self.size_id)
        scale = scale_of(name, measured.values, measured.sizes_mm)
        limits = scale.limits(measured.values, measured.sizes_mm)
        return None if limits is None or limits.count < _FEWEST_CHOSEN else (limits, scale)

    def _first(self, from_at: dt.datetime | None, quantity_id: int) -> MeasuredRows:
        """Return the first rows of the group in the order of their scoring, which later arrivals do not change."""
        rows = self._begin(from_at)
        if rows.found and quantity_id not in rows.found:
            # Measured only since some later time, such as an update of the node.
            week = s.weeks.c
            mine = (week.group_id == self._group_id) & (week.quantity_id == quantity_id)
            monday = self._connection.execute(sa.select(sa.func.min(week.monday)).where(mine)).scalar_one_or_none()
            if monday is not None:
                begin = dt.datetime.combine(monday, dt.time(), dt.UTC)
                return self._begin(begin if from_at is None else max(begin, from_at))
        return rows

    def _begin(self, from_at: dt.datetime | None) -> MeasuredRows:
        if from_at not in self._rows:
            point = s.points.c
            count = max(_ROWS, self._rules.baseline_points)
            query = _columns().where(point.group_id == self._group_id)
            if from_at is None:
                query = query.order_by(point.at, point.result_id).limit(count)
            else:
                query = query.where(point.acquired_at >= from_at).order_by(point.acquired_at, point.result_id)
                query = query.limit(2 * count)
            found = sorted(self._connection.execute(query).all(), key=lambda row: (row.at, row.result_id))
            self._rows[from_at] = MeasuredRows(found[:count])
        return self._rows[from_at]


def _columns() -> sa.Select[Any]:
    point = s.points.c
    return sa.select(point.result_id, point.at, point.acquired_at, point.measured, point.score)
