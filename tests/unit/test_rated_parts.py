"""The parts of a verdict as records: labels of grade sets, the deciding part, and their way through JSON."""

from __future__ import annotations

from dicom_qa_node.domain.results import (
    DimensionScore,
    Grade,
    ModelRef,
    QualityDimension,
    RatedPart,
    RatedPartKind,
    SeriesKind,
    SeriesResult,
    SourceImage,
    grade_label,
    result_from_json,
    result_to_json,
)

MODEL = ModelRef("network", "1", "f" * 64)


def test_a_grade_set_is_labelled_by_both_ends() -> None:
    assert grade_label(Grade.DIAGNOSTIC) == "diagnostic"
    assert grade_label(Grade.DIAGNOSTIC, Grade.LIMITED) == "diagnostic–limited"
    assert grade_label(Grade.LIMITED, Grade.LIMITED) == "limited"
    assert grade_label(None) == ""


def test_the_parts_come_back_from_json() -> None:
    dimension = DimensionScore(QualityDimension.NOISE, 1.2, "body noise 40 %")
    pet = RatedPart(
        RatedPartKind.PET, 1.2, (0.5, 1.9), Grade.LIMITED, Grade.NON_DIAGNOSTIC, (dimension,), QualityDimension.NOISE,
        images=(SourceImage("1.2.3", "1.2.840.10008.5.1.4.1.1.128", 4),),
    )  # fmt: skip
    ct = RatedPart(RatedPartKind.CT, None, reason="no body in the field")
    result = SeriesResult(
        "1.2", "PT", SeriesKind.PETCT, 1.2, (0.5, 1.9), Grade.LIMITED, (), (), (), MODEL, 3,
        grade_low=Grade.NON_DIAGNOSTIC, rated_parts=(pet, ct), decided_by=RatedPartKind.PET, why="PET noise.",
    )  # fmt: skip
    again = result_from_json(result_to_json(result))
    assert again == result
    assert again.deciding_part == pet
    assert again.rated_part(RatedPartKind.DISPLAY) is None
    assert again.grade_text == "limited–non-diagnostic"


def test_a_result_written_before_there_were_parts_is_read() -> None:
    old = SeriesResult("1.2", "CT", SeriesKind.CT, 3.0, None, Grade.DIAGNOSTIC, (), (), (), MODEL, 3)
    text = result_to_json(old).replace(',"grade_low":null,"rated_parts":[],"decided_by":null,"why":""', "")
    assert "rated_parts" not in text
    assert result_from_json(text) == old
