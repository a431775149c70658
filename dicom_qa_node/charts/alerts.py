"""Alerts and the messages about them: noticed once, sent at least once, acknowledged by a person.

A message is claimed by lease, as jobs and deliveries are. Between sending and marking a kill can come: the message
then goes out again with the same idempotency key, by which a receiver tells the second from a new one.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import chart_tables as a
from dicom_qa_node.db.engine import Database

__all__ = ["Alert", "AlertSubject", "Alerts", "Message", "MessageState", "NewAlert", "Send", "add_alerts"]


class AlertSubject(StrEnum):
    """What an alert is about."""

    GRADE = "grade"
    FINDING = "finding"
    DRIFT = "drift"
    PHANTOM = "phantom"
    NODE = "node"


class MessageState(StrEnum):
    """Where a message stands."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    SENT = "SENT"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Send:
    """Through which channel an alert goes, and when at the earliest; ``urgent`` ones are not gathered with others."""

    channel: str
    not_before: dt.datetime
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class NewAlert:
    """Something a rule noticed; ``occasion`` is the same whenever the same thing is noticed again."""

    occasion: str
    rule: str
    subject: AlertSubject
    text: str
    scanner: str = ""
    scanner_id: int | None = None
    series_instance_uid: str | None = None
    trouble: str | None = None
    sends: tuple[Send, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of the alerts."""

    alert_id: int
    trouble: str | None
    rule: str
    subject: AlertSubject
    text: str
    scanner: str
    scanner_id: int | None
    series_instance_uid: str | None
    created_at: dt.datetime
    ended_at: dt.datetime | None
    acknowledged_at: dt.datetime | None
    acknowledged_by: str
    note: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message with its alerts; ``lease_token`` proves the claim of a sender."""

    message_id: int
    idempotency_key: str
    channel: str
    test: bool
    urgent: bool
    state: MessageState
    attempts: int
    created_at: dt.datetime
    not_before: dt.datetime
    last_answer: str
    sent_at: dt.datetime | None
    lease_token: str | None = None
    alerts: tuple[Alert, ...] = ()


def add_alerts(connection: sa.Connection, alerts: Sequence[NewAlert], at: dt.datetime) -> list[int]:
    """Write the alerts that are new, each with its messages, in the caller's transaction; return their numbers."""
    added = []
    for alert in alerts:
        known = sa.select(a.alerts.c.alert_id).where(a.alerts.c.occasion == alert.occasion)
        if connection.execute(known).first() is None:
            added.append(_add(connection, alert, at))
    return added


class Alerts:
    """Reads and settles alerts and messages; ``clock`` returns the current UTC time."""

    def __init__(
        self, database: Database, *, lease_s: float = 120, clock: Callable[[], dt.datetime] | None = None
    ) -> None:
        self._db, self._lease = database, dt.timedelta(seconds=lease_s)
        self._clock = clock or database.now

    def add(self, alerts: Sequence[NewAlert]) -> list[int]:
        """Write alerts that are new; return their numbers."""
        with self._db.write() as connection:
            return add_alerts(connection, alerts, self._clock())

    def settle_troubles(self, current: Sequence[NewAlert]) -> list[int]:
        """Compare the troubles that hold now with those that are open: begin the new ones, end the ones that are over.

        Returns the numbers of the alerts that began.
        """
        now = self._clock()
        still = {alert.trouble for alert in current}
        with self._db.read() as connection:
            if {row.trouble for row in connection.execute(_open_troubles())} == still:
                return []
        with self._db.write() as connection:
            open_ones = {row.trouble: row.alert_id for row in connection.execute(_open_troubles())}
            over = [number for trouble, number in open_ones.items() if trouble not in still]
            connection.execute(a.alerts.update().where(a.alerts.c.alert_id.in_(over)).values(ended_at=now))
            begun = [_at(alert, now) for alert in current if alert.trouble not in open_ones]
            return add_alerts(connection, begun, now)

    def alert(self, alert_id: int) -> Alert | None:
        """Return one alert, or None."""
        found = self._read(sa.select(a.alerts).where(a.alerts.c.alert_id == alert_id))
        return found[0] if found else None

    def unacknowledged(self, limit: int = 200) -> list[Alert]:
        """Return alerts that nobody has acknowledged, the latest first."""
        query = sa.select(a.alerts).where(a.alerts.c.acknowledged_at.is_(None))
        return self._read(query.order_by(a.alerts.c.alert_id.desc()).limit(limit))

    def count_unacknowledged(self) -> int:
        """Return how many alerts nobody has acknowledged."""
        query = sa.select(sa.func.count()).select_from(a.alerts).where(a.alerts.c.acknowledged_at.is_(None))
        with self._db.read() as connection:
            return int(connection.execute(query).scalar_one())

    def history(self, limit: int = 100, before: int | None = None) -> list[Alert]:
        """Return alerts of every kind, the latest first; ``before`` is the number of the last one shown."""
        query = sa.select(a.alerts)
        if before is not None:
            query = query.where(a.alerts.c.alert_id < before)
        return self._read(query.order_by(a.alerts.c.alert_id.desc()).limit(limit))

    def acknowledge(self, alert_id: int, *, by: str, note: str = "") -> bool:
        """Note who has seen to an alert, once; False when it is unknown or acknowledged."""
        wanted = (a.alerts.c.alert_id == alert_id) & a.alerts.c.acknowledged_at.is_(None)
        values = {"acknowledged_at": self._clock(), "acknowledged_by": by, "note": note.strip()[:500]}
        with self._db.write() as connection:
            return bool(connection.execute(a.alerts.update().where(wanted).values(**values)).rowcount)

    def acknowledge_all(self, *, by: str, up_to: int) -> int:
        """Acknowledge every alert up to a number, the newest that was seen; return how many."""
        wanted = (a.alerts.c.alert_id <= up_to) & a.alerts.c.acknowledged_at.is_(None)
        values = {"acknowledged_at": self._clock(), "acknowledged_by": by}
        with self._db.write() as connection:
            return connection.execute(a.alerts.update().where(wanted).values(**values)).rowcount

    # -- messages ------------------------------------------------------------------------------------------

    def queue_test(self, channel: str) -> int:
        """Queue a test message; return its number."""
        with self._db.write() as connection:
            return _new_message(connection, Send(channel, self._clock(), urgent=True), self._clock(), test=True)

    def messages(self, limit: int = 50) -> list[Message]:
        """Return messages with their alerts, the latest first."""
        query = sa.select(a.messages).order_by(a.messages.c.message_id.desc()).limit(limit)
        with self._db.read() as connection:
            return [_message(connection, row) for row in connection.execute(query).all()]

    def message(self, message_id: int) -> Message | None:
        """Return one message, or None."""
        with self._db.read() as connection:
            row = connection.execute(sa.select(a.messages).where(a.messages.c.message_id == message_id)).one_or_none()
            return None if row is None else _message(connection, row)

    def claim(self) -> Message | None:
        """Take the oldest message that is due or whose sender fell silent; None if there is none."""
        now = self._clock()
        message = a.messages.c
        ready = (message.state == MessageState.PENDING.value) & (message.not_before <= now)
        abandoned = (message.state == MessageState.SENDING.value) & (message.lease_until < now)
        query = sa.select(a.messages).where(ready | abandoned).order_by(message.not_before, message.message_id).limit(1)
        with self._db.read() as connection:
            if connection.execute(query).first() is None:
                return None
        with self._db.write() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            same = message.message_id == row.message_id
            claim = {"attempts": row.attempts + 1, "lease_token": uuid.uuid4().hex, "lease_until": now + self._lease}
            connection.execute(a.messages.update().where(same).values(state=MessageState.SENDING.value, **claim))
            return _message(connection, connection.execute(sa.select(a.messages).where(same)).one())

    def sent(self, message: Message, answer: str) -> bool:
        """Mark a claimed message as sent."""
        return self._close(message, MessageState.SENT, answer, {"sent_at": self._clock()})

    def retry_later(self, message: Message, answer: str, wait_s: float) -> bool:
        """Put a claimed message back."""
        due = self._clock() + dt.timedelta(seconds=wait_s)
        return self._close(message, MessageState.PENDING, answer, {"not_before": due})

    def give_up(self, message: Message, answer: str) -> bool:
        """Mark a claimed message as permanently failed."""
        return self._close(message, MessageState.FAILED, answer, {})

    def failed(self, since: dt.datetime) -> int:
        """Return how many messages were given up since a time."""
        wanted = (a.messages.c.state == MessageState.FAILED.value) & (a.messages.c.not_before >= since)
        with self._db.read() as connection:
            return int(
                connection.execute(sa.select(sa.func.count()).select_from(a.messages).where(wanted)).scalar_one()
            )

    def _close(self, message: Message, state: MessageState, answer: str, values: dict[str, Any]) -> bool:
        held = (a.messages.c.message_id == message.message_id) & (a.messages.c.lease_token == message.lease_token)
        held &= a.messages.c.state == MessageState.SENDING.value
        done = {"state": state.value, "last_answer": answer[:500], "lease_token": None, "lease_until": None}
        with self._db.write() as connection:
            return bool(connection.execute(a.messages.update().where(held).values(**(done | values))).rowcount)

    def _read(self, query: sa.Select[Any]) -> list[Alert]:
        with self._db.read() as connection:
            return [_alert(row) for row in connection.execute(query)]


def _add(connection: sa.Connection, alert: NewAlert, at: dt.datetime) -> int:
    names = ("occasion", "trouble", "rule", "text", "scanner", "scanner_id", "series_instance_uid")
    values = {name: getattr(alert, name) for name in names}
    insert = a.alerts.insert().values(**values, subject=alert.subject.value, created_at=at)
    alert_id = int(connection.execute(insert).inserted_primary_key[0])  # type: ignore[index]
    for send in alert.sends:
        message_id = _open_message(connection, send) or _new_message(connection, send, at)
        connection.execute(a.message_alerts.insert().values(message_id=message_id, alert_id=alert_id))
    return alert_id


def _open_message(connection: sa.Connection, send: Send) -> int | None:
    if send.urgent:
        return None
    message = a.messages.c
    waiting = (message.state == MessageState.PENDING.value) & (message.attempts == 0)
    same = (message.channel == send.channel) & ~message.test & ~message.urgent
    query = sa.select(message.message_id).where(waiting & same).order_by(message.message_id).limit(1)
    return connection.execute(query.with_for_update()).scalar_one_or_none()


def _new_message(connection: sa.Connection, send: Send, at: dt.datetime, *, test: bool = False) -> int:
    values = {"channel": send.channel, "urgent": send.urgent, "not_before": send.not_before, "test": test}
    insert = a.messages.insert().values(
        **values, idempotency_key=uuid.uuid4().hex, state=MessageState.PENDING.value, created_at=at
    )
    return int(connection.execute(insert).inserted_primary_key[0])  # type: ignore[index]


def _open_troubles() -> sa.Select[Any]:
    alert = a.alerts.c
    return sa.select(alert.trouble, alert.alert_id).where(alert.trouble.is_not(None) & alert.ended_at.is_(None))


def _at(alert: NewAlert, now: dt.datetime) -> NewAlert:
    values = {name: getattr(alert, name) for name in alert.__slots__}
    return NewAlert(**(values | {"occasion": f"{alert.occasion} since {now.isoformat()}"}))


def _alert(row: Any) -> Alert:
    values = {name: getattr(row, name) for name in Alert.__slots__}
    return Alert(**(values | {"subject": AlertSubject(row.subject)}))


def _message(connection: sa.Connection, row: Any) -> Message:
    joined = a.alerts.join(a.message_alerts, a.message_alerts.c.alert_id == a.alerts.c.alert_id)
    mine = a.message_alerts.c.message_id == row.message_id
    query = sa.select(a.alerts).select_from(joined).where(mine).order_by(a.alerts.c.alert_id)
    values = {name: getattr(row, name) for name in Message.__slots__ if name != "alerts"}
    alerts = tuple(_alert(alert) for alert in connection.execute(query))
    return Message(**(values | {"state": MessageState(row.state)}), alerts=alerts)
