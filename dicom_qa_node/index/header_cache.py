"""Keeps the headers of reports in the catalogue, read once from the file: an answer is what a retrieval brings."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.index.attributes import IMAGE, stored_at
from dicom_qa_node.index.catalogue import Catalogue, ReportHeader
from dicom_qa_node.log import log_event
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["LAYOUT", "HeaderCache", "header_of"]

_LOGGER = logging.getLogger(__name__)

LAYOUT = 1
"""Raise it when `attributes` asks for more, and every header is read again."""

_BATCH = 200
_GROUPED = stored_at("SERIES")


class HeaderCache:
    """Reads the reports that the catalogue does not know yet; an unreadable file is left out and logged once."""

    def __init__(self, catalogue: Catalogue, layout: SpoolLayout) -> None:
        self._catalogue = catalogue
        self._layout = layout
        self._lock = threading.Lock()
        self._unreadable: set[str] = set()

    def catch_up(self) -> int:
        """Index every new report and return how many there were."""
        done = 0
        with self._lock:
            while True:
                waiting = self._catalogue.unindexed(_BATCH + len(self._unreadable))
                fresh = [report for report in waiting if report.sop_instance_uid not in self._unreadable][:_BATCH]
                headers = [header for report in fresh if (header := self._read(report)) is not None]
                self._catalogue.index(headers)
                done += len(headers)
                if len(fresh) < _BATCH:
                    return done

    def _read(self, report: ReportRef) -> ReportHeader | None:
        try:
            return header_of(report, self._layout.absolute(report.path))
        except (OSError, InvalidDicomError, Permanent, ValueError, KeyError, AttributeError, EOFError) as error:
            self._unreadable.add(report.sop_instance_uid)
            log_event(
                _LOGGER, logging.ERROR, "report_not_indexed",
                report=report.sop_instance_uid, error=type(error).__name__,
            )  # fmt: skip
            return None


def header_of(report: ReportRef, path: Path) -> ReportHeader:
    """Read from a report's file what is kept for queries."""
    dataset = dcmread(path)
    keywords = [keyword for keyword in IMAGE if keyword in dataset]
    header = {key: value for keyword in keywords for key, value in _json(dataset, keyword).items()}
    facts = {keyword: _text(dataset, keyword) for keyword in _GROUPED if keyword in dataset}
    return ReportHeader(
        sop_instance_uid=report.sop_instance_uid,
        layout=LAYOUT,
        patient_id=facts.get("PatientID", ""),
        study_instance_uid=facts["StudyInstanceUID"],
        series_instance_uid=facts["SeriesInstanceUID"],
        accession_number=facts.get("AccessionNumber", ""),
        study_date=facts.get("StudyDate", ""),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        facts=facts,
        header=json.dumps(header, ensure_ascii=False),
    )


def _json(dataset: FileDataset, keyword: str) -> dict[str, object]:
    element = dataset[keyword]
    return {f"{element.tag:08X}": element.to_json_dict(None, 1024)}


def _text(dataset: FileDataset, keyword: str) -> str:
    value = dataset[keyword].value
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value).strip()
