"""Who and what a generated study claims to be: patient, study, scanner, and UIDs that a seed fixes."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from dicom_qa_node.phantom.patient import draw_patient
from dicom_qa_node.records import derived_uid


@dataclass(frozen=True)
class Scanner:
    """The equipment attributes (PS3.3 C.7.5.1) that the quality log groups by."""

    manufacturer: str = "Generated"
    model: str = "Phantom 64"
    station: str = "GEN01"
    serial: str = "10001"
    software: str = "1.0"
    institution: str = "Generated Hospital"


@dataclass(frozen=True)
class Identity:
    """Patient and study attributes shared by the series of one study."""

    study_uid: str
    frame_of_reference_uid: str
    patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    age: str
    height_m: float
    weight_kg: float
    accession_number: str
    study_id: str
    start: dt.datetime
    study_description: str = ""
    body_part: str = "CHEST"
    protocol: str = "Chest Abdomen"


def identity_of(seed: int, purpose: str = "ct", start: dt.datetime | None = None) -> Identity:
    """The identity of a seed: same seed and purpose, same patient and UIDs.

    Without ``start`` the study lies on a day of the seed's in 2024.
    """
    patient = draw_patient(seed)
    begin = start or dt.datetime(2024, 1, 8, 8, 0) + dt.timedelta(days=seed % 350, minutes=11 * (seed % 40))  # noqa: DTZ001
    born = begin - dt.timedelta(days=365.25 * patient.age_years + 40)
    return Identity(
        study_uid=phantom_uid(seed, purpose, "study"),
        frame_of_reference_uid=phantom_uid(seed, purpose, "frame of reference"),
        patient_id=f"PH{seed:06d}",
        patient_name=f"Phantom^Seed {seed}",
        birth_date=born.strftime("%Y%m%d"),
        sex=patient.sex,
        age=f"{patient.age_years:03d}Y",
        height_m=patient.height_m,
        weight_kg=patient.weight_kg,
        accession_number=f"A{seed:06d}",
        study_id=str(seed % 10_000),
        start=begin,
    )


def phantom_uid(seed: int, *parts: object) -> str:
    """A UID under 2.25 that depends on nothing but the seed and the parts (PS3.5 B.2)."""
    return derived_uid("phantom", str(seed), *(str(part) for part in parts))
