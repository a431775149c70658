"""What the stages hand to each other: frozen dataclasses and the enums behind every state word.

The same words stand in the database, the CLI, the web page, the log and the documentation.
All times are timezone-aware UTC; all UIDs are plain strings that were checked on arrival.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "NOBODY",
    "AssociationEnd",
    "AssociationStart",
    "Code",
    "Delivery",
    "DeliveryState",
    "DimensionScore",
    "DocumentKind",
    "Finding",
    "Grade",
    "Job",
    "LogEntry",
    "Measurement",
    "ModelRef",
    "QualityDimension",
    "Quarantined",
    "RatedPart",
    "RatedPartKind",
    "Receipt",
    "ReportRef",
    "Role",
    "ScoredSlice",
    "Sender",
    "SeriesFacts",
    "SeriesKind",
    "SeriesProgress",
    "SeriesResult",
    "SeriesState",
    "Severity",
    "SourceImage",
    "StoredInstance",
    "derived_uid",
    "grade_label",
    "result_from_json",
    "result_to_json",
    "utc_now",
]

_NAMESPACE = uuid.UUID("6f1d9a52-58c7-5d0e-9f0b-1f1f6c0b5a10")


class SeriesState(StrEnum):
    """Where a series stands on its way; each step reads one state and writes the next in one transaction."""

    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"
    SCORING = "SCORING"
    SCORED = "SCORED"
    REPORTED = "REPORTED"
    DELIVERED = "DELIVERED"
    PARKED = "PARKED"


class DeliveryState(StrEnum):
    """Where one report stands on its way to one target."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    DELIVERED = "DELIVERED"
    PARKED = "PARKED"


class DocumentKind(StrEnum):
    """What is made of one version of a series: always the report, the others where a target wants them."""

    REPORT = "report"
    IMAGE = "image"
    PDF = "pdf"
    KEY_OBJECTS = "key_objects"


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
    """The kind of picture that was scored."""

    CT = "ct"
    PT = "pt"
    PETCT = "petct"


