from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_qa_node.config import Peer, Receive
from dicom_qa_node.receive import admission
from dicom_qa_node.receive.admission import Admission, Applicant, ConnectionSlots, Quota, Rejection
from dicom_qa_node.spool.disk_space import DiskGauge, DiskUsage

LISTED = [
    Peer(ae_title="CT1", hosts=["10.1.0.0/16", "127.0.0.1"], max_associations=2),
    Peer(ae_title="PET", hosts=[]),
]
ONE = Quota(1, 1, 1)


class Node:
    """An admission with its seats and a disk that can be filled."""

    def __init__(self, **settings: object) -> None:
        self.free = 10**9
        gauge = DiskGauge(Path(), 1, 1, every_s=0, usage=lambda _: DiskUsage(10**10, self.free))
        self.receive = Receive.model_validate({"max_associations": 4} | settings)
        self.connection_slots = ConnectionSlots(self.receive.max_associations)
        self.admission = Admission(self.receive, "DICOMQA", self.connection_slots, gauge)

    def ask(
        self, calling: str = "CT1", called: str = "DICOMQA", host: str = "127.0.0.1", **more: str
    ) -> Rejection | None:
        seat = self.connection_slots.take(host, known=self.admission.knows(host))
        assert seat is not None
        answer = self.admission.decide(Applicant(calling, called, host, seat, **more))
        if answer is not None:
            self.connection_slots.leave(seat)
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
    asked = [node.ask(f"AE{number}", host=f"10.0.0.{number}") for number in range(5)]
    assert asked == [None] * 4 + [admission.TOO_MANY]


def test_a_peer_has_a_limit_of_its_own() -> None:
    node = Node(peers=LISTED)
    assert [node.ask() for _ in range(3)] == [None, None, admission.TOO_MANY]
    assert node.ask("PET") is None


def test_a_seat_given_back_is_free() -> None:
    connection_slots = ConnectionSlots(1)
    seat = connection_slots.take()
    assert seat is not None
    assert connection_slots.admit(seat, "CT1", ONE)
    other = connection_slots.take()
    assert other is not None
    assert not connection_slots.admit(other, "CT1", ONE)
    connection_slots.leave(seat)
    assert connection_slots.admit(other, "CT1", ONE)


def test_connections_without_an_association_cannot_take_every_seat() -> None:
    connection_slots = ConnectionSlots(1)
    taken = [connection_slots.take(f"10.0.{number // 8}.{number % 8}") for number in range(70)]
    assert taken.index(None) == 64
    assert [connection_slots.take("10.9.9.9") for _ in range(3)] == [None] * 3


def test_one_address_has_few_seats_without_an_association() -> None:
    connection_slots = ConnectionSlots(1)
    assert [connection_slots.take("192.0.2.7") is None for _ in range(20)] == [False] * 16 + [True] * 4
    assert connection_slots.take("192.0.2.8") is not None


def test_a_listed_address_gets_the_seat_of_the_oldest_stranger() -> None:
    connection_slots = ConnectionSlots(1, clock=iter(range(1000)).__next__)
    taken = [connection_slots.take(f"10.0.{number // 8}.{number % 8}") for number in range(64)]
    assert connection_slots.take("192.0.2.7") is None
    assert connection_slots.take("192.0.2.7", known=True) is not None
    assert connection_slots.evicted() == [taken[0]]
    assert not connection_slots.admit(taken[0], "STRANGER", Quota(9, 9, 9, 9))
    connection_slots.leave(taken[0])
    assert connection_slots.evicted() == []


def test_unlisted_callers_leave_room_for_listed_ones_from_the_same_address() -> None:
    node = Node(peers=LISTED, max_associations=64)
    drips = [node.ask("DRIP") for _ in range(64)]
    assert drips.count(None) == 8
    assert node.ask("OTHER") is None
    assert [node.ask(f"X{number}") for number in range(64)].count(None) == 3
    assert [node.ask(f"Y{number}", host=f"10.9.0.{number}") for number in range(64)].count(None) == 4
    assert node.ask("CT1") is None
    assert node.ask("PET", host="192.0.2.7") is None


def test_without_a_list_no_title_and_no_address_gets_every_seat() -> None:
    node = Node(max_associations=64)
    assert [node.ask("DRIP", host=f"10.9.0.{number}") for number in range(64)].count(None) == 48
    assert node.ask("CT1", host="127.0.0.1") is None


def test_the_title_of_a_peer_without_addresses_is_not_used_up_from_one() -> None:
    node = Node(peers=[Peer(ae_title="PET", hosts=[])], max_associations=64)
    assert [node.ask("PET", host="192.0.2.7") for _ in range(16)].count(None) == 12
    assert node.ask("PET", host="192.0.2.8") is None


def test_a_listed_title_from_another_address_counts_as_unlisted() -> None:
    node = Node(peers=LISTED, max_associations=64)
    assert [node.ask("CT1", host="192.0.2.7") for _ in range(20)].count(None) == 8
    assert node.ask("CT1") is None


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"application_context": "1.2.840.10008.3.1.1.2"}, (1, 1, 2)),
        ({"application_context": ""}, (1, 1, 2)),
        ({"calling": "(none)"}, (1, 1, 3)),
        ({"called": "(none)"}, (1, 1, 7)),
    ],
)
def test_what_no_association_can_have_is_rejected(change: dict[str, str], answer: tuple[int, int, int]) -> None:
    found = Node().ask(**change)
    assert found is not None
    assert (found.result, found.source, found.reason) == answer


def test_seats_are_shared_with_forked_processes_and_cleared_after_their_death() -> None:
    connection_slots = ConnectionSlots(4)
    connection_slots.take()
    pid = os.fork()
    if pid == 0:
        connection_slots.take()
        connection_slots.take()
        os._exit(0)
    os.waitpid(pid, 0)
    assert connection_slots.by_process() == {os.getpid(): 1, pid: 2}
    connection_slots.clear(pid)
    assert connection_slots.by_process() == {os.getpid(): 1}
