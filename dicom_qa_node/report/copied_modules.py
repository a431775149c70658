"""Copies the modules of a source header that describe patient, study and scanner (PS3.3 C.7.1, C.7.2, C.7.5).

A module that a source filled by half is completed with empty type 2 attributes where that is allowed, and left out
otherwise; sequences are copied by the attributes of their macro, so that nothing private or nested comes along.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue

from dicom_qa_node.report.valid_values import Changes, stated_text, valid_element

__all__ = [
    "COPIED",
    "READING_ERRORS",
    "character_set_of_item",
    "coded_items",
    "copied_modules",
    "patient_and_study",
]

_PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientIDsSequence", "OtherPatientNames",
    "EthnicGroup", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)  # fmt: skip
_VETERINARY = (
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientSexNeutered", "PatientBreedDescription",
    "PatientBreedCodeSequence", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
)  # fmt: skip
_TRIAL_IDENTIFIED = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID")
_TRIAL_TYPE_2 = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")
_TRIAL_SUBJECT = ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID")
_TRIAL = (*_TRIAL_IDENTIFIED, *_TRIAL_TYPE_2, *_TRIAL_SUBJECT)
_STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "AdditionalPatientHistory",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
)  # fmt: skip
_EQUIPMENT = (
    "Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName", "DeviceSerialNumber",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip

COPIED = (*_PATIENT, *_VETERINARY, *_TRIAL, *_STUDY, *_EQUIPMENT)
"""Keywords of every attribute that comes from a source header, those of images' geometry aside."""

READING_ERRORS = (
    ValueError, TypeError, AttributeError, LookupError, OverflowError, NotImplementedError, RecursionError,
    EOFError, struct.error,
)  # fmt: skip
"""What pydicom raises over elements that it cannot read."""


def copied_modules(header: Dataset, character_set: Sequence[str], changes: Changes) -> Dataset:
    """Return patient, study and equipment of a header, every value valid, every module whole.

    Parameters
    ----------
    header
        As read from the file, its elements not yet looked at.
    changes
        Takes what was changed or left out.
    """
    copy = Dataset()
    for keyword in COPIED:
        if keyword in header:
            element = _copied(header, keyword, character_set, changes)
            if element is not None and not (element.VR == "SQ" and not element.value):
                copy.add(element)
    for complete in (_complete_patient, _complete_veterinary, _complete_trial, _complete_trial_study):
        complete(copy, changes)
    for keyword in _TYPE_2:
        if keyword not in copy:
            setattr(copy, keyword, "")
    return copy


def patient_and_study(header: Dataset) -> Dataset:
    """Return the elements of a copied header that describe patient and study (PS3.3 C.7.1, C.7.2)."""
    chosen = Dataset()
    for keyword in (*_PATIENT, *_VETERINARY, "BreedRegistrationSequence", *_TRIAL, *_STUDY):
        if keyword in header:
            chosen.add(header[keyword])
    return chosen


def coded_items(header: Dataset, keyword: str, character_set: Sequence[str]) -> list[Dataset]:
    """Return the whole items of a code sequence, [] where there is none that can be read."""
    element = _copied(header, keyword, character_set, Changes()) if keyword in header else None
    return [] if element is None else list(element.value)


def character_set_of_item(item: Dataset, otherwise: Sequence[str]) -> Sequence[str]:
    """Return the Specific Character Set of a data set or item, that of its parent where it has none."""
    try:
        found = item.get("SpecificCharacterSet")
    except READING_ERRORS:
        return otherwise
    if not found:
        return otherwise
    return [str(term) for term in found] if isinstance(found, (MultiValue, list, tuple)) else [str(found)]


def _copied(header: Dataset, keyword: str, character_set: Sequence[str], changes: Changes) -> DataElement | None:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    try:
        if dictionary_VR(tag) != "SQ":
            return valid_element(header.get_item(tag), character_set, changes)
        items = list(_valid_items(header, keyword, character_set, changes))
        return DataElement(tag, "SQ", items)
    except READING_ERRORS:
        changes.note(keyword, "left out (it cannot be read)")
        return None


def _valid_items(header: Dataset, keyword: str, character_set: Sequence[str], changes: Changes) -> Iterator[Dataset]:
    macro, most = _MACROS[keyword]
    element = header[keyword]
    if element.VR != "SQ":
        raise TypeError(f"{keyword} is not a sequence")
    made = 0
    for source in element.value or ():
        item = macro(source, character_set_of_item(source, character_set), changes)
        if item is None or made == most:
            changes.note(keyword, "copied without the items that are not whole")
            continue
        made += 1
        yield item


def _attributes(source: Dataset, keywords: Sequence[str], character_set: Sequence[str], changes: Changes) -> Dataset:
    copy = Dataset()
    for keyword in keywords:
        if keyword in source:
            element = _copied(source, keyword, character_set, changes)
            if element is not None and element.value:
                copy.add(element)
    return copy


