"""QC phantoms: calendar, runs and charts, their tolerances, and the decision what a series shows."""

from __future__ import annotations

import csv
import datetime as dt
import io
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.qc_phantoms import PhantomKind, SubjectDecision, Tolerance
from dicom_qa_node.domain.uids import LARGEST_ID, is_uid
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.subject_decisions import decide_subject
from dicom_qa_node.quality_control.phantom_quantities import QUANTITIES, quantities_of
from dicom_qa_node.quality_control.qc_calendar import CalendarDay, QcSchedules, calendar_of
from dicom_qa_node.quality_control.runs import ChartPoint, PhantomCharts, PhantomRuns
from dicom_qa_node.quality_control.tolerances import Tolerances, ToleranceSet
from dicom_qa_node.web.access import Permission, account_of, guarded, note, word_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.phantom_charts import tolerance_chart
from dicom_qa_node.web.series_comparison import plain_unit
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_DAYS = 28
_ROWS = 50


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/phantoms", guarded(Permission.VIEW, _overview), methods=["GET"]),
        Route("/phantoms/charts/{scanner_id:int}", guarded(Permission.VIEW, _charts), methods=["GET"]),
        Route("/phantoms/charts/{scanner_id:int}/values.csv", guarded(Permission.VIEW, _values), methods=["GET"]),
        Route("/phantoms/tolerances", guarded(Permission.VIEW, _tolerances), methods=["GET"]),
        Route("/phantoms/tolerances", guarded(Permission.ACT, _set_tolerance), methods=["POST"]),
        Route("/series/{uid}/subject", guarded(Permission.ACT, _decide), methods=["POST"]),
    ]


def _overview(request: Request) -> Response:
    site, runs = site_of(request), PhantomRuns(site_of(request).database)
    settings, today = site.config.phantoms, site.clock().astimezone(ZoneInfo(site.config.charts.timezone)).date()
    last = min(_day(request.query_params.get("until", "")) or today, today)
    days = [last - dt.timedelta(days=back) for back in range(_DAYS - 1, -1, -1)]
    found = runs.between(days[0] - dt.timedelta(days=31), last)
    since = QcSchedules(site.database).since(settings.analyse, today)
    calendar: list[tuple[Any, list[CalendarDay]]] = [
        (item, calendar_of(item, found, days, today, since.get(item.name, today))) for item in settings.analyse
    ]
    before = request.query_params.get("before", "")
    number = min(int(before), LARGEST_ID) if before.isascii() and before.isdecimal() and len(before) < 16 else None
    latest = runs.latest(_ROWS, number)
    context: dict[str, Any] = {
        "calendar": calendar, "days": days, "today": today, "runs": latest, "charts": runs.charts(),
        "older": latest[-1].result_id if len(latest) == _ROWS else None, "paged": number is not None,
        "earlier": days[0] - dt.timedelta(days=1), "later": min(last + dt.timedelta(days=_DAYS), today),
        "titles": {kind.value: kind.label for kind in PhantomKind},
    }  # fmt: skip
    return page(request, "phantoms/overview.html", **context)


def _chosen(request: Request) -> tuple[PhantomCharts, dict[str, list[ChartPoint]]]:
    """Return the phantom of a scanner that an address names, with its latest points by quantity."""
    phantom = request.query_params.get("phantom", "")[:64]
    number = min(request.path_params["scanner_id"], LARGEST_ID)
    runs = PhantomRuns(site_of(request).database)
    chosen = next((item for item in runs.charts() if (item.scanner_id, item.phantom) == (number, phantom)), None)
    if chosen is None:
        raise HTTPException(404, "This phantom was not analysed on this scanner.")
    return chosen, runs.chart(number, phantom)


