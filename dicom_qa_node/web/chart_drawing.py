"""Control charts as pages, tables, CSV and the API show them, and the choice of a chart by address."""

from __future__ import annotations

import bisect
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.charts.control_charts import Limits, Rule, Violation, ewma, ewma_limits, violations
from dicom_qa_node.charts.scanners import Chart, Group, Point, Scanner, Scanners, Week
from dicom_qa_node.charts.service_events import ServiceEvent
from dicom_qa_node.config import Charts
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.site import Site

__all__ = ["Choice", "Drawn", "Mark", "Picture", "choose", "draw", "picture_of", "rules_of", "spark", "weeks_picture"]

WIDTH, HEIGHT = 1000.0, 240.0
_MARGIN = 12.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart with what it is judged by; the EWMA and its limits are empty while there is no baseline."""

    chart: Chart
    limits: Limits | None
    smoothed: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    violations: tuple[Violation, ...]

    @property
    def values(self) -> list[float]:
        """The values, in order."""
        return [point.value for point in self.chart.points]

    def rule_at(self) -> dict[int, Rule]:
        """Return the broken rule by position."""
        return {found.index: found.rule for found in self.violations}

    def outside(self) -> list[int]:
        """Return the positions whose EWMA is beyond its limits."""
        triples = zip(self.smoothed, self.lower, self.upper, strict=True)
        return [index for index, (value, low, high) in enumerate(triples) if not low <= value <= high]

    def broken(self) -> list[tuple[Point, Violation]]:
        """Return the points that break a rule, the latest first."""
        return [(self.chart.points[found.index], found) for found in reversed(self.violations)]


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a picture: ``kind`` is its class, ``label`` its words."""

    at: float
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Coordinates in a box of 1000 by 240; ``band`` is the outline of a filled area, empty where there is none."""

    line: str
    dots: tuple[tuple[float, float, str, str], ...]
    across: tuple[Mark, ...]
    upright: tuple[Mark, ...]
    band: str
    first: str
    last: str


def rules_of(charts: Charts) -> ChartRules:
    """Return the rules of the configuration."""
    return ChartRules(charts.baseline_points, charts.ewma_weight, charts.ewma_width, charts.drift_run)


def draw(chart: Chart, rules: ChartRules) -> Drawn:
    """Judge a chart by its baseline."""
    values = [point.value for point in chart.points]
    limits = None if chart.baseline is None else chart.baseline.limits
    if limits is None or not values:
        return Drawn(chart, limits, (), (), (), ())
    lower, upper = ewma_limits(limits, len(values), rules.ewma_weight, rules.ewma_width)
    return Drawn(
        chart,
        limits,
        tuple(float(value) for value in ewma(values, limits.centre, rules.ewma_weight)),
        tuple(float(value) for value in lower),
        tuple(float(value) for value in upper),
        tuple(violations(values, limits)),
    )


def places_of(events: Sequence[ServiceEvent], points: Sequence[Point]) -> list[tuple[float, ServiceEvent]]:
    """Return where events lie between the points, as positions; those before the first point are left out."""
    times = [point.at for point in points]
    found = [(bisect.bisect_left(times, event.at) - 0.5, event) for event in events]
    return [(place, event) for place, event in found if place > -0.5 or (times and event.at >= times[0])]


def picture_of(drawn: Drawn, events: Sequence[ServiceEvent], *, smoothed: bool = False) -> Picture | None:
    """Draw the individuals chart, or (``smoothed``) the EWMA chart; None without anything to draw."""
    values = list(drawn.smoothed) if smoothed else drawn.values
    if not values:
        return None
    limits = drawn.limits
    band_edges = [*drawn.lower, *drawn.upper] if smoothed else [] if limits is None else [limits.lower, limits.upper]
    across, up = _frame([*values, *band_edges], len(values))
    bad = dict.fromkeys(drawn.outside(), "beyond its limits") if smoothed else _sentences(drawn)
    dots = tuple((across(i), up(values[i]), "bad", text) for i, text in bad.items())
    upright = tuple(
        Mark(across(place), "event", f"{event.at:%Y-%m-%d} {event.kind.value}: {event.text}")
        for place, event in places_of(events, drawn.chart.points)
    )
    band = _band(drawn, across, up) if smoothed else ""
    points = drawn.chart.points
    return Picture(
        _path(values, across, up), dots, _lines(limits, up, smoothed), upright, band, _day(points[0]), _day(points[-1])
    )


def weeks_picture(weeks: Sequence[Week]) -> Picture | None:
    """Draw weekly medians with the band between the quartiles."""
    if not weeks:
        return None
    edges = [edge for week in weeks for edge in (week.spread.q1, week.spread.q3)]
    across, up = _frame(edges, len(weeks))
    medians = [week.spread.median for week in weeks]
    low = [f"{across(i):.1f},{up(week.spread.q1):.1f}" for i, week in enumerate(weeks)]
    high = [f"{across(i):.1f},{up(week.spread.q3):.1f}" for i, week in enumerate(weeks)]
    dots = tuple((across(i), up(value), "plain", f"{value:.3g}") for i, value in enumerate(medians))
    lines = (Mark(up(max(edges)), "edge", f"{max(edges):.4g}"), Mark(up(min(edges)), "edge", f"{min(edges):.4g}"))
    band = " ".join([*low, *reversed(high)])
    return Picture(
        _path(medians, across, up), dots, lines, (), band, weeks[0].monday.isoformat(), weeks[-1].monday.isoformat()
    )


def spark(values: Sequence[tuple[dt.date, float]]) -> str:
    """Return the points of a sparkline in a box of 120 by 28; its height stands for half a grade at least."""
    if len(values) < 2:
        return ""
    numbers = [value for _, value in values]
    middle, span = (max(numbers) + min(numbers)) / 2, max(max(numbers) - min(numbers), 0.5)
    step = 116 / (len(numbers) - 1)
    return " ".join(f"{2 + i * step:.1f},{14 - (value - middle) / span * 22:.1f}" for i, value in enumerate(numbers))


class _Scale:
    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self._low, self._begin = low, begin
        self._factor = (end - begin) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return self._begin + (value - self._low) * self._factor


def _frame(values: Sequence[float], count: int) -> tuple[_Scale, _Scale]:
    low, high = min(values), max(values)
    spare = 0.05 * (high - low) or abs(high) * 0.01 or 1.0
    across = _Scale(-0.5, max(count - 0.5, 0.5), _MARGIN, WIDTH - _MARGIN)
    return across, _Scale(low - spare, high + spare, HEIGHT - _MARGIN, _MARGIN)


def _path(values: Sequence[float], across: _Scale, up: _Scale) -> str:
    return " ".join(f"{across(i):.1f},{up(value):.1f}" for i, value in enumerate(values))


def _band(drawn: Drawn, across: _Scale, up: _Scale) -> str:
    low = [f"{across(i):.1f},{up(value):.1f}" for i, value in enumerate(drawn.lower)]
    high = [f"{across(i):.1f},{up(value):.1f}" for i, value in enumerate(drawn.upper)]
    return " ".join([*low, *reversed(high)])


def _lines(limits: Limits | None, up: _Scale, smoothed: bool) -> tuple[Mark, ...]:
    if limits is None:
        return ()
    centre = Mark(up(limits.centre), "centre", f"centre {limits.centre:.4g}")
    if smoothed:
        return (centre,)
    upper = Mark(up(limits.upper), "limit", f"upper limit {limits.upper:.4g}")
    return (upper, centre, Mark(up(limits.lower), "limit", f"lower limit {limits.lower:.4g}"))


def _sentences(drawn: Drawn) -> dict[int, str]:
    return {index: rule.sentence for index, rule in drawn.rule_at().items()}


def _day(point: Point) -> str:
    return point.at.astimezone().strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class Choice:
    """What an address asks for: scanner, group, quantity, how many points."""

    scanner: Scanner
    group: Group
    groups: list[Group]
    quantity: str
    points: int

    @property
    def query(self) -> str:
        """The same choice as a query."""
        return f"group={self.group.group_id}&quantity={self.quantity}&points={self.points}"


def choose(site: Site, scanner_id: int, group_id: int | None, quantity: str, points: int | None) -> Choice | None:
    """Find what an address means; None if there is no such scanner or group. Reads the database."""
    charts = site.config.charts
    scanners = Scanners(site.database, rules_of(charts), site.clock)
    scanner = scanners.scanner(min(scanner_id, LARGEST_ID))
    groups = [] if scanner is None else scanners.groups(scanner.scanner_id)
    group = next((item for item in groups if group_id in (None, item.group_id)), None)
    if scanner is None or group is None:
        return None
    return Choice(scanner, group, groups, quantity, min(points or charts.points, 5000))
