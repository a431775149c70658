"""Grades a series: score, interval and grade from the model's output, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_qa_node.config import Grades
from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.modalities import modality_class_of
from dicom_qa_node.domain.results import (
    DimensionScore,
    Finding,
    Grade,
    ModelRef,
    QualityDimension,
    RatedPart,
    RatedPartKind,
    ScoredSlice,
    SeriesKind,
    Severity,
)
from dicom_qa_node.models.text_prompt import Prompt
from dicom_qa_node.score.body_region import region_of as verdict_region_of
from dicom_qa_node.score.convolution_kernels import Sharpness, sharpness_of_header
from dicom_qa_node.score.grade_sets import grade_set
from dicom_qa_node.score.reformats import reformatted
from dicom_qa_node.score.rules.applicability import outside_training_domain
from dicom_qa_node.score.slice_selection import ChosenSlice
from dicom_qa_node.score.volume import Volume

__all__ = [
    "ScoringModel",
    "SeriesScore",
    "card_for",
    "grade_series",
    "model_ref",
    "no_score",
    "outside_domain",
    "prompt_of",
    "region_of",
    "type_of",
]

_MOST = 0.5
_NAMED = 0.5
_DEFECTS = ("JPEG compression", "grey noise", "impulses")


class Predicted(Protocol):
    """What a network says about pictures; see ``infer.Predictions``."""

    @property
    def score(self) -> npt.NDArray[np.float32]:
        """Score of each picture, 0-4."""

    @property
    def levels(self) -> npt.NDArray[np.float32] | None:
        """Named degradations of each picture, shape (n, 7): JPEG, grey noise, impulses first; None if it names none."""

    @property
    def interval_half_width(self) -> float:
        """Calibrated half width of the interval."""

    @property
    def ood_distance(self) -> npt.NDArray[np.float32]:
        """Distance of each picture from the training pictures; above 1 it lies outside the model's domain."""


class Card(Protocol):
    """What is asked of a model card; see ``models.card.ModelCard``."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def sha256(self) -> str:
        """Checksum of its weights."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of pictures it judges."""

    @property
    def needs_prompt(self) -> bool:
        """Whether it is told what the header says."""

    @property
    def score_range(self) -> tuple[float, float]:
        """Worst and best score."""


class ScoringModel(Protocol):
    """A network that scores pictures; see ``infer.Scorer``."""

    @property
    def card(self) -> Card:
        """Its model card."""

    def score(self, images: npt.NDArray[Any], kind: str, prompts: Sequence[Prompt] | None = None) -> Predicted:
        """Judge pictures of one kind; ``prompts`` only where the card asks for them."""


@dataclass(frozen=True, slots=True)
class SeriesScore:
    """Score, interval and grade of a stack, and of each of its chosen slices; None where there is no score.

    ``grade`` and ``grade_low`` are the ends of the grade set, as in `records.SeriesResult`; ``parts`` are what the
    score was made of and ``decided_by`` the one that gave it. ``defects`` are the display defects that the network
    named, ``dimensions`` what it gave beside its score.
    """

    score: float | None
    interval: tuple[float, float] | None
    grade: Grade | None
    slices: tuple[ScoredSlice, ...]
    findings: tuple[Finding, ...] = ()
    grade_low: Grade | None = None
    parts: tuple[RatedPart, ...] = ()
    decided_by: RatedPartKind | None = None
    why: str = ""
    defects: tuple[str, ...] = ()
    dimensions: tuple[DimensionScore, ...] = ()


def model_ref(scorer: ScoringModel, kind: SeriesKind | None = None) -> ModelRef:
    """Return which model a scorer runs, for one modality class where it runs several."""
    card = card_for(scorer, kind)
    return ModelRef(card.name, card.version, card.sha256)


def card_for(scorer: ScoringModel, kind: SeriesKind | None) -> Card:
    """Return the card of the model that judges one modality class."""
    chosen: Callable[[str], Card] | None = getattr(scorer, "card_for", None)
    return scorer.card if chosen is None or kind is None else chosen(kind.value)


