"""The most memory and the processor time of a process while it meets one input, also where several inputs overlap."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ProcessMeter", "Used"]

_RESET_PEAK = "5"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Used:
    """What a process used during one input: growth of its resident memory in MiB, processor time in s.

    Inputs that overlap are each charged with what the process used for all of them.
    """

    grown_mb: float = 0.0
    cpu_s: float = 0.0


@dataclass(eq=False)
class _Running:
    before_kb: int
    before_cpu_s: float
    peak_kb: int = 0
    used: Used = field(default_factory=Used)


class ProcessMeter:
    """Measures one process by the peak that Linux keeps for it (VmHWM), which is set back for every input."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._running: list[_Running] = []
        self._lock = threading.Lock()

    @contextmanager
    def input(self) -> Iterator[Used]:
        """Measure during the block; the result is complete after it."""
        with self._lock:
            self._note_peak()
            (self._proc / "clear_refs").write_text(_RESET_PEAK)
            entry = _Running(self._status_kb("VmRSS"), self._cpu_s())
            self._running.append(entry)
        try:
            yield entry.used
        finally:
            with self._lock:
                self._note_peak()
                self._running.remove(entry)
                entry.used.grown_mb = (entry.peak_kb - entry.before_kb) / 1024
                entry.used.cpu_s = self._cpu_s() - entry.before_cpu_s

    def _note_peak(self) -> None:
        peak = self._status_kb("VmHWM")
        for entry in self._running:
            entry.peak_kb = max(entry.peak_kb, peak)

    def _status_kb(self, name: str) -> int:
        return int((self._proc / "status").read_text().split(f"{name}:")[1].split()[0])

    def _cpu_s(self) -> float:
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
