"""Turns each series in SCORED into a durable report with its outbox rows: SCORED -> REPORTED.

The file comes first and the row after it: a crash between the two builds the same bytes under the same name again.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import traceback
from collections.abc import Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError

from dicom_qa_node.config import Config
from dicom_qa_node.config.routing import decide, traits_of
from dicom_qa_node.errors import Permanent, Transient
from dicom_qa_node.log import log_event
from dicom_qa_node.records import ReportRef, StoredInstance, utc_now
from dicom_qa_node.report.document import (
    SOP_CLASS_UID,
    ReportRequest,
    build_document,
    encode,
    report_series_uid,
    report_uid,
)
from dicom_qa_node.report.sources import read_sources
from dicom_qa_node.spool.layout import sync_folder, uid_key
from dicom_qa_node.store import Outbox, Registry
from dicom_qa_node.store.outbox import Unreported

__all__ = ["build_report", "report_path", "report_pending", "write_report"]

_LOGGER = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What pydicom and highdicom raise over values that cannot be read, checked or encoded.
_BROKEN_DATA = (
    ArithmeticError, AssertionError, AttributeError, EOFError, InvalidDicomError, LookupError, NotImplementedError,
    RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip


def report_pending(outbox: Outbox, registry: Registry, spool_dir: Path, config: Config) -> int:
    """Report the oldest series in SCORED, ten at most; return how many were reported or parked.

    Raises
    ------
    Transient
        The disk is full or the database out of reach; nothing is lost, call again later.
    """
    waiting = outbox.unreported()
    for item in waiting:
        try:
            report = _report(item, registry, spool_dir, config)
        except Permanent as error:
            outbox.fail_report(item, str(error))
            _log(logging.ERROR, "report_failed", item, reason=str(error))
        else:
            traits = traits_of(item.facts, item.result, item.sender.ae_title, item.sender.host)
            decisions = decide(config.deliver.targets, config.receive.peers, traits)
            chosen = [decision.target for decision in decisions if not decision.why_not]
            unrouted = [(decision.target, decision.why_not) for decision in decisions if decision.why_not]
            if outbox.add_report(report, chosen, unrouted, item.sender):
                _log(logging.INFO, "reported", item, report=report.sop_instance_uid, targets=",".join(chosen))
    return len(waiting)


def build_report(request: ReportRequest, instances: Sequence[StoredInstance], spool_dir: Path, config: Config) -> bytes:
    """Return a report as the bytes of a Part 10 file.

    Parameters
    ----------
    instances
        The stored instances of the scored series and of its paired series; paths relative to ``spool_dir``.

    Raises
    ------
    Permanent
        The report cannot be built; the message holds no patient data.
    """
    try:
        sources = read_sources(spool_dir, request.result, instances)
        return encode(build_document(request, sources, config))
    except _BROKEN_DATA as error:
        # One series must not hold up the others. The library's words may quote a patient's name; the log has
        # where it failed, which is enough to find the cause.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        uid = request.result.series_instance_uid
        log_event(_LOGGER, logging.ERROR, "report_broken", series=uid, error=type(error).__name__, where=where)
        raise Permanent("the report cannot be built from these headers; images and score are kept") from error


def report_path(spool_dir: Path, sop_instance_uid: str) -> Path:
    """Return where a report lies, by its UID."""
    key = uid_key(sop_instance_uid)
    return spool_dir / "reports" / key[:2] / f"{key}.dcm"


def write_report(content: bytes, folder: Path, sop_instance_uid: str) -> Path:
    """Write a report durably under a name made from its UID and return the path.

    Raises
    ------
    Transient
        The disk is full.
    """
    key = uid_key(sop_instance_uid)
    path = folder / key[:2] / f"{key}.dcm"
    part = path.with_suffix(".part")
    try:
        _make_folders(path.parent, folder)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise Transient("no space is left for reports") from error
        raise Transient(f"the report cannot be written: {error.strerror}") from error
    return path


def _report(item: Unreported, registry: Registry, spool_dir: Path, config: Config) -> ReportRef:
    result = item.result
    instances = registry.instances(result.series_instance_uid)
    if result.pair_series_uid:
        instances += registry.instances(result.pair_series_uid)
    request = ReportRequest(result, item.version, item.scored_at, item.predecessor)
    content = build_report(request, instances, spool_dir, config)
    uid = report_uid(result.series_instance_uid, item.version, result.model)
    path = write_report(content, spool_dir / "reports", uid)
    return ReportRef(
        sop_instance_uid=uid,
        sop_class_uid=SOP_CLASS_UID,
        report_series_uid=report_series_uid(result.series_instance_uid, result.model),
        series_instance_uid=result.series_instance_uid,
        version=item.version,
        path=path.relative_to(spool_dir).as_posix(),
        created_at=utc_now(),
        predecessor_uid=None if item.predecessor is None else item.predecessor.sop_instance_uid,
    )


def _make_folders(folder: Path, root: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(root)
    sync_folder(root.parent)


def _log(level: int, event: str, item: Unreported, **fields: str) -> None:
    log_event(_LOGGER, level, event, series=item.facts.series_instance_uid, version=item.version, **fields)
