"""Reads from the spool what a report takes over from its source images: patient, study and geometry.

Headers are cleaned on the way: names become Unicode, and a value that breaks its value representation is left out
or empty instead of making the report impossible.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from dicom_qa_node.charsets import dcmread
from dicom_qa_node.errors import Permanent
from dicom_qa_node.records import SeriesResult, StoredInstance
from dicom_qa_node.spool.layout import is_uid

__all__ = ["Sources", "patient_and_study", "read_sources", "referenced_uids"]

_PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientIDsSequence", "OtherPatientNames",
    "EthnicGroup", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "PatientSpeciesDescription", "ResponsiblePerson",
)  # fmt: skip
_TRIAL = (
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
)  # fmt: skip
_TRIAL_SUBJECT = ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID")
_STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "AdditionalPatientHistory",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
)  # fmt: skip
_EQUIPMENT = (
    "Manufacturer", "ManufacturerModelName", "InstitutionName", "InstitutionalDepartmentName", "InstitutionAddress",
    "StationName", "DeviceSerialNumber", "SoftwareVersions", "TimezoneOffsetFromUTC",
)  # fmt: skip
_IMAGE = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality",
    "FrameOfReferenceUID", "Rows", "Columns", "NumberOfFrames", "PixelSpacing", "SliceThickness",
    "ImagePositionPatient", "ImageOrientationPatient", "SharedFunctionalGroupsSequence", "SeriesDescription",
)  # fmt: skip
_REQUIRED_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_VALID = {
    "DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
}
_BROKEN_VALUE = (
    ValueError, TypeError, AttributeError, LookupError, OverflowError, NotImplementedError, RecursionError,
    struct.error,
)  # fmt: skip
_IDENTIFYING = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_NUMBERS = ("DS", "IS", "US")
_SEXES = ("M", "F", "O")


@dataclass(frozen=True, slots=True)
class Sources:
    """The headers of the images that a report refers to, by SOP Instance UID; the first one gives the patient.

    ``character_set`` is the Specific Character Set of that image, () for the default repertoire.
    """

    headers: Mapping[str, Dataset]
    character_set: tuple[str, ...]

    @property
    def main(self) -> Dataset:
        """The header that patient, study and equipment are taken from."""
        return next(iter(self.headers.values()))


def patient_and_study(header: Dataset) -> Dataset:
    """Return the elements of a cleaned header that describe patient and study (PS3.3 C.7.1, C.7.2)."""
    chosen = Dataset()
    for keyword in (*_PATIENT, *_TRIAL, *_STUDY):
        if keyword in header:
            chosen.add(header[keyword])
    return chosen


def referenced_uids(result: SeriesResult, instances: Sequence[StoredInstance]) -> list[str]:
    """Return the SOP Instance UIDs that the report of ``result`` refers to; never empty for a stored series."""
    wanted = [item.sop_instance_uid for item in result.slices]
    wanted += [uid for finding in result.findings for uid in finding.sop_instance_uids]
    if not wanted:
        own = [item for item in instances if item.series.series_instance_uid == result.series_instance_uid]
        wanted = [own[len(own) // 2].sop_instance_uid] if own else []
    return list(dict.fromkeys(wanted))


def read_sources(spool_dir: Path, result: SeriesResult, instances: Sequence[StoredInstance]) -> Sources:
    """Read the headers of the images that the report of ``result`` refers to.

    Parameters
    ----------
    spool_dir
        Folder that the instances' paths are relative to.
    instances
        The stored instances of the series and of its paired series.

    Raises
    ------
    Permanent
        An image that the result names was never stored, or its file is gone or unreadable.
    """
    usable = [item for item in instances if not item.conflict]
    by_uid = {item.sop_instance_uid: item for item in usable}
    wanted = referenced_uids(result, usable)
    missing = [uid for uid in wanted if uid not in by_uid]
    if missing or not wanted:
        raise Permanent(f"the result refers to {len(missing)} image(s) that are not stored: {', '.join(missing[:3])}")
    images = [by_uid[uid] for uid in _patient_first(wanted, by_uid, result)]
    raw = [_read_header(spool_dir / item.path, item.sop_instance_uid) for item in images]
    charset = raw[0].get("SpecificCharacterSet") or ()
    names = (charset,) if isinstance(charset, str) else tuple(charset)
    cleaned = {item.sop_instance_uid: _cleaned(header, item) for item, header in zip(images, raw, strict=True)}
    return Sources(cleaned, names)


def _patient_first(wanted: Iterable[str], by_uid: Mapping[str, StoredInstance], result: SeriesResult) -> list[str]:
    # The scored series leads, so that a paired CT never lends its patient or equipment to a PET report.
    own = result.series_instance_uid
    return sorted(wanted, key=lambda uid: by_uid[uid].series.series_instance_uid != own)


def _read_header(path: Path, uid: str) -> Dataset:
    tags = [*_PATIENT, *_TRIAL, *_STUDY, *_EQUIPMENT, *_IMAGE]
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except (OSError, InvalidDicomError) as error:
        raise Permanent(f"the image {uid} cannot be read from the spool") from error
    if header.file_meta.get("MediaStorageSOPInstanceUID") != uid:
        raise Permanent(f"the file of image {uid} holds another instance")
    if any(keyword not in header for keyword in _IDENTIFYING):
        raise Permanent(f"the file of image {uid} is no longer whole")
    return header


def _cleaned(header: Dataset, image: StoredInstance) -> Dataset:
    clean = Dataset()
    for tag in sorted(header.keys()):
        element = _readable(header, tag)
        if element is not None and element.keyword != "SpecificCharacterSet":
            clean.add(element)
    # The registry's UIDs, as the receiver checked them, hold even where those of the header cannot be read.
    clean.SOPClassUID, clean.SOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
    clean.SeriesInstanceUID = image.series.series_instance_uid
    clean.StudyInstanceUID = image.series.study_instance_uid
    for keyword in _REQUIRED_TYPE_2:
        if clean.get(keyword) is None:
            setattr(clean, keyword, "")
    if clean.PatientSex not in _SEXES:
        clean.PatientSex = ""
    _clean_trial(clean)
    return clean


def _clean_trial(header: Dataset) -> None:
    """Leave the Clinical Trial Subject module out where it lacks what makes it one (PS3.3 C.7.1.3)."""
    named = header.get("ClinicalTrialSponsorName") and header.get("ClinicalTrialProtocolID")
    whole = named and any(header.get(keyword) for keyword in _TRIAL_SUBJECT)
    for keyword in _TRIAL_SUBJECT if whole else _TRIAL:
        if keyword in header and not (whole and header.get(keyword)):
            delattr(header, keyword)


def _readable(header: Dataset, tag: BaseTag) -> DataElement | None:
    """Return a cleaned element, None where its value breaks its VR or its VR is not that of PS3.6."""
    try:
        element = header[tag]
        return _cleaned_element(element) if dictionary_VR(tag) == element.VR else None
    except _BROKEN_VALUE:
        return None


def _cleaned_element(element: DataElement) -> DataElement:
    value = element.value
    if element.VR == "SQ":
        value = [_without_charset(item) for item in value]
    elif element.VR == "PN":
        value = [_name(item) for item in value] if isinstance(value, MultiValue) else _name(value)
    elif _breaks_its_form(element.VR, str(value or "")):
        value = ""
    elif element.VR in _NUMBERS and not (_finite(value) and _in_number(element)):
        value = None
    return DataElement(element.tag, element.VR, value)


def _breaks_its_form(vr: str, text: str) -> bool:
    return not is_uid(text) if vr == "UI" else vr in _VALID and not _VALID[vr].fullmatch(text)


def _in_number(element: DataElement) -> bool:
    return element.VM <= 1 or not element.keyword or dictionary_VM(element.tag) != "1"


def _finite(value: Any) -> bool:
    values = value if isinstance(value, MultiValue) else [value]
    return all(item in (None, "") or math.isfinite(item) for item in values)


def _without_charset(item: Dataset) -> Dataset:
    clean = Dataset()
    for element in item:
        if element.keyword != "SpecificCharacterSet":
            clean.add(_cleaned_element(element))
    return clean


def _name(value: PersonName | str | None) -> PersonName:
    # A name that was read keeps its bytes and their encodings; one made from text is encoded as the report is.
    return PersonName(str(value or ""))
