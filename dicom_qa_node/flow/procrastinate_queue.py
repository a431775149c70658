"""The queue on PostgreSQL: Procrastinate keeps what waits and runs, for any number of hosts.

Its tables hold a row for each job that waits or runs and no other: a job that ends is deleted in the transaction that
writes its result. One row of its workers is one claim, and the heartbeat of that row is the lease, so that all times
that hosts compare are those of the database. A series is the lock of its jobs: two never run at the same time.

Procrastinate's own worker loop is not used: it would end a job after the transaction of the result, not in it.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from procrastinate.connector import BaseAsyncConnector
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, get_channel_for_queues
from procrastinate.schema import SchemaManager
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.flow.queue import Taken

__all__ = ["NewsWaiter", "ProcrastinateQueue", "follow_release", "install"]

TASK = "score"
#: Under whom a job runs whose worker's row somebody else has removed.
_NOBODY = ""
#: A job that was announced is taken at once; one that becomes due without one, or whose worker died, waits this long.
_LOOK_S = 2.0
_STOP_LOOK_S = 0.2
_RECONNECT_S = 2.0
_WAITING_ANYWHERE = sa.text(
    "SELECT id FROM procrastinate_jobs "
    "WHERE status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now()) LIMIT 1"
)
_WAITING = sa.text(_WAITING_ANYWHERE.text.replace("LIMIT", "AND queue_name = ANY(:sites) LIMIT"))
T = TypeVar("T")


class ProcrastinateQueue:
    """See `flow.queue.Queue`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._manager = JobManager(_OnConnection(connection))

    def put(self, job_id: int, series_instance_uid: str, site: str, priority: int) -> None:
        """See `Queue.put`."""
        self._remove_waiting(job_id)
        job = Job(
            queue=site, priority=priority, lock=series_instance_uid, queueing_lock=_name(job_id), task_name=TASK,
            task_kwargs={"job_id": job_id},
        )  # fmt: skip
        self._manager.defer_job(job)

    def withdraw(self, job_ids: Sequence[int], series_instance_uid: str) -> None:
        """See `Queue.withdraw`; the lock of one that runs is free when its worker noticed, or fell silent."""
        for job_id in job_ids:
            self._remove_waiting(job_id)
        for job in self._manager.list_jobs(lock=series_instance_uid, status=Status.DOING.value):
            self._manager.cancel_job_by_id(_number(job), abort=True)

    def waits(self, sites: Sequence[str], now: dt.datetime) -> bool:
        """See `Queue.waits`."""
        query = _WAITING if sites else _WAITING_ANYWHERE
        return self._connection.execute(query, {"sites": list(sites)} if sites else {}).first() is not None

    def take(self, sites: Sequence[str], now: dt.datetime, lease: dt.timedelta) -> Taken | None:
        """See `Queue.take`; the caller's transaction must be undone when there is none."""
        token = _at_once(self._manager.register_worker())
        job = _at_once(self._manager.fetch_job(list(sites) or None, token))
        return None if job is None else Taken(_job_id(job), str(token))

    def silent(self, now: dt.datetime, lease: dt.timedelta) -> list[Taken]:
        """See `Queue.silent`."""
        stalled = _at_once(self._manager.get_stalled_jobs(seconds_since_heartbeat=lease.total_seconds()))
        return [Taken(_job_id(job), _NOBODY if job.worker_id is None else str(job.worker_id)) for job in stalled]

    def beat(self, token: str, now: dt.datetime, lease: dt.timedelta) -> None:
        """See `Queue.beat`."""
        _at_once(self._manager.update_heartbeat(int(token)))

    def give_back(self, claim: Taken, pause: dt.timedelta) -> None:
        """See `Queue.give_back`; the time is the database's."""
        due = self._connection.execute(sa.select(sa.func.now())).scalar_one() + pause
        for job in self._held(claim):
            self._manager.retry_job_by_id(_number(job), due)
        self._forget(claim)

    def end(self, claim: Taken) -> None:
        """See `Queue.end`."""
        for job in self._held(claim):
            _at_once(self._manager.finish_job_by_id_async(_number(job), Status.SUCCEEDED, delete_job=True))
        self._forget(claim)

    def _held(self, claim: Taken) -> list[Job]:
        worker = None if claim.token == _NOBODY else int(claim.token)
        running = self._manager.list_jobs(worker_id=worker, status=Status.DOING.value)
        return [job for job in running if (_job_id(job), job.worker_id) == (claim.job_id, worker)]

    def _forget(self, claim: Taken) -> None:
        if claim.token != _NOBODY:
            _at_once(self._manager.unregister_worker(int(claim.token)))

    def _remove_waiting(self, job_id: int) -> None:
        for job in self._manager.list_jobs(queueing_lock=_name(job_id), status=Status.TODO.value):
            self._manager.cancel_job_by_id(_number(job), delete_job=True)


