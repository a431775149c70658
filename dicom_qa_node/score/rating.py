"""Rates one stack part by part (CT, PET, display) and makes the verdict of them: the lowest part that may decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dicom_qa_node.config import Grades
from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.results import (
    Finding,
    QualityDimension,
    RatedPart,
    RatedPartKind,
    ScoredSlice,
    SeriesKind,
    SourceImage,
)
from dicom_qa_node.score.body_region import region_of
from dicom_qa_node.score.fusion import ct_slice_at
from dicom_qa_node.score.grade_sets import grade_set, graded
from dicom_qa_node.score.grading import (
    ScoringModel,
    SeriesScore,
    grade_series,
    model_ref,
    no_score,
    outside_domain,
    scored_slice,
)
from dicom_qa_node.score.kernel_sharpness import sharpness_of_volume
from dicom_qa_node.score.pet_part import PetRating, rate_pet
from dicom_qa_node.score.physics.measurements import PetExamination
from dicom_qa_node.score.reading_windows import unread_window, windows_of
from dicom_qa_node.score.rules.applicability import outside_training_domain
from dicom_qa_node.score.slice_rendering import DisplayImages, render_display_images
from dicom_qa_node.score.slice_selection import ChosenSlice
from dicom_qa_node.score.volume import Volume
from dicom_qa_node.score.why import reason_for

__all__ = ["ATTENUATION_CT_FLOOR", "counted_score", "ct_verdict", "fused", "pet_domain", "pet_verdict"]


ATTENUATION_CT_FLOOR = 2.0
"""The noise of a CT that was made to go with a PET counts as at least this: it never makes a series non-diagnostic."""

_CT_SLICES = 4
_ATTENUATION_CT = "noise of the CT that goes with a PET counts as at least 2.0"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def ct_verdict(volume: Volume, verdict: SeriesScore, scorer: ScoringModel, grades: Grades) -> SeriesScore:
    """Return the verdict on a CT series: its one part decides."""
    part = ct_part(volume, verdict, scorer, grades)
    return fused((part,), verdict.slices, verdict.findings, grades)


def ct_part(volume: Volume, verdict: SeriesScore, scorer: ScoringModel, grades: Grades) -> RatedPart:
    """Return the part of a CT from the verdict of the network on it."""
    part = _network_part(RatedPartKind.CT, volume, verdict, scorer)
    if verdict.dimensions:
        scored = [item for item in verdict.dimensions if item.score is not None]
        lowest = min(scored, key=lambda item: item.score or 0.0, default=None)
        limiting = None if lowest is None else lowest.dimension
        part = replace(part, dimensions=verdict.dimensions, limiting=limiting)
    return graded(part, grades)


def pet_domain(volume: Volume, kind: SeriesKind) -> str:
    """Return why the anchors of the PET part do not hold for a series, "" where they do."""
    return volume.unusable or outside_training_domain(volume.header, kind, region_of(volume))


def pet_verdict(
    volume: Volume,
    ct: Volume | None,
    chosen: Sequence[ChosenSlice],
    pictures: DisplayImages,
    scorer: ScoringModel,
    grades: Grades,
    examined: PetExamination,
) -> SeriesScore:
    """Return the verdict on a PET, alone or with its CT.

    The PET is rated first; where it is implausible or cannot be rated, no network looks at it and there is no score.
    """
    kind = SeriesKind.PT if ct is None else SeriesKind.PETCT
    rating = rate_pet(examined, pet_domain(volume, kind), [item.index for item in chosen])
    images = _images(volume, [item.index for item in chosen])
    pet = graded(replace(rating.part, series_instance_uid=_series(volume), images=images), grades)
    if rating.withheld:
        skipped = [RatedPart(RatedPartKind.DISPLAY, None, reason=rating.withheld)]
        skipped += [] if ct is None else [RatedPart(RatedPartKind.CT, None, reason=rating.withheld)]
        why = reason_for((pet, *skipped), None, withheld=rating.withheld)
        return SeriesScore(None, None, None, (), rating.findings, parts=(pet, *skipped), why=why)
    shown = _displayed(volume, kind, chosen, pictures, scorer, grades)
    display = graded(_display_part(volume, shown, scorer), grades)
    parts, ct_seen = [pet, display], SeriesScore(None, None, None, ())
    if ct is not None:
        ct_seen = _paired_ct(volume, ct, chosen, scorer, grades)
        parts.insert(1, as_attenuation_ct(ct_part(ct, ct_seen, scorer, grades)))
    slices = _slices(volume, chosen, rating, display, shown.slices)
    if ct is not None:
        slices = _with_ct(slices, volume, ct, ct_seen.slices, parts[1])
    # What keeps the display from a judgement is the reason of that part, not one for the series.
    display_findings = tuple(item for item in shown.findings if item.key != "outside_domain")
    return fused(tuple(parts), slices, (*rating.findings, *display_findings), grades)


def fused(
    parts: tuple[RatedPart, ...], slices: tuple[ScoredSlice, ...], findings: tuple[Finding, ...], grades: Grades
) -> SeriesScore:
    """Return the verdict of rated parts: the lowest of those that may decide, which it names.

    The bounds are the lowest bounds of these parts: where each holds, the lowest score lies between them.
    """
    rated = [(value, part) for part in parts if part.decisive and (value := counted_score(part)) is not None]
    if not rated:
        return SeriesScore(None, None, None, (), findings, parts=parts, why=reason_for(parts, None))
    score, lead = min(rated, key=lambda pair: pair[0])
    bounds = [bound for _, part in rated if (bound := _counted_interval(part)) is not None]
    interval = (min(low for low, _ in bounds), min(high for _, high in bounds)) if bounds else None
    best, worst = grade_set(score, interval, grades)
    return SeriesScore(
        score,
        interval,
        best,
        slices,
        findings,
        grade_low=worst,
        parts=parts,
        decided_by=lead.kind,
        why=reason_for(parts, lead.kind),
    )


def counted_score(part: RatedPart) -> float | None:
    """Return the score with which a part enters the verdict."""
    return part.score if part.counted is None else part.counted


def as_attenuation_ct(part: RatedPart) -> RatedPart:
    """Return the part of a CT that goes with a PET: its noise counts as at least 2.0.

    Where no dimensions are known the whole score counts as noise, as it mostly is in such a CT.
    """
    if part.score is None or part.score >= ATTENUATION_CT_FLOOR:
        return part
    other = [
        item.score
        for item in part.dimensions
        if item.score is not None and item.dimension is not QualityDimension.NOISE
    ]
    counted = min([ATTENUATION_CT_FLOOR, *other])
    if counted <= part.score:
        return part
    return replace(part, counted=counted, counted_reason=_ATTENUATION_CT)


def _counted_interval(part: RatedPart) -> tuple[float, float] | None:
    if part.interval is None or part.counted is None or part.score is None:
        return part.interval
    raised = part.counted - part.score
    return max(part.interval[0], part.counted), min(part.interval[1] + raised, 4.0)


def _network_part(kind: RatedPartKind, volume: Volume, verdict: SeriesScore, scorer: ScoringModel) -> RatedPart:
    reason = "" if verdict.score is not None else _reason(verdict)
    return RatedPart(
        kind,
        verdict.score,
        interval=verdict.interval,
        reason=reason,
        interval_origin="" if verdict.interval is None else "calibrated on groups that the network has not seen",
        algorithm=model_ref(scorer, SeriesKind.CT if kind is RatedPartKind.CT else SeriesKind.PETCT),
        series_instance_uid=_series(volume),
        images=tuple(SourceImage(i.sop_instance_uid, i.sop_class_uid, i.frame_number) for i in verdict.slices),
    )


def _display_part(volume: Volume, shown: SeriesScore, scorer: ScoringModel) -> RatedPart:
    """Return the part of the displayed picture; it may decide only where there is a cause in the display itself."""
    part = _network_part(RatedPartKind.DISPLAY, volume, shown, scorer)
    causes = list(shown.defects)
    if volume.lossy is not None:
        causes.append("lossy compression")
    if any(uid.startswith(_SECONDARY_CAPTURE) for uid in volume.sop_class_uids):
        causes.append("secondary capture")
    if part.score is None or causes:
        return replace(part, reason=part.reason or f"decides because of {', '.join(causes)}")
    reason = "does not decide: no lossy compression, secondary capture or display defect"
    return replace(part, decisive=False, reason=reason)


def _displayed(
    volume: Volume,
    kind: SeriesKind,
    chosen: Sequence[ChosenSlice],
    pictures: DisplayImages,
    scorer: ScoringModel,
    grades: Grades,
) -> SeriesScore:
    reason = outside_domain(volume, kind, scorer, chosen)
    return no_score(reason) if reason else grade_series(pictures, volume, kind, chosen, scorer, grades)


def _paired_ct(
    pet: Volume, ct: Volume, chosen: Sequence[ChosenSlice], scorer: ScoringModel, grades: Grades
) -> SeriesScore:
    """Judge the CT on up to four of its slices, those nearest to chosen slices of the PET."""
    places = sorted({ct_slice_at(pet, item.index, ct) for item in chosen})
    kept = [
        places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(len(places), _CT_SLICES)).round().astype(int))
    ]
    picked = [ChosenSlice(index, 1 / len(kept), "nearest to a chosen slice of the PET") for index in kept]
    reason = outside_domain(ct, SeriesKind.CT, scorer, picked)
    if not reason:
        kernel = sharpness_of_volume(ct)
        windows = windows_of(ct, kept, kernel)
        reason = unread_window(windows, kernel)
    if reason:
        return no_score(reason)
    return grade_series(render_display_images(ct, kept, windows=windows), ct, SeriesKind.CT, picked, scorer, grades)


def _slices(
    volume: Volume, chosen: Sequence[ChosenSlice], rating: PetRating, display: RatedPart, shown: Sequence[ScoredSlice]
) -> tuple[ScoredSlice, ...]:
    """Return the chosen slices, each with the lowest of what its PET and, where that may decide, its display score."""
    scores = list(rating.slice_scores)
    if display.decisive and display.score is not None:
        scores = [min(own, item.score) for own, item in zip(scores, shown, strict=True)]
    return tuple(scored_slice(volume, item, score) for item, score in zip(chosen, scores, strict=True))


def _with_ct(
    slices: tuple[ScoredSlice, ...], pet: Volume, ct: Volume, seen: Sequence[ScoredSlice], part: RatedPart
) -> tuple[ScoredSlice, ...]:
    """Return the slices with the score of the nearest judged CT slice where that is lower, counted like its part."""
    if not seen or part.score is None:
        return slices
    raised = (counted_score(part) or 0.0) - part.score
    judged = np.array([item.index for item in seen])
    scores = [seen[int(np.abs(judged - ct_slice_at(pet, item.index, ct)).argmin())].score + raised for item in slices]
    return tuple(replace(item, score=min(item.score, own)) for item, own in zip(slices, scores, strict=True))


def _images(volume: Volume, indices: Sequence[int]) -> tuple[SourceImage, ...]:
    return tuple(
        SourceImage(volume.sop_instance_uids[i], volume.sop_class_uids[i], volume.frame_numbers[i]) for i in indices
    )


def _series(volume: Volume) -> str:
    return at.word(volume.header, "SeriesInstanceUID")


def _reason(verdict: SeriesScore) -> str:
    return next((item.evidence or item.sentence for item in verdict.findings), "not rated")
