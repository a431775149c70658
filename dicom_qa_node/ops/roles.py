"""Runs one role in this process: configuration, database, heartbeat, signals, exit code, the role's loop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from types import FrameType
from typing import NoReturn

from dicom_qa_node import log
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured, NodeError
from dicom_qa_node.log import RateLimitedLog, log_event
from dicom_qa_node.ops.heartbeat import HeartbeatSender, SystemdNotifier, process_name
from dicom_qa_node.spool.filesystem_check import check_spool

__all__ = [
    "NAME_VARIABLE",
    "PARENT_VARIABLE",
    "ROLES",
    "STOP_ORDER",
    "Exit",
    "Reporter",
    "RoleContext",
    "roles_of",
    "run_role",
    "stop_on_signals",
]

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
    wait
        Returns when there may be something to report again, or when the event is set.
    """

    def __init__(
        self,
        report_pending: Callable[[], int],
        pause_s: float = _PAUSE_S,
        wait: Callable[[threading.Event], object] = lambda stop: stop.wait(_LOOK_S),
    ) -> None:
        self._report_pending, self._pause_s, self._wait = report_pending, pause_s, wait
        self._stop = threading.Event()
        self._failure = ""
        self._told = RateLimitedLog(_LOGGER)
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
        while not self._stop.is_set():
            try:
                reported = self._report_pending()
                self._failure = ""
                if not reported:
                    self._wait(self._stop)
            except NodeError as error:
                self._failure = str(error)
                self._told.log(logging.WARNING, "reporting_postponed", reason=str(error))
                self._stop.wait(self._pause_s)
            except Exception as error:
                self._failure = type(error).__name__
                _LOGGER.exception("reporting_failed")
                self._stop.wait(self._pause_s)


#: The roles that write files to the spool.
_WRITERS = frozenset({"receive", "schedule", "score", "deliver"})
#: Set by the supervisor for its children: the child's name, and the supervisor's process id.
NAME_VARIABLE = "DICOM_QA_NODE_PROCESS"
PARENT_VARIABLE = "DICOM_QA_NODE_PARENT"


class Exit(IntEnum):
    """How a role's process ends."""

    OK = 0
    MISCONFIGURED = 3
    RECYCLE = 75


@dataclass(frozen=True, slots=True)
class RoleContext:
    """What a role's loop works with; it calls ``ready`` when it can do its work, and returns soon after ``stop``."""

    config: Config
    database: Database
    stop: threading.Event
    name: str
    heartbeat: HeartbeatSender


def run_role(role: str, config: Config, environment: Mapping[str, str] | None = None) -> int:
    """Run a role until SIGTERM or SIGINT and return its exit code.

    Raises
    ------
    Misconfigured
        There is no such role, the schema is not current, the file system of the spool breaks a rule, or a setting of
        the role cannot be used.
    """
    if role not in _BODIES:
        raise Misconfigured(f"there is no role {role!r}; known are {', '.join(ROLES)}")
    values = os.environ if environment is None else environment
    log.configure(config.log.level, config.log.format)
    stop = threading.Event()
    stop_on_signals(stop)
    database = Database(config.database_url)
    try:
        database.require_current()
        if role in _WRITERS:
            _check_spool(config)
        name = process_name(values.get(NAME_VARIABLE, role))
        parent = values.get(PARENT_VARIABLE, "")
        parent_pid = int(parent) if parent.isdigit() else None
        heartbeat = HeartbeatSender(database, role, name, stop, parent_pid=parent_pid, notifier=SystemdNotifier(values))
        try:
            code = _BODIES[role](RoleContext(config, database, stop, name, heartbeat))
        finally:
            heartbeat.end()
    finally:
        database.close()
    if parent_pid is not None:
        _leave(code)
    return code


def _check_spool(config: Config) -> None:
    for concern in check_spool(config.spool_dir):
        log_event(_LOGGER, logging.WARNING, "spool_unsafe", spool=str(config.spool_dir), concern=concern)


def _leave(code: int) -> NoReturn:
    # Everything is durable. An interpreter that has loaded torch takes seconds to take itself apart.
    logging.shutdown()
    os._exit(code)


