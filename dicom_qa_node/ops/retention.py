"""What leaves the spool, and when: images and pictures of finished series, and objects that were refused.

Files go first and rows after: what a crash leaves is a row without a file, which the next run removes. For a day after
the wall clock was set nothing goes by age: were it wrong, everything would be old.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import ClockWatch
from dicom_qa_node.flow.retention_candidates import Retention
from dicom_qa_node.log import log_event
from dicom_qa_node.spool.disk_space import Deletion, DiskUsage, delete_files, disk_usage
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import read_manifest

__all__ = ["clear_dose_reports", "clear_quarantine", "clear_rendered_images", "make_room", "retain"]

_LOGGER = logging.getLogger(__name__)
_BATCH = 500
_MIB = 1024 * 1024
# By then somebody has seen that the clock is wrong, or the time service has put it right.
_RETENTION_WAITS_S = 86400.0


def retain(config: Config, database: Database, now: dt.datetime, watch: ClockWatch | None = None) -> int:
    """Delete the images of finished series whose time is over, file by file; return how many went.

    The 16-bit copies of their slices go with them; the small pictures stay for the pages. What waits for a review stays
    (``spool.await_review``), and the log says how many series do.
    """
    if _must_wait(watch):
        return 0
    retention = Retention(database, config.spool.await_review)
    delivered_before = now - dt.timedelta(days=config.spool.keep_delivered_days)
    parked_before = now - dt.timedelta(days=config.spool.keep_parked_days)
    total = 0
    while paths := retention.expired(delivered_before, parked_before, _BATCH):
        files, complete = _delete_images(config, retention, paths)
        total += files
        if not complete:
            break
    if total:
        log_event(_LOGGER, logging.INFO, "retention", files=total)
    if waiting := retention.awaiting_review(delivered_before):
        log_event(_LOGGER, logging.INFO, "retention_awaits_review", series=waiting)
    return total


def make_room(
    config: Config, database: Database, now: dt.datetime, usage: Callable[[Path], DiskUsage] = disk_usage
) -> int:
    """Delete images of delivered series before their time while the disk is short; return how many went.

    Below ``spool.resume_free_mb``, the oldest first, until there is as much again. Series that wait for a delivery or a
    review keep their images, and so do parked ones.
    """
    wanted = config.spool.resume_free_mb * _MIB
    if not config.spool.leave_early or usage(config.spool_dir).free_bytes >= wanted:
        return 0
    retention = Retention(database, config.spool.await_review)
    total = 0
    while usage(config.spool_dir).free_bytes < wanted and (paths := retention.expired(now, None, _BATCH)):
        files, complete = _delete_images(config, retention, paths)
        total += files
        if not complete:
            break
    if total:
        log_event(_LOGGER, logging.WARNING, "retention_early", files=total, reason="the disk of the spool is short")
    return total


def clear_rendered_images(config: Config, database: Database, now: dt.datetime, watch: ClockWatch | None = None) -> int:
    """Delete the pictures of versions scored long enough ago (``spool.keep_pictures_days``); return how many versions.

    Their results, reports and reviews stay; what waits for a review keeps its pictures.
    """
    if _must_wait(watch):
        return 0
    layout, retention = SpoolLayout(config.spool_dir), Retention(database, config.spool.await_review)
    before = now - dt.timedelta(days=config.spool.keep_pictures_days)
    total = 0
    while versions := retention.old_pictures(before, _BATCH):
        gone = [version for version in versions if _delete_folder(layout, layout.pictures(*version))]
        total += retention.forget_pictures(gone)
        if len(gone) < len(versions):
            break
    if total:
        log_event(_LOGGER, logging.INFO, "pictures_cleared", versions=total)
    return total


def clear_quarantine(config: Config, database: Database, now: dt.datetime, watch: ClockWatch | None = None) -> int:
    """Delete the objects that were refused long enough ago, each with its notice; return how many went.

    Stored images that were found damaged stay.
    """
    if _must_wait(watch):
        return 0
    layout, retention = SpoolLayout(config.spool_dir), Retention(database)
    before = now - dt.timedelta(days=config.spool.keep_quarantine_days)
    total = 0
    while paths := retention.refused(before, _BATCH):
        notices = {path: str(PurePosixPath(path).with_suffix(".json")) for path in paths}
        failed = _delete(layout, [*paths, *notices.values()]).failed
        gone = [path for path, notice in notices.items() if path not in failed and notice not in failed]
        total += retention.forget_refused(gone)
        if failed:
            break
    if total:
        log_event(_LOGGER, logging.INFO, "quarantine_cleared", objects=total)
    return total


def clear_dose_reports(config: Config, database: Database, now: dt.datetime, watch: ClockWatch | None = None) -> int:
    """Delete the files of dose reports whose study has no image in the spool any more; return how many went.

    A report of which no image has come stays as long (``spool.keep_delivered_days``); what was read from it stays.
    """
    if _must_wait(watch):
        return 0
    layout, retention = SpoolLayout(config.spool_dir), Retention(database)
    before = now - dt.timedelta(days=config.spool.keep_delivered_days)
    total = 0
    while paths := retention.dose_reports(before, _BATCH):
        failed = _delete(layout, paths).failed
        total += retention.forget_dose_reports([path for path in paths if path not in failed])
        if failed:
            break
    if total:
        log_event(_LOGGER, logging.INFO, "dose_reports_cleared", reports=total)
    return total


def _must_wait(watch: ClockWatch | None) -> bool:
    if watch is None or watch.settled(_RETENTION_WAITS_S):
        return False
    log_event(_LOGGER, logging.WARNING, "retention_waits", reason="the clock of this host was set")
    return True


def _delete_images(config: Config, retention: Retention, paths: list[str]) -> tuple[int, bool]:
    """Delete images with the 16-bit copies of their slices; return how many files went, and whether all did."""
    layout = SpoolLayout(config.spool_dir)
    done = _delete(layout, [*paths, *_copies(layout, retention.versions(paths))])
    retention.forget([path for path in paths if path not in done.failed])
    return done.files, not done.failed


def _copies(layout: SpoolLayout, versions: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yield the 16-bit pictures of these versions."""
    for uid, version in versions:
        folder = layout.pictures(uid, version)
        manifest = read_manifest(folder)
        for name in manifest.stored_files() if manifest is not None else ():
            yield layout.relative(folder / name)


def _delete_folder(layout: SpoolLayout, folder: Path) -> bool:
    """Delete the files of a folder, then the folder, and the one above if it was the last in it; False if it cannot."""
    try:
        names = [layout.relative(path) for path in folder.iterdir()]
    except FileNotFoundError:
        return True
    if _delete(layout, names).failed:
        return False
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()
    return True


def _delete(layout: SpoolLayout, paths: list[str]) -> Deletion:
    done = delete_files(layout, paths)
    if done.failed:
        log_event(_LOGGER, logging.ERROR, "retention_failed", files=len(done.failed), first=done.failed[0])
    return done