def outside_domain(volume: Volume, kind: SeriesKind, scorer: ScoringModel, chosen: Sequence[ChosenSlice]) -> str:
    """Return why the network must not judge this stack, "" if it may."""
    card = card_for(scorer, kind)
    if kind.value not in card.kinds:
        return f"the model {card.name} was not made for {kind.value} pictures"
    expected = modality_class_of(volume.kind).unit
    if volume.kind is SeriesKind.CT and volume.unit != expected:
        return f"the pixel values are {volume.unit}, not {expected}"
    reformat = reformatted(volume)
    if reformat:
        return reformat
    if not chosen:
        return "no slice shows a body"
    return outside_training_domain(volume.header, kind, verdict_region_of(volume))


def grade_series(
    pictures: npt.NDArray[np.uint8],
    volume: Volume,
    kind: SeriesKind,
    chosen: Sequence[ChosenSlice],
    scorer: ScoringModel,
    grades: Grades,
) -> SeriesScore:
    """Score the chosen slices in one batch and weigh them into one verdict.

    Where most of the weight lies on pictures unlike those of the training, there is no score.
    """
    card = card_for(scorer, kind)
    predicted = scorer.score(pictures, kind.value, **_prompt_arguments(card, volume, kind, len(pictures)))
    strange = np.asarray(predicted.ood_distance) > 1
    if sum(item.weight for item, odd in zip(chosen, strange, strict=True) if odd) > _MOST:
        furthest = float(np.max(predicted.ood_distance))
        return no_score(
            f"{strange.sum()} of {len(chosen)} chosen slices look unlike the pictures that the model was trained on "
            f"(up to {furthest:.1f} times the limit)"
        )
    scores = np.asarray(predicted.score, np.float64)
    low, high = card.score_range
    score = float(np.clip(np.dot(scores, [item.weight for item in chosen]), low, high))
    half = float(predicted.interval_half_width)
    slices = tuple(scored_slice(volume, item, float(value)) for item, value in zip(chosen, scores, strict=True))
    interval = (max(low, score - half), min(high, score + half))
    findings = (_out_of_distribution_slices(volume, chosen, strange),) if strange.any() else ()
    best, worst = grade_set(score, interval, grades)
    defects = _named_defects(predicted, chosen) if kind is SeriesKind.PETCT else ()
    dimensions = _dimensions(predicted, chosen)
    return SeriesScore(score, interval, best, slices, findings, grade_low=worst, defects=defects, dimensions=dimensions)


def _dimensions(predicted: Predicted, chosen: Sequence[ChosenSlice]) -> tuple[DimensionScore, ...]:
    """Return the mean of each dimension over the chosen slices, where the model gives any."""
    values: npt.NDArray[np.float32] | None = getattr(predicted, "dimensions", None)
    if values is None:
        return ()
    names: Sequence[str] = predicted.dimension_names  # type: ignore[attr-defined]
    mean = np.asarray([item.weight for item in chosen]) @ np.asarray(values, np.float64)
    lowest = np.asarray(values).min(axis=0)
    return tuple(
        DimensionScore(QualityDimension(name), float(value), f"lowest slice {low:.1f}" if len(chosen) > 1 else "")
        for name, value, low in zip(names, mean, lowest, strict=True)
    )


def _named_defects(predicted: Predicted, chosen: Sequence[ChosenSlice]) -> tuple[str, ...]:
    """Return the display defects whose mean level over the chosen slices lies above one half of a step."""
    levels = predicted.levels
    if levels is None:
        return ()
    mean = np.asarray([item.weight for item in chosen]) @ np.asarray(levels, np.float64)
    return tuple(name for name, level in zip(_DEFECTS, mean, strict=False) if level > _NAMED)


