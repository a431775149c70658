"""Runs a whole node: every role as a child process, restarted when it dies or falls silent, stopped in order.

The supervisor moves no data and imports no stage. Exit codes: 0 stopped as asked, 3 a role found at the start that its
configuration is wrong. Later a role that exits with 3 is tried again every minute, so that the others go on while an
operator repairs.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from dicom_qa_node import log
from dicom_qa_node.config import Config
from dicom_qa_node.errors import NodeError
from dicom_qa_node.log import Seldom, log_event
from dicom_qa_node.ops.children import Child, specs_of
from dicom_qa_node.ops.lock import hold_spool
from dicom_qa_node.ops.notify import Notifier
from dicom_qa_node.ops.pulse import BEAT_S, Pulse, pulse_name
from dicom_qa_node.ops.roles import STOP_ORDER, Exit, stop_on_signals
from dicom_qa_node.store import Database, Liveness

__all__ = ["Limits", "Supervisor", "serve"]

_TICK_S = 0.2
_LISTEN_S = 1.0
# While the supervisor's own heartbeat does not arrive, nobody else's is missed.
_OWN_BEAT_S = 3 * BEAT_S
_LOGGER = logging.getLogger(__name__)


def serve(config: Config, config_path: Path | None = None) -> int:
    """Run every role until SIGTERM or SIGINT; return the exit code. A second signal ends the roles at once.

    The database is created or upgraded first. ``config_path`` is handed to the children; None gives them the defaults.

    Raises
    ------
    Misconfigured
        Another node works on this spool, or the spool or the database cannot be used.
    """
    log.configure(config.log.level, config.log.format)
    stop, hurry = threading.Event(), threading.Event()
    stop_on_signals(stop, hurry)
    with hold_spool(config.spool_dir) as lock:
        database = Database(config.database_url)
        try:
            revision = database.upgrade()
            log_event(_LOGGER, logging.INFO, "starting", ae_title=config.ae_title, schema=revision)
            children = [Child(spec, [lock]) for spec in specs_of(config, config_path)]
            return Supervisor(children, database, stop, Notifier(), hurry=hurry).run()
        finally:
            database.close()


class Limits:
    """How long a child may be silent, take to start, take to stop (seconds, at most that of its role)."""

    def __init__(self, silence_s: float = 60, start_s: float = 180, stop_s: float = 60) -> None:
        self.silence_s, self.start_s, self.stop_s = silence_s, start_s, stop_s


class Supervisor:
    """Keeps ``children`` running until ``stop`` is set; ``hurry`` ends those that still work then."""

    def __init__(
        self,
        children: Sequence[Child],
        database: Database,
        stop: threading.Event,
        notifier: Notifier,
        limits: Limits | None = None,
        hurry: threading.Event | None = None,
    ) -> None:
        self._children = children
        self._stop, self._hurry, self._notifier = stop, hurry or threading.Event(), notifier
        self._limits = limits or Limits()
        self._ears = _Ears(database)
        self._pulse = Pulse(database, "serve", pulse_name("serve"), stop, detail=self._summary)
        self._ready = False
        self._exit = Exit.OK
        self._next_alive = 0.0

    def run(self) -> int:
        """Start the children, watch them, stop them; return the exit code of the node."""
        self._pulse.start()
        self._ears.start()
        try:
            while not self._stop.wait(_TICK_S):
                self._tick()
        finally:
            self._notifier.stopping()
            self._stop_in_order()
            self._ears.end()
            self._pulse.end()
        log_event(_LOGGER, logging.INFO, "stopped", code=int(self._exit))
        return self._exit

    def _tick(self) -> None:
        beats = self._ears.beats()
        for child in self._children:
            child.hear(beats or {})
            code = child.exit_code()
            if code is not None:
                self._ended(child, code)
            elif child.due:
                child.start()
            elif beats is None:
                child.excuse()
            else:
                self._kill_if_silent(child)
        self._tell_systemd()

    def _ended(self, child: Child, code: int) -> None:
        if code == Exit.MISCONFIGURED and not self._ready:
            log_event(_LOGGER, logging.ERROR, "cannot_start", process=child.spec.process, code=code)
            self._exit = Exit.MISCONFIGURED
            self._stop.set()
            return
        wait_s = child.plan_restart(code)
        level = logging.INFO if code == Exit.RECYCLE else logging.ERROR
        log_event(_LOGGER, level, "role_ended", process=child.spec.process, code=code, restart_in_s=round(wait_s, 1))

    def _kill_if_silent(self, child: Child) -> None:
        limit_s = self._limits.silence_s if child.beating else self._limits.start_s
        if child.silent_s() > limit_s:
            log_event(_LOGGER, logging.ERROR, "role_silent", process=child.spec.process, for_s=round(child.silent_s()))
            child.signal_group(signal.SIGKILL)

    def _tell_systemd(self) -> None:
        if not self._ready and all(child.beating for child in self._children):
            self._ready = True
            self._notifier.ready(self._summary())
            log_event(_LOGGER, logging.INFO, "ready", processes=len(self._children))
        if time.monotonic() >= self._next_alive:
            self._next_alive = time.monotonic() + min(10.0, (self._notifier.watchdog_s or 30.0) / 3)
            self._notifier.alive()
            self._notifier.status(self._summary())

    def _summary(self) -> str:
        down = [child.spec.process for child in self._children if not child.beating]
        return f"waiting for {', '.join(down)}" if down else f"{len(self._children)} processes are running"

    def _stop_in_order(self) -> None:
        for role, longest_s in STOP_ORDER.items():
            group = [child for child in self._children if child.spec.role == role]
            for child in group:
                child.terminate()
            deadline = time.monotonic() + min(longest_s, self._limits.stop_s)
            for child in group:
                self._await_end(child, deadline)

    def _await_end(self, child: Child, deadline: float) -> None:
        while child.pid is not None and child.exit_code() is None:
            if self._hurry.is_set() or time.monotonic() > deadline:
                log_event(_LOGGER, logging.ERROR, "role_would_not_stop", process=child.spec.process)
                child.signal_group(signal.SIGKILL)
            self._notifier.alive()
            time.sleep(0.05)
        log_event(_LOGGER, logging.DEBUG, "role_stopped", process=child.spec.process)


class _Ears:
    """Reads the heartbeats in a thread of its own, so that a stuck database never stops the supervisor.

    A database that can be read may still take no heartbeat: locked, read-only, full. The supervisor's own tells.
    """

    def __init__(self, database: Database) -> None:
        self._liveness = Liveness(database)
        self._latest: tuple[float, dict[int, dt.datetime]] | None = None
        self._own: tuple[float, dt.datetime | None] = (0.0, None)
        self._told = Seldom(_LOGGER)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ears", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(5)

    def beats(self) -> dict[int, dt.datetime] | None:
        """Return the last heartbeats by process id, None when the database does not work: then nobody is judged."""
        now = time.monotonic()
        if self._latest is None or now - self._latest[0] > 5 * _LISTEN_S or now - self._own[0] > _OWN_BEAT_S:
            return None
        return self._latest[1]

    def _run(self) -> None:
        while not self._ended.wait(_LISTEN_S):
            try:
                here = socket.gethostname()
                found = {beat.pid: beat.seen_at for beat in self._liveness.all() if beat.host == here}
            except NodeError as error:
                self._told.log(logging.WARNING, "heartbeats_unread", reason=str(error))
                continue
            own = found.get(os.getpid())
            if own is not None and own != self._own[1]:
                self._own = time.monotonic(), own
            self._latest = time.monotonic(), found
