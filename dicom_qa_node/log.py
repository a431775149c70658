"""Structured log lines on standard error: an event name, UIDs and figures, never patient data."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from dicom_qa_node.safe_text import visible

__all__ = ["RateLimitedLog", "configure", "log_event"]

_FORBIDDEN = ("patient", "accession", "birth")
_TALKATIVE_LIBRARIES = (
    "alembic", "apscheduler", "asyncio", "fontTools", "fpdf", "httpcore2", "httpx2", "openjpeg", "PIL", "pylibjpeg",
    "tzlocal", "uvicorn",
)  # fmt: skip
_LIBRARIES_THAT_QUOTE_VALUES = ("pydicom", "pynetdicom", "highdicom", "py.warnings")


def configure(level: str = "info", form: str = "text", stream: TextIO | None = None) -> None:
    """Send every log line of this process to standard error (or ``stream``).

    Libraries that quote data set values in their messages are silenced: a value may be a name. Others that talk
    about their own works are heard from WARNING on. An error that ends the process or one of its threads is logged by
    type and place: its words may quote a data set.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    handler.addFilter(_quotes_no_value)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in _TALKATIVE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def log_event(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Write one line, ``event=stored series=1.2.3 …``.

    Raises
    ------
    ValueError
        A field's name says that it holds patient data.
    """
    wrong = [name for name in fields if any(word in name for word in _FORBIDDEN)]
    if wrong:
        raise ValueError(f"patient data must not be logged: {', '.join(wrong)}")
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"qa_event": event, "qa_fields": fields})


class RateLimitedLog:
    """Tells what fails again and again: at once, and then once in ``every_s`` with the number of times since.

    What fails in other words is told at once. Several threads may use it.
    """

    def __init__(
        self, logger: logging.Logger, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._every_s, self._clock = logger, every_s, clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def log(self, level: int, event: str, *, reason: str, **fields: Any) -> None:
        """Write a line as `log_event` does, unless the same event has had the same reason lately."""
        key, now = (event, reason), self._clock()
        with self._lock:
            at, left_out = self._told.get(key, (float("-inf"), 0))
            if now - at < self._every_s:
                self._told[key] = at, left_out + 1
                return
            # Reasons may hold what changes with each try; nobody needs to know the old ones.
            self._told = {old: seen for old, seen in self._told.items() if now - seen[0] < self._every_s}
            self._told[key] = now, 0
        more = {"repeated": left_out} if left_out else {}
        log_event(self._logger, level, event, **fields, reason=reason, **more)


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(__name__).critical("crashed", exc_info=(kind, error, trace), extra={"qa_event": "crashed"})


def _thread_crashed(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not issubclass(ended.exc_type, SystemExit):
        name = "" if ended.thread is None else ended.thread.name
        logging.getLogger(__name__).critical(
            "crashed",
            exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback),
            extra={"qa_event": "crashed", "qa_fields": {"thread": name}},
        )


def _quotes_no_value(record: logging.LogRecord) -> bool:
    # A level set on pydicom's logger does not last: pydicom sets its own when it is imported after that.
    quotes = any(record.name == name or record.name.startswith(f"{name}.") for name in _LIBRARIES_THAT_QUOTE_VALUES)
    return not quotes or record.levelno >= logging.CRITICAL


def _payload(record: logging.LogRecord, when: str) -> dict[str, Any]:
    event = getattr(record, "qa_event", None)
    head = {"at": when, "level": record.levelname.lower(), "logger": record.name, "event": event or "message"}
    fields = dict(getattr(record, "qa_fields", {}))
    if event is None:
        fields["message"] = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        fields["error"] = record.exc_info[0].__name__
        fields["where"] = _where(record)
    return head | fields


def _where(record: logging.LogRecord) -> str:
    # The text of an exception may quote a data set; its type and place are enough to find it.
    assert record.exc_info is not None
    trace = record.exc_info[2]
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_payload(record, self.formatTime(record)), default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        payload = _payload(record, self.formatTime(record))
        head = f"{payload.pop('at')} {payload.pop('level'):7} {payload.pop('logger')}"
        return " ".join([head, *(f"{key}={_quoted(value)}" for key, value in payload.items())])


def _quoted(value: Any) -> str:
    text = str(value)
    quoted = json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "\n\t=') else text
    return visible(quoted)
