"""One role as a child process: its command, its start, its end, and how long it has been silent."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicom_qa_node.config import Config
from dicom_qa_node.ops.notify import environment_for_children
from dicom_qa_node.ops.roles import NAME_VARIABLE, PARENT_VARIABLE, ROLES, Exit

__all__ = ["Child", "ChildSpec", "specs_of"]

_BACKOFF_FIRST_S = 0.5
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
    for role in ROLES:
        count = config.score.workers if role == "score" else 1
        names = [role] if count == 1 else [f"{role}-{number}" for number in range(1, count + 1)]
        specs += [ChildSpec(role, name, [*base, role]) for name in names]
    return specs


class Child:
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
            longest = _BACKOFF_MAX_S if code == Exit.MISCONFIGURED else _BACKOFF_FIRST_S * 2**self._failures
            wait_s = min(_BACKOFF_MAX_S, longest) * random.uniform(0.5, 1.0)
            self._failures = min(self._failures + 1, 16)
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
        """Take it as heard: while the database is away nobody can be, and there is a time to speak up afterwards."""
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
