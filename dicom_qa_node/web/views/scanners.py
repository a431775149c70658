"""Scanners: a card per device, and per device its control charts, weeks, place in the fleet, events and alarms."""

from __future__ import annotations

import csv
import datetime as dt
import io

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.charts.arrival_order import TimeAxis
from dicom_qa_node.charts.baselines import chart_rules
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvents
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import Permission, account_of, guarded, note, word_of
from dicom_qa_node.web.chart_drawing import (
    Choice,
    Drawn,
    choose,
    draw,
    picture_of,
    places_of,
    span_words,
    spark,
    time_of,
    weeks_picture,
)
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.series_comparison import plain_unit
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_WEEKS = 52
_ROWS = 50
_POINTS = (100, 300, 1000)
_CSV = (
    "series_instance_uid", "version", "acquired_at", "scored_at", "value", "adjusted", "ewma", "ewma_lower",
    "ewma_upper", "rule", "drift", "late",
)  # fmt: skip


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    one = "/scanners/{scanner_id:int}"
    event = f"{one}/events/{{event_id:int}}"
    return [
        Route("/scanners", guarded(Permission.VIEW, _overview), methods=["GET"]),
        Route(one, guarded(Permission.VIEW, _scanner), methods=["GET"]),
        Route(f"{one}/chart.json", guarded(Permission.VIEW, _chart_json), methods=["GET"]),
        Route(f"{one}/chart.csv", guarded(Permission.VIEW, _chart_csv), methods=["GET"]),
        Route(f"{one}/baseline", guarded(Permission.ACT, _baseline), methods=["POST"]),
        Route(f"{one}/events", guarded(Permission.REVIEW, _add_event), methods=["POST"]),
        Route(event, guarded(Permission.REVIEW, _change_event), methods=["POST"]),
        Route(f"{event}/baseline", guarded(Permission.REVIEW, _after_event), methods=["POST"]),
        Route(f"{one}/accept", guarded(Permission.REVIEW, _accept), methods=["POST"]),
    ]


def _overview(request: Request) -> Response:
    site = site_of(request)
    scanners = Scanners(site.database, chart_rules(site.config.charts), site.clock)
    cards = [(card, spark(card.spark)) for card in scanners.overview()]
    return page(request, "scanners/overview.html", cards=cards, behind=scanners.behind())


def _scanner(request: Request, status: int = 200, problem: str = "") -> Response:
    site, choice = site_of(request), _choice(request)
    scanners = Scanners(site.database, chart_rules(site.config.charts), site.clock)
    drawn = _drawn(site, choice)
    quantity = drawn.chart.quantity
    since = site.clock().date() - dt.timedelta(weeks=_WEEKS)
    weeks = scanners.weeks(choice.group.group_id, quantity.quantity_id, since)
    events = ServiceEvents(site.database, site.clock)
    current = events.of(choice.scanner.scanner_id)
    context = {
        "choice": choice, "drawn": drawn, "quantity": quantity, "weeks": weeks,
        "fleet": scanners.fleet(choice.group, quantity.quantity_id),
        "events": current, "history": events.of(choice.scanner.scanner_id, everything=True),
        "alarms": scanners.alarms(choice.scanner.scanner_id, notes=True),
        "kinds": [kind for kind in EventKind if kind != EventKind.NETWORK],
        "past": scanners.alarms(choice.scanner.scanner_id, only_open=False, notes=True, limit=20),
        "baselines": scanners.baselines(choice.group.group_id, quantity.name), "problem": problem,
        "individuals": picture_of(drawn, current), "smooth": picture_of(drawn, current, smoothed=True),
        "weekly": weeks_picture(weeks), "rows": _ROWS, "counts": sorted({*_POINTS, choice.points}),
        "charts": site.config.charts, "unit": plain_unit(quantity.unit), "plain_unit": plain_unit,
        "axes": list(TimeAxis), "span_words": span_words, "time_of": time_of,
    }  # fmt: skip
    return page(request, "scanners/scanner.html", status, **context)


