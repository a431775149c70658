"""Rules for PET hold for the tracer and the region that they were made for, and for no others."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_qa_node.config.thresholds import DEFAULTS
from dicom_qa_node.domain.results import SeriesKind, Severity
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.rules import pet as rules
from dicom_qa_node.score.rules.case import Case
from tests.unit.made_headers import coded, header
from tests.unit.synthetic_volumes import ellipse, volume


def tracer(value, scheme="SCT", name=""):
    return [header(RadiopharmaceuticalCodeSequence=coded(value, scheme), Radiopharmaceutical=name)]


FDG, FLT, WATER = tracer("35321007"), tracer("129502002"), tracer("129505000")
PIB = tracer("126500", "DCM")


def case(measured, drug=FDG, **attributes):
    made = volume(
        np.ones((4, 16, 16), np.float32), (4.0, 4.0, 4.0), SeriesKind.PT, "SUVbw",
        RadiopharmaceuticalInformationSequence=drug, **attributes,
    )  # fmt: skip
    values = {name: PET_QUANTITIES.value(name, value) for name, value in measured.items()}
    return Case(made, values, None, DEFAULTS)


FDG_ONLY = [
    (rules.suv_implausible, {"liver_suv_mean": 6.0}),
    (rules.suv_implausible, {"body_suv_mean": 4.0}),
    (rules.uptake_time_off, {"uptake_time": 5.0}),
    (rules.activity_low, {"activity_per_weight": 0.5}),
    (rules.liver_noise, {"liver_cov": 25.0}),
    (rules.global_noise, {"global_noise_index": 60.0}),
]


@pytest.mark.parametrize(("rule", "measured"), FDG_ONLY)
@pytest.mark.parametrize("drug", [FLT, WATER, PIB])
def test_limits_of_fdg_say_nothing_about_another_tracer(rule, measured, drug):
    assert rule(case(measured)) is not None
    assert rule(case(measured, drug)) is None


@pytest.mark.parametrize("drug", [FDG, FLT, WATER])
def test_activity_is_conserved_for_every_tracer_and_region(drug):
    found = rules.suv_implausible(
        case({"activity_in_field": 190.0, "body_suv_mean": 2.0}, drug, BodyPartExamined="BRAIN")
    )
    assert found is not None
    assert found.severity is Severity.ERROR
    assert "190 %" in found.evidence


def test_normal_fdg_of_the_brain_is_no_error_and_a_wrong_scale_is():
    assert rules.suv_implausible(case({"body_suv_mean": 5.3}, BodyPartExamined="BRAIN")) is None
    assert rules.suv_implausible(case({"body_suv_mean": 5.3}, ProtocolName="Hirn FDG")) is None
    assert rules.suv_implausible(case({"body_suv_mean": 14.0}, BodyPartExamined="BRAIN")) is not None


def test_a_brain_may_be_scanned_after_half_an_hour_and_a_dynamic_scan_at_once():
    assert rules.uptake_time_off(case({"uptake_time": 35.0})) is not None
    assert rules.uptake_time_off(case({"uptake_time": 35.0}, BodyPartExamined="BRAIN")) is None
    assert rules.uptake_time_off(case({"uptake_time": 10.0}, BodyPartExamined="BRAIN")) is not None
    assert rules.uptake_time_off(case({"uptake_time": 0.0}, SeriesType=["DYNAMIC", "IMAGE"])) is None


def brain(grey=9.0, white=3.5, rest=1.0):
    slices = []
    for z in np.linspace(-1, 1, 24):
        size = np.sqrt(max(1 - z * z, 0.0))
        image = np.zeros((64, 64), np.float32)
        for half, level in (((98, 78), rest), ((86, 68), grey), ((70, 52), white)):
            inside = ellipse(64, 4.0, (half[0] * size + 0.1, half[1] * size + 0.1))
            image += inside * (level - image)
        slices.append(image)
    return np.stack(slices)


@pytest.mark.parametrize("attributes", [{"BodyPartExamined": "BRAIN"}, {}])
def test_a_brain_is_known_by_the_header_or_by_its_image(attributes):
    made = volume(
        brain(), (9.0, 4.0, 4.0), SeriesKind.PT, "SUVbw", PatientWeight=75.0,
        RadiopharmaceuticalInformationSequence=FDG, **attributes,
    )  # fmt: skip
    measured = {item.name: item for item in measure(made)}
    assert measured["body_suv_mean"].value > DEFAULTS.body_suv_high
    assert measured["body_suv_mean"].high is None
    assert 5 < measured["activity_in_field"].value < 30
    assert rules.suv_implausible(Case(made, measured, None, DEFAULTS)) is None


def test_activity_in_the_field_is_that_of_the_header():
    # a cylinder of 1 l, mean SUV 5, in a patient of 50 kg: 5 kg of 50 kg
    image = 5.0 * ellipse(64, 4.0, (90.0, 90.0))
    made = volume(np.repeat(image[None], 10, 0), (4.0, 4.0, 4.0), SeriesKind.PT, "SUVbw", PatientWeight=50.0)
    measured = {item.name: item for item in measure(made)}
    expected = 100 * image.sum() * 10 * 0.064e-3 / 50.0
    assert measured["activity_in_field"].value == pytest.approx(expected, rel=0.03)


def test_the_usual_range_of_fdg_is_not_shown_for_another_tracer():
    for drug, shown in ((FDG, True), (FLT, False)):
        made = volume(
            brain(), (9.0, 4.0, 4.0), SeriesKind.PT, "SUVbw", SeriesDate="20240501", SeriesTime="100000",
            RadiopharmaceuticalInformationSequence=[header(
                **{item.keyword: item.value for item in drug[0]}, RadiopharmaceuticalStartTime="090000"
            )],
        )  # fmt: skip
        measured = {item.name: item for item in measure(made)}
        assert (measured["uptake_time"].low is not None) is shown


@pytest.mark.parametrize(
    ("attributes", "name", "reason"),
    [
        ({"PrimaryPromptsCountsAccumulated": 193, "ActualFrameDuration": 180000}, "prompt_counts", "193 in 180 s"),
        ({"PrimaryPromptsCountsAccumulated": 193}, "randoms_fraction", "193"),
        (
            {"PrimaryPromptsCountsAccumulated": 4000000, "SecondaryCountsAccumulated": 9000000},
            "randoms_fraction",
            "cannot be",
        ),
        ({"ActualFrameDuration": 180}, "frame_duration", "180 ms"),
        ({"ScatterFractionFactor": 35}, "scatter_fraction", "between 0 and 1"),
    ],
)
def test_a_header_value_that_cannot_be_is_withheld_with_what_it_is(attributes, name, reason):
    made = volume(np.ones((2, 16, 16), np.float32), (4.0, 4.0, 4.0), SeriesKind.PT, "SUVbw", **attributes)
    found = next(item for item in measure(made) if item.name == name)
    assert found.value is None
    assert reason in found.not_applicable


def test_an_activity_in_an_unknown_unit_is_withheld():
    drug = [header(RadionuclideTotalDose=10.0)]
    made = volume(
        np.ones((2, 16, 16), np.float32), (4.0, 4.0, 4.0), SeriesKind.PT, "SUVbw", PatientWeight=70.0,
        RadiopharmaceuticalInformationSequence=drug,
    )  # fmt: skip
    found = {item.name: item for item in measure(made)}
    assert "not in Bq" in found["administered_activity"].not_applicable
