"""Alerts: what nobody has seen to yet, what went out and how, the rules and channels that apply, and a test button."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.charts.alerts import Alerts
from dicom_qa_node.config import WebhookChannel
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import Permission, account_of, form_of, guarded, note
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["channel_words", "routes"]

_PAGE = 100


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/alerts", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/alerts/open", guarded(Permission.VIEW, _open), methods=["GET"]),
        Route("/alerts/acknowledge", guarded(Permission.REVIEW, _acknowledge_all), methods=["POST"]),
        Route("/alerts/{alert_id:int}/acknowledge", guarded(Permission.REVIEW, _acknowledge), methods=["POST"]),
        Route("/alerts/channels/{channel}/test", guarded(Permission.ACT, _test), methods=["POST"]),
    ]


def channel_words(site: Site) -> list[tuple[str, str, str]]:
    """Return name, kind and receiver of each channel; a webhook's path may be a secret and is left out."""
    settings = site.config.alerts
    mail = [(c.name, "e-mail", f"{', '.join(c.recipients)} by {c.host} ({c.security})") for c in settings.email]
    hooks = [
        (c.name, "webhook", f"{_host_of(c)}, {'signed' if c.secret_file else 'not signed'}") for c in settings.webhook
    ]
    return mail + hooks


def _host_of(channel: WebhookChannel) -> str:
    return urlsplit(channel.url).hostname or "address in a file"


def _show(request: Request) -> Response:
    site = site_of(request)
    alerts = Alerts(site.database, clock=site.clock)
    before = request.query_params.get("before", "")
    if before and not (before.isascii() and before.isdigit()):
        raise HTTPException(404)
    history = alerts.history(_PAGE, min(int(before[:12]), LARGEST_ID) if before else None)
    settings = site.config.alerts
    context: dict[str, Any] = {
        "waiting": alerts.unacknowledged(), "count": alerts.count_unacknowledged(), "history": history,
        "messages": alerts.messages(30), "rules": settings.applied() if settings.enabled else [],
        "built_in": not settings.rules, "channels": channel_words(site), "settings": settings,
        "more": history[-1].alert_id if len(history) == _PAGE else None,
    }  # fmt: skip
    return page(request, "alerts/alerts.html", **context)


def _open(request: Request) -> Response:
    site = site_of(request)
    alerts = Alerts(site.database, clock=site.clock)
    return page(request, "alerts/_open.html", waiting=alerts.unacknowledged(), count=alerts.count_unacknowledged())


def _acknowledge(request: Request) -> Response:
    site = site_of(request)
    number = min(request.path_params["alert_id"], LARGEST_ID)
    alerts, account = Alerts(site.database, clock=site.clock), account_of(request)
    words = form_of(request).get("note", "")
    if alerts.alert(number) is None:
        raise HTTPException(404)
    if alerts.acknowledge(number, by=account.name, note=words if isinstance(words, str) else ""):
        note(request, "alert.acknowledge", kind="alert", ident=str(number))
    return redirect(request, "/alerts")


def _acknowledge_all(request: Request) -> Response:
    site = site_of(request)
    seen = form_of(request).get("up_to", "")
    if not (isinstance(seen, str) and seen.isascii() and seen.isdigit()):
        raise HTTPException(422, "Say up to which alert.")
    number = min(int(seen[:12]), LARGEST_ID)
    done = Alerts(site.database, clock=site.clock).acknowledge_all(by=account_of(request).name, up_to=number)
    note(request, "alert.acknowledge", kind="alert", ident=f"up to {number}", detail=f"{done} alerts")
    return redirect(request, "/alerts")


def _test(request: Request) -> Response:
    site, channel = site_of(request), request.path_params["channel"]
    if channel not in site.config.alerts.channels():
        raise HTTPException(404)
    number = Alerts(site.database, clock=site.clock).queue_test(channel)
    note(request, "alert.test", kind="channel", ident=channel, detail=f"message {number}")
    return redirect(request, "/alerts?tested=" + channel + "#messages")
