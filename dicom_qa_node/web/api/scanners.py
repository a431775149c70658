"""Scanners in the API: devices, protocol groups, control charts, weeks, the fleet, baselines, events, drift alarms."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from dicom_qa_node.charts.scanners import Alarm, Card, Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvent, ServiceEvents
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import note
from dicom_qa_node.web.api.dependencies import Actor, CurrentSite, Reviewer, Viewer
from dicom_qa_node.web.chart_drawing import Choice, Drawn, choose, draw, rules_of
from dicom_qa_node.web.site import Site

__all__ = ["router"]

Number = Annotated[int, Path(ge=1, le=LARGEST_ID)]
GroupId = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="protocol group; default: the busiest")]
QuantityName = Annotated[str, Query(max_length=100, pattern=r"^[A-Za-z0-9_]+$", description="score or a measurement")]
Points = Annotated[int | None, Query(ge=1, le=5000, description="latest series; default: charts.points")]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class GroupOut(_Out):
    """Series of one kind and protocol on one scanner."""

    group_id: int
    kind: str
    protocol: str
    count: int
    last_at: dt.datetime
    last_score: float | None


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
    groups: list[GroupOut]


class QuantityOut(_Out):
    """What a chart can show; ``unit`` is a UCUM code."""

    name: str
    meaning: str
    unit: str
    direction: str


class PointOut(BaseModel):
    """A series on a chart; ``rule`` is the Western Electric rule it breaks (1 to 4)."""

    series_instance_uid: str
    version: int
    at: dt.datetime
    value: float
    ewma: float | None
    ewma_lower: float | None
    ewma_upper: float | None
    rule: int | None


class BaselineOut(BaseModel):
    """What a chart is judged by; without days it is the first series of the group."""

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


class ChartOut(BaseModel):
    """A control chart, the oldest series first."""

    group: GroupOut
    quantity: QuantityOut
    quantities: list[QuantityOut]
    baseline: BaselineOut | None
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
    """A drift; open while ``ended_at`` is null. ``side`` is 1 above, -1 below the baseline.

    ``meaning`` is the quantity in words.
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

    at: AwareDatetime
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


api = APIRouter(prefix="/scanners", tags=["scanners"])


def _charts(site: Site) -> Scanners:
    return Scanners(site.database, rules_of(site.config.charts), site.clock)


def _events(site: Site) -> ServiceEvents:
    return ServiceEvents(site.database, site.clock)


@api.get("")
def scanners_of_the_node(site: CurrentSite, account: Viewer) -> list[ScannerOut]:
    """Return every device, by name."""
    return [_scanner(card) for card in _charts(site).overview()]


@api.get("/alarms")
def drift_alarms(site: CurrentSite, account: Viewer, only_open: bool = True) -> list[AlarmOut]:
    """Return drift alarms, the latest first, 500 at most."""
    return [_alarm(alarm) for alarm in _charts(site).alarms(only_open=only_open, limit=500)]


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
    points: Points = None,
) -> ChartOut:  # fmt: skip
    """Return a control chart."""
    choice = _choice(site, scanner_id, group, quantity, points)
    found = _charts(site).chart(choice.group, quantity, points=choice.points)
    if found is None:
        raise HTTPException(404, "there is no such quantity")
    return _chart(draw(found, rules_of(site.config.charts)))


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
    return _chart(draw(found, rules_of(site.config.charts)))


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
    groups = [GroupOut.model_validate(group) for group in card.groups]
    return ScannerOut(**device, count=card.count, last_score=card.last_score, drift_alarms=card.alarms, groups=groups)


def _alarm(alarm: Alarm) -> AlarmOut:
    return AlarmOut.model_validate(alarm)


def _event(event: ServiceEvent) -> EventOut:
    return EventOut.model_validate(event)


def _chart(drawn: Drawn) -> ChartOut:
    chart, rules = drawn.chart, drawn.rule_at()
    none: tuple[float | None, ...] = (None,) * len(chart.points)
    judged = zip(drawn.smoothed or none, drawn.lower or none, drawn.upper or none, strict=True)
    points = [
        PointOut(
            **{name: getattr(point, name) for name in point.__slots__},
            ewma=smooth, ewma_lower=low, ewma_upper=high, rule=rules[index].value if index in rules else None,
        )
        for index, (point, (smooth, low, high)) in enumerate(zip(chart.points, judged, strict=True))
    ]  # fmt: skip
    return ChartOut(
        group=GroupOut.model_validate(chart.group),
        quantity=QuantityOut.model_validate(chart.quantity),
        quantities=[QuantityOut.model_validate(quantity) for quantity in chart.quantities],
        baseline=_baseline(drawn),
        points=points,
    )


def _baseline(drawn: Drawn) -> BaselineOut | None:
    baseline = drawn.chart.baseline
    if baseline is None:
        return None
    limits = baseline.limits
    names = ("first_day", "last_day", "author", "reason", "created_at")
    return BaselineOut(
        centre=limits.centre, sigma=limits.sigma, lower=limits.lower, upper=limits.upper, count=limits.count,
        **{name: getattr(baseline, name) for name in names},
    )  # fmt: skip
