"""Reports and their way to each target: one row per report and target, retried until delivered or parked."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from dicom_qa_node.records import (
    Delivery,
    DeliveryState,
    ReportRef,
    SeriesFacts,
    SeriesResult,
    SeriesState,
    result_from_json,
    utc_now,
)
from dicom_qa_node.store import tables as t
from dicom_qa_node.store.engine import Database
from dicom_qa_node.store.registry import facts_of
from dicom_qa_node.store.transition import move

__all__ = ["Outbox", "OutboxRow", "Unreported"]


@dataclass(frozen=True, slots=True)
class Unreported:
    """A scored version that has no report yet; ``predecessor`` is the report of the version before."""

    facts: SeriesFacts
    version: int
    result: SeriesResult
    predecessor: ReportRef | None
    scored_at: dt.datetime


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One report and target, for lists and commands."""

    delivery_id: int
    target: str
    state: DeliveryState
    attempts: int
    next_attempt_at: dt.datetime
    last_answer: str
    delivered_at: dt.datetime | None
    created_at: dt.datetime
    report: ReportRef


class Outbox:
    """Reports to build and to deliver; ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, *, lease_s: float = 120, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db = database
        self._lease = dt.timedelta(seconds=lease_s)
        self._clock = clock

    # -- SCORED -> REPORTED ------------------------------------------------------------------------------

    def unreported(self, limit: int = 10) -> list[Unreported]:
        """Return series in SCORED with their result, the oldest first."""
        query = (
            sa.select(t.series, t.results.c.payload, t.results.c.scored_at)
            .join(
                t.results,
                (t.results.c.series_instance_uid == t.series.c.series_instance_uid)
                & (t.results.c.version == t.series.c.version),
            )
            .where(t.series.c.state == SeriesState.SCORED)
            .order_by(t.series.c.state_since)
            .limit(limit)
        )
        with self._db.read() as connection:
            return [
                Unreported(
                    facts_of(row),
                    row.version,
                    result_from_json(row.payload),
                    _latest_report(connection, row.series_instance_uid),
                    row.scored_at,
                )
                for row in connection.execute(query).all()
            ]

    def add_report(self, report: ReportRef, targets: Sequence[str]) -> bool:
        """Record a report whose file is durable, with one outbox row per target, and move its series to REPORTED.

        Returns False, and writes nothing, when the series has moved on (late image) or the report exists.
        """
        now = self._clock()
        with self._db.write() as connection:
            moved = move(
                connection, report.series_instance_uid, [SeriesState.SCORED], SeriesState.REPORTED,
                version=report.version, reason=f"report {report.sop_instance_uid}", actor="report", at=now,
            )  # fmt: skip
            if not moved:
                return False
            connection.execute(t.reports.insert().values(**asdict(report)))
            for target in targets:
                row = {
                    "report_uid": report.sop_instance_uid,
                    "target": target,
                    "state": DeliveryState.PENDING.value,
                }
                row["series_instance_uid"] = report.series_instance_uid
                connection.execute(t.outbox.insert().values(**row, created_at=now, next_attempt_at=now))
            return True

    def fail_report(self, item: Unreported, reason: str) -> bool:
        """Park a series whose report cannot be built."""
        with self._db.write() as connection:
            return move(
                connection, item.facts.series_instance_uid, [SeriesState.SCORED], SeriesState.PARKED,
                version=item.version, reason=reason, actor="report", at=self._clock(),
                values={"parked_reason": reason},
            )  # fmt: skip

    # -- REPORTED -> DELIVERED ---------------------------------------------------------------------------

    def claim(self, targets: Sequence[str]) -> Delivery | None:
        """Take the oldest due delivery to one of these targets; None if there is none.

        A report waits while an earlier one of the same series to the same target is still on its way.
        """
        now = self._clock()
        query = _due(now).where(t.outbox.c.target.in_(list(targets))).limit(1)
        with self._db.read() as connection:
            if connection.execute(query).first() is None:
                return None
        with self._db.write() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True, of=t.outbox)).one_or_none()
            if row is None:
                return None
            token = uuid.uuid4().hex
            values = {
                "state": DeliveryState.SENDING.value,
                "attempts": row.attempts + 1,
                "lease_token": token,
            }
            update = t.outbox.update().where(t.outbox.c.delivery_id == row.delivery_id)
            connection.execute(update.values(**values, lease_until=now + self._lease))
            return Delivery(row.delivery_id, row.target, _report(row), row.attempts + 1, token)

    def heartbeat(self, delivery: Delivery) -> bool:
        """Renew the lease of a delivery; False when it was lost."""
        with self._db.write() as connection:
            update = t.outbox.update().where(_held(delivery)).values(lease_until=self._clock() + self._lease)
            return bool(connection.execute(update).rowcount)

    def delivered(self, delivery: Delivery, answer: str) -> bool:
        """Record the target's acceptance; the series is DELIVERED when every target has its report."""
        now = self._clock()
        values = {"state": DeliveryState.DELIVERED.value, "last_answer": answer, "delivered_at": now}
        with self._db.write() as connection:
            if not _close(connection, delivery, values):
                return False
            _settle(connection, delivery.report, now)
            return True

    def retry_later(self, delivery: Delivery, answer: str, wait_s: float) -> bool:
        """Put a delivery back for a later attempt."""
        values = {"state": DeliveryState.PENDING.value, "last_answer": answer}
        due = self._clock() + dt.timedelta(seconds=wait_s)
        with self._db.write() as connection:
            return _close(connection, delivery, values | {"next_attempt_at": due})

    def park(self, delivery: Delivery, answer: str) -> bool:
        """Give a delivery up with the target's words; the series is parked until an operator acts."""
        now = self._clock()
        with self._db.write() as connection:
            if not _close(connection, delivery, {"state": DeliveryState.PARKED.value, "last_answer": answer}):
                return False
            _park_series(connection, delivery.report, f"report not delivered to {delivery.target}: {answer}", now)
            return True

    # -- for operators -------------------------------------------------------------------------------------

    def rows(self, states: Sequence[DeliveryState] = tuple(DeliveryState), limit: int = 100) -> list[OutboxRow]:
        """Return outbox rows in these states, the latest first."""
        query = _joined().where(t.outbox.c.state.in_([state.value for state in states]))
        with self._db.read() as connection:
            found = connection.execute(query.order_by(t.outbox.c.delivery_id.desc()).limit(limit)).all()
        return [_row(row) for row in found]

    def deliveries_of(self, series_instance_uid: str) -> list[OutboxRow]:
        """Return every delivery of every report of a series, oldest first."""
        query = _joined().where(t.outbox.c.series_instance_uid == series_instance_uid)
        with self._db.read() as connection:
            return [_row(row) for row in connection.execute(query.order_by(t.outbox.c.delivery_id))]

    def report(self, series_instance_uid: str, version: int | None = None) -> ReportRef | None:
        """Return the report of a version (None: the latest), or None."""
        query = sa.select(t.reports).where(t.reports.c.series_instance_uid == series_instance_uid)
        if version is not None:
            query = query.where(t.reports.c.version == version)
        with self._db.read() as connection:
            row = connection.execute(query.order_by(t.reports.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else _report(row)

    def counts(self) -> dict[DeliveryState, int]:
        """Return how many deliveries are in each state."""
        query = sa.select(t.outbox.c.state, sa.func.count()).group_by(t.outbox.c.state)
        with self._db.read() as connection:
            found = {DeliveryState(state): int(count) for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in DeliveryState}

    def retry(self, delivery_id: int, *, actor: str) -> bool:
        """Send a parked or waiting delivery at the next chance; its series leaves PARKED."""
        now = self._clock()
        states = [DeliveryState.PARKED.value, DeliveryState.PENDING.value]
        wanted = (t.outbox.c.delivery_id == delivery_id) & t.outbox.c.state.in_(states)
        values = {"state": DeliveryState.PENDING.value, "next_attempt_at": now, "created_at": now}
        with self._db.write() as connection:
            if not connection.execute(t.outbox.update().where(wanted).values(**values)).rowcount:
                return False
            row = connection.execute(_joined().where(t.outbox.c.delivery_id == delivery_id)).one()
            move(
                connection, row.series_instance_uid, [SeriesState.PARKED], SeriesState.REPORTED,
                version=row.version, reason=f"delivery {delivery_id} retried", actor=actor, at=now,
            )  # fmt: skip
            return True

    def park_row(self, delivery_id: int, reason: str, *, actor: str) -> bool:
        """Take a waiting delivery out of the flow."""
        now = self._clock()
        wanted = (t.outbox.c.delivery_id == delivery_id) & (t.outbox.c.state == DeliveryState.PENDING.value)
        values = {"state": DeliveryState.PARKED.value, "last_answer": f"{reason} ({actor})"}
        with self._db.write() as connection:
            if not connection.execute(t.outbox.update().where(wanted).values(**values)).rowcount:
                return False
            row = connection.execute(_joined().where(t.outbox.c.delivery_id == delivery_id)).one()
            _park_series(connection, _report(row), f"delivery to {row.target} parked: {reason}", now)
            return True


def _joined() -> sa.Select[tuple[object, ...]]:
    columns = [column for column in t.reports.c if column.name not in ("created_at", "series_instance_uid")]
    report_created = t.reports.c.created_at.label("report_created_at")
    join = t.outbox.join(t.reports, t.reports.c.sop_instance_uid == t.outbox.c.report_uid)
    return sa.select(t.outbox, report_created, *columns).select_from(join)


def _due(now: dt.datetime) -> sa.Select[tuple[object, ...]]:
    ready = (t.outbox.c.state == DeliveryState.PENDING.value) & (t.outbox.c.next_attempt_at <= now)
    silent = (t.outbox.c.state == DeliveryState.SENDING.value) & (t.outbox.c.lease_until < now)
    earlier = t.outbox.alias("earlier")
    blocked = sa.exists().where(
        (earlier.c.series_instance_uid == t.outbox.c.series_instance_uid)
        & (earlier.c.target == t.outbox.c.target)
        & (earlier.c.delivery_id < t.outbox.c.delivery_id)
        & earlier.c.state.in_([DeliveryState.PENDING.value, DeliveryState.SENDING.value])
    )
    return _joined().where(ready | silent).where(~blocked).order_by(t.outbox.c.next_attempt_at, t.outbox.c.delivery_id)


def _held(delivery: Delivery) -> sa.ColumnElement[bool]:
    return (
        (t.outbox.c.delivery_id == delivery.delivery_id)
        & (t.outbox.c.lease_token == delivery.lease_token)
        & (t.outbox.c.state == DeliveryState.SENDING.value)
    )


def _close(connection: sa.Connection, delivery: Delivery, values: dict[str, object]) -> bool:
    update = t.outbox.update().where(_held(delivery)).values(**values, lease_token=None, lease_until=None)
    return bool(connection.execute(update).rowcount)


def _settle(connection: sa.Connection, report: ReportRef, at: dt.datetime) -> None:
    waiting = sa.select(t.outbox.c.delivery_id).where(
        (t.outbox.c.report_uid == report.sop_instance_uid) & (t.outbox.c.state != DeliveryState.DELIVERED.value)
    )
    if connection.execute(waiting).first() is None:
        move(
            connection, report.series_instance_uid, [SeriesState.REPORTED], SeriesState.DELIVERED,
            version=report.version, reason="every target has the report", actor="deliver", at=at,
        )  # fmt: skip


def _park_series(connection: sa.Connection, report: ReportRef, reason: str, at: dt.datetime) -> None:
    move(
        connection, report.series_instance_uid, [SeriesState.REPORTED], SeriesState.PARKED,
        version=report.version, reason=reason, actor="deliver", at=at, values={"parked_reason": reason},
    )  # fmt: skip


def _latest_report(connection: sa.Connection, uid: str) -> ReportRef | None:
    query = sa.select(t.reports).where(t.reports.c.series_instance_uid == uid)
    row = connection.execute(query.order_by(t.reports.c.version.desc()).limit(1)).one_or_none()
    return None if row is None else _report(row)


def _report(row: sa.Row[tuple[object, ...]]) -> ReportRef:
    values = row._mapping
    names = [name for name in ReportRef.__slots__ if name != "created_at"]
    created = values.get("report_created_at", values["created_at"])
    return ReportRef(**{name: values[name] for name in names}, created_at=created)


def _row(row: sa.Row[tuple[object, ...]]) -> OutboxRow:
    values = row._mapping
    names = [name for name in OutboxRow.__slots__ if name not in ("report", "state")]
    kept = {name: values[name] for name in names}
    return OutboxRow(**kept, state=DeliveryState(values["state"]), report=_report(row))
