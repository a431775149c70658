"""Scanners in the API: devices, protocol groups, control charts, weeks, the fleet, baselines, events, drift alarms."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from dicom_qa_node.charts.arrival_order import TimeAxis
from dicom_qa_node.charts.baselines import chart_rules
from dicom_qa_node.charts.naming import Naming
from dicom_qa_node.charts.scanners import Alarm, Card, Light, Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvent, ServiceEvents
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import note
from dicom_qa_node.web.api.dependencies import Actor, CurrentSite, Reviewer, Viewer
from dicom_qa_node.web.chart_drawing import Choice, Drawn, choose, draw
from dicom_qa_node.web.site import Site

__all__ = ["router"]

Number = Annotated[int, Path(ge=1, le=LARGEST_ID)]
GroupId = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="protocol group; default: the busiest")]
QuantityName = Annotated[str, Query(max_length=100, pattern=r"^[A-Za-z0-9_]+$", description="score or a measurement")]
Axis = Annotated[TimeAxis, Query(description="which time orders the series: of the acquisition, or of the scoring")]
Points = Annotated[int | None, Query(ge=1, le=5000, description="latest series; default: charts.points")]


def _in_utc(moment: dt.datetime) -> dt.datetime:
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:
        raise ValueError("lies before the year 1 or after 9999 in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class GroupOut(_Out):
    """Series of one kind and stratum on one scanner; ``protocol`` is the label of the stratum."""

    group_id: int
    kind: str
    protocol: str
    count: int
    last_at: dt.datetime
    last_score: float | None
    protocol_name: str
    kernel: str
    reconstruction: str
    thickness: str


class ScannerOut(BaseModel):
    """A device with its protocol groups, the busiest first."""

    scanner_id: int
    name: str
    manufacturer: str
    model: str
    station: str
    serial: str
    institution: str
    first_at: dt.datetime
    last_at: dt.datetime
    count: int
    last_score: float | None
    drift_alarms: int
    improvements: int
    light: Light
    grades: dict[str, int] = Field(description="series of the last 7 days by grade; empty name: without a grade")
    parts: list[int] = Field(description="scanners that are shown as this one")
    groups: list[GroupOut]


class QuantityOut(_Out):
    """What a chart can show; ``unit`` is a UCUM code."""

    name: str
    meaning: str
    unit: str
    direction: str


class PointOut(BaseModel):
    """A series on a chart; ``rule`` is the Western Electric rule it breaks (1 to 4).

    ``at`` is when it was scored. ``adjusted`` is ``value`` at the median patient size where the chart takes size out;
    EWMA and limits belong to it. ``late``: it arrived after later ones were judged, and is not judged itself.
    """

    series_instance_uid: str
    version: int
    at: dt.datetime
    acquired_at: dt.datetime
    value: float
    adjusted: float | None
    late: bool
    ewma: float | None
    ewma_lower: float | None
    ewma_upper: float | None
    rule: int | None


class BaselineOut(BaseModel):
    """What a chart is judged by; without days the first series of the group, or those after ``from_at``.

    ``sigma`` is relative where ``log``. ``size_mm`` is the patient size that values are adjusted to, null without.
    """

    log: bool
    size_mm: float | None
    from_at: dt.datetime | None
    centre: float
    sigma: float
    lower: float
    upper: float
    count: int
    first_day: dt.date | None
    last_day: dt.date | None
    author: str
    reason: str
    created_at: dt.datetime | None


class SpanOut(BaseModel):
    """A drift on a chart: positions of its first and last point."""

    first: int
    last: int
    side: int


class ChartOut(BaseModel):
    """A control chart, the oldest series first; ``too_few`` are values and need while there is no baseline."""

    group: GroupOut
    quantity: QuantityOut
    quantities: list[QuantityOut]
    baseline: BaselineOut | None
    too_few: tuple[int, int] | None
    drifts: list[SpanOut]
    points: list[PointOut]


class SpreadOut(_Out):
    """Percentiles of some series."""

    count: int
    p5: float
    q1: float
    median: float
    q3: float
    p95: float
    mean: float


class WeekOut(_Out):
    """One week."""

    monday: dt.date
    spread: SpreadOut


class FleetOut(BaseModel):
    """The latest series of one scanner in the same protocol group."""

    scanner_id: int
    name: str
    spread: SpreadOut


class AlarmOut(_Out):
    """A drift with its cause; open while ``ended_at`` is null. ``side`` is 1 above, -1 below the baseline.

    ``quantity`` (``meaning`` in words) is what drifted first, ``others`` what drifted with it. An ``improvement`` is a
    note, no alarm.
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
    sentence: str
    others: list[str]
    improvement: bool


