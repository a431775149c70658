"""Which attributes can be asked for at which level (PS3.4 C.6), the one table behind matching, index and documents."""

from __future__ import annotations

from dicom_qa_node.index.catalogue import Level

__all__ = [
    "COUNTS",
    "GROUPED",
    "IMAGE",
    "LEVELS",
    "NEUTRAL",
    "PATIENT",
    "SERIES",
    "STUDY",
    "UNIQUE_KEYS",
    "column_of",
    "known_at",
    "stored_at",
]

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "ReferringPhysicianName",
    "ModalitiesInStudy",
    "SOPClassesInStudy",
)
SERIES = (
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "BodyPartExamined",
    "ProtocolName",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "DeviceSerialNumber",
    "InstitutionName",
)
IMAGE = (
    "SOPInstanceUID",
    "SOPClassUID",
    "InstanceNumber",
    "NumberOfFrames",
    "AvailableTransferSyntaxUID",
    "ContentDate",
    "ContentTime",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "CompletionFlag",
    "VerificationFlag",
    "PreliminaryFlag",
    "ConceptNameCodeSequence",
    "ContentTemplateSequence",
    "ReferencedRequestSequence",
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
    "PredecessorDocumentsSequence",
    "PerformedProcedureCodeSequence",
    "ContributingEquipmentSequence",
)
COUNTS = {
    "NumberOfPatientRelatedStudies": "PATIENT",
    "NumberOfPatientRelatedSeries": "PATIENT",
    "NumberOfPatientRelatedInstances": "PATIENT",
    "NumberOfStudyRelatedSeries": "STUDY",
    "NumberOfStudyRelatedInstances": "STUDY",
    "NumberOfSeriesRelatedInstances": "SERIES",
}
"""Counts that a response can hold, with their level; a value asked for is matched too."""

NEUTRAL = ("SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability")
"""Elements of an identifier that are not keys."""

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
GROUPED = {"PATIENT": Level.PATIENT, "STUDY": Level.STUDY, "SERIES": Level.SERIES}

_AT_LEVEL = {"PATIENT": PATIENT, "STUDY": STUDY, "SERIES": SERIES, "IMAGE": IMAGE}
_FROM_SERIES = frozenset({"ModalitiesInStudy", "SOPClassesInStudy"})
_COLUMNS = {
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
    "StudyInstanceUID": "study_instance_uid",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "AccessionNumber": "accession_number",
    "StudyID": "study_id",
    "StudyDescription": "study_description",
    "SeriesInstanceUID": "series_instance_uid",
    "Modality": "modality",
    "SeriesNumber": "series_number",
    "SeriesDescription": "series_description",
    "BodyPartExamined": "body_part_examined",
    "ProtocolName": "protocol_name",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "manufacturer_model_name",
    "StationName": "station_name",
    "DeviceSerialNumber": "device_serial_number",
    "InstitutionName": "institution_name",
    "SOPInstanceUID": "sop_instance_uid",
}


def column_of(keyword: str) -> str:
    """Return the column of the registry that holds an attribute, "" if none does."""
    return _COLUMNS.get(keyword, "")


def known_at(level: str) -> frozenset[str]:
    """Return the keys of a query at ``level``: what is stored at this level and above, and what is derived at it."""
    above = LEVELS[: LEVELS.index(level) + 1]
    known = {keyword for name in above for keyword in _AT_LEVEL[name]} - _FROM_SERIES
    derived = {keyword for keyword, of_level in COUNTS.items() if of_level == level}
    return frozenset(known | derived | (_FROM_SERIES if level == "STUDY" else set()))


def stored_at(level: str) -> tuple[str, ...]:
    """Return the attributes of a grouped level, and of the levels above, that are stored and not derived."""
    above = LEVELS[: LEVELS.index(level) + 1]
    return tuple(keyword for name in above for keyword in _AT_LEVEL[name] if keyword not in _FROM_SERIES)
