"""What can be asked of the log page: filters, order, and the place where a page begins."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from dicom_qa_node.records import Grade, SeriesFacts, SeriesState, Severity
from dicom_qa_node.store.review_tables import DeliveryMark, ReviewMark

__all__ = ["Cursor", "LogChoices", "LogOrder", "LogPage", "LogQuery", "LogRow"]


class LogOrder(StrEnum):
    """What the rows are sorted by; rows without a score, or without enough history, come last."""

    TIME = "time"
    SCORE = "score"
    DEVIATION = "deviation"


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What to show; a field left at None (or empty) does not filter.

    ``words`` must all be found, each as the beginning of a word of scanner, protocol, description, finding, or, with
    ``patients``, of the patient's name, ID, birth date or accession number; a UID finds its series or study.
    ``grades`` may hold None for series without a score. ``all_versions`` shows replaced versions too.
    """

    words: str = ""
    patients: bool = False
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    site: str | None = None
    scanner: str | None = None
    protocol: str | None = None
    modality: str | None = None
    kind: str | None = None
    body_part: str | None = None
    grades: tuple[Grade | None, ...] = ()
    finding: str | None = None
    severity: Severity | None = None
    delivery: DeliveryMark | None = None
    review: ReviewMark | None = None
    score_from: float | None = None
    score_to: float | None = None
    all_versions: bool = False
    order: LogOrder = LogOrder.TIME
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row beside which a page lies: its key (None where it has none) and result; ``back``: the page before it.

    ``count`` is what the first page counted, so that the others need not; None counts again.
    """

    key: float | str | None
    result_id: int
    back: bool = False
    count: int | None = None


@dataclass(frozen=True, slots=True)
class LogRow:
    """One line of the log page.

    ``deviation`` is in robust standard deviations of the scanner's earlier scores; ``worst_slice`` counts from 1, 0
    without slices.
    """

    result_id: int
    facts: SeriesFacts
    scanner: str
    version: int
    latest: bool
    state: SeriesState
    scored_at: dt.datetime
    kind: str
    score: float | None
    interval: tuple[float, float] | None
    grade: Grade | None
    severity: Severity | None
    findings: tuple[str, ...]
    deviation: float | None
    worst_slice: int
    delivery: DeliveryMark
    review: ReviewMark


@dataclass(frozen=True, slots=True)
class LogPage:
    """Rows in the wanted order; ``count`` is exact below the limit of counting, ``more`` says that it is not."""

    rows: tuple[LogRow, ...]
    newer: Cursor | None
    older: Cursor | None
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class LogChoices:
    """What the log holds, for the lists to choose filters from."""

    sites: tuple[str, ...]
    scanners: tuple[str, ...]
    protocols: tuple[str, ...]
    modalities: tuple[str, ...]
    kinds: tuple[str, ...]
    body_parts: tuple[str, ...]
    findings: tuple[str, ...]
