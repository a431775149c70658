"""One role of a node as if it ran on a host of its own: ``python -m tests.single_host NAME CONFIG ROLE [GATE]``.

NAME is what this process takes for its host's name. A scorer has no network: it scores as `TinyScorer` does, and with
GATE, the path of a file, waits for that file in every series; while it waits, its log has ``event=at_gate``.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

from dicom_qa_node.config import load_config
from dicom_qa_node.ops.roles import run_role
from tests.stub_model import TinyScorer

__all__ = ["GatedScorer"]


class GatedScorer(TinyScorer):
    """Scores a series when the gate is there; none: at once."""

    def __init__(self, gate: Path | None) -> None:
        super().__init__()
        self._gate = gate

    def score(self, *arguments: Any, **more: Any) -> Any:
        if self._gate is not None and not self._gate.exists():
            print("event=at_gate", file=sys.stderr, flush=True)
        while self._gate is not None and not self._gate.exists():
            time.sleep(0.02)
        return super().score(*arguments, **more)


def main(name: str, config: str, role: str, gate: str = "") -> int:
    socket.gethostname = lambda: name
    if role == "score":
        from dicom_qa_node.score import worker

        worker._open_installed = lambda _config, _name: GatedScorer(Path(gate) if gate else None)
    return run_role(role, load_config(Path(config)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
