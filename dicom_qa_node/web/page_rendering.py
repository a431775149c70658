"""Renders pages and errors: template environment, navigation, account, theme, problem documents."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from dicom_qa_node import __version__
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.web.access import Account, Permission, path_of
from dicom_qa_node.web.auth.cookies import THEME, read_cookie
from dicom_qa_node.web.auth.csrf import FIELD
from dicom_qa_node.web.notification_list import unread_count
from dicom_qa_node.web.site import site_of
from dicom_qa_node.web.templating import static_version
from dicom_qa_node.web.viewer_links import ViewerLink, viewer_links

__all__ = ["on_client_left", "on_error", "on_http_error", "page", "problem", "redirect"]


@dataclass(frozen=True, slots=True)
class NavItem:
    """One word of the navigation."""

    path: str
    label: str
    permission: Permission


_NAV = (
    NavItem("/log", "Log", Permission.VIEW),
    NavItem("/review", "Review", Permission.REVIEW),
    NavItem("/scanners", "Scanners", Permission.VIEW),
    NavItem("/dose", "Quality and dose", Permission.VIEW),
    NavItem("/phantoms", "Phantoms", Permission.VIEW),
    NavItem("/reports", "Reports", Permission.VIEW),
    NavItem("/node", "Node", Permission.VIEW),
    NavItem("/alerts", "Alerts", Permission.VIEW),
    NavItem("/users", "Users", Permission.ADMIN),
    NavItem("/audit", "Audit", Permission.ADMIN),
)


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Render ``templates/<template>``.

    Beside ``context`` a template has ``account`` (None if not signed in), ``csrf``, ``nav``, ``here`` (the path without
    the prefix), ``theme``, ``url("/path")`` and ``static("file")`` with the site's prefix, ``may("act")``, ``site``,
    ``version``, ``now``, ``viewers_of(facts)`` and ``unread_notifications()``. A template for htmx extends nothing; a
    whole page extends ``base.html``.
    """
    site = site_of(request)
    account: Account | None = getattr(request.state, "account", None)
    theme = read_cookie(request, THEME)

    def url(path: str) -> str:
        return path_of(request, path)

    def static(name: str) -> str:
        return path_of(request, f"/static/{name}?v={static_version(name)}")

    def may(permission: str) -> bool:
        return account is not None and account.may(Permission(permission))

    def viewers_of(facts: SeriesHeader) -> list[ViewerLink]:
        patients = account is not None and account.sees_patients
        return viewer_links(site.config.web.viewers, facts, patients=patients)

    def unread_notifications() -> int:
        return unread_count(site, account) if account is not None else 0

    here = request.scope["path"].removeprefix(path_of(request, ""))
    frame = {
        "request": request, "site": site, "account": account, "url": url, "static": static, "may": may,
        "csrf": account.csrf if account else "", "csrf_field": FIELD, "nav": _nav(request, account), "here": here,
        "theme": theme if theme in ("light", "dark") else "", "version": __version__, "now": site.clock(),
        "viewers_of": viewers_of, "unread_notifications": unread_notifications,
    }  # fmt: skip
    return HTMLResponse(site.templates.get_template(template).render(frame | context), status)


def redirect(request: Request, path: str) -> RedirectResponse:
    """Answer a change by the way to a page of this site (303), so that a reload does not repeat it."""
    return RedirectResponse(path_of(request, path), 303)


def _nav(request: Request, account: Account | None) -> list[NavItem]:
    if account is None:
        return []
    paths = request.scope["dicom_qa_node.paths"]
    return [item for item in _NAV if item.path in paths and account.may(item.permission)]


_LOGGER = logging.getLogger(__name__)
_SENTENCES = {
    400: "The request could not be understood.",
    401: "Log in first.",
    403: "Your role does not allow this.",
    404: "There is nothing here.",
    408: "The request took too long to arrive.",
    405: "This page does not take such a request.",
    410: "This is no longer here.",
    413: "The request is too large.",
    429: "Too many requests. Try again in a minute.",
    500: "Something failed on the node. The log of the role web says what; nothing was lost.",
    503: "The database does not answer at the moment. Try again soon.",
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: object) -> Response:
    """Return a problem document."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer a refusal."""
    assert isinstance(error, HTTPException)
    plain = error.detail == HTTPStatus(error.status_code).phrase
    sentence = _SENTENCES.get(error.status_code, error.detail) if plain else error.detail
    response = await _answer(request, error.status_code, sentence)
    response.headers.update(error.headers or {})
    return response


async def on_error(request: Request, error: Exception) -> Response:
    """Answer a failure without saying more than that; the log has its type and place."""
    status = 503 if isinstance(error, Transient) else 500
    fields = {"path": request.scope.get("route_path", request.scope["path"].split("/")[1:2])}
    _LOGGER.error("request failed", exc_info=error, extra={"qa_event": "request_failed", "qa_fields": fields})
    try:
        return await _answer(request, status, _SENTENCES[status])
    except Exception:  # noqa: BLE001 - the edge of the web: the page of an error must not fail
        return Response(_SENTENCES[status], status, media_type="text/plain")


async def on_client_left(_request: Request, _error: Exception) -> Response:
    """Answer nobody: a client that goes away before its request is complete is not a failure of the node."""
    return Response(status_code=400)


async def _answer(request: Request, status: int, sentence: str) -> Response:
    if "text/html" not in request.headers.get("accept", "text/html"):
        return problem(status, sentence)
    title = HTTPStatus(status).phrase
    return await run_in_threadpool(
        page, request, "errors/error.html", status, code=status, title=title, sentence=sentence
    )
