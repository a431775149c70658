"""This node as a target of the ingest benchmark: the receive role on a fresh SQLite database, nothing else.

python -m benchmarks.node SPOOL PORT
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from dicom_qa_node import log
from dicom_qa_node.config import Config, Receive
from dicom_qa_node.db.engine import Database
from dicom_qa_node.receive.server import serve_receive


def main() -> int:
    """Serve until SIGTERM."""
    spool, port = Path(sys.argv[1]), int(sys.argv[2])
    log.configure("warning")
    config = Config(
        spool_dir=spool,
        database_url=f"sqlite:///{spool.parent / 'quality.db'}",
        receive=Receive(host="127.0.0.1", port=port),
    )
    database = Database(config.database_url)
    database.upgrade()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return serve_receive(config, database, stop, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
