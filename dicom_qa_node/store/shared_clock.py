"""The time of the database server, kept between two looks: hosts whose clocks differ agree on it."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable

from dicom_qa_node.errors import Transient

__all__ = ["SharedClock"]

_ASK_AGAIN_S = 30.0


def _since_boot_s() -> float:
    # Unlike time.monotonic, it goes on while the machine sleeps, and nobody sets it.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SharedClock:
    """Returns the server's time (UTC), to within the time of one question; safe for use from several threads.

    Parameters
    ----------
    ask
        Returns the server's time; asked when the last answer is half a minute old.
    elapsed_s
        Seconds since some moment, never set back.
    """

    def __init__(self, ask: Callable[[], dt.datetime], elapsed_s: Callable[[], float] = _since_boot_s) -> None:
        self._ask, self._elapsed_s = ask, elapsed_s
        self._lock = threading.Lock()
        self._told: tuple[dt.datetime, float] | None = None
        self._asked = 0.0

    def __call__(self) -> dt.datetime:
        """Return the time.

        Raises
        ------
        Transient
            The server never answered; after its first answer the clock goes on without it.
        """
        told = self._told
        if told is None or self._elapsed_s() - self._asked >= _ASK_AGAIN_S:
            told = self._renewed()
        at, then = told
        return at + dt.timedelta(seconds=self._elapsed_s() - then)

    def _renewed(self) -> tuple[dt.datetime, float]:
        with self._lock:
            if self._told is not None and self._elapsed_s() - self._asked < _ASK_AGAIN_S:
                return self._told
            self._asked = self._elapsed_s()
            try:
                answer = self._ask()
            except Transient:
                if self._told is None:
                    raise
                return self._told
            # Half of what the question took lies after the answer.
            self._told = answer, (self._asked + self._elapsed_s()) / 2
            return self._told
