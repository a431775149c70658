"""Control charts as pages, tables, CSV and the API show them, and the choice of a chart by address."""

from __future__ import annotations

import bisect
import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dicom_qa_node.charts.arrival_order import TimeAxis
from dicom_qa_node.charts.baselines import chart_rules
from dicom_qa_node.charts.control_charts import Limits, Rule, Span, Violation
from dicom_qa_node.charts.scanners import Chart, Group, Point, Scanner, Scanners, Week
from dicom_qa_node.charts.service_events import ServiceEvent
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.site import Site

__all__ = [
    "Choice",
    "Drawn",
    "Mark",
    "Picture",
    "choose",
    "draw",
    "picture_of",
    "round_values",
    "span_words",
    "spark",
    "time_of",
    "weeks_picture",
]

WIDTH, HEIGHT = 1000.0, 240.0
_MARGIN = 12.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart with the points that have a place on it.

    ``smoothed``, ``lower`` and ``upper`` are None for points that are not judged: late arrivals, what was before the
    baseline, and all while there is none.
    """

    chart: Chart
    limits: Limits | None
    points: tuple[Point, ...]
    smoothed: tuple[float | None, ...]
    lower: tuple[float | None, ...]
    upper: tuple[float | None, ...]
    violations: tuple[Violation, ...]
    spans: tuple[Span, ...]

    @property
    def values(self) -> list[float]:
        """The values on the chart, in order."""
        return [point.value if point.adjusted is None else point.adjusted for point in self.points]

    @property
    def left_out(self) -> int:
        """How many series have no place on the chart, since their patient's size is not known."""
        return len(self.chart.points) - len(self.points)

    @property
    def size_mm(self) -> float | None:
        """The patient size that the values are adjusted to; None where they are as measured."""
        baseline = self.chart.baseline
        return None if baseline is None or baseline.scale.curve is None else baseline.scale.curve.centre_mm

    def rule_at(self) -> dict[int, Rule]:
        """Return the broken rule by position."""
        return {found.index: found.rule for found in self.violations}

    def outside(self) -> list[int]:
        """Return the positions whose EWMA is beyond its limits."""
        return [
            index
            for index, (value, low, high) in enumerate(zip(self.smoothed, self.lower, self.upper, strict=True))
            if value is not None and low is not None and high is not None and not low <= value <= high
        ]

    def broken(self) -> list[tuple[Point, Violation]]:
        """Return the points that break a rule, the latest first."""
        return [(self.points[found.index], found) for found in reversed(self.violations)]

    def drifts(self) -> list[tuple[Point, Point, Span]]:
        """Return the drifts with their first and last point, the latest first."""
        return [(self.points[span.first], self.points[span.last], span) for span in reversed(self.spans)]


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a picture: ``kind`` is its class, ``label`` its words."""

    at: float
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Coordinates in a box of 1000 by 240; ``band`` is the outline of a filled area, empty where there is none.

    ``spans`` are left and right edge and the words of each drift, ``scale`` the round values of the upright axis,
    ``days`` the first weeks of months along the other.
    """

    line: str
    dots: tuple[tuple[float, float, str, str], ...]
    across: tuple[Mark, ...]
    upright: tuple[Mark, ...]
    band: str
    first: str
    last: str
    spans: tuple[tuple[float, float, str], ...] = ()
    scale: tuple[Mark, ...] = ()
    days: tuple[Mark, ...] = ()


def draw(chart: Chart) -> Drawn:
    """Leave out of a judged chart what has no place on it."""
    kept = [index for index, point in enumerate(chart.points) if point.adjusted is not None]
    place = {index: position for position, index in enumerate(kept)}
    judged = chart.judgement
    empty: list[float | None] = [None] * len(kept)
    smoothed, lower, upper = list(empty), list(empty), list(empty)
    triples = zip(judged.judged, judged.smoothed, judged.lower, judged.upper, strict=False)
    for index, value, low, high in triples:
        smoothed[place[index]], lower[place[index]], upper[place[index]] = value, low, high
    return Drawn(
        chart,
        None if chart.baseline is None else chart.baseline.limits,
        tuple(chart.points[index] for index in kept),
        tuple(smoothed),
        tuple(lower),
        tuple(upper),
        tuple(replace(found, index=place[found.index]) for found in judged.marks.points),
        tuple(replace(span, first=place[span.first], last=place[span.last]) for span in judged.marks.spans),
    )


def time_of(point: Point, axis: TimeAxis) -> dt.datetime:
    """Return the time of a point on an axis."""
    return point.acquired_at if axis is TimeAxis.ACQUIRED else point.at


def places_of(events: Sequence[ServiceEvent], drawn: Drawn) -> list[tuple[float, ServiceEvent]]:
    """Return where events lie between the points, as positions; those before the first point are left out."""
    times = [time_of(point, drawn.chart.axis) for point in drawn.points]
    found = [(bisect.bisect_left(times, event.at) - 0.5, event) for event in events]
    return [(place, event) for place, event in found if place > -0.5 or (times and event.at >= times[0])]


