"""The periodic tasks of a node: what each does and how often."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from dicom_qa_node.complete import Ages, sweep
from dicom_qa_node.config import Config
from dicom_qa_node.config.priority import priority_of
from dicom_qa_node.log import log_event
from dicom_qa_node.ops.alert_courier import AlertCourier
from dicom_qa_node.ops.alerts import Judge, Troubles, keep_charts
from dicom_qa_node.ops.audit_syslog import SyslogSender
from dicom_qa_node.ops.clock import ClockWatch
from dicom_qa_node.ops.health import HealthReport, ModelCheck, assess, gather, time_of
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.gallery import read_gallery
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.retain import DiskGauge, delete_files
from dicom_qa_node.store import Database, Liveness, Registry, Retention, fold_counts, recall_from_future

__all__ = ["Task", "clear_quarantine", "close_orphans", "retain", "tasks_of"]

_LOGGER = logging.getLogger(__name__)
_BATCH = 500
_RECONCILE_S = 1800.0
_RECEIVER_SILENT_S = 120.0
# A receiver that lives has beaten again by then.
_BEATEN_AGAIN_S = 30.0
# By then somebody has seen that the clock is wrong, or the time service has put it right.
_RETENTION_WAITS_S = 86400.0


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


def retain(config: Config, database: Database, now: dt.datetime, watch: ClockWatch | None = None) -> int:
    """Delete the images of finished series whose time is over, file by file; return how many went.

    The 16-bit copies of their slices go with them; the small pictures stay for the pages. A file goes first and its row
    after: what a crash leaves is a row without a file, which the next run removes. For a day after the wall clock was
    set nothing goes: were it wrong, everything would be old.
    """
    if _must_wait(watch):
        return 0
    layout, retention = SpoolLayout(config.spool_dir), Retention(database)
    delivered_before = now - dt.timedelta(days=config.spool.keep_delivered_days)
    parked_before = now - dt.timedelta(days=config.spool.keep_parked_days)
    total = 0
    while paths := retention.expired(delivered_before, parked_before, _BATCH):
        done = delete_files(layout, [*paths, *_copies(layout, retention.versions(paths))])
        gone = [path for path in paths if path not in done.failed]
        retention.forget(gone)
        total += done.files
        if done.failed:
            log_event(_LOGGER, logging.ERROR, "retention_failed", files=len(done.failed), first=done.failed[0])
            break
    if total:
        log_event(_LOGGER, logging.INFO, "retention", files=total)
    return total


def clear_quarantine(config: Config, database: Database, now: dt.datetime, watch: ClockWatch | None = None) -> int:
    """Delete the objects that were refused long enough ago, each with its notice; return how many went.

    Files go first and rows after, and nothing goes after the clock was set, as in `retain`. Stored images that were
    found damaged stay.
    """
    if _must_wait(watch):
        return 0
    layout, retention = SpoolLayout(config.spool_dir), Retention(database)
    before = now - dt.timedelta(days=config.spool.keep_quarantine_days)
    total = 0
    while paths := retention.refused(before, _BATCH):
        notices = {path: str(PurePosixPath(path).with_suffix(".json")) for path in paths}
        failed = delete_files(layout, [*paths, *notices.values()]).failed
        gone = [path for path, notice in notices.items() if path not in failed and notice not in failed]
        total += retention.forget_refused(gone)
        if failed:
            log_event(_LOGGER, logging.ERROR, "retention_failed", files=len(failed), first=failed[0])
            break
    if total:
        log_event(_LOGGER, logging.INFO, "quarantine_cleared", objects=total)
    return total


def _must_wait(watch: ClockWatch | None) -> bool:
    if watch is None or watch.settled(_RETENTION_WAITS_S):
        return False
    log_event(_LOGGER, logging.WARNING, "retention_waits", reason="the clock of this host was set")
    return True


def _copies(layout: SpoolLayout, versions: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yield the 16-bit pictures of these versions."""
    for uid, version in versions:
        folder = layout.pictures(uid, version)
        gallery = read_gallery(folder)
        for name in gallery.stored_files() if gallery is not None else ():
            yield layout.relative(folder / name)


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
