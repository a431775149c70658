"""The work queue: a job is claimed by lease and heartbeat, never by deleting it.

A worker that dies loses its lease; the next claim takes the job over. Every call of the holder proves its claim
with the lease token, so that a worker that was only slow cannot write over its successor.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable

import sqlalchemy as sa

from dicom_qa_node.records import Job, SeriesFacts, SeriesResult, SeriesState, result_to_json, utc_now
from dicom_qa_node.store import tables as t
from dicom_qa_node.store.engine import Database
from dicom_qa_node.store.log_rows import add_log_row, scanner_name
from dicom_qa_node.store.registry import facts_of
from dicom_qa_node.store.transition import move

__all__ = ["Jobs", "scanner_name"]

_RETRY_FIRST_S = 5.0


class Jobs:
    """The queue of series to score.

    Parameters
    ----------
    database
        The open database.
    lease_s
        Seconds of silence after which a claim is void.
    max_attempts
        Claims after which a job that never finished parks its series.
    clock
        Returns the current UTC time; injected by tests.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float = 60,
        max_attempts: int = 3,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._db = database
        self._lease = dt.timedelta(seconds=lease_s)
        self._max_attempts = max_attempts
        self._clock = clock

    def claim(self, owner: str) -> Job | None:
        """Take the oldest job that is ready or whose holder fell silent; None if there is none."""
        now = self._clock()
        self._park_poison(now)
        with self._db.read() as connection:
            if _oldest_due(connection, now, lock=False) is None:
                return None
        with self._db.write() as connection:
            row = _oldest_due(connection, now, lock=True)
            return None if row is None else self._take(connection, row, owner, now)

    def heartbeat(self, job: Job) -> bool:
        """Renew the lease; False means the job was lost (late image, park, takeover): stop working on it."""
        values = {"lease_until": self._clock() + self._lease}
        with self._db.write() as connection:
            return bool(connection.execute(t.jobs.update().where(_held(job)).values(**values)).rowcount)

    def finish(self, job: Job, result: SeriesResult) -> bool:
        """Write the result, end the job and move the series to SCORED, in one transaction.

        Returns False, and writes nothing, when the claim is void or the series has a newer version.
        """
        now = self._clock()
        with self._db.write() as connection:
            if not _end(connection, job, "DONE", ""):
                return False
            model = f"{result.model.name} {result.model.version}"
            moved = move(
                connection, job.series_instance_uid, [SeriesState.SCORING], SeriesState.SCORED,
                version=job.version, reason=f"scored by {model}", actor="score", at=now,
            )  # fmt: skip
            if not moved:
                connection.rollback()
                return False
            row = connection.execute(
                sa.select(t.series).where(t.series.c.series_instance_uid == job.series_instance_uid)
            ).one()
            facts = facts_of(row)
            values = result_row(job.series_instance_uid, job.version, result, facts, now)
            new = t.results.insert().values(**values).returning(t.results.c.result_id)
            result_id = int(connection.execute(new).scalar_one())
            add_log_row(connection, result_id, facts, job.version, result, now)
            return True

    def fail(self, job: Job, reason: str, *, permanent: bool) -> bool:
        """Give the job up: to be tried again after a pause, or (``permanent`` or too often) park its series."""
        now = self._clock()
        with self._db.write() as connection:
            if permanent or job.attempt >= self._max_attempts:
                return _end(connection, job, "DEAD", reason) and _park(connection, job, reason, now)
            pause = dt.timedelta(seconds=_RETRY_FIRST_S * 2 ** (job.attempt - 1))
            return self._give_back(connection, job, reason, now, now + pause)

    def release(self, job: Job) -> bool:
        """Give the job back untouched, as a worker does that was told to stop; it does not count as a try."""
        now = self._clock()
        with self._db.write() as connection:
            held = connection.execute(t.jobs.update().where(_held(job)).values(attempts=t.jobs.c.attempts - 1)).rowcount
            return bool(held) and self._give_back(connection, job, "worker stopped", now, now)

    def waiting(self) -> int:
        """Return how many jobs are ready."""
        with self._db.read() as connection:
            query = sa.select(sa.func.count()).select_from(t.jobs).where(t.jobs.c.state == "READY")
            return int(connection.execute(query).scalar_one())

    def _take(
        self, connection: sa.Connection, row: sa.Row[tuple[object, ...]], owner: str, now: dt.datetime
    ) -> Job | None:
        token = uuid.uuid4().hex
        states = [SeriesState.COMPLETE, SeriesState.SCORING]
        moved = move(
            connection, row.series_instance_uid, states, SeriesState.SCORING,
            version=row.version, reason=f"attempt {row.attempts + 1}", actor=owner, at=now,
        )  # fmt: skip
        if not moved:
            connection.execute(t.jobs.update().where(t.jobs.c.job_id == row.job_id).values(state="SUPERSEDED"))
            return None
        values = {
            "state": "RUNNING",
            "attempts": row.attempts + 1,
            "lease_owner": owner,
            "lease_token": token,
        }
        update = t.jobs.update().where(t.jobs.c.job_id == row.job_id)
        connection.execute(update.values(**values, lease_until=now + self._lease))
        pair = connection.execute(
            sa.select(t.series.c.pair_series_uid).where(t.series.c.series_instance_uid == row.series_instance_uid)
        ).scalar_one()
        return Job(row.job_id, row.kind, row.series_instance_uid, row.version, row.attempts + 1, token, pair)

    def _give_back(
        self, connection: sa.Connection, job: Job, reason: str, now: dt.datetime, available_at: dt.datetime
    ) -> bool:
        values = {"state": "READY", "lease_token": None, "lease_until": None, "last_error": reason}
        update = t.jobs.update().where(_held(job)).values(**values, available_at=available_at)
        if not connection.execute(update).rowcount:
            return False
        return move(
            connection, job.series_instance_uid, [SeriesState.SCORING], SeriesState.COMPLETE,
            version=job.version, reason=reason, actor="score", at=now,
        )  # fmt: skip

    def _park_poison(self, now: dt.datetime) -> None:
        stuck = (t.jobs.c.state == "RUNNING") & (t.jobs.c.lease_until < now) & (t.jobs.c.attempts >= self._max_attempts)
        with self._db.read() as connection:
            if connection.execute(sa.select(t.jobs.c.job_id).where(stuck).limit(1)).first() is None:
                return
        with self._db.write() as connection:
            for row in connection.execute(sa.select(t.jobs).where(stuck)).all():
                reason = f"the worker died {row.attempts} times while scoring this series; release it to try again"
                job = Job(row.job_id, row.kind, row.series_instance_uid, row.version, row.attempts, row.lease_token)
                if _end(connection, job, "DEAD", reason):
                    _park(connection, job, reason, now)