class NewsWaiter:
    """Listens for jobs of some sites (none: of all) on a connection of its own.

    It may return too early, and late by a few seconds where the connection was lost: it only saves looking.
    """

    def __init__(self, engine: sa.Engine, sites: Sequence[str]) -> None:
        self._engine = engine
        self._channels = list(get_channel_for_queues(list(sites) or None))
        self._fairy: sa.PoolProxiedConnection | None = None

    def wait(self, stop: threading.Event) -> None:
        """See `flow.queue.Waiter`."""
        until = time.monotonic() + _LOOK_S
        try:
            news = self._listening()
            while not stop.is_set() and time.monotonic() < until:
                if any(True for _ in news.notifies(timeout=_STOP_LOOK_S, stop_after=1)):
                    return
        except (psycopg.Error, sa.exc.DBAPIError):
            self.close()
            stop.wait(_RECONNECT_S)

    def close(self) -> None:
        """Give the connection up."""
        if self._fairy is not None:
            self._fairy.invalidate()
            self._fairy = None

    def _listening(self) -> psycopg.Connection[Any]:
        if self._fairy is None:
            self._fairy = self._engine.raw_connection()
        connection: psycopg.Connection[Any] | None = self._fairy.driver_connection
        assert connection is not None
        if not connection.autocommit:
            connection.rollback()
            connection.autocommit = True
            for channel in self._channels:
                connection.execute(SQL("LISTEN {}").format(Identifier(channel)))
        return connection


class _OnConnection(BaseAsyncConnector):
    """Runs Procrastinate's queries on a connection of SQLAlchemy, within its transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def get_sync_connector(self) -> _OnConnection:
        return self

    def execute_query(self, query: str, **arguments: Any) -> None:
        self._run(query, arguments)

    def execute_query_one(self, query: str, **arguments: Any) -> dict[str, Any]:
        return dict(self._run(query, arguments).mappings().one())

    def execute_query_all(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self._run(query, arguments).mappings()]

    async def execute_query_async(self, query: str, **arguments: Any) -> None:
        self._run(query, arguments)

    async def execute_query_one_async(self, query: str, **arguments: Any) -> dict[str, Any]:
        return self.execute_query_one(query, **arguments)

    async def execute_query_all_async(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        return self.execute_query_all(query, **arguments)

    def _run(self, query: str, arguments: dict[str, Any]) -> sa.CursorResult[Any]:
        adapted = {name: _adapted(value) for name, value in arguments.items()}
        return self._connection.exec_driver_sql(query, adapted)


def install(connection: sa.Connection) -> None:
    """Create Procrastinate's tables as the installed release has them; called by the initial revision of the schema."""
    _run_scripts(connection, [SchemaManager.get_schema()], _steps()[-1].stem)


def follow_release(connection: sa.Connection) -> None:
    """Bring Procrastinate's tables, where there are any, to the installed release; called by every upgrade.

    The newest of its steps is noted beside the tables, so that those after it are known.

    Raises
    ------
    Misconfigured
        The tables were made by a newer release than the one that is installed here.
    """
    there, steps = _newest_step(connection), _steps()
    if there is None or there == steps[-1].stem:
        return
    if there > steps[-1].stem:
        raise Misconfigured(
            f"the queue in the database was made by a newer Procrastinate (step {there}) than the one installed "
            "here: pip install --upgrade procrastinate"
        )
    later = [step.read_text(encoding="utf-8") for step in steps if step.stem > there]
    _run_scripts(connection, later, steps[-1].stem)


def _steps() -> list[Path]:
    return sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))


def _run_scripts(connection: sa.Connection, scripts: Sequence[str], newest: str) -> None:
    for script in scripts:
        connection.exec_driver_sql(script.replace("%", "%%"))
    connection.exec_driver_sql(f"COMMENT ON TABLE procrastinate_jobs IS '{newest}'")


def _newest_step(connection: sa.Connection) -> str | None:
    """Return the step that was made last; None where Procrastinate has no tables."""
    if not sa.inspect(connection).has_table("procrastinate_jobs"):
        return None
    comment = sa.text("SELECT obj_description('procrastinate_jobs'::regclass)")
    return str(connection.execute(comment).scalar_one())


def _adapted(value: Any) -> Any:
    """Return a value as the driver takes it: arguments of a job are JSON, a job to defer is a row."""
    if isinstance(value, dict):
        return Jsonb(value)
    if isinstance(value, list):
        return [_adapted(item) for item in value]
    return tuple(_adapted(item) for item in value) if isinstance(value, tuple) else value


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what Procrastinate offers as a coroutine only; on `_OnConnection` it never waits for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("a query on a plain connection does not wait")


def _name(job_id: int) -> str:
    return f"{TASK} {job_id}"


def _job_id(job: Job) -> int:
    number = job.task_kwargs["job_id"]
    assert isinstance(number, int)
    return number


def _number(job: Job) -> int:
    assert job.id is not None
    return job.id
