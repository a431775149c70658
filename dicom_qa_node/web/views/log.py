"""The quality log: filters in the address, pages by key, live rows on top, and export of exactly what is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dicom_qa_node.quality_log.export_formats import ExportFormat, available_formats
from dicom_qa_node.quality_log.filters import LogRow
from dicom_qa_node.quality_log.saved_filters import SavedFilters
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.web.access import Permission, account_of, guarded, note
from dicom_qa_node.web.log_export import export_response
from dicom_qa_node.web.log_query import LogRequest, in_chunks, json_parts, log_request_of, write_place
from dicom_qa_node.web.page_rendering import page
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_ROWS = 50
_MOST_UNSETTLED = 50
_MORE = (
    "site", "kind", "body_part", "severity", "delivery", "by", "since", "until", "score_from", "score_to", "versions",
)  # fmt: skip
_LABELS = {"q": "the search", "period": "the period", "body_part": "the body part", "versions": "older versions"}


@dataclass(frozen=True, slots=True)
class View:
    """One ready-made question above the filters."""

    label: str
    query: str
    on: bool


_FORMAT_NAMES = {ExportFormat.CSV: "CSV", ExportFormat.XLSX: "Excel", ExportFormat.PARQUET: "Parquet"}
_VIEWS = (
    ("All", ""),
    ("Last 24 hours", "period=24h"),
    ("Not diagnostic", "period=30d&grade=limited%2Cnon-diagnostic"),
    ("Outliers", "period=30d&sort=deviation"),
    ("Not reviewed", "review=none&sort=deviation"),
    ("Not delivered", "delivery=parked"),
)


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/log", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/log/rows", guarded(Permission.VIEW, _new_rows), methods=["GET"]),
        *(
            Route(f"/log.{item.value}", guarded(Permission.VIEW, partial(_as_file, item)), methods=["GET"])
            for item in ExportFormat
        ),
        Route("/log.json", guarded(Permission.VIEW, _as_json), methods=["GET"]),
    ]


def _asked(request: Request) -> LogRequest:
    items = list(request.query_params.multi_items())
    return log_request_of(items, patients=account_of(request).sees_patients, now=site_of(request).clock())


def _show(request: Request) -> Response:
    asked, search = _asked(request), LogSearch(site_of(request).database)
    newest = search.newest()
    found = search.page(asked.query, asked.cursor, _ROWS)
    choices = search.choices()
    here = asked.address()
    return page(
        request,
        "log/log.html",
        asked=asked,
        result=found,
        rows=found.rows,
        newest=newest,
        newer=write_place(found.newer) if found.newer else "",
        older=write_place(found.older) if found.older else "",
        choices=choices,
        finding_pairs=[(key, key.replace("_", " ")) for key in choices.findings],
        pairs=_pairs,
        more=_MORE,
        labels=_LABELS,
        live=asked.cursor is None and asked.query.order.value == "time" and asked.query.descending,
        formats=[(item.value, _FORMAT_NAMES[item]) for item in available_formats()],
        saved=[
            (item, _same(item.query, here))
            for item in SavedFilters(site_of(request).database).of(account_of(request).account_id)
        ],
        problem=request.query_params.get("problem", "")[:200],
        views=[View(label, query, _same(query, here)) for label, query in _VIEWS],
        sees_patients=account_of(request).sees_patients,
    )


def _new_rows(request: Request) -> Response:
    """Answer rows newer than ``than`` and, as they are now, those of ``rows`` that were still on their way."""
    asked, search = _asked(request), LogSearch(site_of(request).database)
    than = _number(request.query_params.get("than", ""))
    shown = [_number(word) for word in request.query_params.get("rows", "").split(",")[:_MOST_UNSETTLED]]
    new = search.newer(asked.query, than, _ROWS) if than else ()
    settled = search.rows([number for number in shown if number])
    answer = page(
        request, "log/rows.html", rows=[*new, *settled], sees_patients=account_of(request).sees_patients
    )  # fmt: skip
    answer.headers["X-Newest"] = str(max([than, *(row.result_id for row in new)]))
    return answer


def _as_file(wanted: ExportFormat, request: Request) -> Response:
    return export_response(request, wanted, _asked(request).query)


def _as_json(request: Request) -> Response:
    parts = json_parts(_export(request), patients=account_of(request).sees_patients)
    return _download(parts, "application/json", "quality-log.json")


def _export(request: Request) -> Iterator[LogRow]:
    asked = _asked(request)
    note(request, "log.export", kind="log", detail=request.url.query[:500])
    return LogSearch(site_of(request).database).stream(asked.query)


def _download(parts: Iterator[str], media: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(in_chunks(parts), media_type=media, headers=headers)


def _pairs(values: Sequence[str]) -> list[tuple[str, str]]:
    return [(value, value) for value in values]


def _same(one: str, other: str) -> bool:
    return sorted(one.split("&")) == sorted(other.split("&"))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0
