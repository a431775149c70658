"""The supervisor with real child processes: restarted when they die or fall silent, stopped in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.ops.heartbeat import SystemdNotifier
from dicom_qa_node.ops.roles import ROLES, STOP_ORDER
from dicom_qa_node.ops.spool_lock import hold_spool
from dicom_qa_node.ops.supervisor import ChildSpec, RestartLimits, SupervisedProcess, Supervisor, specs_of

pytestmark = pytest.mark.integration

#: A role without a stage: it beats, notes when it is told to stop, and ends with a code after a while if told so.
ACTOR = """
import os, sys, threading
from dicom_qa_node.ops.heartbeat import HeartbeatSender
from dicom_qa_node.ops.roles import NAME_VARIABLE, PARENT_VARIABLE, stop_on_signals
from dicom_qa_node.db.engine import Database
url, notes, role, code, after = sys.argv[1:]
stop = threading.Event()
stop_on_signals(stop)
database = Database(url)
parent = int(os.environ[PARENT_VARIABLE])
pulse = HeartbeatSender(database, role, os.environ[NAME_VARIABLE], stop, parent_pid=parent)
if code != "silent":
    pulse.start()
with open(notes, "a") as file:
    print("start", role, file=file, flush=True)
    if code == "stubborn":
        threading.Event().wait()
    if code.lstrip("-").isdigit():
        stop.wait(float(after))
        if not stop.is_set():
            os._exit(int(code))
    stop.wait()
    print("stop", role, file=file, flush=True)
