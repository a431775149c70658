"""Results of scoring: slices, measurements, findings, and their JSON form in the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import TypeAdapter
from dicom_qa_node.domain.acquisition_parameters import Acquisition
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.dose import DoseHeader
from dicom_qa_node.domain.qc_phantoms import QcPhantom, SubjectDecision
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import DeliveryState, SeriesState

__all__ = [
    "DimensionScore",
    "Finding",
    "Grade",
    "LogEntry",
    "Measurement",
    "ModelRef",
    "QualityDimension",
    "RatedPart",
    "RatedPartKind",
    "ScoredSlice",
    "SeriesKind",
    "SeriesResult",
    "Severity",
    "SourceImage",
    "grade_label",
    "gravest_first",
    "part_measurements",
    "result_from_json",
    "result_to_json",
]


class Grade(StrEnum):
    """Diagnostic quality after CID 7036 (RadLex RID12, RID13, RID14)."""

    DIAGNOSTIC = "diagnostic"
    LIMITED = "limited"
    NON_DIAGNOSTIC = "non-diagnostic"


class RatedPartKind(StrEnum):
    """What a part of a verdict rates: the CT, the PET, or how the (fused) picture is displayed."""

    CT = "ct"
    PET = "pet"
    DISPLAY = "display"


class QualityDimension(StrEnum):
    """One aspect of image quality that a part of a verdict is composed of."""

    NOISE = "noise"
    RESOLUTION = "resolution"
    CONTRAST = "contrast"
    STRUCTURE = "structure"
    ARTEFACT = "artefact"
    PLAUSIBILITY = "plausibility"


class SeriesKind(StrEnum):
    """The modality class that was scored."""

    CT = "ct"
    PT = "pt"
    PETCT = "petct"


class Severity(StrEnum):
    """How much a finding matters: INFO explains, WARNING limits, ERROR makes the score doubtful."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The network behind a score; ``sha256`` is that of the installed weights file."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ScoredSlice:
    """One salient slice.

    ``index`` counts from 0 along the slice normal of the assembled volume; ``frame_number`` counts from 1 inside
    a multi-frame object, None otherwise; ``score`` is 0-4 (higher is better); the weights of a series sum to 1.
    """

    sop_instance_uid: str
    sop_class_uid: str
    index: int
    position_mm: float
    score: float
    weight: float
    reason: str = ""
    frame_number: int | None = None


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image that a part of a verdict rests on; ``frame_number`` counts from 1, None for a single-frame object."""

    sop_instance_uid: str
    sop_class_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, slots=True)
class DimensionScore:
    """One dimension of a rated part, 0-4, higher is better; without a score ``reason`` gives the cause.

    ``evidence`` holds the figures behind the score, such as "body noise 18 %".
    """

    dimension: QualityDimension
    score: float | None
    evidence: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RatedPart:
    """One part of a verdict, rated by an algorithm of its own: the CT, the PET, or the display.

    Not to be confused with ``SeriesResult.stack_name``, which names a geometric stack of slices.

    Attributes
    ----------
    score
        0-4, higher is better; None where the part was not rated: then ``reason`` gives the cause.
    interval
        Bounds of ``score``; ``interval_origin`` states where its width comes from.
    grade, grade_low
        As in `SeriesResult`.
    dimensions
        The scores that ``score`` is composed of; empty for a network that gives one number.
    limiting
        The dimension that decides ``score``.
    decisive
        Whether the part may decide the verdict; the display part may only where a display defect is known.
    counted
        The value with which it enters the verdict where that differs from ``score`` (the noise of an attenuation CT
        counts as at least 2.0), with ``counted_reason``; None: ``score`` itself.
    algorithm
        What rated it; ``sha256`` is empty for closed formulas.
    series_instance_uid, images
        The series it rests on and those of its images that were rated.
    """

    kind: RatedPartKind
    score: float | None
    interval: tuple[float, float] | None = None
    grade: Grade | None = None
    grade_low: Grade | None = None
    dimensions: tuple[DimensionScore, ...] = ()
    limiting: QualityDimension | None = None
    decisive: bool = True
    reason: str = ""
    interval_origin: str = ""
    counted: float | None = None
    counted_reason: str = ""
    algorithm: ModelRef | None = None
    series_instance_uid: str = ""
    images: tuple[SourceImage, ...] = ()

    @property
    def grade_text(self) -> str:
        """The grade or grade set in words, "" where it was not rated."""
        return grade_label(self.grade, self.grade_low)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One physical measurement beside the score.

    ``name`` is the stable key (snake_case), ``unit`` a UCUM code, ``direction`` one of "lower is better",
    "higher is better", "target", "context". ``value`` is None where the estimator does not apply, and
    ``not_applicable`` then says why. ``low`` and ``high`` bound the usual range where one is known.
    """

    name: str
    meaning: str
    value: float | None
    unit: str
    direction: str = "context"
    code: Code | None = None
    low: float | None = None
    high: float | None = None
    not_applicable: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an operator should know about the series; ``sentence`` is plain language, ``evidence`` the figures."""

    key: str
    severity: Severity
    sentence: str
    evidence: str = ""
    code: Code | None = None
    sop_instance_uids: tuple[str, ...] = ()


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings as they are shown: errors, warnings, then what explains; those of one severity in their order."""
    order = list(Severity)
    return sorted(findings, key=lambda item: -order.index(item.severity))