class EventOut(_Out):
    """Something that was done to a scanner."""

    event_id: int
    at: dt.datetime
    kind: EventKind
    text: str
    author: str
    created_at: dt.datetime
    supersedes: int | None


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewEvent(_In):
    """An event to mark; with ``supersedes`` it takes the place of another."""

    at: Moment
    kind: EventKind
    text: str = Field(min_length=1, max_length=500)
    supersedes: int | None = Field(None, ge=1, le=LARGEST_ID)


class NewBaseline(_In):
    """A period to judge a chart by, both days included; without days: the first series again."""

    group_id: int = Field(ge=1, le=LARGEST_ID)
    quantity: str = Field("score", max_length=100, pattern=r"^[A-Za-z0-9_]+$")
    first_day: dt.date | None = None
    last_day: dt.date | None = None
    reason: str = Field("", max_length=500)


class AcceptedChange(_In):
    """What changed on a scanner was meant: charts are judged by the first series from a time on.

    With ``group_id`` one group, else every group of the scanner (after a service event).
    """

    from_at: Moment
    group_id: int | None = Field(None, ge=1, le=LARGEST_ID)
    reason: str = Field(min_length=1, max_length=500)


class NewName(_In):
    """A name for a scanner ("" is the derived one), or the scanner it is shown as (null: itself)."""

    name: str | None = Field(None, max_length=100)
    part_of: int | None = Field(None, ge=1, le=LARGEST_ID)


class ProtocolShown(_In):
    """A protocol name as scanners write it, and what it is shown as; the same or "" takes it back."""

    written: str = Field(min_length=1, max_length=200)
    shown: str = Field(max_length=200)


class ProtocolNameOut(_Out):
    """A protocol name that is shown as another."""

    written: str
    shown: str
    author: str
    changed_at: dt.datetime


api = APIRouter(prefix="/scanners", tags=["scanners"])


def _charts(site: Site) -> Scanners:
    return Scanners(site.database, chart_rules(site.config.charts), site.clock)


def _events(site: Site) -> ServiceEvents:
    return ServiceEvents(site.database, site.clock)


@api.get("")
def scanners_of_the_node(site: CurrentSite, account: Viewer) -> list[ScannerOut]:
    """Return every device, by name."""
    return [_scanner(card) for card in _charts(site).overview()]


@api.get("/alarms")
def drift_alarms(
    site: CurrentSite, account: Viewer, only_open: bool = True, improvements: bool = False
) -> list[AlarmOut]:
    """Return drift alarms by cause, the latest first, 500 at most; with ``improvements`` notes of these, too."""
    found = _charts(site).alarms(only_open=only_open, notes=improvements, limit=500)
    return [_alarm(alarm) for alarm in found]


@api.get("/protocol-names")
def protocol_names(site: CurrentSite, account: Viewer) -> list[ProtocolNameOut]:
    """Return the protocol names that are shown as others."""
    return [ProtocolNameOut.model_validate(item) for item in Naming(site.database, site.clock).protocols()]


@api.put("/protocol-names")
def map_protocol(request: Request, site: CurrentSite, account: Reviewer, new: ProtocolShown) -> list[ProtocolNameOut]:
    """Show a protocol under another name in charts, log and exports."""
    naming = Naming(site.database, site.clock)
    naming.map_protocol(new.written, new.shown, author=account.name)
    note(request, "protocol.name", kind="protocol", ident=new.written, detail=f"shown as {new.shown or new.written}")
    return [ProtocolNameOut.model_validate(item) for item in naming.protocols()]


@api.put("/{scanner_id}/name")
def name_scanner(
    request: Request, site: CurrentSite, account: Reviewer, scanner_id: Number, new: NewName
) -> ScannerOut:
    """Give a scanner a name, or show it as part of another."""
    _known(_charts(site), scanner_id)
    naming = Naming(site.database, site.clock)
    if new.name is not None:
        shown = naming.name_scanner(scanner_id, new.name, author=account.name)
        note(request, "scanner.name", kind="scanner", ident=str(scanner_id), detail=f"called {shown}")
    if "part_of" in new.model_fields_set:
        naming.merge(scanner_id, new.part_of, author=account.name)
        detail = "stands for itself" if new.part_of is None else f"shown as scanner {new.part_of}"
        note(request, "scanner.merge", kind="scanner", ident=str(scanner_id), detail=detail)
    found = _charts(site).scanner(scanner_id)
    assert found is not None
    return scanner(site, account, found.scanner_id)


