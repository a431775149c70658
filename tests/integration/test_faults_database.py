"""The database is read-only, locked, away or damaged under a running node: images are kept, and all goes on after it.

Success depends on the spool alone. Meanwhile nothing spins and the log stays short; ``health`` says what is wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.ops import heartbeat, supervisor
from dicom_qa_node.ops.rebuild import rebuild
from dicom_qa_node.ops.supervisor import RestartLimits
from tests.conftest import poll_until
from tests.crash_helpers import ROOT, SLICES, KillRun, kill_run
from tests.integration.receive_peer import MakeReceiver, association, kill_hard, receiver_fixture, store
from tests.integration.test_supervisor import Node as SupervisedNode
from tests.postgresql_server import PostgresqlServer, required_programs, running_server
from tests.processes import processor_s
from tests.unit.encoded_images import ct

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

WATCH_S = 8.0
#: A process that tries again without a pause writes thousands of lines and takes a whole core.
MOST_LINES_PER_S, MOST_CORES = 4.0, 0.6
EVENT = re.compile(r"event=(\w+)")


@dataclass(frozen=True)
class Watched:
    """What a node did for a while."""

    lines: int
    cores: float
    events: dict[str, int]


def watch(run: KillRun) -> Watched:
    """Count log lines above debug and processor time while the database does not work."""
    begun, size, used_s = time.monotonic(), run.node.log.stat().st_size, _processor_s(run)
    poll_until(lambda: time.monotonic() - begun > WATCH_S, WATCH_S + 5)
    took_s = time.monotonic() - begun
    with run.node.log.open("rb") as log:
        log.seek(size)
        lines = [line for line in log.read().decode().splitlines() if " debug " not in line]
    events: dict[str, int] = {}
    for line in lines:
        for event in EVENT.findall(line)[:1]:
            events[event] = events.get(event, 0) + 1
    return Watched(len(lines), (_processor_s(run) - used_s) / took_s, events)


def _processor_s(run: KillRun) -> float:
    (node,) = run.node.processes("serve")
    return processor_s([node, *node.children(recursive=True)])


def pids(run: KillRun) -> dict[str, int]:
    """Return the process that the supervisor keeps for each role."""
    (node,) = run.node.processes("serve")
    return {process.cmdline()[-1]: process.pid for process in node.children()}


def health(run: KillRun, program: str = "dicom_qa_node") -> str:
    """Return what the command ``health`` says; it must not be content."""
    command = [sys.executable, "-m", program, "--config", str(run.node.config_path), "health"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def push_and_wait(run: KillRun) -> str:
    """Send a series and wait until every image of it was answered with Success."""
    uid = run.push()
    poll_until(lambda: run.node.check() and not run.scanner.busy(), 60, "every image acknowledged")
    assert len(run.scanner.acknowledged) == SLICES * len(run.sent)
    return uid


def all_delivered(run: KillRun) -> None:
    poll_until(lambda: run.node.check() and run.delivered() == len(run.sent), 120, "all delivered")


@contextmanager
def read_only(folder: Path, _database: Path) -> Iterator[str]:
    flag = folder / "read-only"
    flag.touch()
    yield "readonly database"
    flag.unlink()


@contextmanager
def locked(_folder: Path, database: Path) -> Iterator[str]:
    with closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield "database is locked"
        other.execute("ROLLBACK")


def test_an_embedded_database_that_takes_no_writes_delays_and_loses_nothing(
    tmp_path, node_config, free_port, monkeypatch
):
    monkeypatch.setenv("QA_FAULTS", str(tmp_path))
    with kill_run(tmp_path, node_config, free_port, 1, program="tests.fault_injecting_node") as run:
        push_and_wait(run)
        all_delivered(run)
        before = pids(run)
        assert sorted(before) == ["deliver", "receive", "schedule", "score", "web"]
        for fault in (read_only, locked):
            with fault(tmp_path, Path(str(run.database.url.database))) as words:
                uid = push_and_wait(run)
                said = health(run, "tests.fault_injecting_node")
                seen = watch(run)
                assert run.registry.series(uid) is None
                _check_watched(fault.__name__, seen)
                assert words in said
                assert "kept in the spool" in said
            all_delivered(run)
        # Nobody died, nobody was killed: every role waited and went on.
        assert pids(run) == before
        _finish(run)
        assert "role_ended" not in run.node.log.read_text()


def test_a_postgresql_that_stops_and_starts_again_delays_and_loses_nothing(
    server: PostgresqlServer, tmp_path, node_config, free_port
):
    with kill_run(tmp_path, node_config, free_port, 1, {"database_url": server.create(migrated=False)}) as run:
        push_and_wait(run)
        all_delivered(run)
        before = pids(run)
        server.stop()
        run.database.close()
        push_and_wait(run)
        said = health(run)
        seen = watch(run)
        # What these processes were to record dies with them; the spool has it.
        for process in run.node.processes("receive"):
            if not process.children() and process.pid not in before.values():
                os.kill(process.pid, signal.SIGKILL)
        poll_until(lambda: "receiver_failed" in run.node.log.read_text(), 60, "a reconciler without a database")
        push_and_wait(run)
        _check_watched("stopped", seen)
        assert "refused" in said
        assert "kept in the spool" in said
        server.start()
        all_delivered(run)
        assert pids(run) == before
        _finish(run)
        assert "role_ended" not in run.node.log.read_text()


def _check_watched(fault: str, seen: Watched) -> None:
    print(f"{fault}: {seen.lines} lines in {WATCH_S:g} s, {seen.cores:.2f} cores, {seen.events}")
    assert seen.lines / WATCH_S <= MOST_LINES_PER_S
    assert seen.cores <= MOST_CORES


def _finish(run: KillRun) -> None:
    run.finish(120)
    counted = run.summary()
    print(counted)
    assert counted["images acknowledged"] == counted["images stored"] == SLICES * counted["series"]
    assert counted["reports delivered"] == counted["series"] == len(run.sent)
    assert counted["series with two reports"] == 0
    run.check_images()
    run.check_results()


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    """Return a server of this test's own, which it may stop."""
    with running_server(required_programs()) as made:
        yield made


