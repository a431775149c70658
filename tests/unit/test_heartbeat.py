"""The heartbeat of a process."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.ops.heartbeat import HeartbeatSender, SystemdNotifier, process_name


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


def test_it_beats_with_its_detail_and_leaves_in_order(database, poll):
    heartbeat = HeartbeatSender(database, "score", process_name("score-1"), threading.Event(), detail=lambda: "idle")
    heartbeat.start()
    heartbeat.start()
    (beat,) = poll(lambda: Heartbeats(database).all(), what="first beat")
    assert (beat.role, beat.name, beat.detail) == ("score", f"score-1@{socket.gethostname()}", "idle")
    assert beat.pid == os.getpid()
    heartbeat.end()
    assert Heartbeats(database).all() == []


def test_a_process_without_its_supervisor_stops(database, poll):
    stop = threading.Event()
    heartbeat = HeartbeatSender(database, "web", "web@x", stop, parent_pid=os.getppid() + 1)
    heartbeat.start()
    poll(stop.is_set, what="stop after the supervisor went")
    heartbeat.end()


def test_a_process_with_its_supervisor_goes_on(database, poll):
    stop = threading.Event()
    heartbeat = HeartbeatSender(database, "web", "web@x", stop, parent_pid=os.getppid())
    heartbeat.start()
    poll(lambda: Heartbeats(database).all(), what="first beat")
    heartbeat.end()
    assert not stop.is_set()


def test_a_lost_database_does_not_end_it(tmp_path, poll):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(5)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        heartbeat = HeartbeatSender(database, "web", "web@x", threading.Event(), notifier=SystemdNotifier(environment))
        heartbeat.start()
        assert heard.recv(100).startswith(b"READY=1")
        assert heard.recv(100) == b"WATCHDOG=1"
        heartbeat.end()
    database.close()


def test_ended_before_it_began(database):
    heartbeat = HeartbeatSender(database, "web", "web@x", threading.Event())
    heartbeat.end()
    heartbeat.start()
    assert Heartbeats(database).all() == []
