"""Looks at processes that may end meanwhile: the reconciler of a receiver, a fork that is about to become a program."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import suppress

import psutil

__all__ = ["listens", "processor_s", "signal_all"]


def signal_all(processes: Iterable[psutil.Process], number: int = signal.SIGKILL) -> None:
    """Send a signal to each process; one that is gone needs none."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def processor_s(processes: Iterable[psutil.Process]) -> float:
    """Return the processor time that the living ones of these processes have used, in seconds."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def listens(process: psutil.Process, port: int) -> bool:
    """Return whether a process holds the socket that listens on a port, or one that was accepted there."""
    with suppress(psutil.NoSuchProcess):
        return any(connection.laddr.port == port for connection in process.net_connections("tcp"))
    return False
