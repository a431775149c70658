"""Who was refused on the DICOM port in the last days, and why: for the operator who connects a scanner."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.db.tables import refused_callers
from dicom_qa_node.domain.series import RefusedCaller

__all__ = ["RefusedCallers", "RefusedSummary", "note_refusals"]

KEEP_DAYS = 7
MOST_ROWS = 500
_LONGEST = {"host": 64, "calling_ae": 16, "called_ae": 16, "reason": 200}


@dataclass(frozen=True, slots=True)
class RefusedSummary:
    """How often a caller was refused for one reason; ``called_ae`` is what it called last."""

    host: str
    calling_ae: str
    reason: str
    called_ae: str
    first_at: dt.datetime
    last_at: dt.datetime
    times: int

    @property
    def peers_entry(self) -> str:
        """Lines for ``receive.peers`` of the configuration that admit this caller, "" without an AE title."""
        if not self.calling_ae or "?" in self.calling_ae or self.calling_ae.startswith("("):
            return ""
        title = self.calling_ae.replace("'", "''")
        return f"- ae_title: '{title}'\n  hosts: ['{self.host}']"


class RefusedCallers:
    """The refusals of the last days; what is older, or too much, goes when something is added."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def latest(self, limit: int = 100) -> list[RefusedSummary]:
        """Return the refusals of the last seven days, the latest first."""
        row = refused_callers.c
        since = self._db.now() - dt.timedelta(days=KEEP_DAYS)
        query = sa.select(refused_callers).where(row.last_at >= since).order_by(row.last_at.desc()).limit(limit)
        with self._db.read() as connection:
            return [RefusedSummary(**found._mapping) for found in connection.execute(query)]


def note_refusals(connection: sa.Connection, refusals: Sequence[RefusedCaller], skew: dt.timedelta) -> None:
    """Add refusals of a receiver, whose clock is ``skew`` behind that of the database."""
    for refusal in refusals:
        key = {name: getattr(refusal, name)[: _LONGEST[name]] for name in ("host", "calling_ae", "reason")}
        called, at = refusal.called_ae[: _LONGEST["called_ae"]], refusal.at + skew
        same = sa.and_(*(refused_callers.c[name] == value for name, value in key.items()))
        change = {"times": refused_callers.c.times + refusal.times, "last_at": at, "called_ae": called}
        if not connection.execute(refused_callers.update().where(same).values(**change)).rowcount:
            values = {"called_ae": called, "first_at": at, "last_at": at, "times": refusal.times}
            insert_ignore(connection, refused_callers, [key | values])
    if refusals:
        _trim(connection, max(refusal.at for refusal in refusals) + skew)


def _trim(connection: sa.Connection, now: dt.datetime) -> None:
    last = refused_callers.c.last_at
    connection.execute(refused_callers.delete().where(last < now - dt.timedelta(days=KEEP_DAYS)))
    newest = sa.select(last).order_by(last.desc()).offset(MOST_ROWS).limit(1)
    oldest = connection.execute(newest).scalar()
    if oldest is not None:
        connection.execute(refused_callers.delete().where(last <= oldest))