@api.put("/{scanner_id}/accepted-change")
def accept_change(
    request: Request, site: CurrentSite, account: Reviewer, scanner_id: Number, new: AcceptedChange
) -> int:
    """Begin a new baseline of every quantity at a time; return how many groups."""
    _known(_charts(site), scanner_id)
    words = {"reason": new.reason, "author": account.name}
    if new.group_id is None:
        count = _charts(site).accept_event(scanner_id, new.from_at, **words)
    else:
        choice = _choice(site, scanner_id, new.group_id, "score", None)
        _charts(site).accept_change(choice.group, new.from_at, **words)
        count = 1
    detail = f"{count} groups from {new.from_at:%Y-%m-%d %H:%M} UTC: {new.reason}"
    note(request, "baseline.accept", kind="scanner", ident=str(scanner_id), detail=detail)
    return count


@api.get("/{scanner_id}")
def scanner(site: CurrentSite, account: Viewer, scanner_id: Number) -> ScannerOut:
    """Return one device."""
    for card in _charts(site).overview():
        if card.scanner.scanner_id == scanner_id:
            return _scanner(card)
    raise HTTPException(404, "there is no such scanner")


@api.get("/{scanner_id}/chart")
def chart(
    site: CurrentSite, account: Viewer, scanner_id: Number, group: GroupId = None, quantity: QuantityName = "score",
    points: Points = None, by: Axis = TimeAxis.ACQUIRED,
) -> ChartOut:  # fmt: skip
    """Return a control chart."""
    choice = _choice(site, scanner_id, group, quantity, points)
    found = _charts(site).chart(choice.group, quantity, points=choice.points, axis=by)
    if found is None:
        raise HTTPException(404, "there is no such quantity")
    return _chart(draw(found))


@api.get("/{scanner_id}/weeks")
def weeks(
    site: CurrentSite, account: Viewer, scanner_id: Number, group: GroupId = None, quantity: QuantityName = "score",
    since: dt.date | None = None,
) -> list[WeekOut]:  # fmt: skip
    """Return weekly percentiles, the earliest first."""
    choice, number = _with_number(site, _charts(site), scanner_id, group, quantity)
    return [WeekOut.model_validate(week) for week in _charts(site).weeks(choice.group.group_id, number, since)]


@api.get("/{scanner_id}/fleet")
def fleet(
    site: CurrentSite, account: Viewer, scanner_id: Number, group: GroupId = None, quantity: QuantityName = "score"
) -> list[FleetOut]:
    """Return the latest 300 series of each scanner with the same protocol, this scanner's first."""
    choice, number = _with_number(site, _charts(site), scanner_id, group, quantity)
    return [
        FleetOut(scanner_id=other.scanner_id, name=other.name, spread=SpreadOut.model_validate(spread))
        for other, spread in _charts(site).fleet(choice.group, number)
    ]


@api.get("/{scanner_id}/events")
def events_of(site: CurrentSite, account: Viewer, scanner_id: Number, everything: bool = False) -> list[EventOut]:
    """Return service events as they stand; ``everything``: each wording there was."""
    _known(_charts(site), scanner_id)
    return [_event(event) for event in _events(site).of(scanner_id, everything=everything)]


@api.post("/{scanner_id}/events", status_code=201)
def mark_event(request: Request, site: CurrentSite, account: Reviewer, scanner_id: Number, new: NewEvent) -> EventOut:
    """Mark an event, or correct one."""
    _known(_charts(site), scanner_id)
    if new.kind is EventKind.NETWORK:
        raise HTTPException(422, "kind: the node itself marks another network")
    if new.supersedes is None:
        number = _events(site).add(scanner_id, new.at, new.kind, new.text, author=account.name)
    elif new.supersedes in {event.event_id for event in _events(site).of(scanner_id)}:
        number = _events(site).correct(new.supersedes, new.at, new.kind, new.text, author=account.name)
    else:
        raise HTTPException(404, "there is no such event, or it has been corrected")
    note(request, "scanner.event", kind="scanner", ident=str(scanner_id), detail=f"event {number}")
    return next(_event(event) for event in _events(site).of(scanner_id) if event.event_id == number)


