"""Runs ``serve``, a role or a command over an embedded database that can be made read-only and that waits little.

    python -m tests.fault_injecting_node --config CONFIG serve

While the file ``read-only`` is in the folder QA_FAULTS, every transaction may only read: SQLite then answers a write as
it does on a file system that has become read-only. The package knows nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from dicom_qa_node.cli import main
from dicom_qa_node.config import Config
from dicom_qa_node.db import engine
from dicom_qa_node.ops import supervisor
from dicom_qa_node.ops.supervisor import ChildSpec, specs_of

_BUSY_TIMEOUT_MS = 500


def _children(config: Config, config_path: Path | None) -> Sequence[ChildSpec]:
    return [_faulty(spec) for spec in specs_of(config, config_path)]


def _faulty(spec: ChildSpec) -> ChildSpec:
    return replace(
        spec, command=["tests.fault_injecting_node" if part == "dicom_qa_node" else part for part in spec.command]
    )


def _read_or_write(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        only = (Path(os.environ["QA_FAULTS"]) / "read-only").exists()
        connection.connection.cursor().execute(f"PRAGMA query_only={'ON' if only else 'OFF'}")


if __name__ == "__main__":
    engine._BUSY_TIMEOUT_MS = _BUSY_TIMEOUT_MS
    supervisor.specs_of = _children  # type: ignore[assignment]
    sa.event.listen(sa.engine.Engine, "begin", _read_or_write)
    main()
