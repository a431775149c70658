"""Renders pages: the frame with navigation, account, theme and the token against forgery around a template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from dicom_qa_node import __version__
from dicom_qa_node.web.access import Account, Permission, path_of
from dicom_qa_node.web.auth.cookies import THEME, read_cookie
from dicom_qa_node.web.auth.forgery import FIELD
from dicom_qa_node.web.site import site_of
from dicom_qa_node.web.templating import static_version

__all__ = ["page", "redirect"]


@dataclass(frozen=True, slots=True)
class NavItem:
    """One word of the navigation."""

    path: str
    label: str
    permission: Permission


_NAV = (
    NavItem("/log", "Log", Permission.VIEW),
    NavItem("/scanners", "Scanners", Permission.VIEW),
    NavItem("/node", "Node", Permission.VIEW),
    NavItem("/alerts", "Alerts", Permission.VIEW),
    NavItem("/users", "Users", Permission.ADMIN),
    NavItem("/audit", "Audit", Permission.ADMIN),
)


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Render ``templates/<template>``.

    Beside ``context`` a template has ``account`` (None for strangers), ``csrf``, ``nav``, ``here`` (the path without
    the prefix), ``theme``, ``url("/path")`` and ``static("file")`` with the site's prefix, ``may("act")``, ``site``,
    ``version`` and ``now``. A template for htmx extends nothing; a whole page extends ``base.html``.
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

    here = request.scope["path"].removeprefix(path_of(request, ""))
    frame = {
        "request": request, "site": site, "account": account, "url": url, "static": static, "may": may,
        "csrf": account.csrf if account else "", "csrf_field": FIELD, "nav": _nav(request, account), "here": here,
        "theme": theme if theme in ("light", "dark") else "", "version": __version__, "now": site.clock(),
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
