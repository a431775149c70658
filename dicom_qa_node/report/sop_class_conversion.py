"""Makes a report of another SOP class for archives that refuse Comprehensive 3D SR: the same content, another object.

A form has a SOP Instance UID of its own, the same each time it is made (PS3.3 C.12.1.1.1: one UID, one object), stands
in the series of the report, and names as predecessor the same form of the version before where that was made.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, FileDataset
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ComprehensiveSRStorage, EnhancedSRStorage

from dicom_qa_node.dicom_io.part10 import CHECKSUM_TAGS, with_checksum
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import derived_uid
from dicom_qa_node.report.report_builder import report_path, write_report

__all__ = ["as_form", "form_uid", "illegal_item"]

_PLAIN = frozenset({"TEXT", "CODE", "NUM", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME"})
_OBJECTS = frozenset({"COMPOSITE", "IMAGE", "WAVEFORM"})
_SPATIAL = frozenset({"SCOORD", "TCOORD"})
_CONTEXT = _PLAIN | {"COMPOSITE"}
_OBSERVED = frozenset({"TEXT", "CODE", "NUM"})

#: What may stand below what (PS3.3 tables A.35.2-2 and A.35.3-2), as far as both classes have it by value.
_BELOW = {
    ("CONTAINER", "CONTAINS"): _PLAIN | _OBJECTS | _SPATIAL | {"CONTAINER"},
    ("CONTAINER", "HAS OBS CONTEXT"): _CONTEXT,
    ("CONTAINER", "HAS ACQ CONTEXT"): _PLAIN | {"CONTAINER"},
    **{(kind, "HAS OBS CONTEXT"): _CONTEXT for kind in _OBSERVED},
    **{(kind, "HAS ACQ CONTEXT"): _PLAIN | {"CONTAINER"} for kind in (*_OBJECTS, "NUM")},
    **{(kind, "HAS CONCEPT MOD"): frozenset({"TEXT", "CODE"}) for kind in (*_PLAIN, *_OBJECTS, *_SPATIAL, "CONTAINER")},
    **{(kind, "HAS PROPERTIES"): _PLAIN | _OBJECTS | _SPATIAL for kind in _OBSERVED},
    **{(kind, "INFERRED FROM"): _PLAIN | _OBJECTS | _SPATIAL for kind in _OBSERVED},
    ("SCOORD", "SELECTED FROM"): frozenset({"IMAGE"}),
    ("TCOORD", "SELECTED FROM"): frozenset({"SCOORD", "IMAGE", "WAVEFORM"}),
}
# Two targets may want the same form at once.
_ONE_AT_A_TIME = threading.Lock()
_TARGETS = (str(ComprehensiveSRStorage), str(EnhancedSRStorage))


def form_uid(report_uid: str, sop_class_uid: str) -> str:
    """Return the SOP Instance UID of a report's form of another SOP class."""
    return derived_uid("report-form", report_uid, sop_class_uid)


def as_form(spool_dir: Path, report: ReportRef, sop_class_uid: str) -> ReportRef:
    """Return a report as another SOP class; the file is durable and is made once.

    Raises
    ------
    Permanent
        The report's file is gone, or its content cannot stand in that class.
    Transient
        The disk is full.
    """
    uid = form_uid(report.sop_instance_uid, sop_class_uid)
    path = report_path(spool_dir, uid)
    with _ONE_AT_A_TIME:
        if not path.is_file():
            predecessor = _predecessor(spool_dir, report, sop_class_uid)
            content = _encoded(_converted(_read(spool_dir / report.path), sop_class_uid, uid, predecessor))
            write_report(content, spool_dir / "reports", uid)
    return dataclasses.replace(
        report, sop_instance_uid=uid, sop_class_uid=sop_class_uid, path=path.relative_to(spool_dir).as_posix()
    )


def illegal_item(document: Dataset) -> str:
    """Return what in a content tree can stand neither in Comprehensive nor in Enhanced SR, empty if all can."""
    return next(_illegal(document), "")


def _read(path: Path) -> FileDataset:
    try:
        return dcmread(path)
    except (OSError, InvalidDicomError) as error:
        raise Permanent("the report's file cannot be read; score the series again (series rescore)") from error


def _predecessor(spool_dir: Path, report: ReportRef, sop_class_uid: str) -> str:
    if report.predecessor_uid is None:
        return ""
    uid = form_uid(report.predecessor_uid, sop_class_uid)
    return uid if report_path(spool_dir, uid).is_file() else ""


def _converted(document: FileDataset, sop_class_uid: str, uid: str, predecessor_uid: str) -> FileDataset:
    if sop_class_uid not in _TARGETS:
        raise Permanent(f"a report cannot be made as {UID(sop_class_uid).name}")
    problem = illegal_item(document)
    if problem:
        raise Permanent(f"the report cannot stand in {UID(sop_class_uid).name}: {problem}")
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    document.SOPInstanceUID = document.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    if predecessor_uid:
        for study in document.PredecessorDocumentsSequence:
            for series in study.ReferencedSeriesSequence:
                for reference in series.ReferencedSOPSequence:
                    reference.ReferencedSOPClassUID = sop_class_uid
                    reference.ReferencedSOPInstanceUID = predecessor_uid
    return document


def _encoded(document: FileDataset) -> bytes:
    buffer = BytesIO()
    # The checksum of the report that was converted; the new file gets its own.
    for tag in CHECKSUM_TAGS:
        document.file_meta.pop(tag, None)
    with disable_value_validation():
        document.save_as(buffer, enforce_file_format=True)
    return with_checksum(buffer.getvalue())


def _illegal(item: Dataset) -> Iterator[str]:
    parent = str(item.ValueType)
    for child in item.get("ContentSequence", ()):
        if "ReferencedContentItemIdentifier" in child:
            yield "a relationship by reference"
            continue
        relationship, kind = str(child.RelationshipType), str(child.ValueType)
        if kind not in _BELOW.get((parent, relationship), ()):
            yield f"{parent} {relationship} {kind}"
        yield from _illegal(child)
