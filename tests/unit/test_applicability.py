"""What the header says about series that the networks were not trained on, and what becomes of strange pictures."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.rules.applicability import outside_training_domain


def header(**attributes: str) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def tracer(name: str) -> Dataset:
    ds, item = Dataset(), Dataset()
    item.Radiopharmaceutical = name
    ds.RadiopharmaceuticalInformationSequence = [item]
    return ds


@pytest.mark.parametrize("age", ["015Y", "011M", "010D", "003W"])
def test_a_child_is_outside(age: str) -> None:
    assert "child" in outside_training_domain(header(PatientAge=age), SeriesKind.CT)
    assert "child" in outside_training_domain(header(PatientAge=age), SeriesKind.PETCT)


@pytest.mark.parametrize("age", ["016Y", "077Y", ""])
def test_an_adult_or_an_unknown_age_is_not(age: str) -> None:
    assert outside_training_domain(header(PatientAge=age), SeriesKind.CT) == ""


def test_the_age_is_taken_from_the_dates_where_it_is_not_given() -> None:
    assert "7 years" in outside_training_domain(
        header(PatientBirthDate="20130101", StudyDate="20200201"), SeriesKind.PT
    )
    assert outside_training_domain(header(PatientBirthDate="19500101", StudyDate="20200201"), SeriesKind.PT) == ""
    assert outside_training_domain(header(PatientBirthDate="20300101", StudyDate="20200201"), SeriesKind.PT) == ""
    assert outside_training_domain(header(PatientBirthDate="", StudyDate="20200201"), SeriesKind.PT) == ""


@pytest.mark.parametrize("part", ["KNEE", "LOWER LEG", "HAND", "HEAD", "BRAIN"])
def test_ct_of_limbs_and_heads_is_outside_and_pet_is_not(part: str) -> None:
    assert "body part" in outside_training_domain(header(BodyPartExamined=part), SeriesKind.CT)
    assert outside_training_domain(header(BodyPartExamined=part), SeriesKind.PETCT) == ""


@pytest.mark.parametrize("part", ["CHEST", "ABDOMEN", "PELVIS", "NECK", "WHOLEBODY", ""])
def test_ct_of_the_trunk_is_inside(part: str) -> None:
    assert outside_training_domain(header(BodyPartExamined=part), SeriesKind.CT) == ""


@pytest.mark.parametrize("name", ["FDG -- fluorodeoxyglucose", "Fluorodeoxyglucose F^18^", "18F-FDG", ""])
def test_fdg_or_an_unnamed_tracer_is_inside(name: str) -> None:
    assert outside_training_domain(tracer(name), SeriesKind.PETCT) == ""


@pytest.mark.parametrize("name", ["Ga-68 PSMA", "DOTATATE", "Fluorothymidine"])
def test_another_tracer_is_outside(name: str) -> None:
    assert "tracer" in outside_training_domain(tracer(name), SeriesKind.PT)
    assert "tracer" in outside_training_domain(tracer(name), SeriesKind.PETCT)


def test_code_of_the_tracer_counts_too() -> None:
    ds = tracer("solution")
    code = Dataset()
    code.CodeValue, code.CodeMeaning = "C-B1031", "Fluorodeoxyglucose F^18^"
    ds.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalCodeSequence = [code]
    assert outside_training_domain(ds, SeriesKind.PT) == ""
