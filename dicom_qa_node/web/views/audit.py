"""The audit log for administrators: filters in the address, paging, and export of what is shown."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.audit import AuditEntry, AuditFilter, Outcome
from dicom_qa_node.safe_text import csv_cell
from dicom_qa_node.web.access import Permission, guarded, note
from dicom_qa_node.web.page_rendering import page
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_ROWS = 100
_COLUMNS = tuple(field.name for field in fields(AuditEntry))


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/audit", guarded(Permission.ADMIN, _show), methods=["GET"]),
        Route("/audit.csv", guarded(Permission.ADMIN, _as_csv), methods=["GET"]),
        Route("/audit.json", guarded(Permission.ADMIN, _as_json), methods=["GET"]),
    ]


def _chosen(request: Request) -> AuditFilter:
    asked = request.query_params
    until = _day(asked.get("until", ""))
    return AuditFilter(
        since=_day(asked.get("since", "")),
        until=until + dt.timedelta(days=1) if until else None,
        actor=asked.get("actor", "").strip()[:200],
        event=asked.get("event", "")[:64],
        outcome=asked.get("outcome", "") if asked.get("outcome", "") in [*Outcome] else "",
        ident=asked.get("ident", "").strip()[:500],
    )


def _day(text: str) -> dt.datetime | None:
    # A day begins at midnight of the node's own time zone.
    try:
        return dt.datetime.combine(dt.date.fromisoformat(text), dt.time()).astimezone()
    except (ValueError, OverflowError):
        return None


def _show(request: Request) -> Response:
    site, asked = site_of(request), request.query_params
    before = asked.get("before", "")
    number = int(before) if before.isdecimal() and len(before) < 16 else None
    note(request, "audit.view", kind="audit", detail=request.url.query[:500])
    rows = site.audit.entries(_chosen(request), _ROWS, number)
    kept = {key: value for key, value in asked.items() if key != "before" and value}
    older = urlencode({**kept, "before": rows[-1].audit_id}) if len(rows) == _ROWS else ""
    return page(
        request, "audit/audit.html", rows=rows, asked=asked, older=older, query=urlencode(kept),
        events=site.audit.events(), outcomes=list(Outcome), paged=number is not None,
    )  # fmt: skip


def _as_csv(request: Request) -> Response:
    rows = _export(request)

    def lines() -> Iterator[str]:
        yield ",".join(_COLUMNS) + "\r\n"
        for row in rows:
            text = io.StringIO()
            csv.writer(text).writerow([csv_cell(value) for value in asdict(row).values()])
            yield text.getvalue()

    return _download(lines(), "text/csv; charset=utf-8", "audit.csv")


def _as_json(request: Request) -> Response:
    rows = _export(request)

    def parts() -> Iterator[str]:
        lead = "["
        for row in rows:
            yield lead + json.dumps(asdict(row), default=lambda value: value.isoformat())
            lead = ",\n"
        yield "]\n" if lead != "[" else "[]\n"

    return _download(parts(), "application/json", "audit.json")


def _export(request: Request) -> Iterator[AuditEntry]:
    chosen = _chosen(request)
    note(request, "audit.export", kind="audit", detail=request.url.query[:500])
    return site_of(request).audit.every(chosen)


def _download(parts: Iterator[str], media: str, name: str) -> Response:
    return StreamingResponse(parts, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})
