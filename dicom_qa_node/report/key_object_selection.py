"""Makes the Key Object Selection "Quality Issue" (PS3.16 TID 2010) that leads a reader to the offending slices.

Its title is always 113010: that of rejection, 113001, makes archives hide images (IHE IOCM). The reasons stand in the
description; codes for them (CID 7011) are those of rejection, and PixelMed's validator allows them there only.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.uid import UID, ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage
from pydicom.valuerep import DA, TM

from dicom_qa_node.config import Config
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.results import Grade, SeriesResult, Severity
from dicom_qa_node.report import sr_codes
from dicom_qa_node.report.document_base import described, document_series_uid, document_uid, finished, series_number
from dicom_qa_node.report.source_headers import Sources, patient_and_study
from dicom_qa_node.report.sr_codes import coded_concept
from dicom_qa_node.report.sr_document import ReportRequest, device_uid, equipment_of, local_time
from dicom_qa_node.report.valid_values import plain_text

__all__ = ["KO_SOP_CLASS_UID", "key_objects", "offending"]

KO_SOP_CLASS_UID = str(KeyObjectSelectionDocumentStorage)

_WORST = 3


def offending(result: SeriesResult, grades_from: float) -> dict[str, tuple[int, ...]]:
    """Return what to point at: SOP Instance UIDs with frame numbers, () for a whole instance.

    These are the images of warnings and errors and, where the series is not diagnostic, the three lowest slices
    below ``grades_from``, the lowest score graded diagnostic.
    """
    found: dict[str, tuple[int, ...]] = {}
    if result.grade in (Grade.LIMITED, Grade.NON_DIAGNOSTIC):
        low = sorted((item for item in result.slices if item.score < grades_from), key=lambda item: item.score)
        for item in low[:_WORST]:
            frames = () if item.frame_number is None else (item.frame_number,)
            found[item.sop_instance_uid] = tuple(sorted({*found.get(item.sop_instance_uid, ()), *frames}))
    for finding in result.findings:
        if finding.severity is not Severity.INFO:
            for uid in finding.sop_instance_uids:
                found.setdefault(uid, ())
    return found


def key_objects(request: ReportRequest, sources: Sources, config: Config) -> bytes | None:
    """Return the document as a Part 10 file, None where there is nothing to point at."""
    result = request.result
    wanted = offending(result, config.score.grades.diagnostic)
    images = [sources.headers[uid] for uid in wanted if uid in sources.headers]
    if not images:
        return None
    with disable_value_validation():
        document = _document(request, images, sources, config)
        for item in document.ContentSequence:
            if item.ValueType == "IMAGE":
                referenced = item.ReferencedSOPSequence[0]
                frames = wanted[referenced.ReferencedSOPInstanceUID]
                if frames:
                    referenced.ReferencedFrameNumber = list(frames)
                # TID 2010 row 8 has no concept name; highdicom's "Source" is an error to PixelMed's validator.
                del item.ConceptNameCodeSequence
        _complete(document, request, sources, config)
    return finished(document, sources)


def _document(
    request: ReportRequest, images: Sequence[Dataset], sources: Sources, config: Config
) -> KeyObjectSelectionDocument:
    result = request.result
    content = KeyObjectSelection(
        document_title=coded_concept(sr_codes.QUALITY_ISSUE),
        referenced_objects=images,
        observer_device_context=_observer(request, config),
        description=_description(result),
    )
    kind = DocumentKind.KEY_OBJECTS
    return KeyObjectSelectionDocument(
        evidence=[_nameless(header) for header in images],
        content=content,
        series_instance_uid=document_series_uid(kind, result.series_instance_uid, result.model, request.moved_to),
        series_number=series_number(kind, config),
        sop_instance_uid=document_uid(kind, result.series_instance_uid, request.version, result.model),
        instance_number=request.version,
        manufacturer=config.report.manufacturer,
        institution_name=config.report.institution_name or str(sources.main.get("InstitutionName") or "")[:64] or None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        manufacturer_model_name="dicom-qa-node",
        specific_character_set=None,
    )


def _nameless(header: Dataset) -> Dataset:
    # highdicom warns about every name without a caret; the name of the images is put back in `_complete`.
    copy = Dataset()
    copy.update(header)
    copy.add_new("PatientName", "PN", "")
    return copy


def _complete(document: Dataset, request: ReportRequest, sources: Sources, config: Config) -> None:
    main = sources.main
    at = local_time(request.scored_at, main)
    # highdicom copies a part of the modules only.
    document.update(patient_and_study(main))
    document.SeriesDescription = described(sources)
    document.ContentDate = document.InstanceCreationDate = DA(at.date())
    document.ContentTime = document.InstanceCreationTime = TM(at.time())
    document.ContributingEquipmentSequence = list(equipment_of(document, request, main))
    document.StationName = document.DeviceSerialNumber = config.ae_title
    if main.get("TimezoneOffsetFromUTC"):
        document.TimezoneOffsetFromUTC = main.TimezoneOffsetFromUTC
    document.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    document.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _observer(request: ReportRequest, config: Config) -> ObserverContext:
    model = request.result.model
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid(model),
        name=config.ae_title,
        manufacturer_name=config.report.manufacturer,
        model_name="dicom-qa-node",
        serial_number=config.ae_title,
    )
    return ObserverContext(observer_type=coded_concept(sr_codes.DEVICE), observer_identifying_attributes=device)


def _description(result: SeriesResult) -> str:
    parts = []
    if result.score is not None and result.grade is not None:
        parts.append(f"Image quality {result.score:.1f} of 4, {result.grade_text}.")
    parts += [item.sentence for item in result.findings if item.severity is not Severity.INFO]
    return plain_text(" ".join(parts))
