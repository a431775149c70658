"""Rates and sizes: how often somebody may ask, and how much a request may carry."""

from __future__ import annotations

import asyncio
import time

# FastAPI lets only its own kind of HTTPException pass while it reads a body; Starlette takes both.
from fastapi import HTTPException
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimit", "Buckets"]

_FIRST_BYTES_S = 10.0
_LOWEST_BYTES_PER_S = 4096
_CLOCK_SET_S = 30.0


class Buckets:
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
