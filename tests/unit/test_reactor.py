"""The reactor of an association never takes the answer that its caller waits for, wherever it is preempted."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from dicom_qa_node.reactor import pause_for_certain

ROUNDS = 15


class Association(threading.Thread):
    """The loop of pynetdicom's reactor (association.py, ``_run_reactor``), preempted where its flag is stale."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._reactor_checkpoint = threading.Event()
        self._reactor_checkpoint.set()
        self._is_paused = False
        self.messages: queue.Queue[int] = queue.Queue()
        self.taken: list[int] = []
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            time.sleep(0.001)
            self._is_paused = True
            self._reactor_checkpoint.wait()
            time.sleep(0.02)
            self._is_paused = False
            if not self.messages.empty():
                self.taken.append(self.messages.get())

    def ask(self, number: int) -> None:
        self._reactor_checkpoint.clear()
        while not self._is_paused:
            time.sleep(0.0001)
        self.messages.put(number)
        time.sleep(0.03)
        assert self.messages.empty() or self.messages.get() == number
        self._reactor_checkpoint.set()
        time.sleep(0.005 * (number % 5))


@pytest.mark.parametrize("certain", [True, False], ids=["closed", "as pynetdicom has it"])
def test_no_answer_is_taken_away(certain):
    association = Association()
    association.start()
    if certain:
        pause_for_certain(association)
    for number in range(ROUNDS):
        association.ask(number)
    association.ended = True
    association.join(5)
    # The second case shows that this test sees the race.
    assert (association.taken == []) is certain


def test_a_reactor_that_has_ended_holds_nobody_up():
    association = Association()
    pause_for_certain(association)
    association.ask(1)
    assert association.taken == []
