"""The receivers that the ingest benchmark compares: how each is started empty, counted and stopped."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_READY_S = 20.0


@dataclass(frozen=True)
class Server:
    """A running receiver."""

    port: int
    pid: int

    def peak_rss_mb(self) -> float:
        """Return the largest peak resident memory of one of its processes, in MiB."""
        root = psutil.Process(self.pid)
        return max(_peak_rss_mb(process.pid) for process in [root, *root.children(recursive=True)])


def _peak_rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass(frozen=True)
class Target:
    """A receiver: its command line for a scratch folder and a port, and where it leaves what it stored."""

    name: str
    command: Callable[[Path, int], list[str]]
    stored: Callable[[Path], int]

    @contextlib.contextmanager
    def running(self, scratch: Path) -> Iterator[Server]:
        """Run the receiver on an empty scratch folder until the block ends."""
        port = free_port()
        process = subprocess.Popen(
            self.command(scratch, port), stdout=subprocess.DEVNULL, stderr=(scratch / "stderr.log").open("wb")
        )
        try:
            wait_for(port, process)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], title: str = "ANY-SCP") -> None:
    """Return when a C-ECHO to ``title`` is answered.

    Raises
    ------
    RuntimeError, TimeoutError
        The process ended, or did not answer in time.
    """
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the receiver ended with {process.returncode}")
        answer = subprocess.run(["echoscu", "-aec", title, "127.0.0.1", str(port)], capture_output=True, check=False)
        if answer.returncode == 0:
            return
        time.sleep(0.05)
    raise TimeoutError(f"no C-ECHO answer on port {port}")


def _orthanc(scratch: Path, port: int) -> list[str]:
    """Orthanc as Debian ships it (SQLite index, SyncStorageArea true), with ports and folders of its own."""
    settings = {
        "StorageDirectory": str(scratch / "db"),
        "IndexDirectory": str(scratch / "db"),
        "DicomPort": port,
        "HttpPort": free_port(),
        "SyncStorageArea": True,
        "Plugins": [],
    }
    path = scratch / "orthanc.json"
    path.write_text(json.dumps(settings))
    return ["env", "TCP_NODELAY=1", "Orthanc", str(path)]  # without it DCMTK peers wait 40 ms an image


def _storescp(scratch: Path, port: int) -> list[str]:
    """DCMTK ``storescp``, one process per association; it does not fsync."""
    folder = scratch / "db"
    folder.mkdir()
    return ["env", "TCP_NODELAY=1", "storescp", "--fork", "-pdu", "131072", "-od", str(folder), str(port)]


def _node(scratch: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.node", str(scratch / "spool"), str(port)]


def _files(pattern: str) -> Callable[[Path], int]:
    return lambda scratch: sum(1 for path in scratch.glob(pattern) if path.is_file())


TARGETS = {
    target.name: target
    for target in (
        Target("orthanc", _orthanc, _files("db/*/*/*")),
        Target("storescp", _storescp, _files("db/*")),
        Target("node", _node, _files("spool/instances/**/*.dcm")),
    )
}