@api.put("/{scanner_id}/baseline")
def choose_baseline(
    request: Request, site: CurrentSite, account: Actor, scanner_id: Number, new: NewBaseline
) -> ChartOut:
    """Judge a chart by a period; 409 if it holds fewer than 20 values."""
    choice = _choice(site, scanner_id, new.group_id, new.quantity, None)
    if _charts(site).chart(choice.group, new.quantity) is None:
        raise HTTPException(404, "there is no such quantity")
    if new.first_day is None or new.last_day is None:
        _charts(site).automatic_baseline(choice.group, new.quantity, reason=new.reason, author=account.name)
    else:
        _charts(site).choose_baseline(
            choice.group, new.quantity, new.first_day, new.last_day, reason=new.reason, author=account.name
        )
    period = f"{new.first_day} to {new.last_day}" if new.first_day else "automatic"
    detail = f"{choice.group.kind} {choice.group.protocol}, {new.quantity}: {period}"
    note(request, "baseline.choose", kind="scanner", ident=str(scanner_id), detail=detail)
    found = _charts(site).chart(choice.group, new.quantity)
    assert found is not None
    return _chart(draw(found))


def router(_site: Site) -> APIRouter:
    """Return the calls of this file."""
    return api


def _choice(site: Site, scanner_id: int, group: int | None, quantity: str, points: int | None) -> Choice:
    found = choose(site, scanner_id, group, quantity, points)
    if found is None:
        raise HTTPException(404, "there is no such scanner or protocol group")
    return found


def _with_number(
    site: Site, scanners: Scanners, scanner_id: int, group: int | None, quantity: str
) -> tuple[Choice, int]:
    choice = _choice(site, scanner_id, group, quantity, None)
    number = scanners.quantity_number(quantity)
    if number is None:
        raise HTTPException(404, "there is no such quantity")
    return choice, number


def _known(scanners: Scanners, scanner_id: int) -> None:
    if scanners.scanner(scanner_id) is None:
        raise HTTPException(404, "there is no such scanner")


def _scanner(card: Card) -> ScannerOut:
    device = {name: getattr(card.scanner, name) for name in card.scanner.__slots__}
    return ScannerOut(
        **device,
        count=card.count,
        last_score=card.last_score,
        drift_alarms=card.alarms,
        improvements=card.notes,
        light=card.light,
        grades=dict(card.grades),
        groups=[GroupOut.model_validate(group) for group in card.groups],
    )


def _alarm(alarm: Alarm) -> AlarmOut:
    return AlarmOut.model_validate(alarm)


def _event(event: ServiceEvent) -> EventOut:
    return EventOut.model_validate(event)


def _chart(drawn: Drawn) -> ChartOut:
    chart, rules = drawn.chart, drawn.rule_at()
    judged = zip(drawn.points, drawn.smoothed, drawn.lower, drawn.upper, strict=True)
    points = [
        PointOut(
            **{name: getattr(point, name) for name in point.__slots__},
            ewma=smooth, ewma_lower=low, ewma_upper=high, rule=rules[index].value if index in rules else None,
        )
        for index, (point, smooth, low, high) in enumerate(judged)
    ]  # fmt: skip
    return ChartOut(
        group=GroupOut.model_validate(chart.group),
        quantity=QuantityOut.model_validate(chart.quantity),
        quantities=[QuantityOut.model_validate(quantity) for quantity in chart.quantities],
        baseline=_baseline(drawn),
        too_few=None if chart.too_few is None else (chart.too_few.count, chart.too_few.needed),
        drifts=[SpanOut(first=span.first, last=span.last, side=span.side) for span in drawn.spans],
        points=points,
    )


def _baseline(drawn: Drawn) -> BaselineOut | None:
    baseline = drawn.chart.baseline
    if baseline is None:
        return None
    limits = baseline.limits
    names = ("first_day", "last_day", "author", "reason", "created_at", "from_at")
    return BaselineOut(
        log=limits.log, size_mm=drawn.size_mm,
        centre=limits.centre, sigma=limits.sigma, lower=limits.lower, upper=limits.upper, count=limits.count,
        **{name: getattr(baseline, name) for name in names},
    )  # fmt: skip
