"""Scanners: a card per device, and per device its control charts, weeks, place in the fleet, events and alarms."""

from __future__ import annotations

import csv
import datetime as dt
import io
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvents
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import Permission, account_of, form_of, guarded, note
from dicom_qa_node.web.chart_drawing import (
    Choice,
    Drawn,
    choose,
    draw,
    picture_of,
    places_of,
    rules_of,
    spark,
    weeks_picture,
)
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_WEEKS = 52
_ROWS = 50
_POINTS = (100, 300, 1000)


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
    ]


def _overview(request: Request) -> Response:
    site = site_of(request)
    scanners = Scanners(site.database, clock=site.clock)
    cards = [(card, spark(card.spark)) for card in scanners.overview()]
    return page(request, "scanners/overview.html", cards=cards, behind=scanners.behind())


def _scanner(request: Request, status: int = 200, problem: str = "") -> Response:
    site, choice = site_of(request), _choice(request)
    scanners = Scanners(site.database, rules_of(site.config.charts), site.clock)
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
        "alarms": scanners.alarms(choice.scanner.scanner_id), "kinds": [k for k in EventKind if k != EventKind.NETWORK],
        "past": scanners.alarms(choice.scanner.scanner_id, only_open=False, limit=20),
        "baselines": scanners.baselines(choice.group.group_id, quantity.name), "problem": problem,
        "individuals": picture_of(drawn, current), "smooth": picture_of(drawn, current, smoothed=True),
        "weekly": weeks_picture(weeks), "rows": _ROWS, "counts": sorted({*_POINTS, choice.points}),
        "charts": site.config.charts,
    }  # fmt: skip
    return page(request, "scanners/scanner.html", status, **context)


def _chart_json(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    drawn = _drawn(site, choice)
    points, limits = drawn.chart.points, drawn.limits
    events = ServiceEvents(site.database, site.clock).of(choice.scanner.scanner_id)
    body = {
        "quantity": drawn.chart.quantity.name, "unit": drawn.chart.quantity.unit,
        "times": [int(point.at.timestamp()) for point in points],
        "values": [point.value for point in points],
        "series": [point.series_instance_uid for point in points],
        "limits": limits and {"centre": limits.centre, "lower": limits.lower, "upper": limits.upper},
        "ewma": drawn.smoothed, "lower": drawn.lower, "upper": drawn.upper,
        "violations": [{"index": v.index, "rule": v.rule.value, "text": v.rule.sentence} for v in drawn.violations],
        "outside": drawn.outside(),
        "events": [
            {"place": place, "text": f"{event.at:%Y-%m-%d} {event.kind.value}: {event.text}"}
            for place, event in places_of(events, points)
        ],
    }  # fmt: skip
    return JSONResponse(body)


def _chart_csv(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    drawn, out = _drawn(site, choice), io.StringIO()
    writer = csv.writer(out)
    head = ("series_instance_uid", "version", "scored_at", "value", "ewma", "ewma_lower", "ewma_upper", "rule")
    writer.writerow(head)
    rules, nothing = drawn.rule_at(), ("",) * len(drawn.chart.points)
    lines = zip(
        drawn.chart.points, drawn.smoothed or nothing, drawn.lower or nothing, drawn.upper or nothing, strict=True
    )
    for index, (point, *judged) in enumerate(lines):
        rule = rules[index].value if index in rules else ""
        uid, at = point.series_instance_uid, point.at.isoformat(timespec="seconds")
        writer.writerow([uid, point.version, at, repr(point.value), *judged, rule])
    note(request, "chart.export", kind="scanner", ident=choice.scanner.name, detail=choice.query)
    name = f"scanner-{choice.scanner.scanner_id}-{choice.group.group_id}-{drawn.chart.quantity.name}.csv"
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(out.getvalue(), media_type="text/csv; charset=utf-8", headers=disposition)


def _baseline(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    scanners = Scanners(site.database, rules_of(site.config.charts), site.clock)
    account, reason = account_of(request), _word(request, "reason")
    try:
        if _word(request, "automatic"):
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


def _add_event(request: Request) -> Response:
    site, choice = site_of(request), _choice(request)
    events = ServiceEvents(site.database, site.clock)
    try:
        number = events.add(
            choice.scanner.scanner_id, _moment(request), _kind(request), _word(request, "text"),
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
        if _word(request, "withdraw"):
            events.withdraw(number, _word(request, "reason"), author=author)
        else:
            events.correct(number, _moment(request), _kind(request), _word(request, "text"), author=author)
    except Permanent as error:
        return _scanner(request, 422, str(error))
    what = "withdrawn" if _word(request, "withdraw") else "corrected"
    note(request, "scanner.event", kind="scanner", ident=choice.scanner.name, detail=f"event {number} {what}")
    return redirect(request, f"/scanners/{choice.scanner.scanner_id}?{choice.query}#events")


def _choice(request: Request) -> Choice:
    query = request.query_params
    group, points = _number(query.get("group")), _number(query.get("points"))
    quantity = query.get("quantity", "score")[:100]
    found = choose(site_of(request), request.path_params["scanner_id"], group, quantity, points)
    if found is None:
        raise HTTPException(404, "There is no such scanner or protocol group.")
    return found


def _drawn(site: Site, choice: Choice) -> Drawn:
    rules = rules_of(site.config.charts)
    chart = Scanners(site.database, rules, site.clock).chart(choice.group, choice.quantity, points=choice.points)
    if chart is None:
        raise HTTPException(404, "There is no such quantity.")
    return draw(chart, rules)


def _number(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise HTTPException(404)
    return min(max(int(text[:12]), 1), LARGEST_ID)


def _word(request: Request, name: str) -> str:
    value: Any = form_of(request).get(name, "")
    return value.strip() if isinstance(value, str) else ""


def _day(request: Request, name: str) -> dt.date:
    try:
        return dt.date.fromisoformat(_word(request, name))
    except ValueError as error:
        raise Permanent("choose a first and a last day") from error


def _moment(request: Request) -> dt.datetime:
    # The field holds the node's local time, as the page shows times.
    try:
        return dt.datetime.fromisoformat(_word(request, "at")).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise Permanent("choose a date and time") from error


def _kind(request: Request) -> EventKind:
    try:
        kind = EventKind(_word(request, "kind"))
    except ValueError as error:
        raise Permanent("choose what was done") from error
    if kind is EventKind.NETWORK:
        raise Permanent("the node itself marks another network")
    return kind
