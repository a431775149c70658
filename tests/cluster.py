"""The hosts of one node as processes of the test's machine, which share PostgreSQL and the spool
(`tests.single_host`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
import yaml

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.spool.layout import SpoolLayout
from tests.processes import signal_all

__all__ = ["Cluster", "rows_left"]

ROOT = Path(__file__).parents[1]


@dataclass
class Cluster:
    """The hosts of one node, by name."""

    folder: Path
    settings: dict[str, Any]
    database: Database
    hosts: dict[str, tuple[list[str], subprocess.Popen[bytes]]] = field(default_factory=dict)
    #: Put before the command of a host, such as what runs it in a network of its own.
    within: Callable[[str], Sequence[str]] = lambda _name: ()

    @property
    def registry(self) -> Registry:
        return Registry(self.database)

    @property
    def spool(self) -> Path:
        return Path(self.settings["spool_dir"])

    def start(self, name: str, role: str, gate: Path | None = None, **changes: Any) -> None:
        """Start a host with one role; ``changes`` are merged into the sections of the configuration."""
        settings = {key: dict(value) if isinstance(value, dict) else value for key, value in self.settings.items()}
        for key, value in changes.items():
            settings[key] = settings.get(key, {}) | value if isinstance(value, dict) else value
        config = self.folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "tests.single_host", name, str(config), role]
        self.run(name, command + ([str(gate)] if gate else []))

    def run(self, name: str, command: list[str]) -> None:
        """Run a program on a host; what it says is in the host's log."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.log(name).open("ab") as sink:
            process = subprocess.Popen(
                [*self.within(name), *command], stdout=sink, stderr=sink, cwd=ROOT, env=environment
            )
        self.hosts[name] = (command, process)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def signal(self, name: str, number: int) -> None:
        """Send a signal to every process of a host."""
        main = psutil.Process(self.hosts[name][1].pid)
        signal_all((*main.children(recursive=True), main), number)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        self.hosts[name][1].wait(30)

    def restart(self, name: str) -> None:
        self.run(name, self.hosts[name][0])

    def says(self, name: str, event: str) -> bool:
        return f"event={event}" in self.log(name).read_text()

    def at_gate(self, name: str) -> bool:
        """Whether a gated scorer waits in the middle of a series; its state says so before the images are read."""
        return self.says(name, "at_gate")

    def gave_up(self, name: str) -> bool:
        """Whether a scorer learned that its claim is void, before its verdict or with it."""
        return self.says(name, "series_given_back") or self.says(name, "result_superseded")

    def history(self, uid: str) -> list[tuple[str, str]]:
        return [(event["new_state"], event["actor"]) for event in self.registry.history(uid)]

    def state(self, uid: str) -> SeriesState | None:
        row = self.registry.series(uid)
        return None if row is None else row.state

    def received(self, uid: str) -> int:
        """Return how many images of a series are recorded."""
        row = self.registry.series(uid)
        return 0 if row is None else row.received

    def close(self) -> None:
        for _, process in self.hosts.values():
            if process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                signal_all((*children, psutil.Process(process.pid)))
                process.wait(30)

    def put(self, number: int, site: str = "default", priority: int = 0) -> str:
        """Lay a received, complete series down as a receiver and the schedule do; return its UID."""
        layout = SpoolLayout(self.spool)
        layout.create()
        images = ct_series(number, 8, 64, spacing_mm=12.0)
        uid = str(images[0].SeriesInstanceUID)
        facts = SeriesHeader(uid, f"1.2.{number}", "CT", frame_of_reference_uid="1.9")
        paths = write_phantom(images, layout.instances / f"x{number}")
        stored = [
            StoredInstance(
                str(image.SOPInstanceUID), "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", layout.relative(path),
                str(index), 1, utc_now(), "CT1", "a", facts,
            )
            for index, (image, path) in enumerate(zip(images, paths, strict=True))
        ]  # fmt: skip
        Registry(self.database, site=site).record(stored)
        registry = Registry(self.database, priority_of=lambda _facts, _calling_ae: priority)
        (progress,) = (item for item in registry.receiving() if item.series_instance_uid == uid)
        assert registry.complete(progress, reason="test")
        return uid


def rows_left(database: Database) -> dict[str, int]:
    with database.read() as connection:
        query = "SELECT count(*) FROM procrastinate_{}"
        return {name: connection.scalar(sa.text(query.format(name))) for name in ("jobs", "workers")}
