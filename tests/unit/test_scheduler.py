"""Periodic tasks: one that fails harms no other; retention deletes what it listed and nothing else."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time

import pytest

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.series import AssociationStart, SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.ops.retention import retain
from dicom_qa_node.ops.scheduler import Task, TaskRunner, close_orphans, tasks_of

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)


@pytest.fixture
def database(node_config):
    database = Database(node_config.database_url)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def running():
    runners = []

    def start(*tasks: Task) -> TaskRunner:
        runner = TaskRunner(tasks)
        runners.append(runner)
        runner.start()
        return runner

    yield start
    for runner in runners:
        runner.end()


def failing_once(error: Exception):
    calls = []

    def run(now: dt.datetime) -> None:
        calls.append(now)
        if len(calls) == 1:
            raise error

    return run, calls


def test_a_failing_task_is_named_and_stops_nobody(running, poll):
    ran = threading.Event()
    release = threading.Event()

    def fail(_now: dt.datetime) -> None:
        release.wait(5)
        raise Transient("the disk is away")

    runner = running(Task("bad", 0.05, fail), Task("good", 0.05, lambda _now: ran.set()))
    assert ran.wait(5)
    release.set()
    poll(runner.failing, what="failure noted")
    assert runner.detail() == "bad fails: the disk is away"
    ran.clear()
    assert ran.wait(5)


def test_a_recovered_task_is_not_failing(running, poll):
    run, calls = failing_once(Transient("away"))
    runner = running(Task("shaky", 0.05, run))
    poll(lambda: len(calls) > 2, what="more runs")
    poll(lambda: not runner.failing(), what="recovery")


def test_foreign_errors_are_named_by_type_only(running, poll, caplog):
    run, _ = failing_once(ValueError("Doe^Jane"))
    runner = running(Task("odd", 60, run))
    poll(runner.failing, what="failure noted")
    assert runner.failing() == {"odd": "ValueError"}
    assert "Doe" not in caplog.messages


def test_a_task_never_overlaps_with_itself(running, poll):
    inside, most, runs = [0], [0], [0]

    def slow(_now: dt.datetime) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.2)
        inside[0] -= 1
        runs[0] += 1

    running(Task("slow", 0.05, slow))
    poll(lambda: runs[0] >= 3, what="three runs")
    assert most[0] == 1


def test_every_task_of_a_node_runs(node_config, database):
    tasks = tasks_of(node_config, database)
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    assert {"sweep", "reconcile", "retention", "quarantine", "pictures", "room", "counts"} < set(names)
    for task in tasks:
        task.run(utc_now())


def stored(config: Config, number: int, series: str) -> StoredInstance:
    path = f"instances/{series}/{number}.dcm"
    file = config.spool_dir / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * 10)
    facts = SeriesHeader(series, "1.2", "CT")
    return StoredInstance(
        f"{series}.{number}", "1.2", "1.2", path, f"{number:064x}", 10, T0, "SCANNER", "a1", facts, expected=None
    )


def test_retention_deletes_only_what_is_finished_and_old(node_config, database):
    registry = Registry(database)
    for series in ("1.1", "1.2", "1.3"):
        registry.record([stored(node_config, number, series) for number in (1, 2)])
    registry.park("1.1", "broken", actor="test", at=T0)
    registry.park("1.2", "broken", actor="test", at=T0 + dt.timedelta(days=50))
    stray = node_config.spool_dir / "instances" / "1.1" / "unknown.dcm"
    stray.write_bytes(b"y")
    assert retain(node_config, database, T0 + dt.timedelta(days=91)) == 2
    assert [item.path for item in registry.instances("1.1")] == []
    assert stray.exists()
    for series in ("1.2", "1.3"):
        assert all((node_config.spool_dir / item.path).exists() for item in registry.instances(series))
        assert len(registry.instances(series)) == 2
    assert registry.series("1.1").state is SeriesState.PARKED


def test_retention_goes_on_after_a_crash_between_file_and_row(node_config, database):
    registry = Registry(database)
    registry.record([stored(node_config, number, "1.1") for number in (1, 2)])
    registry.park("1.1", "broken", actor="test", at=T0)
    (node_config.spool_dir / registry.instances("1.1")[0].path).unlink()
    assert retain(node_config, database, T0 + dt.timedelta(days=91)) == 1
    assert registry.instances("1.1") == []


def test_associations_of_a_receiver_that_is_gone_are_closed(database):
    registry, liveness = Registry(database), Heartbeats(database)
    here = socket.gethostname()
    registry.record([AssociationStart("a1", "SCANNER", "127.0.0.1", f"receive-1@{here}", T0)])
    liveness.beat("receive", at=T0)
    assert close_orphans(database, T0 + dt.timedelta(seconds=119)) == 0
    registry.record([AssociationStart("a2", "SCANNER", "127.0.0.1", "receive-0@elsewhere", T0)])
    assert close_orphans(database, T0 + dt.timedelta(seconds=119)) == 1
    assert registry.open_receivers() == [f"receive-1@{here}"]
    assert close_orphans(database, T0 + dt.timedelta(seconds=121)) == 1
    assert close_orphans(database, T0 + dt.timedelta(seconds=122)) == 0


def test_how_the_tasks_stand_is_told_with_last_and_next_run():
    def fail(_now):
        raise Transient("later")

    done = threading.Event()
    runner = TaskRunner([Task("good", 60, lambda _now: done.set()), Task("bad", 60, fail)])
    runner.start()
    assert done.wait(10)
    deadline = time.monotonic() + 10
    while not all(run.last_at for run in runner.runs()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    bad, good = runner.runs()
    runner.end()
    assert (bad.name, bad.error, good.error) == ("bad", "later", "")
    assert good.next_at - good.last_at > dt.timedelta(seconds=50)
    assert good.took_s < 10
