"""Connections that have not asked for an association yet: they cost a file descriptor and nothing else.

A connection gets a seat and threads when its association request begins to arrive (over TLS: when anything does), so
whoever opens many and stays silent takes neither from anybody.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["PendingConnection", "PendingConnections"]

L = TypeVar("L")

MOST_CONNECTIONS = 256
MOST_OF_ADDRESS = 128
_ASSOCIATE_RQ = 0x01
# Through both AE titles (PS3.8 table 9-11).
_REQUEST_BEGINS_BYTES = 42
_LOOK_AGAIN_S = 0.05


@dataclass(eq=False, slots=True)
class PendingConnection(Generic[L]):
    """One connection: where it came in, and until when it may be silent."""

    socket: socket.socket
    address: tuple[Any, ...]
    listener: L
    any_byte: bool
    deadline: float

    @property
    def host(self) -> str:
        """The address of the peer."""
        return str(self.address[0])


class PendingConnections(Generic[L]):
    """The pending connections of one receiver process, watched by the selector of its listening sockets.

    Parameters
    ----------
    timeout_s
        How long a connection may take to begin its association request.
    begin
        Called with each that does.
    dropped
        Called with the address, and why, of each that is closed without having done so.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        timeout_s: float,
        begin: Callable[[PendingConnection[L]], None],
        dropped: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._selector, self._timeout_s = selector, timeout_s
        self._begin, self._dropped, self._clock = begin, dropped, clock
        self._held: OrderedDict[PendingConnection[L], bool] = OrderedDict()
        self._from: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many connections wait."""
        return len(self._held)

    def add(self, connection: socket.socket, address: tuple[Any, ...], listener: L, *, any_byte: bool) -> None:
        """Take a connection; if there are too many, the one that was silent for longest has to go.

        ``any_byte`` starts it with its first byte, whatever that is.
        """
        pending = PendingConnection(connection, address, listener, any_byte, self._clock() + self._timeout_s)
        connection.setblocking(False)
        self._held[pending] = True
        self._from[pending.host] += 1
        self._selector.register(connection, selectors.EVENT_READ, pending)
        if self._from[pending.host] > MOST_OF_ADDRESS:
            self._drop(next(held for held in self._held if held.host == pending.host), "too many connections")
        elif len(self._held) > MOST_CONNECTIONS:
            crowded, _ = self._from.most_common(1)[0]
            self._drop(next(held for held in self._held if held.host == crowded), "too many connections")

    def readable(self, pending: PendingConnection[L]) -> None:
        """Look at what a connection has sent."""
        if pending not in self._held:
            return
        try:
            begun = pending.socket.recv(_REQUEST_BEGINS_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            begun = b""
        if not begun:
            # Probes of load balancers do this all day.
            self._forget(pending)
            pending.socket.close()
        elif pending.any_byte or begun[0] != _ASSOCIATE_RQ or len(begun) == _REQUEST_BEGINS_BYTES:
            self._forget(pending)
            self._begin(pending)
        elif self._held[pending]:
            # Part of a request: the selector would report it without end.
            self._selector.unregister(pending.socket)
            self._held[pending] = False

    def wait_s(self, longest: float) -> float:
        """Return how long the selector may wait."""
        return min(longest, _LOOK_AGAIN_S) if any(not watched for watched in self._held.values()) else longest

    def tick(self) -> None:
        """Look again at those that have sent a part, and close those whose time is over."""
        for pending in [held for held, watched in self._held.items() if not watched]:
            self.readable(pending)
        now = self._clock()
        for pending in list(self._expired(now)):
            self._drop(pending, f"no association request within {self._timeout_s:g} s")

    def close(self) -> None:
        """Close all."""
        for pending in list(self._held):
            self._forget(pending)
            pending.socket.close()

    def _expired(self, now: float) -> Iterator[PendingConnection[L]]:
        for pending in self._held:
            if pending.deadline > now:
                return
            yield pending

    def _drop(self, pending: PendingConnection[L], reason: str) -> None:
        self._forget(pending)
        pending.socket.close()
        self._dropped(pending.host, reason)

    def _forget(self, pending: PendingConnection[L]) -> None:
        if self._held.pop(pending):
            self._selector.unregister(pending.socket)
        self._from[pending.host] -= 1
        if not self._from[pending.host]:
            del self._from[pending.host]