def _code(source: Dataset, character_set: Sequence[str], changes: Changes) -> Dataset | None:
    """Copy an item of the Code Sequence Macro (PS3.3 table 8.8-1a)."""
    within = Changes()
    keywords = ("CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "LongCodeValue", "URNCodeValue")
    item = _attributes(source, keywords, character_set, within)
    short = _attributes(source, ("CodeValue",), character_set, within)
    if "CodeValue" in short:
        item.CodeValue = short.CodeValue
    elif "CodeValue" in source and "LongCodeValue" not in item:
        # More than 16 characters belong in Long Code Value (PS3.3 8.1).
        _copy_long_code(source, item, character_set)
    named = "CodingSchemeDesignator" in item and ("CodeValue" in item or "LongCodeValue" in item)
    return item if "CodeMeaning" in item and (named or "URNCodeValue" in item) else None


def _copy_long_code(source: Dataset, item: Dataset, character_set: Sequence[str]) -> None:
    value = (stated_text(source.get_item("CodeValue"), "SH", character_set) or "").strip()
    if value.isascii() and value.isprintable() and len(value) > 16 and "\\" not in value:
        item.LongCodeValue = value


def _other_patient_id(source: Dataset, character_set: Sequence[str], changes: Changes) -> Dataset | None:
    keywords = ("PatientID", "IssuerOfPatientID", "TypeOfPatientID")
    item = _attributes(source, keywords, character_set, Changes())
    return item if "PatientID" in item and "TypeOfPatientID" in item else None


def _issuer(source: Dataset, character_set: Sequence[str], changes: Changes) -> Dataset | None:
    """Copy an item of the HL7v2 Hierarchic Designator Macro (PS3.3 table 10-17)."""
    keywords = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
    item = _attributes(source, keywords, character_set, Changes())
    if not ("UniversalEntityID" in item and "UniversalEntityIDType" in item):
        for keyword in ("UniversalEntityID", "UniversalEntityIDType"):
            if keyword in item:
                delattr(item, keyword)
    return item if len(item) else None


def _patient_issuer(source: Dataset, character_set: Sequence[str], changes: Changes) -> Dataset | None:
    item = _issuer(source, character_set, changes)
    if item is not None and "LocalNamespaceEntityID" in item:
        # The local name of a patient's issuer stands in Issuer of Patient ID (PS3.3 table 10-18).
        del item.LocalNamespaceEntityID
    return item if item else None


Macro = Callable[[Dataset, Sequence[str], Changes], Dataset | None]
_MANY = 100
_MACROS: dict[str, tuple[Macro, int]] = {
    "IssuerOfPatientIDQualifiersSequence": (_patient_issuer, 1),
    "IssuerOfAccessionNumberSequence": (_issuer, 1),
    "OtherPatientIDsSequence": (_other_patient_id, _MANY),
    "DeidentificationMethodCodeSequence": (_code, _MANY),
    "PatientSpeciesCodeSequence": (_code, 1),
    "PatientBreedCodeSequence": (_code, _MANY),
    "AnatomicRegionSequence": (_code, 1),
    "ProcedureCodeSequence": (_code, _MANY),
}


def _leave_out(copy: Dataset, keywords: Sequence[str], why: str, changes: Changes) -> None:
    for keyword in keywords:
        if keyword in copy:
            delattr(copy, keyword)
            changes.note(keyword, f"left out ({why})")


def _complete_patient(copy: Dataset, changes: Changes) -> None:
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if copy.get("PatientIdentityRemoved") == "YES" and not any(copy.get(keyword) for keyword in methods):
        _leave_out(copy, ("PatientIdentityRemoved",), "the de-identification method is missing", changes)
    for keyword in (*_PATIENT, *_STUDY):
        # Type 3 attributes that came out empty say nothing.
        if keyword in copy and keyword not in _TYPE_2 and not copy.get(keyword):
            delattr(copy, keyword)


def _complete_veterinary(copy: Dataset, changes: Changes) -> None:
    species = bool(copy.get("PatientSpeciesDescription") or copy.get("PatientSpeciesCodeSequence"))
    if not (copy.get("ResponsiblePerson") and copy.get("ResponsiblePersonRole")):
        _leave_out(copy, ("ResponsiblePersonRole",), "the responsible person is missing", changes)
        if copy.get("ResponsiblePerson"):
            _leave_out(copy, ("ResponsiblePerson",), "the role of the responsible person is missing", changes)
    if not species:
        animal = [keyword for keyword in _VETERINARY if not keyword.startswith("Responsible")]
        _leave_out(copy, animal, "the species is missing", changes)
        return
    # Type 2C for every non-human organism (PS3.3 table C.7-1).
    for keyword in ("PatientSexNeutered", "PatientBreedDescription", "ResponsiblePerson", "ResponsibleOrganization"):
        if keyword not in copy:
            setattr(copy, keyword, "")
    for keyword in ("PatientBreedCodeSequence", "BreedRegistrationSequence"):
        if keyword not in copy:
            setattr(copy, keyword, [])


def _complete_trial(copy: Dataset, changes: Changes) -> None:
    present = [keyword for keyword in _TRIAL if keyword in copy]
    identified = all(copy.get(keyword) for keyword in _TRIAL_IDENTIFIED)
    if not present:
        return
    if not identified or not any(copy.get(keyword) for keyword in _TRIAL_SUBJECT):
        _leave_out(copy, present, "sponsor, protocol or subject of the clinical trial is missing", changes)
        return
    for keyword in _TRIAL_TYPE_2:
        if keyword not in copy:
            setattr(copy, keyword, "")
    for keyword in _TRIAL_SUBJECT:
        if keyword in copy and not copy.get(keyword):
            delattr(copy, keyword)


def _complete_trial_study(copy: Dataset, changes: Changes) -> None:
    if "ClinicalTrialTimePointDescription" in copy and "ClinicalTrialTimePointID" not in copy:
        copy.ClinicalTrialTimePointID = ""
