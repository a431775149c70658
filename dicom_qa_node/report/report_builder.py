"""Turns each series in SCORED into a durable report with its outbox rows: SCORED -> REPORTED.

The files come first and the rows after them: a crash between the two builds the same bytes under the same names again.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError

from dicom_qa_node.config import Config
from dicom_qa_node.config.delivery import Decision, decide, traits_of
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef
from dicom_qa_node.domain.errors import NodeError, Permanent
from dicom_qa_node.domain.series import StoredInstance
from dicom_qa_node.flow.outbox import Outbox, Unreported
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.log import log_event
from dicom_qa_node.report.derived_objects import make_documents, wanted_documents
from dicom_qa_node.report.document_base import BROKEN_DATA, report_path, write_report
from dicom_qa_node.report.source_headers import Sources, read_sources
from dicom_qa_node.report.sr_document import (
    SOP_CLASS_UID,
    ReportRequest,
    build_document,
    encode,
    report_series_uid,
    report_uid,
)
from dicom_qa_node.spool.result_archive import ResultArchive, write_result_archive

__all__ = ["build_report", "report_path", "report_pending", "write_report"]

_LOGGER = logging.getLogger(__name__)


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
            _report_item(item, outbox, registry, spool_dir, config)
        except Permanent as error:
            outbox.fail_report(item, str(error))
            _log(logging.ERROR, "report_failed", item, reason=str(error))
        except NodeError:
            raise
        except Exception as error:  # noqa: BLE001 - the job loop: one series never holds up the others
            reason = f"the report cannot be built ({type(error).__name__}); images and score are kept"
            _log(logging.ERROR, "report_broken", item, error=type(error).__name__, where=_place(error))
            outbox.fail_report(item, reason)
    return len(waiting)


def _report_item(item: Unreported, outbox: Outbox, registry: Registry, spool_dir: Path, config: Config) -> None:
    sources = read_sources(spool_dir, item.result, _instances(item, registry))
    request = _request(item, sources, spool_dir)
    report = _report(request, sources, spool_dir, config)
    traits = traits_of(item.facts, item.result, item.sender.ae_title, item.sender.host)
    decisions = decide(config.deliver.targets, config.receive.peers, traits)
    if withheld := registry.not_delivered(item.facts.series_instance_uid):
        decisions = [Decision(decision.target, withheld) for decision in decisions]
    chosen = [decision.target for decision in decisions if not decision.why_not]
    unrouted = [(decision.target, decision.why_not) for decision in decisions if decision.why_not]
    documents = _documents(item, request, chosen, sources, outbox, spool_dir, config)
    write_result_archive(spool_dir, _archive(item, report, chosen, unrouted, documents, registry))
    if outbox.add_report(report, chosen, unrouted, item.sender, documents, remark=_remark(sources)):
        _log(logging.INFO, "reported", item, report=report.sop_instance_uid, targets=",".join(chosen))
        if sources.changes:
            _log(logging.WARNING, "header_values_changed", item, values=sources.changes)


def _remark(sources: Sources) -> str:
    return f"not copied unchanged from the images: {sources.changes}" if sources.changes else ""


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
    return _built(request, read_sources(spool_dir, request.result, instances), config)


def _built(request: ReportRequest, sources: Sources, config: Config) -> bytes:
    try:
        return encode(build_document(request, sources, config))
    except BROKEN_DATA as error:
        # The library's words may quote a patient's name; where it failed is enough to find the cause.
        uid = request.result.series_instance_uid
        log_event(_LOGGER, logging.ERROR, "report_broken", series=uid, error=type(error).__name__, where=_place(error))
        raise Permanent("the report cannot be built from these headers; images and score are kept") from error


def _place(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(place.filename).name}:{place.lineno}"


def _report(request: ReportRequest, sources: Sources, spool_dir: Path, config: Config) -> ReportRef:
    result = request.result
    content = _built(request, sources, config)
    uid = report_uid(result.series_instance_uid, request.version, result.model)
    path = write_report(content, spool_dir / "reports", uid)
    return ReportRef(
        sop_instance_uid=uid,
        sop_class_uid=SOP_CLASS_UID,
        report_series_uid=report_series_uid(result.series_instance_uid, result.model, request.moved_to),
        series_instance_uid=result.series_instance_uid,
        version=request.version,
        path=path.relative_to(spool_dir).as_posix(),
        created_at=utc_now(),
        predecessor_uid=None if request.predecessor is None else request.predecessor.sop_instance_uid,
    )


def _documents(
    item: Unreported,
    request: ReportRequest,
    targets: Sequence[str],
    sources: Sources,
    outbox: Outbox,
    spool_dir: Path,
    config: Config,
) -> list[tuple[ReportRef, Sequence[str]]]:
    """Make what the targets want beside the report."""
    wanted = wanted_documents(config, targets)
    if not wanted:
        return []

    def earlier(kind: DocumentKind) -> ReportRef | None:
        before = item.predecessor
        return None if before is None else outbox.report(before.series_instance_uid, before.version, kind)

    return make_documents(
        wanted, request, sources, spool_dir, config, earlier, lambda: outbox.trend(item, config.report.trend)
    )


def _archive(
    item: Unreported,
    report: ReportRef,
    targets: Sequence[str],
    unrouted: Sequence[tuple[str, str]],
    documents: Sequence[tuple[ReportRef, Sequence[str]]],
    registry: Registry,
) -> ResultArchive:
    images, until = registry.arrived(item.facts.series_instance_uid)
    return ResultArchive(
        facts=item.facts,
        result=item.result,
        scored_at=item.scored_at,
        images=images,
        images_until=until or item.scored_at,
        report=report,
        targets=tuple(targets),
        unrouted=tuple(unrouted),
        sender=item.sender,
        documents=tuple((document, tuple(wanted)) for document, wanted in documents),
    )


def _request(item: Unreported, sources: Sources, spool_dir: Path) -> ReportRequest:
    before, study = item.predecessor, str(sources.main.StudyInstanceUID)
    if before is None:
        return ReportRequest(item.result, item.version, item.scored_at)
    earlier = _study_of(spool_dir / before.path) or study
    moved_series = report_series_uid(item.result.series_instance_uid, item.result.model, study)
    moved = earlier != study or before.report_series_uid == moved_series
    return ReportRequest(
        item.result, item.version, item.scored_at, before, earlier if earlier != study else "", study if moved else ""
    )


def _study_of(path: Path) -> str:
    """Return the Study Instance UID of an earlier report, "" where its file is gone."""
    try:
        return str(dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
    except (OSError, AttributeError, InvalidDicomError):
        return ""


def _instances(item: Unreported, registry: Registry) -> list[StoredInstance]:
    instances = registry.instances(item.result.series_instance_uid)
    if item.result.pair_series_uid:
        instances += registry.instances(item.result.pair_series_uid)
    return instances


def _log(level: int, event: str, item: Unreported, **fields: str) -> None:
    log_event(_LOGGER, level, event, series=item.facts.series_instance_uid, version=item.version, **fields)