def _values(request: Request) -> Response:
    chosen, points = _chosen(request)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["acquired_at", "series_instance_uid", "quantity", "unit", "value", "low", "high", "judged"])
    for name, found in points.items():
        for point in found:
            value = point.value
            when = point.at.isoformat(timespec="seconds")
            judged = value.outcome.value
            writer.writerow(
                [when, point.series_instance_uid, name, value.unit, value.value, value.low, value.high, judged]
            )
    note(request, "phantom.export", kind="phantom", ident=chosen.phantom, detail=chosen.scanner)
    name = f"phantom-{chosen.scanner_id}-{chosen.phantom}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(out.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _charts(request: Request) -> Response:
    chosen, points = _chosen(request)
    quantities = sorted(
        points.items(), key=lambda item: list(QUANTITIES).index(item[0]) if item[0] in QUANTITIES else 0
    )
    drawn = [(name, found, tolerance_chart(found)) for name, found in quantities]
    return page(
        request, "phantoms/charts.html", chosen=chosen, drawn=drawn, title=PhantomKind(chosen.kind).label,
        definitions={name: item.definition for name, item in QUANTITIES.items()}, plain_unit=plain_unit,
    )  # fmt: skip


def _tolerances(request: Request, status: int = 200, problem: str = "") -> Response:
    site = site_of(request)
    kind, scanner = _kind(request.query_params.get("kind", "")), request.query_params.get("scanner", "")[:100].strip()
    tolerances = Tolerances(site.database, site.clock)
    own = tolerances.own(kind)
    held = ToleranceSet.of(kind, scanner, own).by_quantity
    quantities = sorted(quantities_of(kind), key=lambda item: item.name not in held)
    context: dict[str, Any] = {
        "kind": kind, "kinds": list(PhantomKind), "scanner": scanner, "held": held, "quantities": quantities,
        "history": tolerances.history(kind), "names": {name: item.meaning for name, item in QUANTITIES.items()},
        "problem": problem, "plain_unit": plain_unit, "done": request.query_params.get("done", ""),
    }  # fmt: skip
    return page(request, "phantoms/tolerances.html", status, **context)


def _set_tolerance(request: Request) -> Response:
    site, account = site_of(request), account_of(request)
    kind, quantity, scanner = _kind(word_of(request, "kind")), word_of(request, "quantity"), word_of(request, "scanner")
    try:
        wanted = Tolerance(
            kind, quantity, _bound(request, "low"), _bound(request, "high"), word_of(request, "source"),
            word_of(request, "dated"), scanner, account.name, word_of(request, "reason"),
        )  # fmt: skip
        Tolerances(site.database, site.clock).add(wanted)
    except Permanent as error:
        return _tolerances(request, 422, str(error))
    bounds = f"{_shown(wanted.low)} to {_shown(wanted.high)}"
    where = f" on {scanner}" if scanner else ""
    note(
        request,
        "tolerance.set",
        kind="phantom",
        ident=kind.value,
        detail=f"{quantity}{where}: {bounds}, {wanted.source}",
    )
    return redirect(request, f"/phantoms/tolerances?kind={kind.value}&scanner={quote(scanner)}&done={quantity}")


def _decide(request: Request) -> Response:
    site, uid = site_of(request), request.path_params["uid"]
    row = Registry(site.database).series(uid) if is_uid(uid) else None
    shows = word_of(request, "shows")
    if row is None or shows not in ("patient", "phantom"):
        raise HTTPException(404, "The node has never seen this series.")
    reason, outcome, said = word_of(request, "reason")[:500], Outcome.SUCCESS, "subject"
    decision = SubjectDecision(shows == "phantom", account_of(request).name, site.clock(), reason)
    try:
        if not decide_subject(site.database, uid, decision):
            outcome, said = Outcome.FAILED, "refused"
    except Permanent:
        outcome, said = Outcome.FAILED, "gone" if reason else "refused"
    note(
        request, "series.subject", kind="series", ident=uid, outcome=outcome, detail=f"{shows}: {reason}",
        study_instance_uid=row.facts.study_instance_uid,
    )  # fmt: skip
    return redirect(request, f"/series/{uid}?done={said}")


def _bound(request: Request, name: str) -> float | None:
    text = word_of(request, name).replace(",", ".").replace("−", "-")
    try:
        return float(text) if text else None
    except ValueError:
        raise Permanent(f"{text!r} is not a number") from None


def _shown(bound: float | None) -> str:
    return "open" if bound is None else f"{bound:g}"


def _kind(text: str) -> PhantomKind:
    try:
        return PhantomKind(text or PhantomKind.CATPHAN504.value)
    except ValueError:
        raise HTTPException(404, "There is no such phantom.") from None


def _day(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError:
        raise HTTPException(404) from None
