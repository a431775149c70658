"""Fills the database from the spool again, after it was lost or a backup was put in its place.

Images bring back instances, series and their states up to RECEIVING; result archives beside the reports bring back
verdicts, reports and deliveries. What people wrote (accounts, reviews, the audit log, baselines) and what was parked is
in backups only.
"""

from __future__ import annotations

import datetime as dt
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import DamagedDatabase, Database
from dicom_qa_node.db.heartbeats import Heartbeat, Heartbeats
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.domain.uids import derived_uid
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.restore import Restored, ResultRestorer
from dicom_qa_node.log import log_event
from dicom_qa_node.ops.spool_lock import hold_spool
from dicom_qa_node.receive.reconcile import count_files, reconcile
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.result_archive import read_result_archive, result_archives

__all__ = ["Rebuilt", "rebuild"]

_LOGGER = logging.getLogger(__name__)
_ALIVE = dt.timedelta(seconds=60)
_CLOCK_SLACK_S = 5.0
_AT_ONCE = 200

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What one run found and wrote.

    ``files`` of the spool were looked at, ``added`` got the row they lacked, ``damaged`` went to quarantine.
    ``restored`` reported versions came back with their verdict, ``known`` had their rows; ``without_verdict`` reports
    of an older version of this software came back alone, and their series are scored again. ``unreadable`` lists
    files of reports that could not be used; they stay where they are. ``aside`` is the new name of the database that
    was there before.
    """

    schema: str
    files: int
    added: int
    damaged: int
    series: int
    restored: int = 0
    known: int = 0
    without_verdict: int = 0
    unreadable: tuple[str, ...] = ()
    aside: Path | None = None


def rebuild(config: Config, *, new: bool = False, progress: Progress = lambda _what, _done, _all: None) -> Rebuilt:
    """Give the database every row that the spool can give it; what has its row is left alone.

    Parameters
    ----------
    new
        Rename the database that is there and begin with an empty one.
    progress
        Told what is being read, how many files were read so far, and how many there are.

    Raises
    ------
    Misconfigured
        A node is running, or the database is damaged and ``new`` is not set.
    Transient
        The disk is full or the database is locked. What was done so far stands; run it again.
    """
    layout = SpoolLayout(config.spool_dir)
    with hold_spool(config.spool_dir, patience_s=0):
        aside = _put_aside(config) if new else None
        database = Database(config.database_url)
        try:
            _require_sound(database)
            schema = database.upgrade()
            _require_stopped(database)
            layout.create()
            registry = Registry(database)
            total = count_files(layout)
            found = reconcile(layout, registry, looked=lambda done: progress("images", done, total))
            done = Rebuilt(schema, found.files, found.added, found.damaged, 0, aside=aside)
            done = _verdicts(ResultRestorer(database), config.spool_dir, done, progress)
            done = _bare_reports(ResultRestorer(database), config.spool_dir, done)
            return replace(done, series=sum(registry.counts().values()))
        finally:
            database.close()


def _put_aside(config: Config) -> Path | None:
    database = Database(config.database_url)
    try:
        if not database.damage():
            _require_stopped(database)
        return database.put_aside(utc_now())
    finally:
        database.close()


def _require_sound(database: Database) -> None:
    damage = database.damage()
    if damage:
        raise DamagedDatabase(f"the database file is damaged ({damage}); restore a backup, or add --new")


def _require_stopped(database: Database) -> None:
    """Refuse while a role runs, perhaps on another machine: a role that was started alone does not hold the spool.

    A restored backup has the heartbeats of its time; those of this host count only while their processes live.
    """
    if not database.has_schema():
        return
    alive = [beat for beat in Heartbeats(database).all() if _may_live(beat, database.now())]
    if alive:
        names = ", ".join(f"{beat.name} (process {beat.pid} on {beat.host})" for beat in alive)
        raise Misconfigured(
            f"the node is running, or ended on another host less than a minute ago: {names}; stop it first"
        )


def _may_live(beat: Heartbeat, now: dt.datetime) -> bool:
    if abs(now - beat.seen_at) >= _ALIVE:
        return False
    if beat.host != socket.gethostname():
        return True
    try:
        started = psutil.Process(beat.pid).create_time()
    except psutil.Error:
        return False
    # A later process has the number of one that is gone.
    return started <= beat.started_at.timestamp() + _CLOCK_SLACK_S


def _verdicts(store: ResultRestorer, spool_dir: Path, done: Rebuilt, progress: Progress) -> Rebuilt:
    paths = list(result_archives(spool_dir))
    restored = known = 0
    unreadable: list[str] = []
    for number, path in enumerate(paths, start=1):
        try:
            what = store.restore(read_result_archive(path))
        except Permanent as error:
            log_event(_LOGGER, logging.WARNING, "dossier_unreadable", file=path.name, reason=str(error))
            unreadable.append(path.relative_to(spool_dir).as_posix())
        else:
            restored, known = restored + (what is not Restored.KNOWN), known + (what is Restored.KNOWN)
        progress("reports", number, len(paths))
    return replace(done, restored=restored, known=known, unreadable=tuple(unreadable))


def _bare_reports(store: ResultRestorer, spool_dir: Path, done: Rebuilt) -> Rebuilt:
    """Give the reports that still lack one a row: those without a result archive that can be read."""
    added = 0
    unreadable = list(done.unreadable)
    for batch in _unknown_reports(store, spool_dir):
        for path in batch:
            try:
                report = _read_report(spool_dir, path)
            except (InvalidDicomError, AttributeError, ValueError, OSError) as error:
                log_event(_LOGGER, logging.WARNING, "report_unreadable", file=path.name, error=type(error).__name__)
                unreadable.append(path.relative_to(spool_dir).as_posix())
            else:
                added += report is not None and store.add_report(report)
    return replace(done, without_verdict=added, unreadable=tuple(unreadable))


def _unknown_reports(store: ResultRestorer, spool_dir: Path) -> Iterator[list[Path]]:
    paths = sorted((spool_dir / "reports").glob("??/*.dcm"))
    for start in range(0, len(paths), _AT_ONCE):
        batch = {path.relative_to(spool_dir).as_posix(): path for path in paths[start : start + _AT_ONCE]}
        known = store.reported(list(batch))
        yield [path for name, path in batch.items() if name not in known]


def _read_report(spool_dir: Path, path: Path) -> ReportRef | None:
    """Read what the registry keeps of a report; None for what goes beside one, and for the report of a lost series."""
    ds = dcmread(path)
    if ds.SOPClassUID != Comprehensive3DSRStorage:
        return None
    series = _series_of(ds)
    before = ds.get("PredecessorDocumentsSequence")
    predecessor = None
    if before:
        predecessor = str(before[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    return ReportRef(
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        report_series_uid=str(ds.SeriesInstanceUID),
        series_instance_uid=series,
        version=int(ds.InstanceNumber),
        path=path.relative_to(spool_dir).as_posix(),
        created_at=dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC),
        predecessor_uid=predecessor,
    )


def _series_of(ds: Dataset) -> str:
    """Return which of the series in evidence the report is about: the one its own series was named after."""
    network = str(ds.SoftwareVersions[1]).split(" ")[0]
    for study in ds.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            uid = str(series.SeriesInstanceUID)
            if derived_uid("report-series", uid, network) == ds.SeriesInstanceUID:
                return uid
    raise ValueError("the report names no series of its own")
