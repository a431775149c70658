"""Runs the receive role in a process of its own for the integration tests, with a fault if the test wants one.

    python -m tests.integration.receiver CONFIG [FAULT]

A fault replaces one call of the operating system in that process only; the package knows nothing of it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pynetdicom

from dicom_qa_node import log
from dicom_qa_node.config import load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.receive.server import serve_receive


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _once_per_flag(flag: Path) -> bool:
    """Return True the first time in any process of this receiver."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _inject(fault: str, folder: Path) -> None:
    flag = folder / "fault-happened"
    link, fsync, write = os.link, os.fsync, os.write

    def link_after_death(*args: Any, **kwargs: Any) -> None:
        if _once_per_flag(flag):
            _die()
        link(*args, **kwargs)

    def death_after_link(*args: Any, **kwargs: Any) -> None:
        link(*args, **kwargs)
        if _once_per_flag(flag):
            _die()

    def death_before_fsync(descriptor: int) -> None:
        if ".part" in os.readlink(f"/proc/self/fd/{descriptor}") and _once_per_flag(flag):
            _die()
        fsync(descriptor)

    def full_disk(descriptor: int, data: Any) -> int:
        if not (folder / "disk-has-room").exists() and len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    if fault == "kill-before-fsync":
        os.fsync = death_before_fsync
    elif fault == "kill-before-name":
        os.link = link_after_death
    elif fault == "kill-after-name":
        os.link = death_after_link
    elif fault == "disk-full":
        os.write = full_disk
    elif fault == "unknown-pynetdicom":
        pynetdicom.__version__ = "3.99.0"
    elif fault:
        raise SystemExit(f"no such fault: {fault}")


def main() -> int:
    """Receive until SIGTERM; the file ``ready`` beside the configuration says when it serves."""
    path = Path(sys.argv[1])
    config = load_config(path)
    log.configure("info")
    _inject(sys.argv[2] if len(sys.argv) > 2 else "", path.parent)
    database = Database(config.database_url)
    database.upgrade()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return serve_receive(config, database, stop, (path.parent / "ready").touch)


if __name__ == "__main__":
    sys.exit(main())