def test_a_postgresql_that_only_reads_for_now_is_waited_for(server):
    url = server.create()
    with closing(Database(url)) as database:
        name = sa.make_url(url).database
        Heartbeats(database).require_writable()
        with database.write() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database.close()
        with pytest.raises(Transient, match="read-only transaction"):
            Heartbeats(database).require_writable()
        assert Heartbeats(database).all() == []


@pytest.fixture
def make_receiver(tmp_path, node_config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


@pytest.mark.parametrize("with_backup", [True, False])
def test_a_database_damaged_under_a_receiver_costs_no_image(
    make_receiver: MakeReceiver, poll: Callable[..., object], tmp_path: Path, with_backup: bool
) -> None:
    receiver = make_receiver()
    images = [ct(SeriesInstanceUID="1.2.3", InstanceNumber=number, rows=64) for number in range(1, 13)]
    database_file = Path(str(sa.make_url(receiver.config.database_url).database))
    backup = tmp_path / "backup.db"

    def send(some: list) -> None:
        with association(receiver) as assoc:
            assert [store(assoc, ds).Status for ds in some] == [0x0000] * len(some)

    send(images[:4])
    poll(lambda: len(receiver.rows("1.2.3")) == 4)
    with closing(Database(receiver.config.database_url)) as database:
        database.backup(backup)
    send(images[4:8])
    poll(lambda: len(receiver.rows("1.2.3")) == 8)
    _damage(database_file)
    # The pages that a process has read lie in its memory; only one that starts afterwards sees the damage.
    (worker,) = receiver.workers()
    kill_hard(worker.pid)
    poll(lambda: receiver.workers() not in ([], [worker]), 30, "another receiver process")
    send(images[8:])
    poll(lambda: "record_postponed" in receiver.log.read_text(), 30, "a word about the damage")
    with closing(Database(receiver.config.database_url)) as database:
        assert database.damage()
    text = receiver.log.read_text()
    lines = text.count("record_postponed") + text.count("record_failed") + text.count("crashed")
    assert receiver.stop() == 0
    if with_backup:
        for ending in ("-wal", "-shm"):
            database_file.with_name(database_file.name + ending).unlink(missing_ok=True)
        shutil.copyfile(backup, database_file)
    counted = rebuild(receiver.config, new=not with_backup)
    rows = receiver.rows("1.2.3")
    kept = {item.sop_instance_uid for item in rows}
    print(f"acknowledged {len(images)}, in the database again {len(kept)}, {lines} lines of damage, {counted}")
    assert kept == {str(ds.SOPInstanceUID) for ds in images}
    assert len(rows) == len(images)
    assert "event=crashed" not in text
    assert lines <= 4


def _damage(database_file: Path) -> None:
    """Write over everything but the first page, and over the write-ahead log, while others have them open."""
    with database_file.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    log = database_file.with_name(f"{database_file.name}-wal")
    if log.exists():
        with log.open("r+b") as file:
            file.write(b"\xa5" * log.stat().st_size)


def test_nobody_is_killed_for_silence_while_the_database_takes_no_heartbeat(tmp_path, poll, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.5)
    monkeypatch.setattr(supervisor, "_OWN_BEAT_S", 2.0)
    node = SupervisedNode(tmp_path, limits=RestartLimits(silence_s=7))
    child = node.add("receive")
    try:
        node.start()
        poll(node.beating, 30, "beating")
        first = child.pid
        other = sqlite3.connect(str(node.database.url.database), isolation_level=None, timeout=30)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            poll(lambda: time.monotonic() - begun > 12, 20)
            assert child.silent_s() < 7
            other.execute("ROLLBACK")
        beats: Mapping[int, object] = {beat.pid: beat.seen_at for beat in Heartbeats(node.database).all()}
        poll(lambda: {b.pid: b.seen_at for b in Heartbeats(node.database).all()}[first] != beats[first], 20, "a beat")
        assert child.pid == first
        os.kill(first, signal.SIGSTOP)
        poll(lambda: child.pid != first, 40, "the end of one that is really silent")
    finally:
        node.end()
        node.database.close()
