"""Makes the documents that go beside a report, each in a durable file: pages for people, key objects.

None of them may cost a series its report: what cannot be made is logged and left out.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dicom_qa_node.canvas import Drawn
from dicom_qa_node.config import Config
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.log import log_event
from dicom_qa_node.report.document_base import document_series_uid, document_uid, write_report
from dicom_qa_node.report.key_object_selection import KO_SOP_CLASS_UID, key_objects
from dicom_qa_node.report.rendered_documents import PDF_SOP_CLASS_UID, SC_SOP_CLASS_UID, pdf_of, secondary_capture
from dicom_qa_node.report.source_headers import Sources
from dicom_qa_node.report.sr_document import ReportRequest
from dicom_qa_node.report.summary_page.content import companion_page
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["make_documents", "wanted_documents"]

_LOGGER = logging.getLogger(__name__)

_SOP_CLASSES = {
    DocumentKind.IMAGE: SC_SOP_CLASS_UID,
    DocumentKind.PDF: PDF_SOP_CLASS_UID,
    DocumentKind.KEY_OBJECTS: KO_SOP_CLASS_UID,
}

Earlier = Callable[[DocumentKind], ReportRef | None]
Trend = Callable[[], Sequence[float]]


def wanted_documents(config: Config, targets: Sequence[str]) -> dict[DocumentKind, list[str]]:
    """Return which documents to make for those targets that get the report, each with its targets.

    The page that the bridge to Orthanc attaches to a series has no target.
    """
    wanted: dict[DocumentKind, list[str]] = {}
    for target in config.deliver.targets:
        if target.name in targets:
            block = target.companion
            asked = ((DocumentKind.IMAGE, block.image), (DocumentKind.PDF, block.pdf))
            for kind, on in (*asked, (DocumentKind.KEY_OBJECTS, block.key_objects)):
                if on:
                    wanted.setdefault(kind, []).append(target.name)
    if config.orthanc.url and config.orthanc.attach_page:
        wanted.setdefault(DocumentKind.PDF, [])
    return wanted


def make_documents(
    wanted: Mapping[DocumentKind, Sequence[str]],
    request: ReportRequest,
    sources: Sources,
    spool_dir: Path,
    config: Config,
    earlier: Earlier,
    trend: Trend,
) -> list[tuple[ReportRef, Sequence[str]]]:
    """Make the documents and write their files.

    Parameters
    ----------
    earlier
        Returns the document of a kind of the version before.
    trend
        Returns the scanner's earlier scores, oldest first; asked only where a page is drawn.

    Returns
    -------
    list
        Each document with its targets; what cannot be made, or has nothing to say, is not there.

    Raises
    ------
    Transient
        The disk is full.
    """
    made = []
    for kind, content in _contents(wanted, request, sources, spool_dir, config, earlier, trend):
        uid = document_uid(kind, request.result.series_instance_uid, request.version, request.result.model)
        path = write_report(content, spool_dir / "reports", uid)
        before = earlier(kind)
        made.append(
            (
                ReportRef(
                    sop_instance_uid=uid,
                    sop_class_uid=_SOP_CLASSES[kind],
                    report_series_uid=document_series_uid(
                        kind, request.result.series_instance_uid, request.result.model, request.moved_to
                    ),
                    series_instance_uid=request.result.series_instance_uid,
                    version=request.version,
                    path=path.relative_to(spool_dir).as_posix(),
                    created_at=utc_now(),
                    predecessor_uid=None if before is None else before.sop_instance_uid,
                    kind=kind,
                ),
                wanted[kind],
            )
        )
    return made


def _contents(
    wanted: Mapping[DocumentKind, Sequence[str]],
    request: ReportRequest,
    sources: Sources,
    spool_dir: Path,
    config: Config,
    earlier: Earlier,
    trend: Trend,
) -> Iterator[tuple[DocumentKind, bytes]]:
    result = request.result
    page: Drawn | None = None
    for kind in wanted:
        try:
            if kind is DocumentKind.KEY_OBJECTS:
                content = key_objects(request, sources, config)
            else:
                if page is None:
                    folder = SpoolLayout(spool_dir).pictures(result.series_instance_uid, request.version)
                    page = companion_page(request, sources, folder, trend(), config)
                encode = secondary_capture if kind is DocumentKind.IMAGE else pdf_of
                content = encode(page, request, sources, config, earlier(kind))
        except NodeError:
            raise
        except Exception as error:  # noqa: BLE001 - the job loop: a companion never costs a series its report
            place = traceback.extract_tb(error.__traceback__)[-1]
            log_event(
                _LOGGER, logging.ERROR, "document_failed", series=result.series_instance_uid, document=kind.value,
                error=type(error).__name__, where=f"{Path(place.filename).name}:{place.lineno}",
            )  # fmt: skip
            continue
        if content is not None:
            yield kind, content
