"""The list of an account's notifications, and what it has read."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.notification_reads import NotificationReads
from dicom_qa_node.web.access import Permission, account_of, form_of, guarded, note
from dicom_qa_node.web.notification_list import SOURCES, mark_all_read, notifications_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/notifications", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/notifications/read", guarded(Permission.VIEW, _read), methods=["POST"]),
    ]


def _show(request: Request) -> Response:
    found = notifications_of(site_of(request), account_of(request))
    return page(request, "users/notifications.html", notifications=found)


def _read(request: Request) -> Response:
    """Mark one notification as read, or all of them."""
    site, account, form = site_of(request), account_of(request), form_of(request)
    source, number = str(form.get("source", "")), str(form.get("number", ""))
    if not source:
        mark_all_read(site, account)
    elif source in SOURCES and number.isascii() and number.isdecimal() and len(number) < 12:
        NotificationReads(site.database).mark(account.account_id, source, int(number))
    else:
        raise HTTPException(400)
    note(
        request, "notifications.read", kind="account", ident=account.name, detail=f"{source} {number}".strip() or "all"
    )
    return redirect(request, "/notifications")
