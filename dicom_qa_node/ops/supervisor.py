"""Runs a whole node: each role as a child process, restarted when it ends or hangs, stopped in order."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicom_qa_node import log
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.log import RateLimitedLog, log_event
from dicom_qa_node.ops.heartbeat import BEAT_S, HeartbeatSender, SystemdNotifier, environment_for_children, process_name
from dicom_qa_node.ops.roles import NAME_VARIABLE, PARENT_VARIABLE, STOP_ORDER, Exit, roles_of, stop_on_signals
from dicom_qa_node.ops.spool_lock import hold_spool

__all__ = ["ChildSpec", "RestartLimits", "SupervisedProcess", "Supervisor", "serve", "specs_of"]

_BACKOFF_FIRST_S = 0.4
_BACKOFF_MAX_S = 60.0
_STEADY_S = 60.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run: ``process`` is the child's name on this host (``score-1``)."""

    role: str
    process: str
    command: Sequence[str]


def specs_of(config: Config, config_path: Path | None) -> list[ChildSpec]:
    """Return the child processes of a whole node, in the order in which they start."""
    options = ["--config", str(config_path.resolve())] if config_path is not None else []
    base = [sys.executable, "-m", "dicom_qa_node", *options]
    specs = []
    for role in roles_of(config):
        count = config.score.workers if role == "score" else 1
        names = [role] if count == 1 else [f"{role}-{number}" for number in range(1, count + 1)]
        specs += [ChildSpec(role, name, [*base, role]) for name in names]
    return specs


class SupervisedProcess:
    """A child process that is started again, later each time that it fails soon after its start."""

    def __init__(self, spec: ChildSpec, pass_fds: Sequence[int] = (), clock: Callable[[], float] = time.monotonic):
        self.spec = spec
        self._pass_fds, self._clock = tuple(pass_fds), clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._heard = 0.0
        self._seen_at: dt.datetime | None = None
        self._failures = 0
        self._due = 0.0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def due(self) -> bool:
        """Whether it is down and may be started now."""
        return self._process is None and self._clock() >= self._due

    @property
    def beating(self) -> bool:
        """Whether the running process has been heard of."""
        return self._process is not None and self._seen_at is not None

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C reaches the supervisor only."""
        ours = {NAME_VARIABLE: self.spec.process, PARENT_VARIABLE: str(os.getpid())}
        self._process = subprocess.Popen(
            list(self.spec.command),
            stdin=subprocess.DEVNULL,
            env=environment_for_children(os.environ) | ours,
            pass_fds=self._pass_fds,
            start_new_session=True,
        )
        self._started = self._heard = self._clock()
        self._seen_at = None

    def exit_code(self) -> int | None:
        """Return the exit code once after the process ended (negative: by that signal), else None."""
        if self._process is None:
            return None
        # While the dead process is not reaped its group id stays taken: nobody else can be hit.
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self.signal_group(signal.SIGKILL)
        code = self._process.wait()
        self._process = None
        return code

    def plan_restart(self, code: int) -> float:
        """Decide when to start again after ``code``; return the wait in seconds."""
        if code == Exit.RECYCLE:
            self._failures, wait_s = 0, 0.0
        else:
            steady = self._clock() - self._started > _STEADY_S
            self._failures = 0 if steady else self._failures
            # What is misconfigured is not mended by an attempt: at once the longest wait.
            first_s = _BACKOFF_MAX_S if code == Exit.MISCONFIGURED else _BACKOFF_FIRST_S
            self._failures += 1
            wait_s = backoff_s(self._failures, first_s, _BACKOFF_MAX_S)
        self._due = self._clock() + wait_s
        return wait_s

    def hear(self, beats: Mapping[int, dt.datetime]) -> None:
        """Take note of the heartbeats, by process id.

        Only a change counts, timed by the monotonic clock: a wrong wall clock or a suspended host kills nobody.
        """
        seen_at = None if self._process is None else beats.get(self._process.pid)
        if seen_at is not None and seen_at != self._seen_at:
            self._seen_at, self._heard = seen_at, self._clock()

    def excuse(self) -> None:
        """Reset the watchdog timer: heartbeats cannot be written while the database is unreachable."""
        self._heard = self._clock()

    def silent_s(self) -> float:
        """Return for how long the running process has not been heard of, 0 when it is down."""
        return 0.0 if self._process is None else self._clock() - self._heard

    def terminate(self) -> None:
        """Ask the process to stop in order."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and to all that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


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
            children = [SupervisedProcess(spec, [lock]) for spec in specs_of(config, config_path)]
            return Supervisor(children, database, stop, SystemdNotifier(), hurry=hurry).run()
        finally:
            database.close()


class RestartLimits:
    """How long a child may be silent, take to start, take to stop (seconds, at most that of its role)."""

    def __init__(self, silence_s: float = 60, start_s: float = 180, stop_s: float = 60) -> None:
        self.silence_s, self.start_s, self.stop_s = silence_s, start_s, stop_s


class Supervisor:
    """Keeps ``children`` running until ``stop`` is set; ``hurry`` ends those that still work then."""

    def __init__(
        self,
        children: Sequence[SupervisedProcess],
        database: Database,
        stop: threading.Event,
        notifier: SystemdNotifier,
        limits: RestartLimits | None = None,
        hurry: threading.Event | None = None,
    ) -> None:
        self._children = children
        self._stop, self._hurry, self._notifier = stop, hurry or threading.Event(), notifier
        self._limits = limits or RestartLimits()
        self._ears = _Ears(database)
        self._heartbeat = HeartbeatSender(database, "serve", process_name("serve"), stop, detail=self._summary)
        self._ready = False
        self._exit = Exit.OK
        self._next_alive = 0.0

    def run(self) -> int:
        """Start the children, watch them, stop them; return the exit code of the node."""
        self._heartbeat.start()
        self._ears.start()
        try:
            while not self._stop.wait(_TICK_S):
                self._tick()
        finally:
            self._notifier.stopping()
            self._stop_in_order()
            self._ears.end()
            self._heartbeat.end()
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

    def _ended(self, child: SupervisedProcess, code: int) -> None:
        if code == Exit.MISCONFIGURED and not self._ready:
            log_event(_LOGGER, logging.ERROR, "cannot_start", process=child.spec.process, code=code)
            self._exit = Exit.MISCONFIGURED
            self._stop.set()
            return
        wait_s = child.plan_restart(code)
        level = logging.INFO if code == Exit.RECYCLE else logging.ERROR
        log_event(_LOGGER, level, "role_ended", process=child.spec.process, code=code, restart_in_s=round(wait_s, 1))

    def _kill_if_silent(self, child: SupervisedProcess) -> None:
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

    def _await_end(self, child: SupervisedProcess, deadline: float) -> None:
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
        self._liveness = Heartbeats(database)
        self._latest: tuple[float, dict[int, dt.datetime]] | None = None
        self._own: tuple[float, dt.datetime | None] = (0.0, None)
        self._told = RateLimitedLog(_LOGGER)
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
