"""Notes who was refused or dropped, and why: at once in the log, then once a minute, and for the Node page.

An unknown peer that calls a thousand times a second must neither fill the log nor the database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import Receipt, RefusedCaller
from dicom_qa_node.log import log_event

__all__ = ["Refusals"]

_LOGGER = logging.getLogger(__name__)

_EVERY_S = 60.0
_MOST_CALLERS = 1000
_OTHERS = "(others)"


@dataclass(slots=True)
class _Count:
    told_at: float
    since: int = 0


class Refusals:
    """The refusals of one receiver process; several threads may use it."""

    def __init__(self, report: Callable[[Receipt], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._clock = report, clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str, str, str], _Count] = {}

    def note(
        self, reason: str, host: str, calling_ae: str = "", called_ae: str = "", *, event: str = "refused_caller"
    ) -> None:
        """Count a refusal; the first of its kind is told at once, the others together after a minute."""
        now = self._clock()
        with self._lock:
            if len(self._seen) >= _MOST_CALLERS and (host, calling_ae, called_ae, reason, event) not in self._seen:
                host, calling_ae, called_ae = _OTHERS, "", ""
            key = (host, calling_ae, called_ae, reason, event)
            count = self._seen.get(key)
            if count is not None:
                count.since += 1
                return
            self._seen[key] = _Count(now)
        self._tell(key, 1)

    def tick(self) -> None:
        """Tell what has come together for a minute."""
        now = self._clock()
        with self._lock:
            due = [(key, count) for key, count in self._seen.items() if now - count.told_at >= _EVERY_S]
            for key, count in due:
                if count.since:
                    self._seen[key] = _Count(now)
                else:
                    del self._seen[key]
        for key, count in due:
            if count.since:
                self._tell(key, count.since)

    def _tell(self, key: tuple[str, str, str, str, str], count: int) -> None:
        host, calling_ae, called_ae, reason, event = key
        titles = {"calling_ae": calling_ae, "called_ae": called_ae} if calling_ae or called_ae else {}
        more = {"times": count} if count > 1 else {}
        log_event(_LOGGER, logging.WARNING, event, host=host, **titles, reason=reason, **more)
        self._report(RefusedCaller(host, calling_ae, called_ae, reason, utc_now(), count))
