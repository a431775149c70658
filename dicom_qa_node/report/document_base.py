"""What all documents of the node share: identity, study, equipment, references, durable files."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from dicom_qa_node import __version__
from dicom_qa_node.config import Config
from dicom_qa_node.dicom_io.durable import replace_file, sync_folder
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, with_checksum
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.results import ModelRef
from dicom_qa_node.domain.uids import derived_uid, uid_key
from dicom_qa_node.report import sr_codes
from dicom_qa_node.report.source_headers import Sources, patient_and_study
from dicom_qa_node.report.sr_codes import coded_concept
from dicom_qa_node.report.sr_document import (
    SOP_CLASS_UID,
    ReportRequest,
    equipment_of,
    local_time,
    report_series_uid,
    report_uid,
    set_character_set,
)

__all__ = [
    "BROKEN_DATA",
    "described",
    "document_series_uid",
    "document_uid",
    "finished",
    "new_object",
    "of_report",
    "reference",
    "report_path",
    "series_references",
    "source_images",
    "write_report",
]

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What pydicom and highdicom raise over values that cannot be read, checked or encoded.
BROKEN_DATA = (
    ArithmeticError, AssertionError, AttributeError, EOFError, InvalidDicomError, LookupError, NotImplementedError,
    RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip


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
    try:
        _make_folders(path.parent, folder)
        replace_file(path, content)
    except OSError as error:
        if error.errno in _FULL:
            raise Transient("no space is left for reports") from error
        raise Transient(f"the report cannot be written: {error.strerror}") from error
    return path


def _make_folders(folder: Path, root: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(root)
    sync_folder(root.parent)


_MODEL_NAME = "dicom-qa-node"
_LO_LENGTH = 64
# Series Numbers follow that of the report, so that viewers list the documents side by side.
_NUMBER_AFTER_REPORT = {DocumentKind.IMAGE: 1, DocumentKind.PDF: 2, DocumentKind.KEY_OBJECTS: 3}


def document_uid(kind: DocumentKind, series_instance_uid: str, version: int, model: ModelRef) -> str:
    """Return the SOP Instance UID of a document: the same for the same series, version and weights."""
    if kind is DocumentKind.REPORT:
        return report_uid(series_instance_uid, version, model)
    return derived_uid("document", kind.value, series_instance_uid, str(version), model.sha256)


def document_series_uid(kind: DocumentKind, series_instance_uid: str, model: ModelRef, moved_to: str = "") -> str:
    """Return the Series Instance UID that all versions of a document share; each kind has its own modality.

    ``moved_to`` is that of `ReportRequest`.
    """
    if kind is DocumentKind.REPORT:
        return report_series_uid(series_instance_uid, model, moved_to)
    return derived_uid("document-series", kind.value, series_instance_uid, model.name, *filter(None, [moved_to]))


def series_number(kind: DocumentKind, config: Config) -> int:
    """Return the Series Number (0020,0011) of a kind of document."""
    return min(config.report.series_number + _NUMBER_AFTER_REPORT[kind], 2147483647)


def described(sources: Sources) -> str:
    """Return the Series Description of a document."""
    number = sources.main.get("SeriesNumber")
    return "Image quality" if number is None else f"Image quality of series {number}"


def new_object(
    kind: DocumentKind, sop_class: str, modality: str, request: ReportRequest, sources: Sources, config: Config
) -> FileDataset:
    """Return a data set with the modules Patient, General Study, General Series, General Equipment and SOP Common."""
    result, main = request.result, sources.main
    uid = document_uid(kind, result.series_instance_uid, request.version, result.model)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    document = FileDataset("", patient_and_study(main), preamble=bytes(128), file_meta=meta)
    at = local_time(request.scored_at, main)
    document.SOPClassUID, document.SOPInstanceUID = UID(sop_class), UID(uid)
    document.Modality = modality
    document.SeriesInstanceUID = document_series_uid(kind, result.series_instance_uid, result.model, request.moved_to)
    document.SeriesNumber = series_number(kind, config)
    document.SeriesDescription = described(sources)
    document.InstanceNumber = request.version
    document.Manufacturer, document.ManufacturerModelName = config.report.manufacturer, _MODEL_NAME
    document.SoftwareVersions = [__version__, f"{result.model.name} {result.model.version}"[:_LO_LENGTH]]
    document.DeviceSerialNumber = document.StationName = config.ae_title
    document.InstitutionName = config.report.institution_name or str(main.get("InstitutionName") or "")[:_LO_LENGTH]
    document.InstanceCreationDate = document.ContentDate = DA(at.date())
    document.InstanceCreationTime = document.ContentTime = TM(at.time())
    document.ContributingEquipmentSequence = list(equipment_of(document, request, main))
    if main.get("TimezoneOffsetFromUTC"):
        document.TimezoneOffsetFromUTC = main.TimezoneOffsetFromUTC
    return document


def finished(document: Dataset, sources: Sources) -> bytes:
    """Name the character set and return the object as a Part 10 file."""
    with disable_value_validation():
        set_character_set(document, sources.character_set)
        buffer = BytesIO()
        document.save_as(buffer, enforce_file_format=True)
    return with_checksum(buffer.getvalue())


def of_report(request: ReportRequest) -> ReportRef:
    """Return the Structured Report that a document goes with, as a reference."""
    result = request.result
    return ReportRef(
        report_uid(result.series_instance_uid, request.version, result.model),
        SOP_CLASS_UID,
        report_series_uid(result.series_instance_uid, result.model, request.moved_to),
        result.series_instance_uid,
        request.version,
        "",
        request.scored_at,
    )


def reference(sop_class: str, uid: str, purpose: Code | None = None, frames: Sequence[int] = ()) -> Dataset:
    """Return an item that refers to an instance (PS3.3 10.8, 10.3)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(sop_class), UID(uid)
    if frames:
        item.ReferencedFrameNumber = list(frames)
    if purpose is not None:
        item.PurposeOfReferenceCodeSequence = [coded_concept(purpose)]
    return item


def source_images(sources: Sources) -> list[Dataset]:
    """Return references to the images that the verdict rests on."""
    return [reference(header.SOPClassUID, uid, sr_codes.SOURCE_IMAGE) for uid, header in sources.headers.items()]


def series_references(sources: Sources, report: ReportRef) -> list[Dataset]:
    """Return what a document refers to, by series (PS3.3 C.12.2, Common Instance Reference)."""
    by_series: dict[str, list[Dataset]] = {}
    for uid, header in sources.headers.items():
        by_series.setdefault(header.SeriesInstanceUID, []).append(reference(header.SOPClassUID, uid))
    by_series[report.report_series_uid] = [reference(report.sop_class_uid, report.sop_instance_uid)]
    return [_series_item(uid, items) for uid, items in by_series.items()]


def _series_item(uid: str, instances: Iterable[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = UID(uid)
    item.ReferencedInstanceSequence = list(instances)
    return item
