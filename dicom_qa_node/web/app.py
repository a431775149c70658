"""The HTTP application: health, readiness and metrics for machines, and one page of status for people.

No patient data is shown: the page may be left open on a screen in a corridor.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dicom_qa_node.records import LogEntry, SeriesState
from dicom_qa_node.store.liveness import Heartbeat

__all__ = ["Health", "HealthCheck", "NodeView", "Page", "create_app"]

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class HealthCheck(Protocol):
    """One thing that was looked at."""

    @property
    def name(self) -> str:
        """What was looked at."""

    @property
    def level(self) -> str:
        """One of ok, degraded, failed."""

    @property
    def detail(self) -> str:
        """What was found."""


class Health(Protocol):
    """The state of the node at one time."""

    @property
    def level(self) -> str:
        """The worst level of the checks."""

    @property
    def checks(self) -> Sequence[HealthCheck]:
        """Everything that was looked at."""

    @property
    def at(self) -> dt.datetime:
        """When."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the status page shows."""

    ae_title: str
    version: str
    health: Health
    series: dict[SeriesState, int]
    heartbeats: Sequence[Heartbeat]
    entries: Sequence[LogEntry]


class NodeView(Protocol):
    """What the application asks of the node; every call may read the database."""

    def health(self) -> Health:
        """Look at the node."""

    def ready(self) -> tuple[bool, str]:
        """Return whether it can receive, and why not."""

    def metrics(self) -> bytes:
        """Return the metrics as Prometheus text."""

    def page(self) -> Page:
        """Return what the status page shows."""


def create_app(node: NodeView) -> Starlette:
    """Build the application around one node."""
    templates = Environment(
        loader=PackageLoader("dicom_qa_node.web"), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    template = templates.get_template("status.html")

    def healthz() -> Response:
        report = node.health()
        checks = [{"name": check.name, "level": check.level, "detail": check.detail} for check in report.checks]
        body = {"level": report.level, "at": report.at.isoformat(), "checks": checks}
        return JSONResponse(body, 503 if report.level == "failed" else 200, headers=_HEADERS)

    def readyz() -> Response:
        ready, why_not = node.ready()
        return JSONResponse({"ready": ready, "reason": why_not}, 200 if ready else 503, headers=_HEADERS)

    def metrics() -> Response:
        return Response(node.metrics(), media_type=_METRICS_TYPE)

    def status() -> Response:
        return HTMLResponse(template.render(page=node.page()), headers=_HEADERS)

    pages = {"/": status, "/healthz": healthz, "/readyz": readyz, "/metrics": metrics}
    return Starlette(routes=[Route(path, _threaded(view), methods=["GET"]) for path, view in pages.items()])


def _threaded(view: Callable[[], Response]) -> Callable[[Request], object]:
    # The views read the database; the event loop must not wait for it.
    async def endpoint(_request: Request) -> Response:
        return await run_in_threadpool(view)

    return endpoint
