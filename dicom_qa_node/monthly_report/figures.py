"""What a monthly report says, before it is drawn."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_qa_node.monthly_report.month import Month

__all__ = [
    "GRADE_ROWS",
    "DriftLine",
    "EventLine",
    "LevelLine",
    "ModelLine",
    "MonthlyFigures",
    "PhantomLine",
    "ProtocolMonth",
    "ReviewFigures",
    "ScannerMonth",
    "Trend",
    "TroubleLine",
]

GRADE_ROWS = (
    "diagnostic", "diagnostic–limited", "limited", "limited–non-diagnostic", "non-diagnostic", "no score",
)  # fmt: skip
"""Grades and grade sets in the order of the report."""


@dataclass(frozen=True, slots=True)
class ProtocolMonth:
    """The series of one protocol on one scanner; quartiles are None below ten scores."""

    kind: str
    protocol: str
    series: int
    scores: int
    median: float | None
    quartiles: tuple[float, float] | None
    limited_or_worse: int


@dataclass(frozen=True, slots=True)
class Trend:
    """Weekly scores of the protocol with the most series: Monday, lower quartile, median, upper quartile."""

    protocol: str
    weeks: tuple[tuple[dt.date, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class ScannerMonth:
    """One scanner in one month; ``grades`` counts by `GRADE_ROWS`, ``findings`` by key, the most frequent first."""

    name: str
    model: str
    series: int
    series_before: int
    median: float | None
    median_before: float | None
    grades: Mapping[str, int]
    findings: Mapping[str, int]
    protocols: tuple[ProtocolMonth, ...]
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class LevelLine:
    """A reference level and the month's series compared with it.

    ``ratio_percent`` is the median of value / level at the same size; ``compared`` counts the series of sizes for which
    the level holds, ``outside`` those of them beyond its tolerance and its stated limit.
    """

    scanner: str
    protocol: str
    quantity: str
    unit: str
    typical: float
    form: str
    revision: int
    frozen_at: dt.datetime
    compared: int
    ratio_percent: float | None
    outside: int


@dataclass(frozen=True, slots=True)
class PhantomLine:
    """The scans of one QC phantom on one scanner; ``missed`` are the periods of its schedule without one."""

    scanner: str
    phantom: str
    runs: int
    passed: int
    outside: int
    not_judged: int
    not_analysed: int
    missed: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DriftLine:
    """A drift that was raised in the month, or open in it; ``done`` is what people did on that scanner since."""

    scanner: str
    protocol: str
    quantity: str
    sentence: str
    raised_at: dt.datetime
    ended_at: dt.datetime | None
    done: str


@dataclass(frozen=True, slots=True)
class TroubleLine:
    """An alert of the month and who has seen to it."""

    at: dt.datetime
    about: str
    text: str
    acknowledged: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """A service event or a new baseline."""

    at: dt.datetime
    scanner: str
    kind: str
    text: str
    author: str


@dataclass(frozen=True, slots=True)
class ReviewFigures:
    """Reviews signed in the month; ``mean_difference`` is reviewer less node, over those with a score of their own."""

    reviews: int
    agreed: int
    by_reviewer: Mapping[str, tuple[int, int]]
    with_score: int
    mean_difference: float | None


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model that scored series of the month."""

    name: str
    sha256: str
    series: int


@dataclass(frozen=True, slots=True)
class MonthlyFigures:
    """Everything of one report; ``scanner`` is "" for the whole site."""

    month: Month
    scanner: str
    site: str
    node: str
    version: str
    made_at: dt.datetime
    scanners: tuple[ScannerMonth, ...]
    levels: tuple[LevelLine, ...]
    phantoms: tuple[PhantomLine, ...]
    drifts: tuple[DriftLine, ...]
    troubles: tuple[TroubleLine, ...]
    events: tuple[EventLine, ...]
    baselines: tuple[EventLine, ...]
    reviews: ReviewFigures
    models: tuple[ModelLine, ...]

    @property
    def series(self) -> int:
        """Series of the month."""
        return sum(item.series for item in self.scanners)

    @property
    def grades(self) -> dict[str, int]:
        """Series by grade, over all scanners."""
        return {row: sum(item.grades.get(row, 0) for item in self.scanners) for row in GRADE_ROWS}

    @property
    def title(self) -> str:
        """The headline."""
        return f"Image quality, {self.month.title}"
