"""The role ``schedule``: the periodic tasks of a node, run by APScheduler."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from dicom_qa_node.config import Config
from dicom_qa_node.config.scoring import priority_of
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.clock import ClockWatch, utc_now
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.flow.clock_jump import clamp_future_due_times
from dicom_qa_node.flow.completion import ArrivalAges, sweep
from dicom_qa_node.flow.node_statistics import NodeStatistics, TaskRun
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.repeated_series import resend_reports
from dicom_qa_node.flow.state_machine import fold_counts
from dicom_qa_node.log import log_event
from dicom_qa_node.ops.alert_delivery import AlertDelivery
from dicom_qa_node.ops.alert_evaluation import AlertEvaluator, NodeAlerts, update_charts
from dicom_qa_node.ops.audit_syslog import SyslogSender
from dicom_qa_node.ops.health import HealthReport, ModelCheck, assess, gather, time_of
from dicom_qa_node.ops.heartbeat import HeartbeatSender
from dicom_qa_node.ops.monthly_reports import MonthlyReports
from dicom_qa_node.ops.phantom_alerts import PhantomAlerts
from dicom_qa_node.ops.retention import clear_dose_reports, clear_quarantine, clear_rendered_images, make_room, retain
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.disk_space import DiskGauge
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.verification import Scrubber

__all__ = ["Task", "TaskRunner", "close_orphans", "run_schedule", "tasks_of"]

_LOGGER = logging.getLogger(__name__)
_RECONCILE_S = 1800.0
_SCRUB_S = 20.0

_RECEIVER_SILENT_S = 120.0
# A receiver that lives has beaten again by then.
_BEATEN_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do every ``every_s`` seconds, the first time ``first_after_s`` after the start.

    ``run`` takes the current time.
    """

    name: str
    every_s: float
    run: Callable[[dt.datetime], object]
    first_after_s: float = 0.0


def tasks_of(config: Config, database: Database, watch: ClockWatch | None = None) -> list[Task]:
    """Return the tasks of a node; ``watch`` knows whether the wall clock was set lately."""
    watch = watch or ClockWatch()
    urgency = partial(priority_of, config.score.priority)
    registry, layout = Registry(database, site=config.receive.site, priority_of=urgency), SpoolLayout(config.spool_dir)
    layout.create()
    disk, ages = DiskWatch(config), ArrivalAges()

    def look_for_lost_rows(now: dt.datetime) -> None:
        lately = now.timestamp() - 2 * _RECONCILE_S
        reconcile(layout, registry, changed_since=lately if watch.settled(2 * _RECONCILE_S) else 0.0)

    def close(now: dt.datetime) -> None:
        if watch.settled(_BEATEN_AGAIN_S):
            close_orphans(database, now)

    return [
        Task("sweep", config.complete.sweep_s, lambda now: sweep(registry, config.complete, now, ages)),
        *_resending(config, database),
        Task("disk", 10, disk.look),
        Task("clock", 30, lambda now: recall(config, database, now)),
        Task("associations", 30, close, first_after_s=_RECEIVER_SILENT_S),
        Task("reconcile", _RECONCILE_S, look_for_lost_rows, first_after_s=_RECONCILE_S),
        Task("retention", 3600, lambda now: retain(config, database, now, watch)),
        Task("quarantine", 3600, lambda now: clear_quarantine(config, database, now, watch)),
        Task("dose reports", 3600, lambda now: clear_dose_reports(config, database, now, watch)),
        Task("pictures", 3600, lambda now: clear_rendered_images(config, database, now, watch)),
        *_scrubbing(config, layout),
        Task("room", 10, lambda now: make_room(config, database, now)),
        *_watching(config, database),
        Task("checkpoint", 600, lambda _now: database.checkpoint()),
        Task("counts", 60, lambda _now: fold_counts(database)),
        *_audit_tasks(config, database),
        *_monthly_reports(config, database),
    ]


