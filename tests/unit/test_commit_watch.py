"""Waiting for a commit: it ends with the commit of another connection, and not without one."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dicom_qa_node.db.commit_watch import CommitWatch
from dicom_qa_node.db.engine import Database

LONG_S = 60.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE work (number INTEGER)")
    with closing(Database(f"sqlite:///{tmp_path}/q.db")) as database:
        yield database


def commit(database: Database) -> None:
    with closing(sqlite3.connect(str(database.file), isolation_level=None)) as connection:
        connection.execute("INSERT INTO work VALUES (1)")


def waiting(watch: CommitWatch, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=watch.wait, args=(stop,), daemon=True)
    thread.start()
    return thread


def test_the_first_wait_ends_at_once_and_the_next_with_a_commit(database):
    watch, stop = CommitWatch(database, longest_s=LONG_S), threading.Event()
    watch.wait(stop)
    thread = waiting(watch, stop)
    thread.join(0.2)
    assert thread.is_alive()
    commit(database)
    thread.join(LONG_S / 2)
    assert not thread.is_alive()
    watch.close()


def test_a_commit_between_two_waits_is_not_missed(database):
    watch, stop = CommitWatch(database, longest_s=LONG_S), threading.Event()
    watch.wait(stop)
    commit(database)
    before = time.monotonic()
    watch.wait(stop)
    assert time.monotonic() - before < LONG_S / 2
    watch.close()


def test_the_wait_ends_with_the_stop_and_after_the_longest_time(database):
    watch, stop = CommitWatch(database, longest_s=LONG_S), threading.Event()
    watch.wait(stop)
    thread = waiting(watch, stop)
    stop.set()
    thread.join(LONG_S / 2)
    assert not thread.is_alive()
    short = CommitWatch(database, longest_s=0.05)
    short.wait(threading.Event())
    before = time.monotonic()
    short.wait(threading.Event())
    assert time.monotonic() - before >= 0.05
    for one in (watch, short):
        one.close()


def test_where_commits_cannot_be_watched_the_wait_is_a_pause():
    with closing(Database("sqlite://")) as database:
        watch = CommitWatch(database, longest_s=LONG_S, pause_s=0.02)
        before = time.monotonic()
        for _ in range(2):
            watch.wait(threading.Event())
        assert 0.04 <= time.monotonic() - before < LONG_S / 2
        watch.close()
