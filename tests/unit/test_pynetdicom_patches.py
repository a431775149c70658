"""The reactor of an association never takes the answer that its caller waits for, wherever it is preempted."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from dicom_qa_node.dicom_io.pynetdicom_patches import pause_for_certain


class Association(threading.Thread):
    """The loop of pynetdicom's reactor (association.py, ``_run_reactor``), held where it has passed the checkpoint."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._reactor_checkpoint = threading.Event()
        self._reactor_checkpoint.set()
        self._is_paused = False
        self.passed, self.go_on = threading.Event(), threading.Event()
        self.messages: queue.Queue[str] = queue.Queue()
        self.taken: list[str] = []
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            self._is_paused = True
            self._reactor_checkpoint.wait()
            self.passed.set()
            self.go_on.wait(20)
            self._is_paused = False
            while not self.messages.empty():
                self.taken.append(self.messages.get())

    def end(self) -> None:
        self.ended = True
        self.go_on.set()
        self._reactor_checkpoint.set()
        self.join(20)
        assert not self.is_alive()


@pytest.fixture
def association() -> Iterator[Association]:
    association = Association()
    yield association
    association.end()


def test_a_reactor_that_has_passed_the_checkpoint_is_not_taken_for_paused(association, poll):
    pause_for_certain(association)
    association.start()
    assert association.passed.wait(20)
    association._reactor_checkpoint.clear()
    assert not association._is_paused
    association.go_on.set()
    poll(lambda: association._is_paused, 20, "the reactor is held")
    association.messages.put("answer")
    assert association.taken == []
    assert association.messages.get_nowait() == "answer"


def test_as_pynetdicom_has_it_the_flag_is_stale_and_the_answer_is_taken(association, poll):
    association.start()
    assert association.passed.wait(20)
    association._reactor_checkpoint.clear()
    assert association._is_paused
    association.messages.put("answer")
    association.go_on.set()
    poll(lambda: association.taken == ["answer"], 20, "the reactor takes it")


def test_a_released_reactor_takes_what_came_meanwhile(association, poll):
    pause_for_certain(association)
    association.go_on.set()
    association.start()
    association._reactor_checkpoint.clear()
    poll(lambda: association._is_paused, 20, "the reactor is held")
    association.messages.put("request")
    association._reactor_checkpoint.set()
    poll(lambda: association.taken == ["request"], 20, "the reactor takes it")


def test_a_reactor_that_has_ended_holds_nobody_up():
    association = Association()
    pause_for_certain(association)
    association._reactor_checkpoint.clear()
    assert association._is_paused
