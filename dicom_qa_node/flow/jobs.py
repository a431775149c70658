"""The jobs of scoring: claimed by lease and heartbeat, never by deleting them.

A worker that dies loses its lease; the next claim, of whatever worker, makes the job wait again. Every call of the
holder proves its claim with the lease token, in the transaction that writes, so that a worker that was only slow cannot
write over its successor. Which job goes next, and who is silent, is decided in `flow.queue`.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import series_header_of
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.results import SeriesResult, result_to_json
from dicom_qa_node.domain.series import Job, SeriesHeader
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.dose.records import record_series_dose
from dicom_qa_node.flow.queue import Taken, Waiter, lock_series, queue_of, waiter_of
from dicom_qa_node.flow.state_machine import transition
from dicom_qa_node.quality_log.rows import add_log_row, scanner_name, with_comparison

__all__ = ["LONGEST_PAUSE_S", "Jobs", "scanner_name"]

_RETRY_FIRST_S = 5.0
#: The longest wait between two tries of a job.
LONGEST_PAUSE_S = 600.0
_NO_PAUSE = dt.timedelta(0)
_BUSY_TRIES, _BUSY_PAUSE_S = 20, 0.02


class Jobs:
    """The jobs of scoring.

    Parameters
    ----------
    database
        The open database.
    lease_s
        Seconds of silence after which a claim is void.
    max_attempts
        Claims after which a job that never finished parks its series.
    sites
        Only jobs of series that were received there are claimed; none: of all.
    clock
        Returns the current UTC time; by default the one that all hosts share. Injected by tests; on PostgreSQL it dates
        the history only, and leases and pauses follow the server's clock.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float = 60,
        max_attempts: int = 3,
        sites: Sequence[str] = (),
        clock: Callable[[], dt.datetime] | None = None,
    ) -> None:
        self._db = database
        self._lease = dt.timedelta(seconds=lease_s)
        self._max_attempts = max_attempts
        self._sites = tuple(sites)
        self._clock = clock or database.now

    def waiter(self, idle_s: float) -> Waiter:
        """Return what a worker without a job waits with; it looks again after ``idle_s`` where no job is announced."""
        return waiter_of(self._db, self._sites, idle_s)

    def claim(self, owner: str) -> Job | None:
        """Take the most urgent job that is ready or whose holder fell silent; None if there is none."""
        now = self._clock()
        self._take_back_silent(now)
        for _ in range(_BUSY_TRIES):
            with self._db.read() as connection:
                if not queue_of(connection).waits(self._sites, now):
                    return None
            with self._db.write() as connection:
                taken = queue_of(connection).take(self._sites, now, self._lease)
                if taken is None:
                    connection.rollback()
                    return None
                series = self._series_of(connection, taken)
                if series is not None:
                    return self._take(connection, taken, series, owner, now)
                # Somebody changes this series, and may wait for its job: let go of that first.
                connection.rollback()
            time.sleep(_BUSY_PAUSE_S)
        return None

    def held(self, job: Job) -> bool:
        """Whether the claim still stands; without renewing it."""
        with self._db.read() as connection:
            return connection.execute(sa.select(t.jobs.c.job_id).where(_held(job))).first() is not None

    def heartbeat(self, job: Job) -> bool:
        """Renew the lease; False means the job was lost (late image, park, takeover): stop working on it."""
        with self._db.write() as connection:
            locked = sa.select(t.jobs.c.job_id).where(_held(job)).with_for_update()
            if connection.execute(locked).first() is None:
                return False
            queue_of(connection).beat(job.lease_token, self._clock(), self._lease)
            return True

    def finish(self, job: Job, result: SeriesResult) -> bool:
        """Write the result, end the job and move the series to SCORED, in one transaction.

        Returns False, and writes no result, when the claim is void or the series has a newer version.
        """
        now = self._clock()
        with self._db.write() as connection:
            row = lock_series(connection, job.series_instance_uid)
            if row is None or not _end(connection, job, "DONE", ""):
                return False
            by = f"by {result.model.name} {result.model.version}"
            reason = (
                f"scored {by}" if result.qc_phantom is None else f"QC phantom, {result.qc_phantom.outcome.value} {by}"
            )
            moved = transition(
                connection, job.series_instance_uid, [SeriesState.SCORING], SeriesState.SCORED,
                version=job.version, reason=reason, actor="score", at=now,
                values={"pair_series_uid": result.pair_series_uid} if result.pair_series_uid else None,
            )  # fmt: skip
            if not moved:
                connection.rollback()
                return False
            facts = series_header_of(row)
            result = with_comparison(connection, facts, result, now)
            values = result_row(job.series_instance_uid, job.version, result, facts, now)
            new = t.results.insert().values(**values).returning(t.results.c.result_id)
            result_id = int(connection.execute(new).scalar_one())
            add_log_row(connection, result_id, facts, job.version, result, now)
            record_series_dose(connection, facts, job.version, result, now)
            return True

    def fail(self, job: Job, reason: str, *, permanent: bool) -> bool:
        """Give the job up: to be tried again after a pause, or (``permanent`` or too often) park its series."""
        now = self._clock()
        with self._db.write() as connection:
            lock_series(connection, job.series_instance_uid)
            if permanent or job.attempt >= self._max_attempts:
                return _end(connection, job, "PARKED", reason) and _park(connection, job, reason, now)
            pause = dt.timedelta(seconds=backoff_s(job.attempt, _RETRY_FIRST_S, LONGEST_PAUSE_S))
            return _give_back(connection, job, reason, now, pause, attempts=job.attempt)

    def release(self, job: Job) -> bool:
        """Give the job back untouched, as a worker does that was told to stop; it does not count as a try.

        A claim that is void is forgotten: a worker calls this too when it leaves a job that it lost.
        """
        now = self._clock()
        with self._db.write() as connection:
            lock_series(connection, job.series_instance_uid)
            return _give_back(connection, job, "worker stopped", now, _NO_PAUSE, attempts=job.attempt - 1)

    def waiting(self) -> int:
        """Return how many jobs are ready."""
        with self._db.read() as connection:
            query = sa.select(sa.func.count()).select_from(t.jobs).where(t.jobs.c.state == "READY")
            return int(connection.execute(query).scalar_one())

    def _series_of(self, connection: sa.Connection, taken: Taken) -> sa.Row[tuple[object, ...]] | None:
        uid = sa.select(t.jobs.c.series_instance_uid).where(t.jobs.c.job_id == taken.job_id)
        return lock_series(connection, connection.execute(uid).scalar_one(), skip_locked=True)

    def _take(
        self,
        connection: sa.Connection,
        taken: Taken,
        series: sa.Row[tuple[object, ...]],
        owner: str,
        now: dt.datetime,
    ) -> Job | None:
        row = connection.execute(sa.select(t.jobs).where(t.jobs.c.job_id == taken.job_id)).one()
        job = Job(
            row.job_id, row.kind, row.series_instance_uid, row.version, row.attempts + 1, taken.token,
            series.pair_series_uid,
        )  # fmt: skip
        moved = transition(
            connection, job.series_instance_uid, [SeriesState.COMPLETE, SeriesState.SCORING], SeriesState.SCORING,
            version=job.version, reason=f"attempt {job.attempt}", actor=owner, at=now,
        )  # fmt: skip
        values = {"state": "RUNNING", "attempts": job.attempt, "lease_owner": owner, "lease_token": taken.token}
        connection.execute(t.jobs.update().where(t.jobs.c.job_id == row.job_id).values(**values))
        if not moved:
            _end(connection, job, "SUPERSEDED", row.last_error)
            return None
        return job

    def _take_back_silent(self, now: dt.datetime) -> None:
        """Let the jobs of silent workers wait again, and park the series whose workers died too often."""
        with self._db.read() as connection:
            silent = queue_of(connection).silent(now, self._lease)
        for claim in silent:
            with self._db.write() as connection:
                # Whoever takes or ends a job holds its series: who is silent now stays so until the commit.
                locked = self._series_of(connection, claim)
                if locked is not None and claim in queue_of(connection).silent(now, self._lease):
                    self._take_back(connection, claim, now)

    def _take_back(self, connection: sa.Connection, claim: Taken, now: dt.datetime) -> None:
        row = connection.execute(sa.select(t.jobs).where(t.jobs.c.job_id == claim.job_id)).one()
        job = Job(row.job_id, row.kind, row.series_instance_uid, row.version, row.attempts, row.lease_token)
        if row.state != "RUNNING":
            queue_of(connection).end(claim)
        elif row.attempts >= self._max_attempts:
            reason = f"the worker died {row.attempts} times while scoring this series; release it to try again"
            _end(connection, job, "PARKED", reason)
            queue_of(connection).end(claim)
            _park(connection, job, reason, now)
        else:
            # It keeps its place, but not a time ahead: the clock may have been set back since.
            due = min(row.available_at, now)
            waiting = {"state": "READY", "available_at": due, "lease_token": None, "lease_until": None}
            connection.execute(t.jobs.update().where(t.jobs.c.job_id == claim.job_id).values(**waiting))
            queue_of(connection).give_back(claim, _NO_PAUSE)


