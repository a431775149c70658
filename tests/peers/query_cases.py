"""The queries that the node and DCMTK's dcmqrscp are asked alike, and where dcmqrscp departs from the standard."""

from __future__ import annotations

from typing import Any

from tests.query_samples import CASES

STUDY, PATIENT = "study root", "patient root"
UID = {case.number: case.study_uid for case in CASES}
SERIES = {case.number: case.series_uid for case in CASES}
PERSON = {"PatientName": None, "PatientID": None}
Query = tuple[str, str, dict[str, Any]]


def study(**keys: Any) -> Query:
    return STUDY, "STUDY", {"StudyInstanceUID": None, **keys}


def series(number: int, **keys: Any) -> Query:
    return STUDY, "SERIES", {"StudyInstanceUID": UID[number], "SeriesInstanceUID": None, **keys}


def image(number: int, **keys: Any) -> Query:
    upper = {"StudyInstanceUID": UID[number], "SeriesInstanceUID": SERIES[number]}
    return STUDY, "IMAGE", {**upper, "SOPInstanceUID": None, **keys}


QUERIES: dict[str, Query] = {
    "every study": study(),
    "every study with its patient": study(**PERSON),
    "every study with its date and time": study(StudyDate=None, StudyTime=None),
    "every study with accession and ID": study(AccessionNumber=None, StudyID=None),
    "every study with description": study(StudyDescription=None),
    "one study by UID": study(StudyInstanceUID=UID[1]),
    "a list of studies": study(StudyInstanceUID=[UID[1], UID[3], UID[8]]),
    "a list with an unknown study": study(StudyInstanceUID=[UID[1], "1.2.3.4"]),
    "an unknown study": study(StudyInstanceUID="1.2.3.4"),
    "the whole name": study(PatientName="Adams^John"),
    "the family name alone": study(PatientName="Adams"),
    "name with star at its end": study(PatientName="Adams*"),
    "name with star inside": study(PatientName="A*^J*n"),
    "name with star in front": study(PatientName="*Bob"),
    "name with question marks": study(PatientName="Adams^J???"),
    "name with too few question marks": study(PatientName="Adams^J?"),
    "name with star and question mark": study(PatientName="?rown^*"),
    "star alone": study(PatientName="*", PatientID=None),
    "name in lower case": study(PatientName="adams^john"),
    "name in lower case with star": study(PatientName="ADAMS*"),
    "patient ID": study(PatientID="PAT-8"),
    "patient ID with star": study(PatientID="PAT-1*"),
    "patient ID in lower case": study(PatientID="pat-8"),
    "patient ID with question mark": study(PatientID="PAT-?"),
    "accession number": study(AccessionNumber="ACC-9"),
    "accession number with star": study(AccessionNumber="ACC-*"),
    "accession number, unknown": study(AccessionNumber="ACC-99"),
    "study ID": study(StudyID="S3"),
    "study date": study(StudyDate="20260105"),
    "study dates from to": study(StudyDate="20260105-20260107"),
    "study dates from": study(StudyDate="20260110-"),
    "study dates to": study(StudyDate="-20260105"),
    "study dates across the year": study(StudyDate="20251231-20260105"),
    "study dates without a study": study(StudyDate="20270101-20271231"),
    "study time": study(StudyTime="071500"),
    "study times from to": study(StudyTime="070000-120000"),
    "study times to": study(StudyTime="-080000"),
    "study times from": study(StudyTime="130000-"),
    "date and time, each by itself": study(StudyDate="20260105-20260110", StudyTime="100000-140000"),
    "date and name": study(StudyDate="20260101-20260131", PatientName="Adam*"),
    "sex": study(PatientSex="O"),
    "birth date": study(PatientBirthDate="19610203"),
    "birth dates": study(PatientBirthDate="19600101-19700101"),
    "description with star": study(StudyDescription="PET*"),
    "description in full": study(StudyDescription="Abdomen"),
    "modality in study": study(ModalitiesInStudy="PT"),
    "modality of the reports": study(ModalitiesInStudy="SR"),
    "every patient": (PATIENT, "PATIENT", dict(PERSON)),
    "patients by name": (PATIENT, "PATIENT", {"PatientName": "Adam*", "PatientID": None}),
    "one patient with sex and birth date": (
        PATIENT, "PATIENT", {"PatientID": "PAT-8", "PatientSex": None, "PatientBirthDate": None},
    ),
    "studies of a patient": (PATIENT, "STUDY", {"PatientID": "PAT-8", "StudyInstanceUID": None, "StudyDate": None}),
    "studies of an unknown patient": (PATIENT, "STUDY", {"PatientID": "PAT-99", "StudyInstanceUID": None}),
    "series of a study of a patient": (
        PATIENT, "SERIES",
        {"PatientID": "PAT-8", "StudyInstanceUID": UID[9], "SeriesInstanceUID": None, "Modality": None},
    ),
    "series of a study": series(1, Modality=None, SeriesNumber=None),
    "series with description": series(1, SeriesDescription=None),
    "series of two kinds": series(9, Modality=None, SeriesNumber=None),
    "series by modality": series(9, Modality="PT"),
    "reports of a study": series(9, Modality="SR", SeriesNumber=None),
    "series by number": series(9, SeriesNumber="10"),
    "series by UID": series(9, SeriesInstanceUID=SERIES[10], Modality=None),
    "series of an unknown study": (STUDY, "SERIES", {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": None}),
    "images of a series": image(1, InstanceNumber=None),
    "images with their class": image(1, SOPClassUID=None),
    "image by number": image(1, InstanceNumber="3"),
    "image by UID": image(1, SOPInstanceUID=f"{SERIES[1]}.4", InstanceNumber=None),
    "images by a list of UID": image(1, SOPInstanceUID=[f"{SERIES[1]}.4", f"{SERIES[1]}.6"], InstanceNumber=None),
    "series without its study": (STUDY, "SERIES", {"SeriesInstanceUID": None, "Modality": None}),
    "images without their series": (STUDY, "IMAGE", {"StudyInstanceUID": UID[1], "SOPInstanceUID": None}),
    "level PATIENT in study root": (STUDY, "PATIENT", dict(PERSON)),
    "an unknown level": (STUDY, "FRAME", {"StudyInstanceUID": None}),
}  # fmt: skip

DEVIATIONS: dict[str, tuple[str, str, Any]] = {
    "name in lower case": (
        "dcmqrscp minds the case of names; PS3.4 C.2.2.2.1.1 leaves it open, the node does not mind",
        "StudyInstanceUID", {UID[1]},
    ),
    "name in lower case with star": (
        "as before", "StudyInstanceUID", {UID[1], UID[2], UID[11]},
    ),
    "modality in study": (
        "dcmqrscp does not know the optional key Modalities in Study", "StudyInstanceUID", {UID[8], UID[9]},
    ),
    "modality of the reports": (
        "as before", "StudyInstanceUID", set(UID.values()),
    ),
    "series with description": (
        "dcmqrscp does not know the optional key Series Description",
        "SeriesDescription", {"thin", "Image quality of series 1"},
    ),
    "images with their class": (
        "dcmqrscp does not know SOP Class UID at this level", "SOPClassUID", {"1.2.840.10008.5.1.4.1.1.2"},
    ),
}  # fmt: skip
"""Where dcmqrscp does otherwise: why, and what the values of one attribute must be in the node's answer instead."""
