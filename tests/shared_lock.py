"""A host in the middle of a transaction: ``python -m tests.shared_lock URL SERIES_UID`` locks a series until killed."""

from __future__ import annotations

import signal
import sys

from dicom_qa_node.db.engine import Database
from dicom_qa_node.flow.queue import lock_series


def main(url: str, uid: str) -> None:
    database = Database(url)
    with database.write() as connection:
        assert lock_series(connection, uid) is not None
        print("holds", flush=True)
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