class Severity(StrEnum):
    """How much a finding matters: INFO explains, WARNING limits, ERROR makes the score doubtful."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Role(StrEnum):
    """What an account may do; each role may do what those before it may."""

    VIEWER = "viewer"
    REVIEWER = "reviewer"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """Return the place in the order of roles."""
        return list(Role).index(self)


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.8): value, scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """Patient, study, series and equipment facts of one series, as decoded Unicode text ("" where absent).

    Built by ``spool.facts``; dates and times stay in their DICOM form (``DA``, ``TM``).
    """

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    frame_of_reference_uid: str = ""
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    series_number: str = ""
    series_description: str = ""
    body_part_examined: str = ""
    protocol_name: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    station_name: str = ""
    device_serial_number: str = ""
    institution_name: str = ""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance whose bytes are durable in the spool.

    ``path`` is relative to the spool folder. ``expected`` is the count that the header itself promises for
    this instance's group (``NumberOfSlices`` x ``NumberOfTimeSlices`` for PET, ``ImagesInAcquisition`` for CT,
    1 for a multi-frame object), None where it says nothing; ``expected_group`` names that group (for CT the
    ``AcquisitionNumber``), so that the counts of several acquisitions of one series add up.
    ``conflict`` is True for other bytes under a SOP Instance UID that is already stored: kept apart, never scored.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str
    size_bytes: int
    received_at: dt.datetime
    calling_ae: str
    association_id: str
    series: SeriesFacts
    instance_number: int | None = None
    number_of_frames: int = 1
    expected: int | None = None
    expected_group: str = ""
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class AssociationStart:
    """A peer's association was accepted; series it feeds are not complete by count before it ends."""

    association_id: str
    calling_ae: str
    host: str
    receiver: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """An association was released, aborted or lost; every instance of it was recorded before."""

    association_id: str
    at: dt.datetime
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object that could not be accepted; its bytes lie at ``path`` (relative to the spool).

    ``calling_ae`` is empty for what was accepted and found damaged in the spool later.
    """

    path: str
    reason: str
    calling_ae: str
    sop_instance_uid: str
    at: dt.datetime


Receipt = StoredInstance | AssociationStart | AssociationEnd | Quarantined


@dataclass(frozen=True, slots=True)
class SeriesProgress:
    """What the completion rules may look at for one series in RECEIVING.

    ``expected`` is the sum over the groups that announced a count, None if a group announced none.
    ``open_associations`` counts the associations still open that brought instances of this series.
    ``first_received_at`` is the arrival of the first image since the series last entered RECEIVING.
    ``forgotten`` counts the images of earlier versions that retention has removed and that did not come again.
    ``paired_series`` are the CT series (for PET) of the same study and frame of reference with their state,
    the one with the most images first.
    """

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    frame_of_reference_uid: str
    received: int
    expected: int | None
    open_associations: int
    first_received_at: dt.datetime
    last_received_at: dt.datetime
    version: int
    paired_series: tuple[tuple[str, SeriesState], ...] = ()
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed piece of work; ``lease_token`` proves the claim on every later call."""

    job_id: int
    kind: str
    series_instance_uid: str
    version: int
    attempt: int
    lease_token: str
    pair_series_uid: str | None = None


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

    Not to be confused with ``SeriesResult.part``, which names a geometric stack of slices.

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


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """The verdict on one version of one series, as it stands in the quality log and in the report.

    ``score`` is 0-4, higher is better: the lowest of the ``rated_parts`` that may decide; ``decided_by`` names it.
    ``interval`` holds its calibrated bounds. ``grade`` is the best grade that the interval reaches and the one that is
    coded; ``grade_low`` is the worst one where the interval straddles a limit, else None. All are None when nothing
    could be rated: then ``findings`` gives the cause and the measurements stand alone. ``why`` is one sentence: what
    pulled the score down, or why there is none.
    """

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
    part: str = ""
    pair_series_uid: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    grade_low: Grade | None = None
    rated_parts: tuple[RatedPart, ...] = ()
    decided_by: RatedPartKind | None = None
    why: str = ""

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
class ReportRef:
    """A Structured Report, or a document beside it, that lies in the spool (``path`` is relative to it)."""

    sop_instance_uid: str
    sop_class_uid: str
    report_series_uid: str
    series_instance_uid: str
    version: int
    path: str
    created_at: dt.datetime
    predecessor_uid: str | None = None
    kind: DocumentKind = DocumentKind.REPORT


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent the images of a series, and from which address; empty where that is not known."""

    ae_title: str = ""
    host: str = ""


NOBODY = Sender()
"""The sender where it is not known."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One claimed outbox row: this report to that target; ``sender`` sent the images of its series."""

    delivery_id: int
    target: str
    report: ReportRef
    attempt: int
    lease_token: str
    sender: Sender = NOBODY


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One row of the quality log: a scored version of a series with its facts and where it stands."""

    facts: SeriesFacts
    version: int
    state: SeriesState
    scored_at: dt.datetime
    result: SeriesResult
    report_uid: str | None
    deliveries: tuple[tuple[str, DeliveryState, str], ...] = ()


def grade_label(grade: Grade | None, low: Grade | None = None) -> str:
    """Return a grade in words, both ends of a grade set joined by a dash, "" for none."""
    if grade is None:
        return ""
    return grade.value if low is None or low is grade else f"{grade.value}–{low.value}"


def utc_now() -> dt.datetime:
    """Return the current time in UTC; pass another clock where time must be injected."""
    return dt.datetime.now(dt.UTC)


def derived_uid(*parts: str) -> str:
    """Return a UID that is always the same for the same parts (PS3.5 B.2, UUID-derived root 2.25)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(parts)).int}"


@cache
def _result_adapter() -> TypeAdapter[SeriesResult]:
    from pydantic import TypeAdapter

    return TypeAdapter(SeriesResult)


def result_to_json(result: SeriesResult) -> str:
    """Serialise a result for the quality log."""
    return _result_adapter().dump_json(result).decode()


def result_from_json(text: str) -> SeriesResult:
    """Read back what `result_to_json` wrote."""
    return _result_adapter().validate_json(text)
