"""Which job goes next and who holds it: one narrow interface, kept in the table ``jobs`` or by Procrastinate.

The table ``jobs`` says what became of every job: its state, its tries, its last error, the proof of its claim. A queue
decides about those that wait and run: order, site, time, and whether their holder still lives. The embedded database
keeps that in ``jobs`` too; on PostgreSQL Procrastinate does (`flow.procrastinate_queue`), in tables of its own that
hold nothing else. Every call works in the caller's transaction, so that both always agree.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.commit_watch import CommitWatch

if TYPE_CHECKING:
    from dicom_qa_node.db.engine import Database

__all__ = ["Queue", "Taken", "Waiter", "cancel_jobs", "enqueue", "lock_series", "queue_of", "waiter_of"]

LIVE = ("READY", "RUNNING")


@dataclass(frozen=True, slots=True, order=True)
class Taken:
    """A job that a worker got; ``token`` proves the claim."""

    job_id: int
    token: str


class Queue(Protocol):
    """The jobs that wait and run, within one transaction; numbers are those of the table ``jobs``."""

    def put(self, job_id: int, series_instance_uid: str, site: str, priority: int) -> None:
        """Let a job wait, to be taken from now on."""

    def withdraw(self, job_ids: Sequence[int], series_instance_uid: str) -> None:
        """Take back jobs of a series: one that waits is gone, one that runs is to end."""

    def waits(self, sites: Sequence[str], now: dt.datetime) -> bool:
        """Whether a job of these sites (none: of all) is due; cheaper than to take one."""

    def take(self, sites: Sequence[str], now: dt.datetime, lease: dt.timedelta) -> Taken | None:
        """Give the next job of these sites (none: of all) to the caller, the urgent ones first; None if none is due."""

    def silent(self, now: dt.datetime, lease: dt.timedelta) -> list[Taken]:
        """Return the claims whose holder was silent for longer than the lease."""

    def beat(self, token: str, now: dt.datetime, lease: dt.timedelta) -> None:
        """Say that the holder of a claim lives."""

    def give_back(self, claim: Taken, pause: dt.timedelta) -> None:
        """Let a job wait again, to be taken after a pause."""

    def end(self, claim: Taken) -> None:
        """Forget a claim, and its job if that is still under this claim; the ledger is written before."""


class Waiter(Protocol):
    """Waits until it is worth looking for a job."""

    def wait(self, stop: threading.Event) -> None:
        """Return when a job came in, when ``stop`` is set, or after a while."""

    def close(self) -> None:
        """Give up what waiting holds."""


class TableQueue:
    """The queue of the embedded database, in the columns of ``jobs``; what the ledger writes is its state too."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def put(self, job_id: int, series_instance_uid: str, site: str, priority: int) -> None:
        """Nothing to add: READY says it."""

    def withdraw(self, job_ids: Sequence[int], series_instance_uid: str) -> None:
        """Nothing to add: SUPERSEDED says it."""

    def waits(self, sites: Sequence[str], now: dt.datetime) -> bool:
        """See `Queue.waits`."""
        return self._connection.execute(_due(sites, now).limit(1)).first() is not None

    def take(self, sites: Sequence[str], now: dt.datetime, lease: dt.timedelta) -> Taken | None:
        """See `Queue.take`."""
        # The order of ix_jobs_due: its first row that is due, however many wait behind it.
        order = (t.jobs.c.rank, t.jobs.c.available_at, t.jobs.c.job_id)
        query = _due(sites, now).order_by(*order).limit(1)
        job_id = self._connection.execute(query).scalar_one_or_none()
        if job_id is None:
            return None
        taken = Taken(job_id, uuid.uuid4().hex)
        self._set(t.jobs.c.job_id == job_id, lease_until=now + lease)
        return taken

    def silent(self, now: dt.datetime, lease: dt.timedelta) -> list[Taken]:
        """See `Queue.silent`."""
        lapsed = (t.jobs.c.state == "RUNNING") & (t.jobs.c.lease_until < now)
        query = sa.select(t.jobs.c.job_id, t.jobs.c.lease_token).where(lapsed)
        return sorted(Taken(row.job_id, row.lease_token) for row in self._connection.execute(query))

    def beat(self, token: str, now: dt.datetime, lease: dt.timedelta) -> None:
        """See `Queue.beat`."""
        self._set((t.jobs.c.lease_token == token) & (t.jobs.c.state == "RUNNING"), lease_until=now + lease)

    def give_back(self, claim: Taken, pause: dt.timedelta) -> None:
        """Nothing to add: READY and the time beside it say it."""

    def end(self, claim: Taken) -> None:
        """Nothing to add: the state of the job says it."""

    def _set(self, wanted: sa.ColumnElement[bool], **values: object) -> None:
        self._connection.execute(t.jobs.update().where(wanted).values(**values))


