"""One node per spool: a lock file that every process of a node holds open."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["hold_spool"]

_FILE = ".serve.lock"


@contextmanager
def hold_spool(spool_dir: Path, patience_s: float = 30) -> Iterator[int]:
    """Hold the lock of a spool folder, which is made if absent; gives the descriptor for children to inherit.

    Children that outlive a killed supervisor keep the lock until they have ended; ``patience_s`` is for them.

    Raises
    ------
    Misconfigured
        Another node works on this spool, or the folder cannot be written.
    """
    path = spool_dir / _FILE
    try:
        spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"spool_dir {spool_dir} cannot be used: {error.strerror}") from error
    try:
        _lock(descriptor, path, time.monotonic() + patience_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            if time.monotonic() > deadline or _runs(holder):
                message = f"a node (process {holder or 'unknown'}) already works on the spool {path.parent}"
                raise Misconfigured(f"{message}; stop it first") from error
        time.sleep(0.1)


def _runs(pid: str) -> bool:
    return pid.isdigit() and Path("/proc", pid).exists()