pulse.end()
"""


class Node:
    def __init__(
        self, tmp_path: Path, limits: RestartLimits | None = None, notifier: SystemdNotifier | None = None
    ) -> None:
        self.notes = tmp_path / "notes"
        self.database = Database(f"sqlite:///{tmp_path}/q.db")
        self.database.upgrade()
        self.children: list[SupervisedProcess] = []
        self.stop, self.hurry = threading.Event(), threading.Event()
        self.limits, self.notifier = limits, notifier
        self.exit: list[int] = []
        self._thread: threading.Thread | None = None

    def add(self, role: str, code: str = "", after_s: float = 0) -> SupervisedProcess:
        command = [sys.executable, "-c", ACTOR, str(self.database.url), str(self.notes), role, code, str(after_s)]
        child = SupervisedProcess(ChildSpec(role, role, command))
        self.children.append(child)
        return child

    def start(self) -> None:
        notifier = self.notifier or SystemdNotifier({})
        supervisor = Supervisor(self.children, self.database, self.stop, notifier, self.limits, self.hurry)
        self._thread = threading.Thread(target=lambda: self.exit.append(supervisor.run()))
        self._thread.start()

    def end(self) -> list[int]:
        self.stop.set()
        if self._thread is not None:
            self._thread.join(60)
            self._thread = None
        return self.exit

    def lines(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def beating(self) -> bool:
        return all(child.beating for child in self.children)


@pytest.fixture
def make_node(tmp_path):
    nodes: list[Node] = []

    def make(**settings: object) -> Node:
        node = Node(tmp_path, **settings)  # type: ignore[arg-type]
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.end()
        node.database.close()


def test_starts_all_and_stops_them_in_order(make_node, poll):
    node = make_node()
    for role in ROLES:
        node.add(role)
    node.start()
    poll(node.beating, 60, "all beating")
    assert {beat.role for beat in Heartbeats(node.database).all()} == {*ROLES, "serve"}
    assert node.end() == [0]
    assert [line.split()[1] for line in node.lines() if line.startswith("stop")] == list(STOP_ORDER)
    assert Heartbeats(node.database).all() == []


def test_a_killed_role_is_started_again(make_node, poll):
    node = make_node()
    child = node.add("score")
    node.start()
    poll(node.beating, 30, "beating")
    first = child.pid
    os.kill(first, signal.SIGKILL)
    poll(lambda: child.beating and child.pid != first, 30, "another process beating")


def test_a_silent_role_is_killed_and_started_again(make_node, poll):
    node = make_node(limits=RestartLimits(silence_s=8))
    child = node.add("score")
    node.start()
    poll(node.beating, 30, "beating")
    first = child.pid
    os.kill(first, signal.SIGSTOP)
    poll(lambda: child.pid not in (None, first) and child.beating, 40, "another process beating")


def test_a_role_that_never_gets_ready_is_started_again(make_node, poll):
    node = make_node(limits=RestartLimits(start_s=3, stop_s=2))
    node.add("score", "silent")
    node.start()
    poll(lambda: node.lines().count("start score") >= 2, 40, "second start")


def test_a_recycled_role_comes_back_at_once(make_node, poll):
    node = make_node()
    node.add("score", "75", 0.1)
    node.start()
    poll(lambda: node.lines().count("start score") >= 4, 40, "four starts")


def test_a_misconfigured_role_ends_the_start(make_node, poll):
    node = make_node()
    node.add("web")
    node.add("score", "3", 0)
    node.start()
    poll(lambda: node.exit, 30, "end")
    assert node.exit == [3]


def test_a_role_that_is_misconfigured_later_does_not_end_the_node(make_node, poll):
    node = make_node()
    node.add("web")
    child = node.add("score", "3", 8)
    node.start()
    poll(node.beating, 30, "beating")
    poll(lambda: child.pid is None, 30, "end of the role")
    assert not node.exit
    assert node.end() == [0]


def test_a_role_that_will_not_stop_is_killed(make_node, poll):
    node = make_node(limits=RestartLimits(stop_s=1))
    node.add("web", "stubborn")
    node.start()
    poll(node.beating, 30, "beating")
    assert node.end() == [0]


def test_a_second_signal_ends_what_will_not_stop(make_node, poll):
    node = make_node(limits=RestartLimits(stop_s=600))
    node.add("web", "stubborn")
    node.start()
    poll(node.beating, 30, "beating")
    node.hurry.set()
    assert node.end() == [0]


def test_backoff_grows_and_a_steady_run_resets_it():
    now = [0.0]
    child = SupervisedProcess(ChildSpec("score", "score", ["true"]), clock=lambda: now[0])
    waits = [child.plan_restart(1) for _ in range(12)]
    assert waits[0] <= 0.5
    assert 30 <= waits[-1] <= 60
    assert not child.due
    now[0] += 1000
    assert child.due
    assert child.plan_restart(1) <= 0.5
    assert child.plan_restart(75) == 0
    assert child.due


def test_what_a_dead_role_left_behind_is_ended(tmp_path, poll):
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '300']); time.sleep(300)"
    child = SupervisedProcess(ChildSpec("receive", "receive", [sys.executable, "-c", script]))
    child.start()
    (left,) = poll(lambda: psutil.Process(child.pid).children(), 20, "grandchild")
    os.kill(child.pid, signal.SIGKILL)
    assert poll(child.exit_code, 10, "exit code") == -signal.SIGKILL
    poll(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE, 10, "end of the grandchild")


def test_one_child_per_role_and_worker(node_config, tmp_path):
    config = node_config.model_copy(update={"score": node_config.score.model_copy(update={"workers": 2})})
    specs = specs_of(config, tmp_path / "config.yaml")
    assert [spec.process for spec in specs] == ["schedule", "score-1", "score-2", "deliver", "web", "receive"]
    assert list(specs[0].command[1:]) == ["-m", "dicom_qa_node", "--config", f"{tmp_path}/config.yaml", "schedule"]
    assert sorted(STOP_ORDER) == sorted(ROLES)
    bridged = config.model_copy(update={"orthanc": config.orthanc.model_copy(update={"url": "http://127.0.0.1:8042"})})
    assert {spec.role for spec in specs_of(bridged, None)} == set(ROLES)


def test_a_second_node_on_the_same_spool_is_refused(tmp_path):
    with (
        hold_spool(tmp_path / "spool"),
        pytest.raises(Misconfigured, match=f"process {os.getpid()}"),
        hold_spool(tmp_path / "spool"),
    ):
        pass
    with hold_spool(tmp_path / "spool", patience_s=0):
        pass


def test_roles_end_when_their_supervisor_was_killed(tmp_path, poll):
    script = f"""
import sys, threading
from dicom_qa_node.ops.supervisor import SupervisedProcess, ChildSpec
from dicom_qa_node.ops.spool_lock import hold_spool
from dicom_qa_node.ops.heartbeat import SystemdNotifier
from dicom_qa_node.ops.supervisor import Supervisor
from dicom_qa_node.db.engine import Database
from pathlib import Path
database = Database("sqlite:///{tmp_path}/q.db")
database.upgrade()
actor = {ACTOR!r}
with hold_spool(Path("{tmp_path}/spool")) as lock:
    command = [sys.executable, "-c", actor, str(database.url), "{tmp_path}/notes", "web", "", "0"]
    child = SupervisedProcess(ChildSpec("web", "web", command), [lock])
    Supervisor([child], database, threading.Event(), SystemdNotifier({{}})).run()
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    try:
        notes = tmp_path / "notes"
        poll(lambda: notes.exists() and "start" in notes.read_text(), 40, "start of the role")
        (role,) = psutil.Process(supervisor.pid).children()
    finally:
        supervisor.kill()
        supervisor.wait()
    with pytest.raises(Misconfigured), hold_spool(tmp_path / "spool", patience_s=0):
        pass
    with hold_spool(tmp_path / "spool"):
        pass
    poll(lambda: not role.is_running(), 10, "end of the role")
    assert notes.read_text().splitlines() == ["start web", "stop web"]
