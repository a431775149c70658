"""The periodic tasks of a node: what each does and how often."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dicom_qa_node.complete import Ages, sweep
from dicom_qa_node.config import Config
from dicom_qa_node.config.priority import priority_of
from dicom_qa_node.log import log_event
from dicom_qa_node.ops.alert_courier import AlertCourier
from dicom_qa_node.ops.alerts import Judge, Troubles, keep_charts
from dicom_qa_node.ops.audit_syslog import SyslogSender
from dicom_qa_node.ops.clock import ClockWatch
from dicom_qa_node.ops.health import HealthReport, ModelCheck, assess, gather, time_of
from dicom_qa_node.ops.retention import clear_pictures, clear_quarantine, make_room, retain
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.retain import DiskGauge
from dicom_qa_node.store import Database, Liveness, Registry, fold_counts, recall_from_future

__all__ = ["Task", "close_orphans", "tasks_of"]

_LOGGER = logging.getLogger(__name__)
_RECONCILE_S = 1800.0
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
    disk, ages = DiskWatch(config), Ages()

    def look_for_lost_rows(now: dt.datetime) -> None:
        lately = now.timestamp() - 2 * _RECONCILE_S
        reconcile(layout, registry, changed_since=lately if watch.settled(2 * _RECONCILE_S) else 0.0)

    def close(now: dt.datetime) -> None:
        if watch.settled(_BEATEN_AGAIN_S):
            close_orphans(database, now)

    return [
        Task("sweep", config.complete.sweep_s, lambda now: sweep(registry, config.complete, now, ages)),
        Task("disk", 10, disk.look),
        Task("clock", 30, lambda now: recall(config, database, now)),
        Task("associations", 30, close, first_after_s=_RECEIVER_SILENT_S),
        Task("reconcile", _RECONCILE_S, look_for_lost_rows, first_after_s=_RECONCILE_S),
        Task("retention", 3600, lambda now: retain(config, database, now, watch)),
        Task("quarantine", 3600, lambda now: clear_quarantine(config, database, now, watch)),
        Task("pictures", 3600, lambda now: clear_pictures(config, database, now, watch)),
        Task("room", 10, lambda now: make_room(config, database, now)),
        *_watching(config, database),
        Task("checkpoint", 600, lambda _now: database.checkpoint()),
        Task("counts", 60, lambda _now: fold_counts(database)),
        *_audit_tasks(config, database),
    ]


def _watching(config: Config, database: Database) -> list[Task]:
    judge, model = Judge(config), ModelCheck(config)

    def health() -> HealthReport:
        facts = gather(config, database, model)
        return assess(facts, config, time_of(facts, database))

    troubles, courier = Troubles(config, database, health, judge), AlertCourier(config, database)
    return [
        Task("charts", 5, keep_charts(config, database, judge), first_after_s=2),
        Task("troubles", 30, lambda _now: troubles.look(), first_after_s=30),
        Task("alerts", 5, courier.send_due, first_after_s=3),
    ]


def _audit_tasks(config: Config, database: Database) -> list[Task]:
    if not config.web.syslog.host:
        return []
    sender = SyslogSender(config, database)
    return [Task("audit syslog", 5, lambda _now: sender.send())]


def recall(config: Config, database: Database, now: dt.datetime) -> int:
    """Bring back what waits for a time far ahead since the clock was set back; return how many rows that were."""
    recalled = recall_from_future(database, config, now)
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
        for beat in Liveness(database).all()
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
