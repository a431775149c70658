"""The current time in UTC, and detection of steps of the host's wall clock."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["ClockWatch", "utc_now"]


def utc_now() -> dt.datetime:
    """Return the current time in UTC; pass another clock where time must be injected."""
    return dt.datetime.now(dt.UTC)


# Slewing (adjtime, NTP) stays far below this between two looks.
_LEAST_S = 2.0


class ClockWatch:
    """Compares the two clocks with every look; several threads may look.

    Parameters
    ----------
    clock
        Returns the current UTC time.
    steady
        Returns seconds that only ever go forward; they need not count while the host is suspended, which then looks
        like a clock that was set forwards.
    """

    def __init__(
        self, clock: Callable[[], dt.datetime] = utc_now, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._steady = clock, steady
        self._lock = threading.Lock()
        self._apart = self._difference()
        self._set_at: float | None = None

    def look(self) -> float:
        """Return by how many seconds the wall clock was set since the last look: 0 if it was not, negative if back."""
        with self._lock:
            apart = self._difference()
            by_s, self._apart = apart - self._apart, apart
            if abs(by_s) < _LEAST_S:
                return 0.0
            self._set_at = self._steady()
            return by_s

    def settled(self, for_s: float) -> bool:
        """Return whether the wall clock has not been set for that long, as far as this process knows."""
        with self._lock:
            if abs(self._difference() - self._apart) >= _LEAST_S:
                return False
            return self._set_at is None or self._steady() - self._set_at >= for_s

    def _difference(self) -> float:
        return self._clock().timestamp() - self._steady()
