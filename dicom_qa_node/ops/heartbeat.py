"""Heartbeats of a process, in the database and to systemd (sd_notify)."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping

from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.log import RateLimitedLog, log_event

__all__ = ["BEAT_S", "HeartbeatSender", "SystemdNotifier", "environment_for_children", "process_name"]


class SystemdNotifier:
    """Sends state to the socket that systemd names in ``NOTIFY_SOCKET`` (``environment``: that of the process)."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        values = os.environ if environment is None else environment
        address = values.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace, whose names begin with a zero byte (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        ours = values.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = values.get("WATCHDOG_USEC", "") if ours else ""
        #: Seconds within which systemd wants to hear from us, None without a watchdog.
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() else None

    def ready(self, status: str) -> None:
        """Say that the service has started."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Say in one line what the service does."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service is on its way down."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            # A service must run on when nobody listens any more.
            try:
                sender.connect(self._address)
                sender.send("\n".join(lines).encode())
            except OSError:
                return


def environment_for_children(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without systemd's socket: a child must not notify systemd for the service."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
    return {name: value for name, value in environment.items() if name not in ours}


BEAT_S = 5.0
_LOOK_S = 0.5
_ORPHAN_S = 5.0
_LOGGER = logging.getLogger(__name__)


def process_name(process: str) -> str:
    """Return the name under which a process of this host is known, such as ``score-1@qa7``."""
    return f"{process}@{socket.gethostname()}"


class HeartbeatSender:
    """Beats from `start` until `end`.

    Parameters
    ----------
    database
        The open database.
    role, name
        What this process is (``score``) and what it is called (``score-1@host``).
    stop
        Set by the heartbeat when the supervisor is gone.
    detail
        Returns the process's own word on what it does.
    parent_pid
        The supervisor's process id, None for a process that was started by hand.
    """

    def __init__(
        self,
        database: Database,
        role: str,
        name: str,
        stop: threading.Event,
        *,
        detail: Callable[[], str] = str,
        parent_pid: int | None = None,
        notifier: SystemdNotifier | None = None,
    ) -> None:
        self._liveness = Heartbeats(database)
        self._role, self._name, self._stop = role, name, stop
        self.detail, self._parent_pid = detail, parent_pid
        self._notifier = notifier or SystemdNotifier({})
        self._orphaned_at = 0.0
        self._told = RateLimitedLog(_LOGGER)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Say that the process works now, and keep saying it; a second call changes nothing."""
        if self._thread.ident is None and not self._ended.is_set():
            self._thread.start()

    def end(self) -> None:
        """Stop sending heartbeats and delete this process's heartbeat row."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            self._guarded(lambda: self._liveness.gone(self._name))

    def _run(self) -> None:
        self._notifier.ready(f"{self._role} is running")
        next_beat = time.monotonic()
        while not self._ended.is_set():
            self._mind_supervisor()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_S
                self._guarded(lambda: self._liveness.beat(self._role, self._name, self.detail()))
                self._notifier.alive()
            self._ended.wait(_LOOK_S)

    def _mind_supervisor(self) -> None:
        if self._parent_pid is None or os.getppid() == self._parent_pid:
            return
        now = time.monotonic()
        if not self._orphaned_at:
            self._orphaned_at = now
            log_event(_LOGGER, logging.WARNING, "supervisor_gone", role=self._role)
            self._stop.set()
        # The supervisor made this process the leader of a group; a new node waits for all of it to be gone.
        elif now > self._orphaned_at + _ORPHAN_S and os.getpgrp() == os.getpid():
            log_event(_LOGGER, logging.WARNING, "orphan_ends_at_once", role=self._role)
            os.killpg(0, signal.SIGKILL)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except NodeError as error:
            self._told.log(logging.WARNING, "heartbeat_failed", role=self._role, reason=str(error))
