"""Makes the Structured Report object (PS3.3 A.35.13) around the content: identity, equipment, times, character set.

Everything is derived from the verdict, its source images and the configuration, so that building the same report
again, on any host, gives the same bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from highdicom import ContributingEquipment
from highdicom.sr import Comprehensive3DSR, MeasurementReport
from pydicom import DataElement, Dataset
from pydicom.config import RAISE, disable_value_validation, settings
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DA, DT, TM, PersonName

from dicom_qa_node import __version__
from dicom_qa_node.config import Config
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, with_checksum
from dicom_qa_node.dicom_io.pydicom_patches import convert_encodings, decode_bytes, encode_string
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.results import ModelRef, SeriesResult
from dicom_qa_node.domain.uids import derived_uid
from dicom_qa_node.report import sr_codes
from dicom_qa_node.report.source_headers import Sources, patient_and_study
from dicom_qa_node.report.sr_codes import coded_concept
from dicom_qa_node.report.tid1500 import Observer, measurement_report

__all__ = [
    "SOP_CLASS_UID",
    "ReportRequest",
    "build_document",
    "device_uid",
    "encode",
    "equipment_of",
    "local_time",
    "report_series_uid",
    "report_uid",
    "set_character_set",
]

_MODEL_NAME = "dicom-qa-node"
SOP_CLASS_UID = str(Comprehensive3DSRStorage)

_UTF8 = "ISO_IR 192"
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_LO_LENGTH = 64


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """One report to make: the verdict on a version of a series, and the report that it replaces.

    ``earlier_study`` is the Study Instance UID of that report where the images have moved to another study since, and
    ``moved_to`` that of the present one once they have moved: a series of documents never spans two studies.
    """

    result: SeriesResult
    version: int
    scored_at: dt.datetime
    predecessor: ReportRef | None = None
    earlier_study: str = ""
    moved_to: str = ""


def report_uid(series_instance_uid: str, version: int, model: ModelRef) -> str:
    """Return the SOP Instance UID of a report: the same for the same series, version and weights."""
    return derived_uid("report", series_instance_uid, str(version), model.sha256)


def report_series_uid(series_instance_uid: str, model: ModelRef, moved_to: str = "") -> str:
    """Return the Series Instance UID that all versions of a series' report in one study share, one per network."""
    return derived_uid("report-series", series_instance_uid, model.name, *filter(None, [moved_to]))


def device_uid(model: ModelRef) -> str:
    """Return the Device UID (0018,1002) of a network with these weights; retrained weights are a new device."""
    return derived_uid("device", model.name, model.sha256)


def build_document(request: ReportRequest, sources: Sources, config: Config) -> Comprehensive3DSR:
    """Return the report as a data set with its file meta information.

    Raises
    ------
    ValueError, TypeError, AttributeError, KeyError
        The verdict or a header holds what cannot stand in a report.
    """
    result = request.result
    observer = Observer(
        device_uid=device_uid(result.model),
        name=config.ae_title,
        manufacturer=config.report.manufacturer,
        model_name=_MODEL_NAME,
        serial_number=config.ae_title,
    )
    # What comes from the images is valid by `copied_modules`; UIDs of images are referenced as they are.
    with disable_value_validation():
        content = measurement_report(result, sources, observer)
        document = _document(request, content, sources, config)
        _complete(document, request, sources)
    return document


def encode(document: Comprehensive3DSR) -> bytes:
    """Return the report as a Part 10 file."""
    buffer = BytesIO()
    with disable_value_validation():
        document.save_as(buffer, enforce_file_format=True)
    return with_checksum(buffer.getvalue())


def _document(
    request: ReportRequest, content: MeasurementReport, sources: Sources, config: Config
) -> Comprehensive3DSR:
    result, main = request.result, sources.main
    local = local_time(request.scored_at, main)
    number = main.get("SeriesNumber")
    of_series = "" if number is None else f" of series {number}"
    # highdicom warns about every name without a caret; the name of the images is put back in `_complete`.
    nameless = Dataset()
    nameless.update(main)
    nameless.add_new("PatientName", "PN", "")
    root = content[0]
    document = Comprehensive3DSR(
        evidence=[nameless, *list(sources.headers.values())[1:]],
        content=_without_branches(root),
        series_instance_uid=report_series_uid(result.series_instance_uid, result.model, request.moved_to),
        series_number=config.report.series_number,
        series_description=f"Image quality{of_series}",
        sop_instance_uid=report_uid(result.series_instance_uid, request.version, result.model),
        instance_number=request.version,
        manufacturer=config.report.manufacturer,
        manufacturer_model_name=_MODEL_NAME,
        software_versions=(__version__, f"{result.model.name} {result.model.version}"[:_LO_LENGTH]),
        device_serial_number=config.ae_title,
        institution_name=config.report.institution_name or _text(main, "InstitutionName"),
        content_date=local.date(),
        content_time=local.time(),
        coding_schemes=[sr_codes.private_scheme_item()],
        is_complete=True,
        is_final=True,
        is_verified=False,
        previous_versions=_predecessors(request, main),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=None,
    )
    document.ContentSequence = root.ContentSequence
    return document