def _out_of_distribution_slices(
    volume: Volume, chosen: Sequence[ChosenSlice], strange: npt.NDArray[np.bool_]
) -> Finding:
    uids = tuple(volume.sop_instance_uids[item.index] for item, odd in zip(chosen, strange, strict=True) if odd)
    sentence = f"{len(uids)} of {len(chosen)} scored slices look unlike the pictures that the model was trained on."
    return Finding("partly_outside_domain", Severity.INFO, sentence, "", None, uids)


def _prompt_arguments(card: Card, volume: Volume, kind: SeriesKind, count: int) -> dict[str, Any]:
    """Return the prompts of the pictures for a network that asks for them."""
    return {"prompts": [prompt_of(volume, kind)] * count} if card.needs_prompt else {}


def no_score(reason: str) -> SeriesScore:
    """Return the verdict on a stack that the network must not judge."""
    sentence = f"There is no score: {reason}. The measurements stand alone."
    finding = Finding("outside_domain", Severity.WARNING, sentence, reason)
    return SeriesScore(None, None, None, (), (finding,), why=f"No score: {reason}.")


def scored_slice(volume: Volume, item: ChosenSlice, score: float) -> ScoredSlice:
    """Return a chosen slice with its score and its place in the series."""
    index = item.index
    return ScoredSlice(
        sop_instance_uid=volume.sop_instance_uids[index],
        sop_class_uid=volume.sop_class_uids[index],
        index=index,
        position_mm=float(volume.positions_mm[index]),
        score=score,
        weight=item.weight,
        reason=item.reason,
        frame_number=volume.frame_numbers[index],
    )


_REGIONS = {
    "head": "HEAD BRAIN SKULL ORBIT EYE EAR IAC SINUS MAXILLA MANDIBLE JAW FACE HEADNECK",
    "neck": "NECK CSPINE THYROID LARYNX PHARYNX CAROTID",
    "chest": "CHEST THORAX LUNG HEART BREAST AORTA TSPINE RIB STERNUM MEDIASTINUM CORONARYARTERY",
    "abdomen": "ABDOMEN LIVER PANCREAS KIDNEY SPLEEN STOMACH COLON ADRENAL LSPINE GALLBLADDER ABDOMENPELVIS",
    "pelvis": "PELVIS HIP PROSTATE BLADDER UTERUS OVARY RECTUM SSPINE COCCYX",
    "limb": "EXTREMITY LEG ARM KNEE ANKLE FOOT HAND WRIST ELBOW SHOULDER THIGH CALF FEMUR HUMERUS",
    "whole body": "WHOLEBODY BODY TRUNK CHESTABDPELVIS CHESTABDOMENPELVIS",
}
_OF_TERM = {term: region for region, terms in _REGIONS.items() for term in terms.split()}


def prompt_of(volume: Volume, kind: SeriesKind) -> Prompt:
    """Return the prompt of every picture of a stack, shown as ``kind``."""
    dimension = "3d" if len(volume.positions_mm) > 1 else "2d"
    return Prompt(dimension, kind.value, region_of(volume.header), type_of(volume.header, kind))


def region_of(header: Dataset) -> str:
    """Return the region of BodyPartExamined (0018,0015), defined terms of PS3.16 Annex L; "" where it names none."""
    term = at.word(header, "BodyPartExamined").upper()
    return _OF_TERM.get("".join(char for char in term if char.isalpha()), "")


def type_of(header: Dataset, kind: SeriesKind) -> str:
    """Return soft or sharp for a CT's kernel, corrected or uncorrected for a PET's attenuation; "" where not said."""
    if kind is SeriesKind.CT:
        sharpness = sharpness_of_header(header)
        if sharpness is Sharpness.UNKNOWN:
            return ""
        return "sharp" if sharpness is Sharpness.SHARP else "soft"
    corrections = at.words(header, "CorrectedImage")
    return ("corrected" if "ATTN" in corrections else "uncorrected") if corrections else ""