def _key_in_json(name: str) -> str:
    """Return the key of a field in stored results: those of earlier releases are read, too."""
    return "part" if name == "stack_name" else name


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """The verdict on one version of one series, as it stands in the quality log and in the report.

    ``score`` is 0-4, higher is better: the lowest of the ``rated_parts`` that may decide; ``decided_by`` names it.
    ``interval`` holds its calibrated bounds. ``grade`` is the best grade that the interval reaches and the one that is
    coded; ``grade_low`` is the worst one where the interval straddles a limit, else None. All are None when nothing
    could be rated: then ``findings`` gives the cause and the measurements stand alone. ``why`` is one sentence: what
    pulled the score down, or why there is none. ``acquisition`` is None in results of before it was kept. ``dose`` is
    what the images of a CT state about their irradiation.
    ``qc_phantom`` is set for a series of a QC phantom, which is never rated; ``subject_decision`` where a person
    decided whether it shows one.
    """

    __pydantic_config__ = {"alias_generator": _key_in_json, "populate_by_name": True}  # noqa: RUF012

    series_instance_uid: str
    modality: str
    kind: SeriesKind
    score: float | None
    interval: tuple[float, float] | None
    grade: Grade | None
    slices: tuple[ScoredSlice, ...]
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...]
    model: ModelRef
    instances_used: int
    stack_name: str = ""
    pair_series_uid: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    grade_low: Grade | None = None
    rated_parts: tuple[RatedPart, ...] = ()
    decided_by: RatedPartKind | None = None
    why: str = ""
    acquisition: Acquisition | None = None
    dose: DoseHeader = field(default_factory=DoseHeader)
    qc_phantom: QcPhantom | None = None
    subject_decision: SubjectDecision | None = None

    @property
    def grade_text(self) -> str:
        """The grade, or the two ends of a grade set such as "diagnostic–limited"; "" without a score."""
        return grade_label(self.grade, self.grade_low)

    def rated_part(self, kind: RatedPartKind | None) -> RatedPart | None:
        """Return the part of one kind, None where the verdict has none."""
        return next((item for item in self.rated_parts if item.kind is kind), None)

    @property
    def deciding_part(self) -> RatedPart | None:
        """The part that gave the score."""
        return self.rated_part(self.decided_by)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One row of the quality log: a scored version of a series with its facts and where it stands."""

    facts: SeriesHeader
    version: int
    state: SeriesState
    scored_at: dt.datetime
    result: SeriesResult
    report_uid: str | None
    deliveries: tuple[tuple[str, DeliveryState, str], ...] = ()


def part_measurements(result: SeriesResult) -> tuple[Measurement, ...]:
    """Return the scores of the rated parts as measurements, for the charts that follow them over time."""
    return tuple(
        Measurement(
            f"{part.kind.value}_part_score",
            f"Score of the {_PART_NAMES[part.kind]} part",
            part.score,
            "1",
            "higher is better",
            low=0.0,
            high=4.0,
        )
        for part in result.rated_parts
        if part.score is not None
    )


_PART_NAMES = {RatedPartKind.CT: "CT", RatedPartKind.PET: "PET", RatedPartKind.DISPLAY: "display"}


def grade_label(grade: Grade | None, low: Grade | None = None) -> str:
    """Return a grade in words, both ends of a grade set joined by a dash, "" for none."""
    if grade is None:
        return ""
    return grade.value if low is None or low is grade else f"{grade.value}–{low.value}"


@cache
def _result_adapter() -> TypeAdapter[SeriesResult]:
    from pydantic import TypeAdapter

    return TypeAdapter(SeriesResult)


def result_to_json(result: SeriesResult) -> str:
    """Serialise a result for the quality log."""
    return _result_adapter().dump_json(result, by_alias=True).decode()


def result_from_json(text: str) -> SeriesResult:
    """Read back what `result_to_json` wrote."""
    return _result_adapter().validate_json(text)
