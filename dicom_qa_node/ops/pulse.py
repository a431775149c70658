"""The heartbeat of one process: a thread that says in the database and to systemd that the process is alive.

It also ends a process whose supervisor died, so that nothing holds the port when a new node starts.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from dicom_qa_node.errors import NodeError
from dicom_qa_node.log import Seldom, log_event
from dicom_qa_node.ops.notify import Notifier
from dicom_qa_node.store import Database, Liveness

__all__ = ["BEAT_S", "Pulse", "pulse_name"]

BEAT_S = 5.0
_LOOK_S = 0.5
_ORPHAN_S = 5.0
_LOGGER = logging.getLogger(__name__)


def pulse_name(process: str) -> str:
    """Return the name under which a process of this host is known, such as ``score-1@qa7``."""
    return f"{process}@{socket.gethostname()}"


class Pulse:
    """Beats from `start` until `end`.

    Parameters
    ----------
    database
        The open database.
    role, name
        What this process is (``score``) and what it is called (``score-1@host``).
    stop
        Set by the pulse when the supervisor is gone.
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
        notifier: Notifier | None = None,
    ) -> None:
        self._liveness = Liveness(database)
        self._role, self._name, self._stop = role, name, stop
        self.detail, self._parent_pid = detail, parent_pid
        self._notifier = notifier or Notifier({})
        self._orphaned_at = 0.0
        self._told = Seldom(_LOGGER)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Say that the process works now, and keep saying it; a second call changes nothing."""
        if self._thread.ident is None and not self._ended.is_set():
            self._thread.start()

    def end(self) -> None:
        """Stop beating and take the process off the list of the living."""
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
