"""Storage commitment in both directions, durable: what peers asked of the node, and what the node asked of archives."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import DeliveryState
from dicom_qa_node.spool.storage_commitment import CommitItem

__all__ = ["CommitReplies", "CommitReply", "CommitRequest", "CommitRequests"]


@dataclass(frozen=True, slots=True)
class CommitReply:
    """What a peer asked for, judged, and not yet told to it; ``host`` is where the request came from."""

    transaction_uid: str
    calling_ae: str
    host: str
    items: tuple[CommitItem, ...]
    created_at: dt.datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What an archive was asked for a report; ``failure_reason`` is None when it has not failed.

    ``sop_instance_uid`` is what the archive was sent: the report, or a form of it of another SOP class.
    """

    transaction_uid: str
    report_uid: str
    sop_instance_uid: str
    target: str
    requested_at: dt.datetime
    answered_at: dt.datetime | None
    failure_reason: int | None


class CommitReplies:
    """The node as the one that commits (SCP); ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] | None = None) -> None:
        self._db = database
        self._clock = clock or database.now

    def add(
        self, transaction_uid: str, calling_ae: str, host: str, items: Sequence[CommitItem], wait_s: float = 0
    ) -> None:
        """Keep a judged request until the peer knows; the same transaction again takes the place of the first."""
        now = self._clock()
        table = t.commit_replies
        found = [[item.sop_class_uid, item.sop_instance_uid, item.failure_reason] for item in items]
        row = {"transaction_uid": transaction_uid, "calling_ae": calling_ae, "host": host, "items": found}
        due = now + dt.timedelta(seconds=wait_s)
        with self._db.write() as connection:
            connection.execute(table.delete().where(_same(transaction_uid, calling_ae)))
            connection.execute(table.insert().values(**row, created_at=now, next_attempt_at=due))

    def pending(self, calling_ae: str) -> list[CommitReply]:
        """Return what a peer has not been told yet, oldest first."""
        return self._replies(t.commit_replies.c.calling_ae == calling_ae, 100)

    def due(self, limit: int = 20) -> list[CommitReply]:
        """Return replies whose time to try has come, oldest first."""
        return self._replies(t.commit_replies.c.next_attempt_at <= self._clock(), limit)

    def mark_sent(self, reply: CommitReply, answer: str) -> None:
        """Record that the peer knows, or that it is given up, with the last words."""
        self._update(reply, {"finished_at": self._clock(), "last_answer": answer})

    def try_later(self, reply: CommitReply, answer: str, wait_s: float) -> None:
        """Record a failed attempt."""
        due = self._clock() + dt.timedelta(seconds=wait_s)
        self._update(reply, {"next_attempt_at": due, "last_answer": answer, "attempts": reply.attempts + 1})

    def _update(self, reply: CommitReply, values: dict[str, object]) -> None:
        same = _same(reply.transaction_uid, reply.calling_ae) & (t.commit_replies.c.created_at == reply.created_at)
        with self._db.write() as connection:
            connection.execute(t.commit_replies.update().where(same).values(**values))

    def _replies(self, condition: sa.ColumnElement[bool], limit: int) -> list[CommitReply]:
        c = t.commit_replies.c
        query = sa.select(t.commit_replies).where(c.finished_at.is_(None) & condition).order_by(c.created_at)
        with self._db.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [
            CommitReply(
                row.transaction_uid,
                row.calling_ae,
                row.host,
                tuple(CommitItem(*item) for item in row.items),
                row.created_at,
                row.attempts,
            )
            for row in rows
        ]


class CommitRequests:
    """The node as the one that asks (SCU); ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] | None = None) -> None:
        self._db = database
        self._clock = clock or database.now

    def begin(self, transaction_uid: str, report_uid: str, target: str, sop_instance_uid: str = "") -> None:
        """Keep a request before it is sent: its answer may come at once, to another process.

        ``sop_instance_uid`` is what was sent where that is not the report itself.
        """
        row = {"transaction_uid": transaction_uid, "report_uid": report_uid, "target": target}
        row["sop_instance_uid"] = sop_instance_uid or report_uid
        with self._db.write() as connection:
            connection.execute(t.commit_requests.insert().values(**row, requested_at=self._clock()))

    def latest(self, report_uid: str, target: str) -> CommitRequest | None:
        """Return the request that counts: a committed one, else the last one."""
        c = t.commit_requests.c
        committed = c.answered_at.is_not(None) & c.failure_reason.is_(None)
        query = sa.select(t.commit_requests).where((c.report_uid == report_uid) & (c.target == target))
        query = query.order_by(sa.case((committed, 0), else_=1), c.requested_at.desc()).limit(1)
        with self._db.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else CommitRequest(**row._mapping)

    def failures(self, report_uid: str, target: str) -> int:
        """Return how often the target has failed to commit to a report."""
        c = t.commit_requests.c
        failed = (c.report_uid == report_uid) & (c.target == target) & c.failure_reason.is_not(None)
        with self._db.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).where(failed)).scalar_one())

    def instance_of(self, transaction_uid: str) -> str | None:
        """Return the instance that a transaction is about, None if it is none of ours."""
        query = sa.select(t.commit_requests.c.sop_instance_uid)
        with self._db.read() as connection:
            return connection.execute(query.where(_of(transaction_uid))).scalar_one_or_none()

    def answer(self, transaction_uid: str, failure_reason: int | None) -> None:
        """Record an archive's answer; a report it has committed to is due for its delivery worker at once."""
        now = self._clock()
        with self._db.write() as connection:
            values = {"answered_at": now, "failure_reason": failure_reason}
            connection.execute(t.commit_requests.update().where(_of(transaction_uid)).values(**values))
            if failure_reason is None:
                about = sa.select(t.commit_requests.c.report_uid, t.commit_requests.c.target)
                row = connection.execute(about.where(_of(transaction_uid))).one()
                waiting = (
                    (t.outbox.c.report_uid == row.report_uid)
                    & (t.outbox.c.target == row.target)
                    & (t.outbox.c.state == DeliveryState.PENDING.value)
                )
                connection.execute(t.outbox.update().where(waiting).values(next_attempt_at=now))


def _of(transaction_uid: str) -> sa.ColumnElement[bool]:
    return t.commit_requests.c.transaction_uid == transaction_uid


def _same(transaction_uid: str, calling_ae: str) -> sa.ColumnElement[bool]:
    c = t.commit_replies.c
    return (c.transaction_uid == transaction_uid) & (c.calling_ae == calling_ae)