def _due(sites: Sequence[str], now: dt.datetime) -> sa.Select[Any]:
    query = sa.select(t.jobs.c.job_id).where(t.jobs.c.state == "READY", t.jobs.c.available_at <= now)
    return query.where(t.jobs.c.site.in_(sites)) if sites else query


def queue_of(connection: sa.Connection) -> Queue:
    """Return the queue of this database."""
    if connection.dialect.name == "sqlite":
        return TableQueue(connection)
    # Only here, so that the embedded database never loads it.
    from dicom_qa_node.flow.procrastinate_queue import ProcrastinateQueue

    return ProcrastinateQueue(connection)


def waiter_of(database: Database, sites: Sequence[str], idle_s: float) -> Waiter:
    """Return what waits for jobs of these sites (none: of all); ``idle_s`` is the pause where nothing announces one."""
    if database.is_sqlite:
        return CommitWatch(database, pause_s=idle_s)
    from dicom_qa_node.flow.procrastinate_queue import NewsWaiter

    return NewsWaiter(database.engine, sites)


def lock_series(connection: sa.Connection, uid: str, *, skip_locked: bool = False) -> sa.Row[tuple[object, ...]] | None:
    """Return the row of a series, locked until the end of the transaction; None if there is none.

    Whoever changes a series and its jobs locks the series first, so that no two wait for each other.
    """
    query = sa.select(t.series).where(t.series.c.series_instance_uid == uid)
    return connection.execute(query.with_for_update(skip_locked=skip_locked)).one_or_none()


def enqueue(connection: sa.Connection, uid: str, version: int, at: dt.datetime) -> None:
    """Queue a version of a series to be scored, in the caller's transaction, which holds the series."""
    same = (t.jobs.c.kind == "score") & (t.jobs.c.series_instance_uid == uid) & (t.jobs.c.version == version)
    place = sa.select(t.series.c.site, t.series.c.priority).where(t.series.c.series_instance_uid == uid)
    site, priority = connection.execute(place).one()
    values = {
        "state": "READY", "attempts": 0, "available_at": at, "lease_token": None, "lease_until": None,
        "site": site, "rank": -priority,
    }  # fmt: skip
    update = t.jobs.update().where(same).values(**values).returning(t.jobs.c.job_id)
    job_id = connection.execute(update).scalar_one_or_none()
    if job_id is None:
        row = {"kind": "score", "series_instance_uid": uid, "version": version, "created_at": at}
        job_id = connection.execute(t.jobs.insert().values(**row, **values).returning(t.jobs.c.job_id)).scalar_one()
    queue_of(connection).put(job_id, uid, site, priority)


def cancel_jobs(connection: sa.Connection, uid: str) -> None:
    """Take back what is waiting or running for a series, in the caller's transaction, which holds the series."""
    waiting = (t.jobs.c.series_instance_uid == uid) & t.jobs.c.state.in_(LIVE)
    update = t.jobs.update().where(waiting).values(state="SUPERSEDED", lease_token=None)
    job_ids = list(connection.execute(update.returning(t.jobs.c.job_id)).scalars())
    if job_ids:
        queue_of(connection).withdraw(job_ids, uid)
