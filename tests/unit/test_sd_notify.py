"""The service's words to systemd, as a socket at the other end hears them."""

from __future__ import annotations

import os
import socket

import pytest

from dicom_qa_node.ops.heartbeat import SystemdNotifier, environment_for_children


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(2)
        yield heard


def test_words_reach_the_socket(listener):
    environment = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "30000000"}
    notifier = SystemdNotifier(environment)
    assert notifier.watchdog_s == 30
    notifier.ready("5 processes are running")
    notifier.alive()
    notifier.stopping()
    words = [listener.recv(1000).decode() for _ in range(3)]
    assert words == ["READY=1\nSTATUS=5 processes are running", "WATCHDOG=1", "STOPPING=1\nSTATUS=stopping"]


def test_abstract_socket():
    name = f"qa-node-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + name)
        heard.settimeout(2)
        SystemdNotifier({"NOTIFY_SOCKET": "@" + name}).status("well")
        assert heard.recv(1000) == b"STATUS=well"


def test_without_systemd_nothing_happens():
    notifier = SystemdNotifier({})
    assert notifier.watchdog_s is None
    notifier.ready("on")
    notifier.alive()
    notifier.stopping()


def test_a_listener_that_went_away_harms_nobody(tmp_path):
    SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("on")


def test_another_process_s_watchdog_is_not_ours():
    assert SystemdNotifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s is None


def test_children_do_not_inherit_the_socket():
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    assert environment_for_children(environment) == {"PATH": "/bin"}