def stop_on_signals(stop: threading.Event, hurry: threading.Event | None = None) -> None:
    """Set ``stop`` on SIGTERM and SIGINT, and ``hurry`` on the second of them; call it in the main thread."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        if hurry is not None and stop.is_set():
            hurry.set()
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def _schedule(context: RoleContext) -> int:
    from dicom_qa_node.ops.scheduler import run_schedule

    run_schedule(context.config, context.database, context.stop, context.heartbeat)
    return Exit.OK


def _score(context: RoleContext) -> int:
    from dicom_qa_node.score.worker import run_worker

    words = ["starting"]
    context.heartbeat.detail = lambda: words[0]

    def say(text: str) -> None:
        words[0] = text

    context.heartbeat.start()
    due_for_replacement = run_worker(context.config, context.database, context.stop, context.name, say=say)
    return Exit.RECYCLE if due_for_replacement else Exit.OK


def _deliver(context: RoleContext) -> int:
    from dicom_qa_node.deliver.backfill_worker import BackfillWorker
    from dicom_qa_node.deliver.commitment_results import CommitmentResultSender
    from dicom_qa_node.deliver.delivery_worker import run_delivery_worker
    from dicom_qa_node.flow.backfill_runs import BackfillRuns
    from dicom_qa_node.flow.commitments import CommitReplies
    from dicom_qa_node.flow.outbox import Outbox
    from dicom_qa_node.flow.registry import Registry
    from dicom_qa_node.report.report_builder import report_pending
    from dicom_qa_node.report.sop_class_conversion import as_form

    config, registry, outbox = context.config, Registry(context.database), Outbox(context.database)
    news = outbox.news()
    reporter = Reporter(lambda: report_pending(outbox, registry, config.spool_dir, config), wait=news.wait)
    _freeze_what_is_loaded()
    context.heartbeat.detail = reporter.detail
    context.heartbeat.start()
    reporter.start()
    replies = CommitmentResultSender(config, CommitReplies(context.database))
    replies.start()
    backfill = BackfillWorker(config, BackfillRuns(context.database), context.name, context.database.now)
    backfill.start()
    try:
        run_delivery_worker(config, context.database, context.stop, convert=partial(as_form, config.spool_dir))
    finally:
        backfill.end()
        replies.end()
        reporter.end()
        news.close()
    return Exit.OK


def _freeze_what_is_loaded() -> None:
    """Take what is loaded out of the garbage collection: a full one took 0.2 s in two of eight reports."""
    gc.collect()
    gc.freeze()


def _orthanc(context: RoleContext) -> int:
    from dicom_qa_node.deliver.orthanc.bridge import run_bridge

    if not context.config.orthanc.url:
        raise Misconfigured("there is no Orthanc to follow: set orthanc.url")
    words = [""]
    context.heartbeat.detail = lambda: words[0]

    def say(text: str) -> None:
        words[0] = text

    context.heartbeat.start()
    holder = f"{context.name}@{socket.gethostname()}:{os.getpid()}"
    run_bridge(context.config, context.database, context.stop, holder, say)
    return Exit.OK


def _web(context: RoleContext) -> int:
    from dicom_qa_node.ops.web_server import run_web

    run_web(context.config, context.database, context.stop, context.heartbeat)
    return Exit.OK


def _receive(context: RoleContext) -> int:
    from dicom_qa_node.query.service import open_query_service
    from dicom_qa_node.receive.server import serve_receive

    config = context.config
    services = [open_query_service] if config.query.enabled else []
    return serve_receive(config, context.database, context.stop, context.heartbeat.start, services)


_BODIES: Mapping[str, Callable[[RoleContext], int]] = {
    "schedule": _schedule,
    "score": _score,
    "deliver": _deliver,
    "orthanc": _orthanc,
    "web": _web,
    "receive": _receive,
}
#: In the order in which they start: nothing is received before the rest is on its way up.
ROLES = tuple(_BODIES)
_OPTIONAL = {"orthanc": lambda config: bool(config.orthanc.url)}


def roles_of(config: Config) -> tuple[str, ...]:
    """Return the roles of a whole node: every one, and the bridge to Orthanc where one is configured."""
    return tuple(role for role in ROLES if role not in _OPTIONAL or _OPTIONAL[role](config))


#: In the order in which they stop, with the longest wait in seconds: a receiver lets associations finish, a delivery
#: worker the report it is sending; a scorer that is still loading its network has nothing to lose.
STOP_ORDER: Mapping[str, float] = {"receive": 40, "schedule": 20, "score": 5, "deliver": 30, "orthanc": 10, "web": 10}
