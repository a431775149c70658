"""What every request passes first: proxies that may speak for a client, the host name, the path prefix, headers.

Behind a proxy, ``X-Forwarded-For``, ``-Proto`` and ``-Prefix`` are believed from ``web.trusted_proxies`` only. The
prefix may be stripped by the proxy or left on; both arrive at the same page.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_qa_node.config import Web

__all__ = ["OPEN_PATHS", "Edge"]

#: For machines: no patient data, any host name.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # no-referrer would make browsers send "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Edge:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, web: Web) -> None:
        self._app, self._web = app, web
        self._proxies = [ipaddress.ip_network(entry, strict=False) for entry in web.trusted_proxies]
        public = urlsplit(web.public_url).hostname or ""
        self._hosts = {name.lower() for name in (*_LOCAL, web.host, public, *web.allowed_hosts) if name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Correct the scope, refuse a foreign host, and add the headers to the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope = dict(scope)
        prefix = self._web.prefix
        if self._from_proxy(scope):
            prefix = self._believe(scope, headers, prefix)
        elif self._web.https:
            scope["scheme"] = "https"
        _place(scope, prefix)
        https = scope["scheme"] == "https"
        if not self._known_host(scope, headers):
            refusal = PlainTextResponse("this host name is not served here (web.allowed_hosts)\n", 421)
            await refusal(scope, receive, _with_headers(send, https))
            return
        await self._app(scope, receive, _with_headers(send, https))

    def _from_proxy(self, scope: Scope) -> bool:
        client = scope.get("client")
        return client is not None and self._trusted(client[0])

    def _trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    def _believe(self, scope: Scope, headers: Headers, prefix: str) -> str:
        # Several header lines of one name are one list (RFC 9110, section 5.3): proxies may add a line of their own.
        listed = ",".join(headers.getlist("x-forwarded-for"))
        chain = [part.strip() for part in listed.split(",") if part.strip()]
        # From the right: the last entry that no proxy of ours has added is the client.
        client = next((address for address in reversed(chain) if not self._trusted(address)), None)
        if client is not None and _is_address(client):
            scope["client"] = (client, 0)
        said = headers.get("x-forwarded-proto", "").lower()
        scope["scheme"] = said if said in ("http", "https") else "https" if self._web.https else scope["scheme"]
        told = headers.get("x-forwarded-prefix", "").rstrip("/")
        return told if told and _PREFIX.fullmatch(told) else prefix

    def _known_host(self, scope: Scope, headers: Headers) -> bool:
        if scope["path"].removeprefix(scope["root_path"]) in OPEN_PATHS:
            return True
        named = headers.getlist("host")
        return len(named) == 1 and _host_of(named[0]) in self._hosts


def _place(scope: Scope, prefix: str) -> None:
    path = scope["path"]
    inside = path == prefix or path.startswith(f"{prefix}/")
    scope["root_path"] = prefix
    scope["path"] = path if inside else prefix + path
    if prefix and path == prefix:
        scope["path"] = f"{prefix}/"


def _host_of(header: str) -> str:
    found = _HOST.fullmatch(header.lower())
    return found[1].strip("[]") if found else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _with_headers(send: Send, https: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            if https:
                headers.setdefault("strict-transport-security", "max-age=31536000")
        await send(message)

    return sending
