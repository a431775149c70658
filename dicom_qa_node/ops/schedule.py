"""The role ``schedule``: what has to happen again and again, by APScheduler.

A task that fails is logged and named in the role's heartbeat; it never stops the others, and it runs again at its
next time. A task never overlaps with itself, and times that were missed are not made up for.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from dicom_qa_node.config import Config
from dicom_qa_node.errors import NodeError
from dicom_qa_node.log import log_event
from dicom_qa_node.ops.clock import ClockWatch
from dicom_qa_node.ops.pulse import Pulse
from dicom_qa_node.ops.tasks import Task, tasks_of
from dicom_qa_node.records import utc_now
from dicom_qa_node.store import Database, NodeFacts
from dicom_qa_node.store.node_facts import TaskRun

__all__ = ["TaskRunner", "run_schedule"]

_LOGGER = logging.getLogger(__name__)
_MISFIRE_GRACE_S = 30
_THREADS = 6
_TELL_S = 10.0
_CLOCK_LOOK_S = 1.0


class TaskRunner:
    """Runs tasks on their intervals and remembers which of them failed last time.

    Parameters
    ----------
    tasks
        What to run.
    clock
        Returns the current UTC time.
    watch
        Tells when the wall clock was set; APScheduler plans by it, so the tasks are planned anew then.
    skew
        Returns what to add to it for the time that all hosts share, which the tasks are told.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        clock: Callable[[], dt.datetime] = utc_now,
        watch: ClockWatch | None = None,
        skew: Callable[[], dt.timedelta] = dt.timedelta,
    ) -> None:
        self._clock, self._watch, self._skew = clock, watch or ClockWatch(), skew
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._mind_clock, name="clock", daemon=True)
        self._failing: dict[str, str] = {}
        self._tasks = {task.name: task for task in tasks}
        self._ran: dict[str, tuple[dt.datetime, float]] = {}
        self._scheduler = BackgroundScheduler(
            timezone=dt.UTC,
            executors={"default": ThreadPoolExecutor(_THREADS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _MISFIRE_GRACE_S},
        )
        # It warns at each sweep that is skipped because the last one still runs; that is what it is told to do.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        for task in tasks:
            first = clock() + dt.timedelta(seconds=task.first_after_s)
            self._scheduler.add_job(self._run, _Every(task.every_s), args=[task], id=task.name, next_run_time=first)

    def start(self) -> None:
        """Begin to run the tasks in threads."""
        self._scheduler.start()
        self._watcher.start()

    def end(self) -> None:
        """Let the running tasks finish and run no more."""
        self._ended.set()
        self._watcher.join()
        self._scheduler.shutdown(wait=True)

    def failing(self) -> dict[str, str]:
        """Return the tasks whose last run failed, each with its error."""
        return dict(self._failing)

    def runs(self) -> list[TaskRun]:
        """Return how each task stands."""
        nexts = {job.id: job.next_run_time for job in self._scheduler.get_jobs()}
        return [self._stands(task, nexts.get(name)) for name, task in sorted(self._tasks.items())]

    def detail(self) -> str:
        """Return one line for the heartbeat: empty when every task works."""
        return "; ".join(f"{name} fails: {error}" for name, error in sorted(self.failing().items()))

    def _mind_clock(self) -> None:
        while not self._ended.wait(_CLOCK_LOOK_S):
            self.look_at_clock()

    def look_at_clock(self) -> bool:
        """Plan every task anew if the wall clock was set since the last look; return whether it was."""
        by_s = self._watch.look()
        if not by_s:
            return False
        log_event(_LOGGER, logging.WARNING, "clock_set", by_s=round(by_s, 1))
        now = self._clock()
        for task in self._tasks.values():
            # A task that was to run in a moment or missed its time runs now, none later than its interval from now.
            planned = self._scheduler.get_job(task.name).next_run_time + dt.timedelta(seconds=by_s)
            latest = now + dt.timedelta(seconds=task.every_s)
            self._scheduler.modify_job(task.name, next_run_time=min(max(planned, now), latest))
        return True

    def _stands(self, task: Task, next_at: dt.datetime | None) -> TaskRun:
        last_at, took_s = self._ran.get(task.name, (None, None))
        return TaskRun(task.name, task.every_s, last_at, took_s, next_at, self._failing.get(task.name, ""))

    def _run(self, task: Task) -> None:
        begun, started = self._clock(), time.monotonic()
        try:
            task.run(begun + self._skew())
        except Exception as error:  # noqa: BLE001 - the edge of the periodic tasks: one must not stop the others
            self._failed(task, error)
        else:
            if self._failing.pop(task.name, None) is not None:
                log_event(_LOGGER, logging.INFO, "task_recovered", task=task.name)
        finally:
            self._ran[task.name] = (begun, time.monotonic() - started)

    def _failed(self, task: Task, error: Exception) -> None:
        # Only our own messages are known to be free of patient data.
        text = str(error) if isinstance(error, NodeError) else type(error).__name__
        if self._failing.get(task.name) != text:
            _LOGGER.error(
                "task failed", exc_info=error, extra={"qa_event": "task_failed", "qa_fields": {"task": task.name}}
            )
        self._failing[task.name] = text


class _Every(BaseTrigger):  # type: ignore[misc]
    """Fires ``every_s`` after the scheduler asks.

    The interval of APScheduler counts every time that went by: millions when the clock is set forwards by a year.
    """

    def __init__(self, every_s: float) -> None:
        self._every = dt.timedelta(seconds=every_s)

    def get_next_fire_time(self, _previous_fire_time: dt.datetime | None, now: dt.datetime) -> dt.datetime:
        """Return the next time."""
        return now + self._every


def run_schedule(config: Config, database: Database, stop: threading.Event, pulse: Pulse) -> None:
    """Run the periodic tasks of a node until ``stop`` is set."""
    facts = NodeFacts(database)
    # The task that tells how the tasks stand is one of them.
    told = Task("bookkeeping", _TELL_S, lambda _now: facts.note_task_runs(runner.runs()), first_after_s=1)
    watch = ClockWatch()
    runner = TaskRunner([*tasks_of(config, database, watch), told], watch=watch, skew=database.skew)
    pulse.detail = runner.detail
    runner.start()
    try:
        pulse.start()
        stop.wait()
    finally:
        runner.end()