def _watching(config: Config, database: Database) -> list[Task]:
    judge, model = AlertEvaluator(config), ModelCheck(config)

    def health() -> HealthReport:
        facts = gather(config, database, model)
        return assess(facts, config, time_of(facts, database))

    troubles, delivery_worker = NodeAlerts(config, database, health, judge), AlertDelivery(config, database)
    return [
        Task("charts", 5, update_charts(config, database, judge), first_after_s=2),
        Task("troubles", 30, lambda _now: troubles.look(), first_after_s=30),
        Task("phantoms", 60, PhantomAlerts(config, database, judge).look, first_after_s=20),
        Task("alerts", 5, delivery_worker.send_due, first_after_s=3),
    ]


def _scrubbing(config: Config, layout: SpoolLayout) -> list[Task]:
    scrubber = Scrubber(layout, config.spool.scrub_mb_s)
    return [Task("scrub", _SCRUB_S, lambda _now: scrubber.run(_SCRUB_S))] if config.spool.scrub_mb_s else []


def _resending(config: Config, database: Database) -> list[Task]:
    targets, quiet_s = config.deliver.resending(), config.complete.quiet_s
    if not targets:
        return []
    return [Task("resend", config.complete.sweep_s, lambda now: resend_reports(database, targets, quiet_s, now))]


def _monthly_reports(config: Config, database: Database) -> list[Task]:
    if not config.monthly_report.scheduled:
        return []
    reports = MonthlyReports(config, database)
    return [Task("monthly report", 900, lambda _now: reports.run(), first_after_s=120)]


def _audit_tasks(config: Config, database: Database) -> list[Task]:
    if not config.web.syslog.host:
        return []
    sender = SyslogSender(config, database)
    return [Task("audit syslog", 5, lambda _now: sender.send())]


def recall(config: Config, database: Database, now: dt.datetime) -> int:
    """Bring back what waits for a time far ahead since the clock was set back; return how many rows that were."""
    recalled = clamp_future_due_times(database, config, now)
    if recalled:
        log_event(_LOGGER, logging.WARNING, "recalled_from_future", rows=recalled)
    return recalled


def close_orphans(database: Database, now: dt.datetime) -> int:
    """Close the associations of hosts whose receiver is gone, so that their series do not wait for the age limit.

    A receiver that is started again closes its own; this is for one that does not come back.
    """
    registry = Registry(database)
    alive = {
        beat.host
        for beat in Heartbeats(database).all()
        if beat.role == "receive" and abs((now - beat.seen_at).total_seconds()) < _RECEIVER_SILENT_S
    }
    gone = [name for name in registry.open_receivers() if name.rpartition("@")[2] not in alive]
    closed = sum(registry.end_associations(name, now) for name in gone)
    if closed:
        log_event(_LOGGER, logging.WARNING, "orphaned_associations_closed", associations=closed)
    return closed


class DiskWatch:
    """Tells once when the disk of the spool is nearly full, and once when it has room again."""

    def __init__(self, config: Config) -> None:
        self._gauge = DiskGauge(config.spool_dir, config.spool.min_free_mb, config.spool.resume_free_mb)
        self._had_room = True

    def look(self, _now: dt.datetime) -> None:
        """Log a change."""
        room = self._gauge.has_room()
        if room != self._had_room:
            self._had_room = room
            level, event = (logging.INFO, "disk_has_room") if room else (logging.ERROR, "disk_full")
            log_event(_LOGGER, level, event)


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


def run_schedule(config: Config, database: Database, stop: threading.Event, heartbeat: HeartbeatSender) -> None:
    """Run the periodic tasks of a node until ``stop`` is set."""
    facts = NodeStatistics(database)
    # The task that tells how the tasks stand is one of them.
    bookkeeping = Task("bookkeeping", _TELL_S, lambda _now: facts.note_task_runs(runner.runs()), first_after_s=1)
    watch = ClockWatch()
    runner = TaskRunner([*tasks_of(config, database, watch), bookkeeping], watch=watch, skew=database.skew)
    heartbeat.detail = runner.detail
    runner.start()
    try:
        heartbeat.start()
        stop.wait()
    finally:
        runner.end()
