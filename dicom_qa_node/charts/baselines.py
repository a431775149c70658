"""What a chart is judged by: the period a physicist chose, else the first points; and the drift alarms that follow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.charts.alerts import NewAlert, add_alerts
from dicom_qa_node.charts.control_charts import Drift, Limits, drift, limits_of
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.chart_tables import SCORE_ID, Values, unpack
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now

__all__ = ["Baseline", "ChartRules", "Drifts", "NewAlarm", "baseline_of", "estimate"]

SCORE = "score"
_FEWEST = 20
_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class ChartRules:
    """How charts are drawn and judged; see section ``charts`` of the configuration."""

    baseline_points: int = 50
    ewma_weight: float = 0.1
    ewma_width: float = 2.7
    drift_run: int = 8


@dataclass(frozen=True, slots=True)
class Baseline:
    """The limits of one chart; a period without days is the automatic one, the first points of the group."""

    limits: Limits
    first_day: dt.date | None = None
    last_day: dt.date | None = None
    reason: str = ""
    author: str = ""
    created_at: dt.datetime | None = None

    @property
    def automatic(self) -> bool:
        """Whether nobody chose it."""
        return self.first_day is None


@dataclass(frozen=True, slots=True)
class NewAlarm:
    """A drift that began, as the alert rules see it."""

    alarm_id: int
    scanner_id: int
    scanner: str
    kind: str
    protocol: str
    group_id: int
    quantity: str
    meaning: str
    direction: str
    drift: Drift


OnDrift = Callable[[Sequence[NewAlarm]], Sequence[NewAlert]]


class Drifts:
    """Raises and ends drift alarms of groups that have new points; runs in the role ``schedule``."""

    def __init__(self, database: Database, rules: ChartRules, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._rules, self._clock = database, rules, clock

    def look(self, judge: OnDrift = lambda _alarms: (), limit: int = 50) -> int:
        """Judge groups that changed, each in one transaction with its alarms and alerts; return how many."""
        changed = sa.select(s.groups.c.group_id).where(~s.groups.c.judged).order_by(s.groups.c.group_id)
        with self._db.read() as connection:
            found = list(connection.execute(changed.limit(limit)).scalars())
        for group_id in found:
            with self._db.write() as connection:
                begun = self._judge(connection, group_id)
                add_alerts(connection, judge(begun), self._clock())
        return len(found)

    def _judge(self, connection: sa.Connection, group_id: int) -> list[NewAlarm]:
        group = connection.execute(_with_scanner().where(s.groups.c.group_id == group_id)).one()
        open_alarms = {row.quantity: row for row in connection.execute(_open_alarms(group_id))}
        begun = []
        rows = _latest(connection, group_id)
        for number, (positions, values) in unpack([r.measured for r in rows], [r.score for r in rows]).items():
            quantity = _quantity(connection, number)
            if quantity.direction == "context":
                continue
            at = [rows[position].at for position in positions]
            found = self._drift(connection, group_id, quantity, at, values)
            begun += self._settle(connection, group, quantity, found, at, open_alarms.pop(quantity.name, None))
        connection.execute(s.groups.update().where(s.groups.c.group_id == group_id).values(judged=True))
        return begun

    def _drift(
        self, connection: sa.Connection, group_id: int, quantity: Any, at: list[dt.datetime], values: Values
    ) -> Drift | None:
        rules = self._rules
        baseline = baseline_of(connection, group_id, quantity.quantity_id, quantity.name, rules.baseline_points)
        if baseline is None:
            return None
        # What lies before the baseline that was chosen last is past: a repair has usually come between.
        skipped = 0 if baseline.first_day is None else sum(time.date() < baseline.first_day for time in at)
        found = drift(
            values[skipped:],
            baseline.limits,
            weight=rules.ewma_weight,
            width=rules.ewma_width,
            run=rules.drift_run,
        )
        return None if found is None else Drift(found.first + skipped, found.side, found.shift_sigma)

    def _settle(
        self, connection: sa.Connection, group: Any, quantity: Any, found: Drift | None, at: list[dt.datetime], old: Any
    ) -> list[NewAlarm]:
        if old is not None and (found is None or found.side != old.side):
            end = s.alarms.update().where(s.alarms.c.alarm_id == old.alarm_id)
            connection.execute(end.values(ended_at=self._clock()))
            old = None
        if found is None or old is not None:
            return []
        values = {"side": found.side, "shift_sigma": found.shift_sigma, "began_at": at[found.first]}
        insert = s.alarms.insert().values(
            group_id=group.group_id, quantity=quantity.name, raised_at=self._clock(), **values
        )
        number = int(connection.execute(insert).inserted_primary_key[0])  # type: ignore[index]
        names = ("scanner_id", "kind", "protocol", "group_id")
        about = {name: getattr(group, name) for name in names}
        words = {"quantity": quantity.name, "meaning": quantity.meaning, "direction": quantity.direction}
        return [NewAlarm(alarm_id=number, scanner=group.name, **about, **words, drift=found)]


def baseline_of(
    connection: sa.Connection, group_id: int, quantity_id: int, quantity: str, automatic_points: int
) -> Baseline | None:
    """Return what a chart is judged by, None while there are too few points to say."""
    mine = (s.baselines.c.group_id == group_id) & (s.baselines.c.quantity == quantity)
    query = sa.select(s.baselines).where(mine).order_by(s.baselines.c.baseline_id.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    if row is not None and row.first_day is not None:
        chosen = Limits(row.centre, row.sigma, row.total)
        return Baseline(chosen, row.first_day, row.last_day, row.reason, row.author, row.created_at)
    first = (
        sa.select(s.points.c.measured, s.points.c.score)
        .where(s.points.c.group_id == group_id)
        .order_by(s.points.c.at, s.points.c.result_id)
        .limit(automatic_points)
    )
    limits = _limits(connection.execute(first).all(), quantity_id)
    return None if limits is None else Baseline(limits)


def estimate(
    connection: sa.Connection, group_id: int, quantity_id: int, first_day: dt.date, last_day: dt.date
) -> Limits | None:
    """Return the limits that a period gives, both days included; None if it holds too few points."""
    begin = dt.datetime.combine(first_day, dt.time(), dt.UTC)
    end = dt.datetime.combine(last_day, dt.time(), dt.UTC) + dt.timedelta(days=1)
    point = s.points.c
    inside = (point.group_id == group_id) & (point.at >= begin) & (point.at < end)
    rows = connection.execute(sa.select(point.measured, point.score).where(inside).order_by(point.at, point.result_id))
    return _limits(rows.all(), quantity_id)


def _limits(rows: Sequence[Any], quantity_id: int) -> Limits | None:
    _, values = unpack([row.measured for row in rows], [row.score for row in rows]).get(quantity_id, (None, ()))
    return limits_of(values) if len(values) >= _FEWEST else None


def _latest(connection: sa.Connection, group_id: int) -> list[Any]:
    point = s.points.c
    query = sa.select(point.at, point.measured, point.score).where(point.group_id == group_id)
    latest = query.order_by(point.at.desc(), point.result_id.desc()).limit(_LOOKED_AT)
    return list(reversed(connection.execute(latest).all()))


def _with_scanner() -> sa.Select[Any]:
    join = s.groups.join(s.scanners, s.scanners.c.scanner_id == s.groups.c.scanner_id)
    return sa.select(s.groups, s.scanners.c.name).select_from(join)


def _open_alarms(group_id: int) -> sa.Select[Any]:
    return sa.select(s.alarms).where((s.alarms.c.group_id == group_id) & s.alarms.c.ended_at.is_(None))


@dataclass(frozen=True, slots=True)
class _Score:
    quantity_id: int = SCORE_ID
    name: str = SCORE
    meaning: str = "quality score"
    unit: str = "1"
    direction: str = "higher is better"


def _quantity(connection: sa.Connection, number: int) -> Any:
    if number == SCORE_ID:
        return _Score()
    return connection.execute(sa.select(s.quantities).where(s.quantities.c.quantity_id == number)).one()