def _without_branches(root: Dataset) -> Dataset:
    """Return the root of a content tree with its first item only.

    highdicom copies the tree and searches it for references twice, which is more than half of the time of a report;
    the tree here is one that it has just made, from images that are all among the evidence.
    """
    light = Dataset()
    light.update({tag: element for tag, element in root.items() if tag != Tag("ContentSequence")})
    light.ContentSequence = [root.ContentSequence[0]]
    return light


def _complete(document: Comprehensive3DSR, request: ReportRequest, sources: Sources) -> None:
    """Add what highdicom leaves out, and replace what it takes from the clock."""
    main = sources.main
    offset = str(main.get("TimezoneOffsetFromUTC") or "")
    local = local_time(request.scored_at, main)
    # highdicom copies a part of the modules only.
    document.update(patient_and_study(main))
    document.InstanceCreationDate, document.InstanceCreationTime = DA(local.date()), TM(local.time())
    if offset:
        document.TimezoneOffsetFromUTC = offset
    document.StationName = document.DeviceSerialNumber
    document.ContributingEquipmentSequence = list(equipment_of(document, request, main))
    document.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    document.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    set_character_set(document, sources.character_set)


def _predecessors(request: ReportRequest, main: Dataset) -> list[Dataset] | None:
    if request.predecessor is None:
        return None
    item = Dataset()
    item.SOPClassUID = request.predecessor.sop_class_uid
    item.SOPInstanceUID = request.predecessor.sop_instance_uid
    item.SeriesInstanceUID = request.predecessor.report_series_uid
    item.StudyInstanceUID = request.earlier_study or main.StudyInstanceUID
    return [item]


def equipment_of(document: Dataset, request: ReportRequest, main: Dataset) -> Iterator[ContributingEquipment]:
    """Yield what contributed to a document (PS3.3 C.12.1.1.5): the scanner, and the network as processing equipment."""
    if _text(main, "Manufacturer"):
        yield ContributingEquipment(
            manufacturer=_text(main, "Manufacturer") or "",
            purpose_of_reference=coded_concept(sr_codes.ACQUISITION_EQUIPMENT),
            manufacturer_model_name=_text(main, "ManufacturerModelName"),
            device_serial_number=_text(main, "DeviceSerialNumber"),
            institution_name=_text(main, "InstitutionName"),
            station_name=(_text(main, "StationName") or "")[:16] or None,
        )
    network = request.result.model
    processing = ContributingEquipment(
        manufacturer=str(document.Manufacturer),
        purpose_of_reference=coded_concept(sr_codes.PROCESSING_EQUIPMENT),
        manufacturer_model_name=network.name[:_LO_LENGTH],
        software_versions=network.version[:_LO_LENGTH],
        device_serial_number=network.sha256,
        contribution_datetime=DT(local_time(request.scored_at, main).replace(tzinfo=None)),
        contribution_description="Image quality scored by a neural network",
    )
    processing.DeviceUID = device_uid(network)
    yield processing


def _text(header: Dataset, keyword: str) -> str | None:
    value = header.get(keyword)
    return str(value)[:_LO_LENGTH] if value else None


def local_time(at: dt.datetime, main: Dataset) -> dt.datetime:
    """Return a moment in the zone of the images (0008,0201), or in that of this host where they do not say."""
    try:
        zone = dt.datetime.strptime(str(main.get("TimezoneOffsetFromUTC") or ""), "%z").tzinfo
    except ValueError:
        zone = None
    return at.astimezone(zone)


def set_character_set(document: Dataset, preferred: Sequence[str]) -> None:
    """Set the Specific Character Set (PS3.3 C.12.1.1.2): that of the images if it can write every text of ours.

    An object with ASCII only has none. Names are made anew from their text: pydicom keeps the bytes of a name that
    was once written, in the character set of that time.
    """
    document.walk(_renew_name)
    texts = {text for text in _texts(document) if not text.isascii()}
    if "SpecificCharacterSet" in document:
        del document.SpecificCharacterSet
    if texts:
        kept = preferred and all(_survives(text, preferred) for text in texts)
        document.SpecificCharacterSet = list(preferred) if kept else _UTF8


def _renew_name(parent: Dataset, element: DataElement) -> None:
    if element.VR == "PN":
        value = element.value
        many = isinstance(value, (MultiValue, list, tuple))
        names = [PersonName(str(item)) for item in value] if many else PersonName(str(value or ""))
        # A new element: that of the sources is shared by every document of a report.
        parent[element.tag] = DataElement(element.tag, "PN", names)


def _survives(text: str, character_sets: Sequence[str]) -> bool:
    try:
        encodings = convert_encodings(list(character_sets))
        with _strict_writing():
            encoded = encode_string(text, encodings)
            # A backslash among the bytes of a letter (GB 18030, JIS X 0208) parts the value for many readers.
            return encoded.count(b"\\") == text.count("\\") and decode_bytes(encoded, encodings, set()) == text
    except (UnicodeError, LookupError):
        return False


@contextmanager
def _strict_writing() -> Iterator[None]:
    """Let pydicom raise where it would write question marks."""
    before = settings.writing_validation_mode
    settings.writing_validation_mode = RAISE
    try:
        yield
    finally:
        settings.writing_validation_mode = before


def _texts(document: Dataset) -> Iterator[str]:
    for element in document:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _TEXT_VRS and element.value:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            yield from map(str, values)
