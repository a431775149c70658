"""An archive as a process of its own: ``python -m tests.archive_peer HOST PORT [GATE]``.

It prints a line for each report that it gets. With GATE, the path of a file, it has taken a report but does not answer
before that file is there.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from pynetdicom import evt

from tests.crash_helpers import Archive


class ToldArchive(Archive):
    """Prints ``arrived UID STATUS`` when a report is stored."""

    def __init__(self, host: str, port: int, gate: Path | None) -> None:
        self._gate = gate
        super().__init__(port, host)

    def _store(self, event: evt.Event) -> int:
        status = super()._store(event)
        print("arrived", event.request.AffectedSOPInstanceUID, f"0x{status:04X}", flush=True)
        while self._gate is not None and not self._gate.exists():
            time.sleep(0.02)
        return status


def main(host: str, port: str, gate: str = "") -> int:
    archive = ToldArchive(host, int(port), Path(gate) if gate else None)
    print("listens", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    archive.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
