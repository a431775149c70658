"""Puts the site together: pages, API, DICOMweb, static files, and what machines ask for.

``/healthz``, ``/readyz`` and ``/metrics`` need no login and show no patient data.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.web.access import Permission, authenticate, guarded
from dicom_qa_node.web.api.app import create_api
from dicom_qa_node.web.auth import oidc, sign_in
from dicom_qa_node.web.dicomweb import routes as dicomweb
from dicom_qa_node.web.middleware import BodyLimit, RequestMiddleware
from dicom_qa_node.web.page_rendering import on_client_left, on_error, on_http_error, redirect
from dicom_qa_node.web.site import SCOPE_KEY, NodeView, Site, site_of
from dicom_qa_node.web.templating import STATIC
from dicom_qa_node.web.views import (
    account,
    alerts,
    audit,
    backfill,
    compare,
    connections,
    device_names,
    images,
    log,
    monthly_reports,
    node,
    notifications,
    phantoms,
    quality_and_dose,
    review_queue,
    reviews,
    saved_views,
    scanners,
    series,
    users,
)

__all__ = ["NodeView", "create_app"]

#: Modules with ``routes(site)``; one line each.
_VIEWS = (
    sign_in,
    oidc,
    account,
    log,
    images,
    compare,
    notifications,
    review_queue,
    reviews,
    phantoms,
    saved_views,
    series,
    scanners,
    quality_and_dose,
    device_names,
    node,
    connections,
    alerts,
    users,
    audit,
    backfill,
    monthly_reports,
)
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_START_PAGES = ("/log", "/node", "/account")


def create_app(site: Site) -> ASGIApp:
    """Build the application around one site."""
    pages = [route for view in _VIEWS for route in view.routes(site)]
    paths = {route.path for route in pages if isinstance(route, Route)}
    start = next(path for path in _START_PAGES if path in paths)
    routes: list[BaseRoute] = [
        Route("/", guarded(Permission.VIEW, lambda request: redirect(request, start)), methods=["GET"]),
        *pages,
        Route("/healthz", _threaded(_healthz), methods=["GET"]),
        Route("/readyz", _threaded(_readyz), methods=["GET"]),
        Route("/metrics", _threaded(_metrics), methods=["GET"]),
        # Nothing secret is in these files; pages stay uncompressed (BREACH).
        Mount("/static", GZipMiddleware(_CachedFiles(directory=STATIC), minimum_size=1000)),
        Mount("/api/v1", create_api(site)),
        *dicomweb.routes(site),
    ]
    web = site.config.web
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(RequestMiddleware, web=web),
            Middleware(BodyLimit, limit_bytes=web.max_body_kb * 1024),
            Middleware(_WithSite, site=site, paths=frozenset(paths)),
        ],
        exception_handlers={
            HTTPException: on_http_error,
            ClientDisconnect: on_client_left,
            Exception: on_error,
        },
    )


class _WithSite:
    """Hands the site to every view through the scope."""

    def __init__(self, app: ASGIApp, site: Site, paths: frozenset[str]) -> None:
        self._app, self._more = app, {SCOPE_KEY: site, "dicom_qa_node.paths": paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add it."""
        await self._app({**scope, **self._more}, receive, send)


class _CachedFiles(StaticFiles):
    """Static files; their addresses change with their content, so a browser may keep them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Allow keeping."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _threaded(view: Callable[[Request], Response]) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    # The views read the database; the event loop must not wait for it.
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(view, request)

    return endpoint


def _healthz(request: Request) -> Response:
    report = site_of(request).node.health()
    checks = [{"name": check.name, "level": check.level} for check in report.checks]
    if _known(request):
        checks = [{"name": check.name, "level": check.level, "detail": check.detail} for check in report.checks]
    body = {"level": report.level, "at": report.at.isoformat(), "checks": checks}
    return JSONResponse(body, 503 if report.level == "failed" else 200)


def _readyz(request: Request) -> Response:
    ready, why_not = site_of(request).node.ready()
    body = {"ready": ready, "reason": why_not} if _known(request) else {"ready": ready}
    return JSONResponse(body, 200 if ready else 503)


def _known(request: Request) -> bool:
    # Details name folders and addresses; only who has logged in reads them. No database access without a login.
    asks = "authorization" in request.headers or bool(request.cookies)
    try:
        return asks and authenticate(request) is not None
    except NodeError:
        return False


def _metrics(request: Request) -> Response:
    site = site_of(request)
    if site.config.web.metrics_need_token and authenticate(request) is None:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    return Response(site.node.metrics(), media_type=_METRICS_TYPE)