def _oldest_due(connection: sa.Connection, now: dt.datetime, *, lock: bool) -> sa.Row[tuple[object, ...]] | None:
    """Return the oldest job that is ready or whose lease is void.

    Each kind is asked for by itself, so that the index gives its first row however many wait behind it.
    """
    row = t.jobs.c
    ready = (row.state == "READY") & (row.available_at <= now)
    void = (row.state == "RUNNING") & (row.lease_until < now)
    found: list[sa.Row[tuple[object, ...]]] = []
    for due in (ready, void):
        query = sa.select(t.jobs).where(due).order_by(row.available_at, row.job_id).limit(1)
        found += connection.execute(query.with_for_update(skip_locked=True) if lock else query).all()
    return min(found, key=lambda item: (item.available_at, item.job_id), default=None)


def _held(job: Job) -> sa.ColumnElement[bool]:
    return (t.jobs.c.job_id == job.job_id) & (t.jobs.c.lease_token == job.lease_token) & (t.jobs.c.state == "RUNNING")


def _end(connection: sa.Connection, job: Job, state: str, reason: str) -> bool:
    values = {"state": state, "lease_token": None, "lease_until": None, "last_error": reason}
    return bool(connection.execute(t.jobs.update().where(_held(job)).values(**values)).rowcount)


def _park(connection: sa.Connection, job: Job, reason: str, at: dt.datetime) -> bool:
    return move(
        connection, job.series_instance_uid, [SeriesState.SCORING], SeriesState.PARKED,
        version=job.version, reason=reason, actor="score", at=at, values={"parked_reason": reason},
    )  # fmt: skip


def result_row(
    series_instance_uid: str, version: int, result: SeriesResult, facts: SeriesFacts, at: dt.datetime
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
        "payload": result_to_json(result),
    }
