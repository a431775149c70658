"""What was done to a scanner, marked on its charts: rows are added; a correction supersedes the row before it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent

__all__ = ["EventKind", "ServiceEvent", "ServiceEvents"]

_LONGEST = 500


class EventKind(StrEnum):
    """What was done; ``network`` is written by the node when another model scores."""

    SERVICE = "service"
    CALIBRATION = "calibration"
    TUBE = "tube"
    SOFTWARE = "software"
    PROTOCOL = "protocol"
    OTHER = "other"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """One event as it stands now; ``created_at`` and ``author`` are those of its latest wording."""

    event_id: int
    scanner_id: int
    at: dt.datetime
    kind: EventKind
    text: str
    author: str
    created_at: dt.datetime
    supersedes: int | None
    withdrawn: bool


class ServiceEvents:
    """Reads and adds events."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db, self._clock = database, clock

    def of(self, scanner_id: int, *, everything: bool = False) -> list[ServiceEvent]:
        """Return the events of a scanner as they stand, the latest first; ``everything``: each wording there was."""
        query = sa.select(s.events).where(s.events.c.scanner_id == scanner_id)
        if not everything:
            later = s.events.alias("later")
            superseded = sa.exists().where(later.c.supersedes == s.events.c.event_id)
            query = query.where(~superseded & ~s.events.c.withdrawn)
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(s.events.c.at.desc(), s.events.c.event_id.desc()))
            return [_event(row) for row in rows]

    def add(self, scanner_id: int, at: dt.datetime, kind: EventKind, text: str, *, author: str) -> int:
        """Mark something; return its number.

        Raises
        ------
        Permanent
            There is no such scanner, or no text.
        """
        return self._insert(scanner_id, at, kind, text, author, supersedes=None, withdrawn=False)

    def correct(self, event_id: int, at: dt.datetime, kind: EventKind, text: str, *, author: str) -> int:
        """Put another wording in an event's place; the first stays in the history.

        Raises
        ------
        Permanent
            The event is unknown, or has been corrected or withdrawn already.
        """
        scanner_id = self._scanner_of(event_id)
        return self._insert(scanner_id, at, kind, text, author, supersedes=event_id, withdrawn=False)

    def withdraw(self, event_id: int, reason: str, *, author: str) -> int:
        """Take an event off the charts; it stays in the history. Raises as `correct` does."""
        scanner_id = self._scanner_of(event_id)
        now = self._clock()
        kind = EventKind.OTHER
        return self._insert(scanner_id, now, kind, reason or "withdrawn", author, supersedes=event_id, withdrawn=True)

    def _scanner_of(self, event_id: int) -> int:
        query = sa.select(s.events.c.scanner_id, s.events.c.withdrawn).where(s.events.c.event_id == event_id)
        with self._db.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or row.withdrawn:
            raise Permanent(f"there is no event {event_id} that could be changed")
        return int(row.scanner_id)

    def _insert(
        self,
        scanner_id: int,
        at: dt.datetime,
        kind: EventKind,
        text: str,
        author: str,
        *,
        supersedes: int | None,
        withdrawn: bool,
    ) -> int:
        words = " ".join(text.split())
        if not words or len(words) > _LONGEST:
            raise Permanent(f"an event needs a text of at most {_LONGEST} characters")
        values = {"scanner_id": scanner_id, "at": at, "kind": kind.value, "text": words, "author": author}
        insert = s.events.insert().values(
            **values, created_at=self._clock(), supersedes=supersedes, withdrawn=withdrawn
        )
        try:
            with self._db.write() as connection:
                return int(connection.execute(insert).inserted_primary_key[0])  # type: ignore[index]
        except IntegrityError as error:
            raise Permanent("there is no such scanner, or this event has been changed already") from error


def _event(row: Any) -> ServiceEvent:
    values = {name: getattr(row, name) for name in ServiceEvent.__slots__}
    return ServiceEvent(**(values | {"kind": EventKind(row.kind)}))
