"""The half of the role ``deliver`` before the courier: builds the reports of scored series, one after another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dicom_qa_node.errors import NodeError
from dicom_qa_node.log import Seldom

__all__ = ["Reporter"]

_LOGGER = logging.getLogger(__name__)
_LOOK_S = 0.1
_PAUSE_S = 5.0


class Reporter:
    """Calls ``report_pending`` again and again in a thread of its own.

    Parameters
    ----------
    report_pending
        Reports what waits and returns how many series that was.
    pause_s
        Wait after a failure; nothing is lost meanwhile, series stay in SCORED.
    """

    def __init__(self, report_pending: Callable[[], int], pause_s: float = _PAUSE_S) -> None:
        self._report_pending, self._pause_s = report_pending, pause_s
        self._stop = threading.Event()
        self._failure = ""
        self._told = Seldom(_LOGGER)
        self._thread = threading.Thread(target=self._run, name="reporter")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Finish the report that is being built, then stop."""
        self._stop.set()
        self._thread.join()

    def detail(self) -> str:
        """Return what fails, empty when nothing does."""
        return f"reports cannot be built: {self._failure}" if self._failure else ""

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                wait_s = 0.0 if self._report_pending() else _LOOK_S
                self._failure = ""
            except NodeError as error:
                wait_s = self._pause_s
                self._failure = str(error)
                self._told.log(logging.WARNING, "reporting_postponed", reason=str(error))
            except Exception as error:
                wait_s = self._pause_s
                self._failure = type(error).__name__
                _LOGGER.exception("reporting_failed")
