from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_qa_node.config import Peer, Receive
from dicom_qa_node.receive import admission
from dicom_qa_node.receive.admission import Admission, Applicant, ConnectionSlots, Rejection
from dicom_qa_node.spool.disk_space import DiskGauge, DiskUsage

LISTED = [
    Peer(ae_title="CT1", hosts=["10.1.0.0/16", "127.0.0.1"], max_associations=2),
    Peer(ae_title="PET", hosts=[]),
]


class Node:
    """An admission with its seats and a disk that can be filled."""

    def __init__(self, **settings: object) -> None:
        self.free = 10**9
        gauge = DiskGauge(Path(), 1, 1, every_s=0, usage=lambda _: DiskUsage(10**10, self.free))
        self.receive = Receive.model_validate({"max_associations": 4} | settings)
        self.seats = ConnectionSlots(self.receive.max_associations)
        self.admission = Admission(self.receive, "DICOMQA", self.seats, gauge)

    def ask(self, calling: str = "CT1", called: str = "DICOMQA", host: str = "127.0.0.1") -> Rejection | None:
        seat = self.seats.take()
        assert seat is not None
        answer = self.admission.decide(Applicant(calling, called, host, seat))
        if answer is not None:
            self.seats.leave(seat)
        return answer


def test_anybody_may_call_where_the_list_is_off() -> None:
    node = Node(peers=LISTED)
    assert node.ask("STRANGER", "WHOEVER", "192.0.2.7") is None


@pytest.mark.parametrize(
    ("calling", "host", "allowed"),
    [
        ("CT1", "127.0.0.1", True),
        ("CT1", "10.1.200.3", True),
        ("CT1", "::ffff:10.1.2.3", True),
        ("CT1", "10.2.0.1", False),
        ("PET", "192.0.2.7", True),
        ("STRANGER", "127.0.0.1", False),
        ("ct1", "127.0.0.1", False),
    ],
)
def test_the_list_names_calling_ae_and_host(calling: str, host: str, allowed: bool) -> None:
    node = Node(peers=LISTED, allow_unknown_peers=False)
    answer = node.ask(calling, host=host)
    assert answer is (None if allowed else admission.UNKNOWN_CALLING_AE)


def test_the_called_ae_may_be_required() -> None:
    node = Node(require_called_ae=True)
    assert node.ask(called="OTHER") is admission.UNKNOWN_CALLED_AE
    assert node.ask(called="DICOMQA") is None


def test_a_full_disk_is_transient() -> None:
    node = Node()
    node.free = 0
    assert node.ask() is admission.CONGESTED
    assert admission.CONGESTED.result == 2
    node.free = 10**9
    assert node.ask() is None


def test_limits_count_open_associations_in_all() -> None:
    node = Node()
    assert [node.ask(f"AE{number}") for number in range(5)] == [None] * 4 + [admission.TOO_MANY]


def test_a_peer_has_a_limit_of_its_own() -> None:
    node = Node(peers=LISTED)
    assert [node.ask() for _ in range(3)] == [None, None, admission.TOO_MANY]
    assert node.ask("PET") is None


def test_a_seat_given_back_is_free() -> None:
    seats = ConnectionSlots(1)
    seat = seats.take()
    assert seat is not None
    assert seats.admit(seat, "CT1", limit=1, peer_limit=None)
    other = seats.take()
    assert other is not None
    assert not seats.admit(other, "CT1", limit=1, peer_limit=None)
    seats.leave(seat)
    assert seats.admit(other, "CT1", limit=1, peer_limit=None)


def test_probes_cannot_take_more_than_all_seats() -> None:
    seats = ConnectionSlots(1)
    taken = [seats.take() for _ in range(70)]
    assert None in taken
    assert taken.index(None) > 1


def test_seats_are_shared_with_forked_processes_and_cleared_after_their_death() -> None:
    seats = ConnectionSlots(4)
    seats.take()
    pid = os.fork()
    if pid == 0:
        seats.take()
        seats.take()
        os._exit(0)
    os.waitpid(pid, 0)
    assert seats.by_process() == {os.getpid(): 1, pid: 2}
    seats.clear(pid)
    assert seats.by_process() == {os.getpid(): 1}