def _chart_json(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    drawn = _drawn(site, choice)
    points, limits, axis = drawn.points, drawn.limits, drawn.chart.axis
    events = ServiceEvents(site.database, site.clock).of(choice.scanner.scanner_id)
    body = {
        "quantity": drawn.chart.quantity.name, "unit": drawn.chart.quantity.unit,
        "times": [int(time_of(point, axis).timestamp()) for point in points],
        "values": drawn.values,
        "late": [index for index, point in enumerate(points) if point.late],
        "series": [point.series_instance_uid for point in points],
        "limits": limits and {"centre": limits.centre, "lower": limits.lower, "upper": limits.upper},
        "ewma": drawn.smoothed, "lower": drawn.lower, "upper": drawn.upper,
        "violations": [{"index": v.index, "rule": v.rule.value, "text": v.rule.sentence} for v in drawn.violations],
        "spans": [{"first": s.first, "last": s.last, "text": span_words(drawn, s)} for s in drawn.spans],
        "events": [
            {"place": place, "text": f"{event.at:%Y-%m-%d} {event.kind.value}: {event.text}"}
            for place, event in places_of(events, drawn)
        ],
    }  # fmt: skip
    return JSONResponse(body)


def _chart_csv(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    drawn, out = _drawn(site, choice), io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_CSV)
    rules, points = drawn.rule_at(), drawn.points
    lines = zip(points, drawn.smoothed, drawn.lower, drawn.upper, strict=True)
    in_drift = {index for span in drawn.spans for index in range(span.first, span.last + 1)}
    for index, (point, *judged) in enumerate(lines):
        rule = rules[index].value if index in rules else ""
        times = (point.acquired_at.isoformat(timespec="seconds"), point.at.isoformat(timespec="seconds"))
        numbers = [repr(point.value), "" if point.adjusted is None else repr(point.adjusted)]
        row = [point.series_instance_uid, point.version, *times, *numbers]
        limits = ["" if value is None else value for value in judged]
        writer.writerow([*row, *limits, rule, "yes" if index in in_drift else "", "yes" if point.late else ""])
    note(request, "chart.export", kind="scanner", ident=choice.scanner.name, detail=choice.query)
    name = f"scanner-{choice.scanner.scanner_id}-{choice.group.group_id}-{drawn.chart.quantity.name}.csv"
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(out.getvalue(), media_type="text/csv; charset=utf-8", headers=disposition)


def _baseline(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    scanners = Scanners(site.database, chart_rules(site.config.charts), site.clock)
    account, reason = account_of(request), word_of(request, "reason")
    try:
        if word_of(request, "automatic"):
            scanners.automatic_baseline(choice.group, choice.quantity, reason=reason, author=account.name)
            period = "automatic"
        else:
            first, last = _day(request, "first_day"), _day(request, "last_day")
            period = f"{first} to {last}"
            scanners.choose_baseline(choice.group, choice.quantity, first, last, reason=reason, author=account.name)
    except Permanent as error:
        return _scanner(request, 422, str(error))
    detail = f"{choice.group.kind} {choice.group.protocol}, {choice.quantity}: {period}"
    note(request, "baseline.choose", kind="scanner", ident=choice.scanner.name, detail=detail)
    return redirect(request, f"/scanners/{choice.scanner.scanner_id}?{choice.query}#baseline")


def _accept(request: Request) -> Response:
    """Judge a group by its series from the beginning of a drift on: what changed then was meant."""
    site, choice = site_of(request), _choice(request)
    scanners = Scanners(site.database, chart_rules(site.config.charts), site.clock)
    wanted = _number(word_of(request, "alarm"))
    alarms = scanners.alarms(choice.scanner.scanner_id, notes=True, limit=500)
    alarm = next((item for item in alarms if item.alarm_id == wanted), None)
    group = next((item for item in choice.groups if alarm is not None and item.group_id == alarm.group_id), None)
    if alarm is None or group is None:
        raise HTTPException(404, "There is no such drift, or it has ended meanwhile.")
    reason = word_of(request, "reason") or f"accepted: {alarm.sentence or alarm.meaning}"
    scanners.accept_change(group, alarm.began_at, reason=reason, author=account_of(request).name)
    detail = f"{group.kind} {group.protocol}: from {alarm.began_at:%Y-%m-%d %H:%M} UTC, {reason}"
    note(request, "baseline.accept", kind="scanner", ident=choice.scanner.name, detail=detail)
    return redirect(request, f"/scanners/{choice.scanner.scanner_id}?group={group.group_id}#baseline")


def _after_event(request: Request) -> Response:
    """Judge every group of a scanner by its series after a service event."""
    site, choice = site_of(request), _choice(request)
    wanted = min(request.path_params["event_id"], LARGEST_ID)
    events = ServiceEvents(site.database, site.clock).of(choice.scanner.scanner_id)
    event = next((item for item in events if item.event_id == wanted), None)
    if event is None:
        raise HTTPException(404, "There is no such event, or somebody has changed it meanwhile.")
    scanners = Scanners(site.database, chart_rules(site.config.charts), site.clock)
    reason = f"{event.kind.value}: {event.text}"
    count = scanners.accept_event(choice.scanner.scanner_id, event.at, reason=reason, author=account_of(request).name)
    detail = f"event {event.event_id}, {count} groups from {event.at:%Y-%m-%d %H:%M} UTC"
    note(request, "baseline.accept", kind="scanner", ident=choice.scanner.name, detail=detail)
    return redirect(request, f"/scanners/{choice.scanner.scanner_id}?{choice.query}#baseline")


def _add_event(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    events = ServiceEvents(site.database, site.clock)
    try:
        number = events.add(
            choice.scanner.scanner_id, _moment(request), _kind(request), word_of(request, "text"),
            author=account_of(request).name,
        )  # fmt: skip
    except Permanent as error:
        return _scanner(request, 422, str(error))
    note(request, "scanner.event", kind="scanner", ident=choice.scanner.name, detail=f"event {number}")
    return redirect(request, f"/scanners/{choice.scanner.scanner_id}?{choice.query}#events")


def _change_event(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    events, author = ServiceEvents(site.database, site.clock), account_of(request).name
    number = min(request.path_params["event_id"], LARGEST_ID)
    if number not in {event.event_id for event in events.of(choice.scanner.scanner_id)}:
        raise HTTPException(404, "There is no such event, or somebody has changed it meanwhile.")
    try:
        if word_of(request, "withdraw"):
            events.withdraw(number, word_of(request, "reason"), author=author)
        else:
            events.correct(number, _moment(request), _kind(request), word_of(request, "text"), author=author)
    except Permanent as error:
        return _scanner(request, 422, str(error))
    what = "withdrawn" if word_of(request, "withdraw") else "corrected"
    note(request, "scanner.event", kind="scanner", ident=choice.scanner.name, detail=f"event {number} {what}")
    return redirect(request, f"/scanners/{choice.scanner.scanner_id}?{choice.query}#events")


def _choice(request: Request) -> Choice:
    query = request.query_params
    group, points = _number(query.get("group")), _number(query.get("points"))
    quantity = query.get("quantity", "")[:100] or None
    axis = TimeAxis.SCORED if query.get("by") == TimeAxis.SCORED else TimeAxis.ACQUIRED
    found = choose(site_of(request), request.path_params["scanner_id"], group, quantity, points, axis)
    if found is None:
        raise HTTPException(404, "There is no such scanner or protocol group.")
    return found


def _drawn(site: Site, choice: Choice) -> Drawn:
    scanners = Scanners(site.database, chart_rules(site.config.charts), site.clock)
    chart = scanners.chart(choice.group, choice.quantity, points=choice.points, axis=choice.axis)
    if chart is None:
        raise HTTPException(404, "There is no such quantity.")
    return draw(chart)


def _number(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise HTTPException(404)
    return min(max(int(text[:12]), 1), LARGEST_ID)


def _day(request: Request, name: str) -> dt.date:
    try:
        return dt.date.fromisoformat(word_of(request, name))
    except ValueError as error:
        raise Permanent("choose a first and a last day") from error


def _moment(request: Request) -> dt.datetime:
    # The field holds the node's local time, as the page shows times.
    try:
        return dt.datetime.fromisoformat(word_of(request, "at")).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise Permanent("choose a date and time") from error


def _kind(request: Request) -> EventKind:
    try:
        kind = EventKind(word_of(request, "kind"))
    except ValueError as error:
        raise Permanent("choose what was done") from error
    if kind is EventKind.NETWORK:
        raise Permanent("the node itself marks another network")
    return kind
