"""Rates and sizes: how often somebody may ask, and how much a request may carry."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

# FastAPI lets only its own kind of HTTPException pass while it reads a body; Starlette takes both.
from fastapi import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimit", "Buckets"]

_KEYS = 10_000
_FIRST_BYTES_S = 10.0
_LOWEST_BYTES_PER_S = 4096


class Buckets:
    """A token bucket per key that refills in a minute; the keys used longest ago are forgotten."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._rate, self._clock = float(per_minute), per_minute / 60.0, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, key: str) -> float:
        """Take one; return 0, or the seconds until there is one to take."""
        now = self._clock()
        with self._lock:
            level, at = self._levels.pop(key, (self._size, now))
            level = min(self._size, level + (now - at) * self._rate)
            wait = 0.0 if level >= 1 else (1 - level) / self._rate
            self._levels[key] = (level if wait else level - 1, now)
            if len(self._levels) > _KEYS:
                self._levels.popitem(last=False)
        return wait


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
