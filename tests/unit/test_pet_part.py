"""The PET part: absolute anchors, the lower of noise and resolution, and the ranges in which each of them holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dicom_qa_node.config import Grades
from dicom_qa_node.domain.results import (
    DimensionScore,
    Grade,
    QualityDimension,
    RatedPart,
    RatedPartKind,
)
from dicom_qa_node.score.grade_sets import grade_set
from dicom_qa_node.score.pet_part import rate_pet
from dicom_qa_node.score.physics.measurements import PetExamination
from dicom_qa_node.score.physics.pet_anchors import (
    LIVER_REFERENCE,
    at_equal_width,
    body_reference,
    noise_score,
    recovery,
    resolution_score,
)
from dicom_qa_node.score.physics.pet_body_noise import BodyNoise, noise_width
from dicom_qa_node.score.physics.pet_plausibility import Implausible, PlausibilityRule
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.rating import as_attenuation_ct, fused


def examined(cov=0.2, width_mm=7.0, liver=None, broken=(), unchecked="", noise=None, half_depth_mm=120.0):
    measured = noise or BodyNoise(cov, width_mm, {0: cov, 1: 2 * cov}, half_depth_mm)
    of_liver = () if liver is None else (PET_QUANTITIES.value("liver_cov", 100 * liver),)
    return PetExamination(None, broken, unchecked, measured, of_liver)


@pytest.mark.parametrize(("cov", "score"), [(0.05, 3.98), (0.10, 3.5), (0.15, 2.5), (0.20, 1.79), (0.60, 0.0)])
def test_liver_noise_meets_its_anchors(cov, score):
    assert noise_score(cov, LIVER_REFERENCE) == pytest.approx(score, abs=0.02)


def test_scores_fall_without_a_step():
    covs, widths = np.linspace(0.0, 1.0, 401), np.linspace(0.0, 40.0, 401)
    for scores in ([noise_score(cov, 0.2) for cov in covs], [resolution_score(width) for width in widths]):
        assert max(np.diff(scores)) <= 1e-12
        assert min(np.diff(scores)) > -0.2
        assert (scores[0], scores[-1]) == (4.0, 0.0) or scores[-1] < 0.3


@pytest.mark.parametrize(("width", "share"), [(6.0, 0.72), (8.0, 0.46), (10.0, 0.29), (12.0, 0.19), (20.0, 0.05)])
def test_recovery_of_a_sphere_is_that_of_a_blurred_ball(width, share):
    assert recovery(width) == pytest.approx(share, abs=0.01)
    step = 0.5
    axis = np.arange(-30, 30.1, step)
    ball = (sum(np.square(part) for part in np.meshgrid(axis, axis, axis, indexing="ij")) <= 25.0).astype(np.float32)
    blurred = ndimage.gaussian_filter(ball, width / 2.3548 / step)
    assert recovery(width) == pytest.approx(float(blurred.max()), abs=0.02)


@pytest.mark.parametrize("width", [4.0, 7.0, 12.0])
def test_the_width_comes_back_from_the_ratio(width):
    four_sigma = 4 * (width / 2.3548) ** 2
    ratio = np.expm1(-25 / four_sigma) / np.expm1(-100 / four_sigma)
    assert noise_width(float(ratio), 5.0, 10.0) == pytest.approx(width, rel=1e-3)
    assert noise_width(1.0, 5.0, 10.0) == 0.0
    assert noise_width(0.25, 5.0, 10.0) is None


def test_a_filter_does_not_better_the_noise_score():
    known = at_equal_width(0.2, 9.0)
    for width in (10.0, 12.0, 16.0):
        assert at_equal_width(0.2 * (9.0 / width) ** 1.5, width) == pytest.approx(known)
    assert at_equal_width(0.2, 5.0) == 0.2


def test_limbs_have_another_reference_than_trunks():
    assert body_reference(60.0) == 0.25
    assert body_reference(130.0) == 0.12
    assert 0.12 < body_reference(100.0) < 0.25


def test_the_lower_of_noise_and_resolution_decides():
    noisy, blurred = rate_pet(examined(0.3, 7.0), "").part, rate_pet(examined(0.05, 13.0), "").part
    assert (noisy.limiting, blurred.limiting) == (QualityDimension.NOISE, QualityDimension.RESOLUTION)
    for part in (noisy, blurred):
        assert part.score == min(item.score for item in part.dimensions)
        assert part.interval[0] <= part.score <= part.interval[1]
        assert part.interval_origin


def test_the_liver_is_preferred_and_narrows_the_interval():
    liver, body = rate_pet(examined(liver=0.15), "").part, rate_pet(examined(0.2), "").part
    assert liver.score == pytest.approx(2.5, abs=0.01)
    assert liver.interval[1] - liver.interval[0] < body.interval[1] - body.interval[0]


def test_what_cannot_be_measured_is_not_rated_and_withholds_the_score():
    for case, reason in (
        (examined(noise="pixels of 8.0 mm; too large"), "pixels of 8.0 mm"),
        (examined(unchecked="the PET shows no body"), "no body"),
    ):
        rating = rate_pet(case, "")
        assert rating.part.score is None
        assert reason in rating.withheld
        assert reason in rating.findings[0].sentence
    assert "tracer" in rate_pet(examined(), "the tracer is PSMA").withheld


def test_large_pixels_leave_the_liver_and_widen_the_interval():
    part = rate_pet(examined(noise="pixels of 8.0 mm; too large", liver=0.15), "").part
    assert part.score == pytest.approx(2.5, abs=0.01)
    assert part.interval[0] == pytest.approx(1.5, abs=0.01)
    assert part.dimensions[1].reason


@pytest.mark.parametrize(("rule", "score"), [(PlausibilityRule.FLAT, 0.0), (PlausibilityRule.SEAMS, 1.0)])
def test_a_broken_rule_caps_the_part_and_withholds_the_score(rule, score):
    rating = rate_pet(examined(0.05, broken=(Implausible(rule, "figure 1"),)), "")
    (finding,) = rating.findings
    assert rating.part.score == score
    assert (finding.key, finding.severity.value, finding.code.value) == ("pet_implausible", "error", "F130")
    assert rule.value in finding.evidence
    assert rule.value in rating.withheld


def test_slices_are_scored_by_their_own_noise():
    scores = rate_pet(examined(0.1, 7.0), "", [0, 1, 7]).slice_scores
    assert scores[0] > scores[1]
    assert scores[2] == rate_pet(examined(0.1, 7.0), "").part.score


@pytest.mark.parametrize(
    ("interval", "grades"),
    [
        ((3.0, 4.0), (Grade.DIAGNOSTIC, None)),
        ((2.2, 3.0), (Grade.DIAGNOSTIC, Grade.LIMITED)),
        ((1.6, 2.4), (Grade.LIMITED, None)),
        ((1.0, 2.0), (Grade.LIMITED, Grade.NON_DIAGNOSTIC)),
        ((0.0, 1.0), (Grade.NON_DIAGNOSTIC, None)),
        ((1.0, 3.0), (Grade.DIAGNOSTIC, Grade.NON_DIAGNOSTIC)),
    ],
)
def test_a_grade_set_holds_both_ends_of_the_interval(interval, grades):
    assert grade_set(sum(interval) / 2, interval, Grades()) == grades


def part(kind, score, **more):
    return RatedPart(kind, score, interval=(score - 0.5, score + 0.5), **more)


def test_the_lowest_part_that_may_decide_gives_the_verdict():
    pet, ct = part(RatedPartKind.PET, 3.0), part(RatedPartKind.CT, 2.6)
    display = part(RatedPartKind.DISPLAY, 0.5, decisive=False)
    verdict = fused((pet, ct, display), (), (), Grades())
    assert (verdict.score, verdict.decided_by, verdict.interval) == (2.6, RatedPartKind.CT, (2.1, 3.1))
    assert (verdict.grade, verdict.grade_low) == (Grade.DIAGNOSTIC, Grade.LIMITED)
    assert "CT" in verdict.why
    withheld = fused((RatedPart(RatedPartKind.CT, None, reason="no HU"),), (), (), Grades())
    assert (withheld.score, withheld.why) == (None, "No score: CT: no HU.")


def test_noise_of_an_attenuation_ct_counts_as_two_and_its_artefacts_as_they_are():
    noise = DimensionScore(QualityDimension.NOISE, 0.8)
    noisy = as_attenuation_ct(part(RatedPartKind.CT, 0.8, dimensions=(noise,)))
    assert (noisy.score, noisy.counted) == (0.8, 2.0)
    streaks = DimensionScore(QualityDimension.ARTEFACT, 1.2)
    streaky = as_attenuation_ct(part(RatedPartKind.CT, 0.8, dimensions=(noise, streaks)))
    assert streaky.counted == 1.2
    verdict = fused((part(RatedPartKind.PET, 3.0), noisy), (), (), Grades())
    assert verdict.score == 2.0
    assert Grade.NON_DIAGNOSTIC not in (verdict.grade, verdict.grade_low)
