"""The audit log: one row for everything that somebody did; rows are only ever added (triggers refuse the rest)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from dicom_qa_node.db import account_tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now

__all__ = ["Audit", "AuditEntry", "AuditFilter", "Outcome"]


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row: who did what to which object, from where, and how it ended.

    ``event`` is a dotted word such as ``login`` or ``series.rescore``; ``kind`` and ``ident`` name the object
    (``series`` and its UID, ``account`` and its name). ``patient_id`` is set only where a patient's data was
    looked at or left the node; it is shown to administrators and goes into the DICOM audit message.
    """

    audit_id: int
    at: dt.datetime
    event: str
    outcome: Outcome
    actor: str
    role: str
    address: str
    kind: str
    ident: str
    study_instance_uid: str
    patient_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What to show of the log; an empty field does not filter. ``event`` matches the beginning of the word."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    actor: str = ""
    event: str = ""
    outcome: str = ""
    ident: str = ""


class Audit:
    """Writes and reads the audit log."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def record(
        self,
        event: str,
        *,
        actor: str,
        outcome: Outcome = Outcome.SUCCESS,
        role: str = "",
        address: str = "",
        kind: str = "",
        ident: str = "",
        study_instance_uid: str = "",
        patient_id: str = "",
        detail: str = "",
    ) -> int:
        """Add one row and return its number; it is durable on return."""
        row = {
            "at": self._clock(),
            "event": event[:64],
            "outcome": outcome.value,
            "actor": actor[:200],
            "role": role[:16],
            "address": address[:100],
            "kind": kind[:32],
            "ident": ident[:500],
            "study_instance_uid": study_instance_uid[:64],
            "patient_id": patient_id[:200],
            "detail": detail[:2000],
        }
        with self._db.write() as connection:
            if not self._db.is_sqlite:
                # Readers go by number: without the lock a lower number could become visible after a higher one.
                connection.execute(sa.text("LOCK TABLE audit_log IN SHARE ROW EXCLUSIVE MODE"))
            added = connection.execute(t.audit_log.insert().values({k: _clean(v) for k, v in row.items()}))
            return int(added.inserted_primary_key[0])  # type: ignore[index]

    def entries(
        self, chosen: AuditFilter | None = None, limit: int = 100, before: int | None = None
    ) -> list[AuditEntry]:
        """Return rows, the latest first; ``before`` is the number of the last row of the page before."""
        number = t.audit_log.c.audit_id
        query = sa.select(t.audit_log).where(*_conditions(chosen or AuditFilter()))
        if before is not None:
            query = query.where(number < before)
        with self._db.read() as connection:
            return [_entry(row) for row in connection.execute(query.order_by(number.desc()).limit(limit))]

    def after(self, number: int, limit: int = 100) -> list[AuditEntry]:
        """Return the rows behind a number, in their order."""
        column = t.audit_log.c.audit_id
        with self._db.read() as connection:
            query = sa.select(t.audit_log).where(column > number).order_by(column).limit(limit)
            return [_entry(row) for row in connection.execute(query)]

    def every(self, chosen: AuditFilter) -> Iterator[AuditEntry]:
        """Yield all rows of a filter, the latest first, page by page."""
        before: int | None = None
        while page := self.entries(chosen, limit=1000, before=before):
            yield from page
            before = page[-1].audit_id

    def events(self) -> list[str]:
        """Return the words of what has happened so far."""
        with self._db.read() as connection:
            return list(connection.execute(sa.select(t.audit_log.c.event).distinct().order_by("event")).scalars())

    def cursor(self, name: str) -> int:
        """Return how far a reader has come: the number of the last row that it has dealt with."""
        column = t.audit_cursors.c
        with self._db.read() as connection:
            query = sa.select(column.audit_id).where(column.name == name)
            return int(connection.execute(query).scalar_one_or_none() or 0)

    def advance(self, name: str, number: int) -> None:
        """Keep how far a reader has come."""
        same = t.audit_cursors.c.name == name
        with self._db.write() as connection:
            if not connection.execute(t.audit_cursors.update().where(same).values(audit_id=number)).rowcount:
                connection.execute(t.audit_cursors.insert().values(name=name, audit_id=number))


def _clean(value: object) -> object:
    # A zero byte cannot be stored by PostgreSQL; other control characters would forge lines in an export.
    return "".join(c if c.isprintable() else " " for c in value) if isinstance(value, str) else value


def _conditions(chosen: AuditFilter) -> list[sa.ColumnElement[bool]]:
    column = t.audit_log.c
    wanted = {
        "since": column.at >= chosen.since if chosen.since else None,
        "until": column.at < chosen.until if chosen.until else None,
        "actor": column.actor == chosen.actor if chosen.actor else None,
        "event": column.event.startswith(chosen.event, autoescape=True) if chosen.event else None,
        "outcome": column.outcome == chosen.outcome if chosen.outcome else None,
        "ident": column.ident == chosen.ident if chosen.ident else None,
    }
    return [condition for condition in wanted.values() if condition is not None]


def _entry(row: sa.Row[tuple[object, ...]]) -> AuditEntry:
    values = dict(row._mapping)
    return AuditEntry(**{**values, "outcome": Outcome(values["outcome"])})
