"""Waits for the next commit to the database, so that what one process hands to another is taken within milliseconds.

SQLite counts the commits of other connections (``PRAGMA data_version``, sqlite.org/pragma.html); to read the counter
takes some microseconds and no lock, where a query for work takes a hundred times that. Other databases are looked at
again after a pause.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import suppress

from dicom_qa_node.db.engine import Database

__all__ = ["CommitWatch"]

_LOOK_S = 0.02
_PAUSE_S = 0.1


class CommitWatch:
    """The commits to one database since the last call of `wait`; for one thread at a time.

    Parameters
    ----------
    longest_s
        Seconds after which `wait` ends without a commit, for work that is due at a time.
    pause_s
        Seconds that `wait` takes where commits cannot be watched: another database, or one in memory.
    """

    def __init__(self, database: Database, longest_s: float = 0.5, pause_s: float = _PAUSE_S) -> None:
        self._file = database.file
        self._longest_s, self._pause_s = longest_s, pause_s
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None

    def wait(self, stop: threading.Event) -> None:
        """Return when something was committed since the last call, when ``stop`` is set, or after a while.

        The first call returns at once. Look for work after each call: what was committed before it is announced once.
        """
        until = time.monotonic() + self._longest_s
        while not stop.is_set():
            found = self._version()
            if found is None:
                stop.wait(self._pause_s)
                return
            if found != self._seen:
                self._seen = found
                return
            if time.monotonic() >= until or stop.wait(_LOOK_S):
                return

    def close(self) -> None:
        """Close the connection that the counter is read with."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _version(self) -> int | None:
        if self._file is None:
            return None
        try:
            if self._connection is None:
                # A reader: the file is never made here. It is closed by another thread than the one that waits.
                source = f"{self._file.resolve().as_uri()}?mode=ro"
                self._connection = sqlite3.connect(source, uri=True, timeout=0, check_same_thread=False)
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            self.close()
            return None
