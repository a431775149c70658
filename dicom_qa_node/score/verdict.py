"""Turns the network's numbers for a few slices into the verdict on a series: score, interval, grade, or why none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dicom_qa_node.config import Grades
from dicom_qa_node.modalities import kind_of
from dicom_qa_node.models.prompts import Prompt
from dicom_qa_node.records import (
    DimensionScore,
    Finding,
    Grade,
    ModelRef,
    RatedPart,
    RatedPartKind,
    ScoredSlice,
    SeriesKind,
    Severity,
)
from dicom_qa_node.score.body_region import region_of
from dicom_qa_node.score.grade_sets import grade_set
from dicom_qa_node.score.prompt import prompt_of
from dicom_qa_node.score.rules.domain import unlike_training
from dicom_qa_node.score.slices import ChosenSlice
from dicom_qa_node.score.volume import Volume

__all__ = ["Judge", "Verdict", "judge", "model_ref", "no_verdict", "outside_domain"]

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
    def half_width(self) -> float:
        """Calibrated half width of the interval."""

    @property
    def strangeness(self) -> npt.NDArray[np.float32]:
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


class Judge(Protocol):
    """A network that scores pictures; see ``infer.Scorer``."""

    @property
    def card(self) -> Card:
        """Its model card."""

    def score(self, images: npt.NDArray[Any], kind: str, prompts: Sequence[Prompt] | None = None) -> Predicted:
        """Judge pictures of one kind; ``prompts`` only where the card asks for them."""


@dataclass(frozen=True, slots=True)
class Verdict:
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


def model_ref(scorer: Judge) -> ModelRef:
    """Return which model a scorer runs."""
    return ModelRef(scorer.card.name, scorer.card.version, scorer.card.sha256)


def outside_domain(volume: Volume, kind: SeriesKind, scorer: Judge, chosen: Sequence[ChosenSlice]) -> str:
    """Return why the network must not judge this stack, "" if it may."""
    if kind.value not in scorer.card.kinds:
        return f"the model {scorer.card.name} was not made for {kind.value} pictures"
    expected = kind_of(volume.kind).unit
    if volume.kind is SeriesKind.CT and volume.unit != expected:
        return f"the pixel values are {volume.unit}, not {expected}"
    if not chosen:
        return "no slice shows a body"
    return unlike_training(volume.header, kind, region_of(volume))


def judge(
    pictures: npt.NDArray[np.uint8],
    volume: Volume,
    kind: SeriesKind,
    chosen: Sequence[ChosenSlice],
    scorer: Judge,
    grades: Grades,
) -> Verdict:
    """Score the chosen slices in one batch and weigh them into one verdict.

    Where most of the weight lies on pictures unlike those of the training, there is no score.
    """
    predicted = scorer.score(pictures, kind.value, **_told(scorer.card, volume, kind, len(pictures)))
    strange = np.asarray(predicted.strangeness) > 1
    if sum(item.weight for item, odd in zip(chosen, strange, strict=True) if odd) > _MOST:
        furthest = float(np.max(predicted.strangeness))
        return no_verdict(
            f"{strange.sum()} of {len(chosen)} chosen slices look unlike the pictures that the model was trained on "
            f"(up to {furthest:.1f} times the limit)"
        )
    scores = np.asarray(predicted.score, np.float64)
    low, high = scorer.card.score_range
    score = float(np.clip(np.dot(scores, [item.weight for item in chosen]), low, high))
    half = float(predicted.half_width)
    slices = tuple(scored_slice(volume, item, float(value)) for item, value in zip(chosen, scores, strict=True))
    interval = (max(low, score - half), min(high, score + half))
    said = (_strange_slices(volume, chosen, strange),) if strange.any() else ()
    best, worst = grade_set(score, interval, grades)
    defects = _named_defects(predicted, chosen) if kind is not SeriesKind.CT else ()
    return Verdict(score, interval, best, slices, said, grade_low=worst, defects=defects)


def _named_defects(predicted: Predicted, chosen: Sequence[ChosenSlice]) -> tuple[str, ...]:
    """Return the display defects whose mean level over the chosen slices lies above one half of a step."""
    levels = predicted.levels
    if levels is None:
        return ()
    mean = np.asarray([item.weight for item in chosen]) @ np.asarray(levels, np.float64)
    return tuple(name for name, level in zip(_DEFECTS, mean, strict=False) if level > _NAMED)


def _strange_slices(volume: Volume, chosen: Sequence[ChosenSlice], strange: npt.NDArray[np.bool_]) -> Finding:
    uids = tuple(volume.sop_instance_uids[item.index] for item, odd in zip(chosen, strange, strict=True) if odd)
    sentence = f"{len(uids)} of {len(chosen)} scored slices look unlike the pictures that the model was trained on."
    return Finding("partly_outside_domain", Severity.INFO, sentence, "", None, uids)


def _told(card: Card, volume: Volume, kind: SeriesKind, count: int) -> dict[str, Any]:
    """Return the prompts of the pictures for a network that asks for them."""
    return {"prompts": [prompt_of(volume, kind)] * count} if card.needs_prompt else {}


def no_verdict(reason: str) -> Verdict:
    """Return the verdict on a stack that the network must not judge."""
    sentence = f"There is no score: {reason}. The measurements stand alone."
    return Verdict(None, None, None, (), (Finding("outside_domain", Severity.WARNING, sentence, reason),))


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
