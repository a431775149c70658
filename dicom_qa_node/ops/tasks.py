"""The periodic tasks of a node: what each does and how often."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass

from dicom_qa_node.complete import sweep
from dicom_qa_node.config import Config
from dicom_qa_node.log import log_event
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.retain import DiskGauge, delete_files
from dicom_qa_node.store import Database, Registry, Retention

__all__ = ["Task", "retain", "tasks_of"]

_LOGGER = logging.getLogger(__name__)
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do every ``every_s`` seconds; ``run`` takes the current time."""

    name: str
    every_s: float
    run: Callable[[dt.datetime], object]


def tasks_of(config: Config, database: Database) -> list[Task]:
    """Return the tasks of a node."""
    registry = Registry(database)
    disk = DiskWatch(config)
    return [
        Task("sweep", config.complete.sweep_s, lambda now: sweep(registry, config.complete, now)),
        Task("disk", 10, disk.look),
        Task("retention", 3600, lambda now: retain(config, database, now)),
        Task("checkpoint", 600, lambda _now: database.checkpoint()),
    ]


def retain(config: Config, database: Database, now: dt.datetime) -> int:
    """Delete the images of finished series whose time is over, file by file; return how many went.

    The file goes first and its row after: what a crash leaves is a row without a file, which the next run removes.
    """
    layout, retention = SpoolLayout(config.spool_dir), Retention(database)
    delivered_before = now - dt.timedelta(days=config.spool.keep_delivered_days)
    parked_before = now - dt.timedelta(days=config.spool.keep_parked_days)
    total = 0
    while paths := retention.expired(delivered_before, parked_before, _BATCH):
        done = delete_files(layout, paths)
        gone = [path for path in paths if path not in done.failed]
        retention.forget(gone)
        total += done.files
        if done.failed:
            log_event(_LOGGER, logging.ERROR, "retention_failed", files=len(done.failed), first=done.failed[0])
            break
    if total:
        log_event(_LOGGER, logging.INFO, "retention", files=total)
    return total


class DiskWatch:
    """Tells once when the disk of the spool is nearly full, and once when it has room again."""

    def __init__(self, config: Config) -> None:
        config.spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._gauge = DiskGauge(config.spool_dir, config.spool.min_free_mb, config.spool.resume_free_mb)
        self._had_room = True

    def look(self, _now: dt.datetime) -> None:
        """Log a change."""
        room = self._gauge.has_room()
        if room != self._had_room:
            self._had_room = room
            level, event = (logging.INFO, "disk_has_room") if room else (logging.ERROR, "disk_full")
            log_event(_LOGGER, level, event)
