"""What the pages and the API show of scanners: cards, groups, charts, weeks and alarms, as values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dicom_qa_node.charts.arrival_order import TimeAxis
from dicom_qa_node.charts.baselines import Baseline, TooFew
from dicom_qa_node.charts.control_charts import Distribution
from dicom_qa_node.charts.judgement import Judgement

__all__ = ["Alarm", "Card", "Chart", "Group", "Light", "Point", "Quantity", "Scanner", "Week"]


@dataclass(frozen=True, slots=True)
class Scanner:
    """One device; ``name`` is the word under which log, charts and exports list its results.

    ``parts`` are the numbers of other devices that people had shown as this one.
    """

    scanner_id: int
    name: str
    manufacturer: str
    model: str
    station: str
    serial: str
    institution: str
    first_at: dt.datetime
    last_at: dt.datetime
    parts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """The series of one kind and stratum on one scanner: what may stand on one chart.

    ``protocol`` is the label of the stratum, ``protocol_name`` the protocol alone; see `charts.strata`.
    """

    group_id: int
    scanner_id: int
    kind: str
    protocol: str
    count: int
    last_at: dt.datetime
    last_score: float | None
    protocol_name: str = ""
    kernel: str = "unknown"
    reconstruction: str = "unknown"
    thickness: str = ""


@dataclass(frozen=True, slots=True)
class Quantity:
    """The score or a measured quantity; ``unit`` is a UCUM code."""

    quantity_id: int
    name: str
    meaning: str
    unit: str
    direction: str


@dataclass(frozen=True, slots=True)
class Point:
    """One series on a chart; ``at`` is when it was first scored.

    ``value`` is what was measured, ``adjusted`` what it would be at the median size, as the chart shows it; None where
    that cannot be known. ``late``: it arrived after later ones were judged.
    """

    series_instance_uid: str
    version: int
    at: dt.datetime
    value: float
    acquired_at: dt.datetime
    adjusted: float | None
    late: bool = False


@dataclass(frozen=True, slots=True)
class Week:
    """The values of one week, which begins on ``monday``."""

    monday: dt.date
    spread: Distribution


@dataclass(frozen=True, slots=True)
class Alarm:
    """A drift of one group with its cause; open while ``ended_at`` is None.

    ``quantity`` (``meaning`` in words) is what drifted first, ``others`` what drifted with it, in words. An
    ``improvement`` is a note, no alarm.
    """

    alarm_id: int
    group_id: int
    kind: str
    protocol: str
    quantity: str
    meaning: str
    side: int
    shift_sigma: float
    began_at: dt.datetime
    raised_at: dt.datetime
    ended_at: dt.datetime | None
    sentence: str = ""
    others: tuple[str, ...] = ()
    improvement: bool = False


class Light(StrEnum):
    """Where a scanner stands, the most urgent first, in the words of the page."""

    DRIFT = "drift"
    POOR = "many non-diagnostic"
    TOO_FEW = "too few"
    STEADY = "no drift"


@dataclass(frozen=True, slots=True)
class Card:
    """One scanner of the overview; ``spark`` are weekly medians of the score of its busiest group.

    ``notes`` counts improvements. ``grades`` counts the series of the last 7 days by grade, "" those without one.
    ``collected`` are series and need of the group that is next to a baseline, None once one has it.
    """

    scanner: Scanner
    groups: tuple[Group, ...]
    count: int
    last_score: float | None
    alarms: int
    spark: tuple[tuple[dt.date, float], ...]
    notes: int = 0
    grades: Mapping[str, int] = field(default_factory=dict)
    collected: tuple[int, int] | None = None

    @property
    def light(self) -> Light:
        """Where the scanner stands."""
        if self.alarms:
            return Light.DRIFT
        total = sum(self.grades.values())
        poor = self.grades.get("non-diagnostic", 0)
        if total >= 20 and poor > 0.05 * total:
            return Light.POOR
        return Light.STEADY if self.collected is None else Light.TOO_FEW


@dataclass(frozen=True, slots=True)
class Chart:
    """One quantity of one group: the latest points, oldest first, and what they are judged by.

    ``too_few`` is set while there is no baseline.
    """

    group: Group
    quantity: Quantity
    points: tuple[Point, ...]
    baseline: Baseline | None
    quantities: tuple[Quantity, ...]
    judgement: Judgement
    too_few: TooFew | None = None
    axis: TimeAxis = TimeAxis.ACQUIRED
