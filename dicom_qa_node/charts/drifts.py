"""Drift alarms: what drifts together in one stratum is one alarm, named by what drifted first.

Noise, signal to noise, contrast to noise and score move together, since they have one cause. Where the dose left its
baseline too, the protocol was changed; else something in the image chain.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.charts.alerts import NewAlert, add_alerts
from dicom_qa_node.charts.arrival_order import late_arrivals
from dicom_qa_node.charts.baselines import SCORE, Baseline, Baselines, ChartRules, MeasuredRows, measured_of
from dicom_qa_node.charts.chart_records import Quantity
from dicom_qa_node.charts.chart_scale import DOSE, least_shift
from dicom_qa_node.charts.control_charts import Drift, Limits
from dicom_qa_node.charts.judgement import judge
from dicom_qa_node.charts.naming import read_names
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.chart_tables import SCORE_ID
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now

__all__ = ["Drifts", "Moved", "NewAlarm", "sentence_of"]

_LOOKED_AT = 200
#: What comes first where several left their baselines with the same series: the rest follows from these.
_RANKS = {name: rank for rank, name in enumerate((*DOSE, "global_noise_level", "liver_cov"))}


@dataclass(frozen=True, slots=True)
class Moved:
    """A quantity that left its baseline; ``change`` is its shift as a share of the centre, with its sign."""

    quantity: str
    meaning: str
    direction: str
    drift: Drift
    began_at: dt.datetime
    change: float

    @property
    def improvement(self) -> bool:
        """Whether it moved to its better side; less dose is one."""
        if self.quantity in DOSE:
            return self.drift.side < 0
        return (self.direction, self.drift.side) in (("higher is better", 1), ("lower is better", -1))

    @property
    def words(self) -> str:
        """Such as "Global noise level rose by 15 %"."""
        return f"{self.meaning} {'rose' if self.drift.side > 0 else 'fell'} by {100 * abs(self.change):.0f} %"


@dataclass(frozen=True, slots=True)
class NewAlarm:
    """A drift that began, as the alert rules see it: one for each cause, ``quantity`` what drifted first.

    ``protocol`` is the label of the stratum, ``protocol_name`` the protocol that rules name.
    """

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
    sentence: str = ""
    others: tuple[str, ...] = ()
    protocol_name: str = ""


OnDrift = Callable[[Sequence[NewAlarm]], Sequence[NewAlert]]


def sentence_of(moved: Sequence[Moved], *, dose_known: bool) -> str:
    """Return what happened, in a sentence: ``moved`` in the order in which they left their baselines."""
    doses = [item for item in moved if item.quantity in DOSE]
    # One of CTDIvol, DLP and SSDE stands for the dose.
    words = ", ".join(item.words for item in moved if item not in doses[1:])
    if doses:
        return f"Protocol changed: {words}."
    if all(item.improvement for item in moved):
        return f"Improved: {words}."
    dose = "; the dose is what it was" if dose_known else ""
    return f"Image chain: {words}{dose}."


class Drifts:
    """Raises and ends drift alarms of groups that have new points; runs in the role ``schedule``."""

    def __init__(self, database: Database, rules: ChartRules, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._rules, self._clock = database, rules, clock

    def look(self, judge_alarms: OnDrift = lambda _alarms: (), limit: int = 50) -> int:
        """Judge groups that changed, each in one transaction with its alarms and alerts; return how many."""
        changed = sa.select(s.groups.c.group_id).where(~s.groups.c.judged).order_by(s.groups.c.group_id)
        with self._db.read() as connection:
            found = list(connection.execute(changed.limit(limit)).scalars())
        for group_id in found:
            with self._db.write() as connection:
                begun = self._judge(connection, group_id)
                add_alerts(connection, judge_alarms(begun), self._clock())
        return len(found)

    def _judge(self, connection: sa.Connection, group_id: int) -> list[NewAlarm]:
        moved, seen = self._moved(connection, group_id)
        begun = self._settle(connection, group_id, moved, dose_known=bool(seen & set(DOSE)))
        connection.execute(s.groups.update().where(s.groups.c.group_id == group_id).values(judged=True))
        return begun

    def _moved(self, connection: sa.Connection, group_id: int) -> tuple[dict[str, Moved], set[str]]:
        """Return what drifts now by name, the earliest first, and the names of everything that has a baseline."""
        rows = _latest(connection, group_id)
        acquired = [row.acquired_at for row in rows]
        late = late_arrivals(acquired, [row.at for row in rows])
        opened, baselines = MeasuredRows(rows), Baselines(connection, group_id, self._rules)
        found, seen = [], set()
        for quantity in _quantities(connection):
            measured = measured_of(opened, quantity.quantity_id, baselines.size_id)
            if not measured.positions or (quantity.direction == "context" and quantity.name not in DOSE):
                continue
            baseline = baselines.of(quantity.quantity_id, quantity.name)
            if not isinstance(baseline, Baseline):
                continue
            seen.add(quantity.name)
            times = [acquired[position] for position in measured.positions]
            drift = judge(measured, times, late[measured.positions], baseline, self._rules).drift
            if drift is not None and self._matters(quantity.name, baseline.limits, drift):
                change = _change(baseline.limits, drift)
                words = (quantity.name, quantity.meaning, quantity.direction)
                found.append(Moved(*words, drift, times[drift.first], change))
        found.sort(key=lambda item: (item.began_at, _RANKS.get(item.quantity, len(_RANKS)), item.quantity == SCORE))
        return {item.quantity: item for item in found}, seen

    def _matters(self, quantity: str, limits: Limits, drift: Drift) -> bool:
        shift = abs(limits.at(drift.shift_sigma) - limits.centre)
        return shift >= least_shift(quantity, self._rules.least_shift, limits.centre)

    def _settle(
        self, connection: sa.Connection, group_id: int, moved: dict[str, Moved], *, dose_known: bool
    ) -> list[NewAlarm]:
        """End what is over, add what drifts now to the alarm that is open, or open one."""
        open_rows = {row.quantity: row for row in connection.execute(_open_alarms(group_id))}
        over = [row for name, row in open_rows.items() if name not in moved or moved[name].drift.side != row.side]
        still = {name: row for name, row in open_rows.items() if row not in over}
        causes = {row.cause_id or row.alarm_id for row in still.values()}
        # A cause stays open while something that drifted with it does.
        ended = [row.alarm_id for row in over if row.alarm_id not in causes]
        connection.execute(s.alarms.update().where(s.alarms.c.alarm_id.in_(ended)).values(ended_at=self._clock()))
        kept = {name for name, row in open_rows.items() if row.alarm_id in causes}
        fresh = [item for name, item in moved.items() if name not in still and name not in kept]
        worse = any(not item.improvement for item in fresh)
        cause = next((row for row in open_rows.values() if row.alarm_id in causes and row.cause_id is None), None)
        if not fresh:
            return []
        if cause is not None:
            every = list(moved.values())
            self._join(connection, group_id, cause, fresh, every, dose_known=dose_known)
            if not (cause.improvement and worse):
                return []
            # An improvement that others joined which are none: from now on it is an alarm.
            return [self._begun(connection, group_id, cause.alarm_id, every, dose_known=dose_known)]
        sentence = sentence_of(fresh, dose_known=dose_known)
        first, *others = fresh
        number = self._insert(connection, group_id, first, None, sentence, improvement=not worse)
        for item in others:
            self._insert(connection, group_id, item, number, "", improvement=item.improvement)
        return [self._begun(connection, group_id, number, fresh, dose_known=dose_known)] if worse else []

    def _join(
        self,
        connection: sa.Connection,
        group_id: int,
        cause: Any,
        fresh: Sequence[Moved],
        moved: Sequence[Moved],
        *,
        dose_known: bool,
    ) -> None:
        for item in fresh:
            self._insert(connection, group_id, item, cause.alarm_id, "", improvement=item.improvement)
        values = {
            "sentence": sentence_of(moved, dose_known=dose_known),
            "improvement": all(item.improvement for item in moved),
        }
        connection.execute(s.alarms.update().where(s.alarms.c.alarm_id == cause.alarm_id).values(**values))

    def _insert(
        self,
        connection: sa.Connection,
        group_id: int,
        item: Moved,
        cause_id: int | None,
        sentence: str,
        *,
        improvement: bool,
    ) -> int:
        values = {"side": item.drift.side, "shift_sigma": item.drift.shift_sigma, "began_at": item.began_at}
        about = {"cause_id": cause_id, "sentence": sentence or None, "improvement": improvement}
        insert = s.alarms.insert().values(
            group_id=group_id, quantity=item.quantity, raised_at=self._clock(), **values, **about
        )
        return int(connection.execute(insert).inserted_primary_key[0])  # type: ignore[index]

    def _begun(
        self, connection: sa.Connection, group_id: int, alarm_id: int, moved: Sequence[Moved], *, dose_known: bool
    ) -> NewAlarm:
        group = connection.execute(sa.select(s.groups).where(s.groups.c.group_id == group_id)).one()
        first = moved[0]
        names = ("scanner_id", "kind", "protocol", "group_id")
        return NewAlarm(
            alarm_id=alarm_id,
            scanner=read_names(connection).scanner(group.scanner_id),
            **{name: getattr(group, name) for name in names},
            quantity=first.quantity,
            meaning=first.meaning,
            direction=first.direction,
            drift=first.drift,
            sentence=sentence_of(moved, dose_known=dose_known),
            others=tuple(item.meaning for item in moved[1:]),
            protocol_name=group.protocol_name or group.protocol,
        )


def _change(limits: Limits, drift: Drift) -> float:
    return drift.side * limits.relative_shift(drift.shift_sigma)


def _latest(connection: sa.Connection, group_id: int) -> list[Any]:
    point = s.points.c
    query = sa.select(point.at, point.acquired_at, point.measured, point.score).where(point.group_id == group_id)
    latest = query.order_by(point.acquired_at.desc(), point.result_id.desc()).limit(_LOOKED_AT)
    return list(reversed(connection.execute(latest).all()))


def _open_alarms(group_id: int) -> sa.Select[Any]:
    return sa.select(s.alarms).where((s.alarms.c.group_id == group_id) & s.alarms.c.ended_at.is_(None))


def _quantities(connection: sa.Connection) -> list[Any]:
    rows = connection.execute(sa.select(s.quantities).order_by(s.quantities.c.quantity_id)).all()
    assert SCORE_ID not in {row.quantity_id for row in rows}
    return [Quantity(SCORE_ID, SCORE, "Quality score", "1", "higher is better"), *rows]