def _claim(job: Job) -> Taken:
    return Taken(job.job_id, job.lease_token)


def _held(job: Job) -> sa.ColumnElement[bool]:
    return (t.jobs.c.job_id == job.job_id) & (t.jobs.c.lease_token == job.lease_token) & (t.jobs.c.state == "RUNNING")


def _end(connection: sa.Connection, job: Job, state: str, reason: str) -> bool:
    """End the job if its claim stands; in any case the queue forgets the claim."""
    values = {"state": state, "lease_token": None, "lease_until": None, "last_error": reason}
    ended = connection.execute(t.jobs.update().where(_held(job)).values(**values)).rowcount
    queue_of(connection).end(_claim(job))
    return bool(ended)


def _give_back(
    connection: sa.Connection, job: Job, reason: str, now: dt.datetime, pause: dt.timedelta, *, attempts: int
) -> bool:
    values = {
        "state": "READY", "attempts": attempts, "available_at": now + pause, "lease_token": None, "lease_until": None,
        "last_error": reason,
    }  # fmt: skip
    held = t.jobs.update().where(_held(job)).values(**values)
    if not connection.execute(held).rowcount:
        queue_of(connection).end(_claim(job))
        return False
    queue_of(connection).give_back(_claim(job), pause)
    return transition(
        connection, job.series_instance_uid, [SeriesState.SCORING], SeriesState.COMPLETE,
        version=job.version, reason=reason, actor="score", at=now,
    )  # fmt: skip


def _park(connection: sa.Connection, job: Job, reason: str, at: dt.datetime) -> bool:
    return transition(
        connection, job.series_instance_uid, [SeriesState.SCORING], SeriesState.PARKED,
        version=job.version, reason=reason, actor="score", at=at, values={"parked_reason": reason},
    )  # fmt: skip


def result_row(
    series_instance_uid: str, version: int, result: SeriesResult, facts: SeriesHeader, at: dt.datetime
) -> dict[str, object]:
    """Return the row of a verdict."""
    return {
        "series_instance_uid": series_instance_uid,
        "version": version,
        "scored_at": at,
        "modality": result.modality,
        "kind": result.kind.value,
        "score": result.score,
        "grade": None if result.grade is None else result.grade.value,
        "scanner": scanner_name(facts),
        "model": f"{result.model.name} {result.model.version}",
        "model_sha256": result.model.sha256,
        "why": result.why,
        "payload": result_to_json(result),
    }
