"""The processes of the demo: a node on embedded SQLite and an archive that receives its reports."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from dicom_qa_node.cli.demo_archive import AE_TITLE as ARCHIVE_TITLE
from dicom_qa_node.config import Config, load_config
from dicom_qa_node.errors import Permanent

__all__ = ["DemoNode", "demo_node", "free_port"]

_STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A running demo: where it listens and where its things lie."""

    folder: Path
    config: Config
    config_path: Path
    archive_port: int
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        """What the node writes to standard error."""
        return self.folder / "node.log"

    @property
    def archive(self) -> Path:
        """Where the archive keeps what it receives."""
        return self.folder / "archive"

    def require_alive(self) -> None:
        """Fail with the node's last words if it has ended."""
        code = self.process.poll()
        if code is not None:
            last = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise Permanent(f"the node ended with {code}; its log {self.log} ends with:\n" + "\n".join(last))


@contextmanager
def demo_node(folder: Path) -> Iterator[DemoNode]:
    """Start archive and node in ``folder``; both have stopped on leaving the block."""
    folder.mkdir(parents=True, exist_ok=True)
    archive_port = free_port(11113)
    config_path = _write_config(folder, archive_port)
    archive = [sys.executable, "-m", "dicom_qa_node.cli.demo_archive", str(archive_port), str(folder / "archive")]
    serve = [sys.executable, "-m", "dicom_qa_node", "--config", str(config_path), "serve"]
    with _running(archive, folder / "archive.log"), _running(serve, folder / "node.log") as process:
        yield DemoNode(folder, load_config(config_path), config_path, archive_port, process)


def free_port(wanted: int) -> int:
    """Return the standard port if nobody listens there, else a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Permanent("no TCP port is free on this machine")


def _write_config(folder: Path, archive_port: int) -> Path:
    values = {
        "database_url": f"sqlite:///{folder.resolve()}/quality.db",
        "spool_dir": str(folder.resolve() / "spool"),
        "receive": {"host": "127.0.0.1", "port": free_port(11112), "processes": 1},
        "spool": {"min_free_mb": 200, "resume_free_mb": 300},
        "complete": {"quiet_s": 5, "pair_wait_s": 60},
        "deliver": {
            "targets": [
                {
                    "kind": "dicom",
                    "name": "archive",
                    "host": "127.0.0.1",
                    "port": archive_port,
                    "ae_title": ARCHIVE_TITLE,
                }
            ],
            "retry_first_s": 1,
        },
        "web": {"host": "127.0.0.1", "port": free_port(8080)},
    }
    path = folder / "config.yaml"
    path.write_text("# Written by `dicom-qa-node demo`.\n" + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
