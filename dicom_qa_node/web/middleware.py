"""Middleware: trusted proxies, host names, path prefix, security headers, body and rate limits."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from urllib.parse import urlsplit

# FastAPI lets only its own kind of HTTPException pass while it reads a body; Starlette takes both.
from fastapi import HTTPException
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_qa_node.config import Web

__all__ = ["OPEN_PATHS", "BodyLimit", "RateLimiter", "RequestMiddleware"]

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


class RequestMiddleware:
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
        forwarded_proto = headers.get("x-forwarded-proto", "").lower()
        scope["scheme"] = (
            forwarded_proto if forwarded_proto in ("http", "https") else "https" if self._web.https else scope["scheme"]
        )
        forwarded_prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
        return forwarded_prefix if forwarded_prefix and _PREFIX.fullmatch(forwarded_prefix) else prefix

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


_FIRST_BYTES_S = 10.0
_LOWEST_BYTES_PER_S = 4096
_CLOCK_SET_S = 30.0


class RateLimiter:
    """Lets each key ask ``per_minute`` times in any 60 s, in the memory of this process."""

    def __init__(self, per_minute: int) -> None:
        self._item, self._storage = RateLimitItemPerMinute(per_minute), MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._wall_ahead = time.time() - time.monotonic()

    def wait_s(self, key: str) -> float:
        """Take one; return 0, or the seconds until there is one to take."""
        self._follow_clock()
        if self._limiter.hit(self._item, key):
            return 0.0
        return max(self._limiter.get_window_stats(self._item, key).reset_time - time.time(), 0.1)

    def _follow_clock(self) -> None:
        # The storage keeps times of the wall clock: one that was set back by an hour would keep a key out for an hour.
        ahead = time.time() - time.monotonic()
        if abs(ahead - self._wall_ahead) > _CLOCK_SET_S:
            self._storage.reset()
            self._wall_ahead = ahead


class BodyLimit:
    """Refuses a request whose body is larger than ``limit_bytes``, announced or not, or arrives too slowly.

    The time for a whole body is ten seconds and one more for every 4 KiB that has arrived: single bytes now and then
    do not hold a connection.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app, self._limit = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what arrives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._limit:
            await _too_large(scope, receive, send)
            return
        left, complete, start = self._limit, False, time.monotonic()

        async def counted() -> Message:
            nonlocal left, complete
            # After the body only the end of the connection is left to hear of, which may take as long as the answer.
            allowed_s = start + _FIRST_BYTES_S + (self._limit - left) / _LOWEST_BYTES_PER_S - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), None if complete else max(allowed_s, 0))
            except TimeoutError as error:
                raise HTTPException(408, headers={"Connection": "close"}) from error
            left -= len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if left < 0:
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    response = PlainTextResponse("the request is too large\n", 413, headers={"Connection": "close"})
    await response(scope, receive, send)