def picture_of(drawn: Drawn, events: Sequence[ServiceEvent], *, smoothed: bool = False) -> Picture | None:
    """Draw the individuals chart, or (``smoothed``) the EWMA chart; None without anything to draw."""
    every: Sequence[float | None] = drawn.smoothed if smoothed else drawn.values
    values = {index: value for index, value in enumerate(every) if value is not None}
    if not values:
        return None
    limits, axis = drawn.limits, drawn.chart.axis
    edges = [] if limits is None else [limits.lower, limits.upper]
    if smoothed:
        edges = [*_known(drawn.lower), *_known(drawn.upper)]
    across, up = _frame([*values.values(), *edges], len(drawn.points))
    bad = {} if smoothed else {index: rule.sentence for index, rule in drawn.rule_at().items()}
    late = {} if smoothed else {i: "arrived late, not judged" for i, point in enumerate(drawn.points) if point.late}
    dots = tuple(
        (across(i), up(values[i]), kind, text)
        for found, kind in ((late, "late"), (bad, "bad"))
        for i, text in found.items()
    )
    upright = tuple(
        Mark(across(place), "event", f"{event.at:%Y-%m-%d} {event.kind.value}: {event.text}")
        for place, event in places_of(events, drawn)
    )
    points = drawn.points
    return Picture(
        " ".join(f"{across(i):.1f},{up(value):.1f}" for i, value in values.items()),
        dots,
        _lines(limits, up, smoothed),
        upright,
        _band(drawn, across, up) if smoothed else "",
        _day(points[0], axis),
        _day(points[-1], axis),
        tuple((across(span.first - 0.5), across(span.last + 0.5), span_words(drawn, span)) for span in drawn.spans),
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def span_words(drawn: Drawn, span: Span) -> str:
    """Return a drift in words, with its days."""
    first, last = (_day(drawn.points[i], drawn.chart.axis) for i in (span.first, span.last))
    return f"drift {'upwards' if span.side > 0 else 'downwards'} from {first} to {last}"


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
    band = " ".join([*low, *reversed(high)])
    return Picture(
        _path(medians, across, up), dots, (), (), band, weeks[0].monday.isoformat(), weeks[-1].monday.isoformat(),
        scale=tuple(Mark(up(value), "scale", f"{value:.6g}") for value in round_values(min(edges), max(edges))),
        days=tuple(Mark(across(i), "day", f"{weeks[i].monday:%b %Y}") for i in _months(weeks)),
    )  # fmt: skip


def round_values(low: float, high: float, most: int = 8) -> list[float]:
    """Return up to ``most`` round values between two others: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / (most - 1)))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    found = [round(number * step, 12) for number in range(first, first + most) if number * step <= high + 1e-9 * span]
    return found or [low]


def _months(weeks: Sequence[Week], most: int = 8) -> list[int]:
    """Return the first week of each month, or of every second, third ... where there are many."""
    firsts = [i for i, week in enumerate(weeks) if i == 0 or week.monday.month != weeks[i - 1].monday.month]
    return firsts[:: -(-len(firsts) // most)]


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
    low = [f"{across(i):.1f},{up(value):.1f}" for i, value in enumerate(drawn.lower) if value is not None]
    high = [f"{across(i):.1f},{up(value):.1f}" for i, value in enumerate(drawn.upper) if value is not None]
    return " ".join([*low, *reversed(high)])


def _lines(limits: Limits | None, up: _Scale, smoothed: bool) -> tuple[Mark, ...]:
    if limits is None:
        return ()
    centre = Mark(up(limits.centre), "centre", f"centre {limits.centre:.4g}")
    if smoothed:
        return (centre,)
    upper = Mark(up(limits.upper), "limit", f"upper limit {limits.upper:.4g}")
    return (upper, centre, Mark(up(limits.lower), "limit", f"lower limit {limits.lower:.4g}"))


def _day(point: Point, axis: TimeAxis) -> str:
    return time_of(point, axis).astimezone().strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class Choice:
    """What an address asks for: scanner, group, quantity, how many points, ordered by which time."""

    scanner: Scanner
    group: Group
    groups: list[Group]
    quantity: str
    points: int
    axis: TimeAxis = TimeAxis.ACQUIRED

    @property
    def query(self) -> str:
        """The same choice as a query."""
        axis = "" if self.axis is TimeAxis.ACQUIRED else f"&by={self.axis.value}"
        return f"group={self.group.group_id}&quantity={self.quantity}&points={self.points}{axis}"


def choose(
    site: Site,
    scanner_id: int,
    group_id: int | None,
    quantity: str | None,
    points: int | None,
    axis: TimeAxis = TimeAxis.ACQUIRED,
) -> Choice | None:
    """Find what an address means; None if there is no such scanner or group. Reads the database.

    Without a group it is that with a drift, else the busiest; without a quantity what drifts there, else the score,
    else the first that has values.
    """
    charts = site.config.charts
    scanners = Scanners(site.database, chart_rules(charts), site.clock)
    scanner = scanners.scanner(min(scanner_id, LARGEST_ID))
    groups = [] if scanner is None else scanners.groups(scanner.scanner_id)
    if scanner is None or not groups:
        return None
    drifting: dict[int, str] = {}
    if group_id is None or quantity is None:
        drifting = {alarm.group_id: alarm.quantity for alarm in reversed(scanners.alarms(scanner.scanner_id))}
    first = next((item.group_id for item in groups if item.group_id in drifting), groups[0].group_id)
    group = next((item for item in groups if item.group_id == (group_id or first)), None)
    if group is None:
        return None
    named = quantity or drifting.get(group.group_id) or scanners.quantity_with_values(group)
    return Choice(scanner, group, groups, named, min(points or charts.points, 5000), axis)
