"""Rates the PET of a series separately: plausible or not, then the lower of noise and resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_qa_node import __version__
from dicom_qa_node.domain.results import (
    DimensionScore,
    Finding,
    ModelRef,
    QualityDimension,
    RatedPart,
    RatedPartKind,
    Severity,
)
from dicom_qa_node.score.physics.measurements import PetExamination
from dicom_qa_node.score.physics.pet_anchors import (
    LIVER_REFERENCE,
    at_equal_width,
    body_reference,
    noise_score,
    recovery,
    resolution_score,
)
from dicom_qa_node.score.physics.pet_body_noise import BodyNoise
from dicom_qa_node.score.physics.pet_plausibility import PlausibilityRule
from dicom_qa_node.score.rules.case import code_of

__all__ = ["PET_ALGORITHM", "PetRating", "rate_pet"]

PET_ALGORITHM = ModelRef("dicom-qa-node PET noise and resolution", __version__, "")
"""Closed formulas; a new version of the node is a new version of them."""

HALF_WIDTH_LIVER = 0.5
HALF_WIDTH_BODY = 0.6
HALF_WIDTH_WITHOUT_RESOLUTION = 1.0
_ORIGIN = (
    "a convention: wide enough for noise of known size added to five FDG-PET/CT; its coverage is not measured, and no "
    "reader has checked the level of the scale"
)
_BEST = 4.0
_SENTENCES = {
    PlausibilityRule.NO_VALUES: "the PET holds no image: one value fills the body",
    PlausibilityRule.SATURATED: "the values of the PET are cut off at the top",
    PlausibilityRule.FLAT: "the PET is flat: the uptake hardly varies over the body",
    PlausibilityRule.NO_STRUCTURE: "the PET shows no anatomy, only noise",
    PlausibilityRule.LIKE_CT: "the PET is an image of the CT",
    PlausibilityRule.OUTSIDE_BODY: "the uptake of the PET does not lie where the body is",
    PlausibilityRule.MIRRORED: "the PET is mirrored against its CT",
    PlausibilityRule.LUNGS: "the lungs of the PET are brighter than its soft tissue",
    PlausibilityRule.SEAMS: "blocks of the PET do not belong together",
    PlausibilityRule.SLICES_UNORDERED: "the slices of the PET are out of order",
}


@dataclass(frozen=True, slots=True)
class PetRating:
    """The PET part, what there is to say about it, and why the series gets no score ("" where it may)."""

    part: RatedPart
    findings: tuple[Finding, ...]
    withheld: str
    slice_scores: tuple[float, ...] = ()


def rate_pet(examined: PetExamination, outside_domain: str, slices: Sequence[int] = ()) -> PetRating:
    """Rate a PET from what was measured.

    Parameters
    ----------
    outside_domain
        Why the anchors do not hold for this patient or tracer, "" where they do.
    slices
        Indices for which a score of their own is wanted.
    """
    if examined.broken:
        return _implausible(examined)
    if examined.unchecked:
        return _unrated(examined.unchecked, "pet_not_checked", Severity.ERROR)
    if outside_domain:
        return _unrated(outside_domain, "outside_domain", Severity.WARNING)
    noise, resolution = _noise(examined), _resolution(examined)
    if noise.score is None:
        return _unrated(noise.reason, "pet_not_rated", Severity.WARNING)
    part = _composed(examined, noise, resolution)
    return PetRating(part, (), "", tuple(_of_slice(examined, part, index) for index in slices))


def _implausible(examined: PetExamination) -> PetRating:
    """The rule with the lowest ceiling leads; the score it leaves is shown, and the series gets none."""
    lead = min(examined.broken, key=lambda item: item.rule.ceiling)
    sentence = _SENTENCES[lead.rule]
    evidence = "; ".join(f"{item.rule.value}: {item.evidence}" for item in examined.broken)
    text = f"The PET cannot be that of this patient: {sentence}. The series is not rated; check what was sent."
    score = lead.rule.ceiling
    dimension = DimensionScore(QualityDimension.PLAUSIBILITY, score, evidence)
    part = RatedPart(
        RatedPartKind.PET,
        score,
        interval=(0.0, score),
        dimensions=(dimension,),
        limiting=QualityDimension.PLAUSIBILITY,
        reason=f"implausible: {sentence}",
        interval_origin="rules of plausibility",
        algorithm=PET_ALGORITHM,
    )
    finding = Finding("pet_implausible", Severity.ERROR, text, evidence, code_of("pet_implausible"))
    return PetRating(part, (finding,), f"the PET is implausible ({lead.rule.value}): {sentence}")


def _unrated(reason: str, key: str, severity: Severity) -> PetRating:
    part = RatedPart(RatedPartKind.PET, None, reason=reason, algorithm=PET_ALGORITHM)
    sentence = f"The PET was not rated, so that there is no score: {reason}. The measurements stand alone."
    return PetRating(part, (Finding(key, severity, sentence, reason),), f"the PET was not rated: {reason}")


def _noise(examined: PetExamination) -> DimensionScore:
    noise, liver = examined.noise, examined.liver_cov
    width = None if isinstance(noise, str) else noise.width_mm
    if liver is not None:
        counted = at_equal_width(liver, width)
        evidence = f"{100 * liver:.0f} % in the liver{_counted(liver, counted)}"
        return DimensionScore(QualityDimension.NOISE, noise_score(counted, LIVER_REFERENCE), evidence)
    if isinstance(noise, str):
        return DimensionScore(QualityDimension.NOISE, None, reason=noise)
    counted, reference = at_equal_width(noise.cov, width), body_reference(noise.half_depth_mm)
    evidence = f"{100 * noise.cov:.0f} % in the body{_counted(noise.cov, counted)}, {100 * reference:.0f} % is routine"
    return DimensionScore(QualityDimension.NOISE, noise_score(counted, reference), evidence)


def _counted(cov: float, counted: float) -> str:
    return "" if counted == cov else f", {100 * counted:.0f} % at equal smoothing"


def _resolution(examined: PetExamination) -> DimensionScore:
    noise = examined.noise
    if isinstance(noise, str):
        return DimensionScore(QualityDimension.RESOLUTION, None, reason=noise)
    if noise.width_mm is None:
        evidence = "smoother than noise of any width"
        return DimensionScore(QualityDimension.RESOLUTION, 0.0, evidence)
    kept = 100 * recovery(noise.width_mm)
    evidence = f"noise {noise.width_mm:.1f} mm wide, a sphere of 10 mm keeps {kept:.0f} % of its contrast"
    return DimensionScore(QualityDimension.RESOLUTION, resolution_score(noise.width_mm), evidence)


def _composed(examined: PetExamination, noise: DimensionScore, resolution: DimensionScore) -> RatedPart:
    dimensions = (noise, resolution)
    scored = [(item.score, item) for item in dimensions if item.score is not None]
    score, lowest = min(scored, key=lambda pair: pair[0])
    half = HALF_WIDTH_LIVER if examined.liver_cov is not None else HALF_WIDTH_BODY
    if resolution.score is None:
        half = HALF_WIDTH_WITHOUT_RESOLUTION
    return RatedPart(
        RatedPartKind.PET,
        score,
        interval=(max(score - half, 0.0), min(score + half, _BEST)),
        dimensions=dimensions,
        limiting=lowest.dimension,
        interval_origin=_ORIGIN,
        algorithm=PET_ALGORITHM,
    )


def _of_slice(examined: PetExamination, part: RatedPart, index: int) -> float:
    """Score of one slice: its own noise against that of the series, and the resolution of the series."""
    assert part.score is not None
    noise = examined.noise
    own = noise.by_slice.get(index) if isinstance(noise, BodyNoise) else None
    if own is None or not isinstance(noise, BodyNoise) or noise.cov <= 0:
        return part.score
    ratio = own / noise.cov
    if examined.liver_cov is not None:
        value = noise_score(at_equal_width(examined.liver_cov * ratio, noise.width_mm), LIVER_REFERENCE)
    else:
        value = noise_score(at_equal_width(own, noise.width_mm), body_reference(noise.half_depth_mm))
    resolution = next((d.score for d in part.dimensions if d.dimension is QualityDimension.RESOLUTION), None)
    return value if resolution is None else min(value, resolution)
