from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.uid import generate_uid
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_items import AbstractSyntaxSubItem, TransferSyntaxSubItem

from dicom_qa_node.config import Config, Peer
from tests.integration.receive_peer import (
    MakeReceiver,
    Receiver,
    association,
    raw_connection,
    receiver_fixture,
    store,
)
from tests.unit.encoded_images import ct

pytestmark = pytest.mark.integration
SUCCESS = 0
REJECTED = {"limit": (2, 3, 2), "calling": (1, 1, 3), "called": (1, 1, 7), "congested": (2, 3, 1)}


@pytest.fixture
def make_receiver(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


def rejection(receiver: Receiver, calling: str = "SCANNER", called: str = "DICOMQA") -> tuple[int, int, int] | None:
    """Return result, source and reason of the rejection, None if the association was accepted."""
    with association(receiver, calling, called) as assoc:
        if assoc.is_established:
            return None
        assert assoc.is_rejected
        answer = assoc.acceptor.primitive
        return answer.result, answer.result_source, answer.diagnostic


def test_peers_that_are_not_listed_are_rejected_and_echo_is_answered(make_receiver: MakeReceiver) -> None:
    peers = [Peer(ae_title="CT1", hosts=["127.0.0.0/8"]), Peer(ae_title="CT2", hosts=["10.0.0.0/8"])]
    receiver = make_receiver(peers=peers, allow_unknown_peers=False, require_called_ae=True)
    assert rejection(receiver, "CT2") == REJECTED["calling"]
    assert rejection(receiver, "STRANGER") == REJECTED["calling"]
    assert rejection(receiver, "CT1", "WRONG") == REJECTED["called"]
    with association(receiver, "CT1") as assoc:
        assert assoc.send_c_echo().Status == SUCCESS
        assert store(assoc, ct()).Status == SUCCESS
        assert assoc.send_c_echo().Status == SUCCESS


def test_limits_hold_over_all_processes_and_are_transient(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver(processes=2, max_associations=3, peers=[Peer(ae_title="CT1", max_associations=1)])
    with association(receiver, "CT1"), association(receiver, "A"), association(receiver, "B"):
        assert rejection(receiver, "C") == REJECTED["limit"]
    poll(lambda: rejection(receiver, "C") is None)
    with association(receiver, "CT1") as first:
        assert first.is_established
        assert rejection(receiver, "CT1") == REJECTED["limit"]
        assert rejection(receiver, "A") is None


def test_the_watermark_refuses_associations_and_objects(make_receiver: MakeReceiver) -> None:
    too_much = 10**9
    receiver = make_receiver(spool={"min_free_mb": too_much, "resume_free_mb": too_much})
    assert rejection(receiver) == REJECTED["congested"]


def test_port_probes_cost_nothing(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver()
    with association(receiver) as assoc:
        assert assoc.send_c_echo().Status == SUCCESS
    (worker,) = receiver.workers()
    poll(lambda: worker.num_threads() <= 5)
    threads, files = worker.num_threads(), worker.num_fds()
    for number in range(200):
        with raw_connection(receiver) as probe:
            if number % 4 == 1:
                probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
            elif number % 4 == 2:
                probe.sendall(b"\1")
            elif number % 4 == 3:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    poll(lambda: worker.num_threads() <= threads and worker.num_fds() <= files, timeout_s=10)
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == SUCCESS


def test_an_abort_inside_an_object_leaves_nothing(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver()
    ds = ct(rows=256)
    series = ds.SeriesInstanceUID
    for _ in range(5):
        with association(receiver) as assoc:
            assert store(assoc, ct(SeriesInstanceUID=series)).Status == SUCCESS
            half = struct.pack(">BBLLBB", 4, 0, 106, 102, 1, 0) + bytes(100)
            command = struct.pack(">BBLLBB", 4, 0, 0, 0, 1, 3)
            assoc.dul.socket.socket.sendall(_store_command(ds, command) + half + half[:60])
            assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    poll(lambda: len(receiver.rows(series)) == 5)
    poll(lambda: not list(receiver.layout.incoming.iterdir()))
    assert len(receiver.files()) == 5
    with receiver.registry() as registry:
        poll(lambda: [item.open_associations for item in registry.receiving()] == [0])


def _store_command(ds: Any, _: bytes) -> bytes:
    elements = {
        0x0002: str(ds.SOPClassUID).encode() + b"\0",
        0x0100: b"\1\0",
        0x0110: b"\1\0",
        0x0700: b"\2\0",
        0x0800: b"\0\0",
        0x1000: str(ds.SOPInstanceUID).encode() + b"\0" * (len(ds.SOPInstanceUID) % 2),
    }
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements.items())
    body = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    return struct.pack(">BBLLBB", 4, 0, len(body) + 6, len(body) + 2, 1, 3) + body


def test_a_peer_that_falls_silent_inside_an_object_is_dropped(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver(dimse_timeout_s=0.5)
    with association(receiver) as assoc:
        half = struct.pack(">BBLLBB", 4, 0, 5000, 4996, 1, 0) + bytes(100)
        assoc.dul.socket.socket.sendall(_store_command(ct(), b"") + half)
        poll(lambda: not assoc.is_established, timeout_s=10)
    poll(lambda: not list(receiver.layout.incoming.iterdir()))


def test_a_peer_that_says_nothing_is_dropped(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver(network_timeout_s=0.5, acse_timeout_s=0.5)
    with association(receiver) as assoc, raw_connection(receiver) as probe:
        probe.settimeout(10)
        assert probe.recv(100) in (b"", b"\7\0\0\0\0\4\0\0\2\0", b"\7\0\0\0\0\4\0\0\0\0")
        assoc.join(10)
        assert assoc.is_aborted
    # The probe never became an association, and whoever releases was not silent.
    poll(lambda: receiver.log.read_text().count("event=peer_silent calling_ae=SCANNER silent_s=0.5") == 1)
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == SUCCESS
    assert receiver.log.read_text().count("event=peer_silent") == 1


def test_associations_spread_over_the_processes(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(processes=2)
    with ExitStack() as held:
        # The kernel wakes whichever process waits; on a busy machine that may be the same one several times.
        for opened in range(1, 25):
            assoc = held.enter_context(association(receiver, f"SCANNER{opened}"))
            assert store(assoc, ct()).Status == SUCCESS
            connections = [_established(worker, receiver.port) for worker in receiver.workers()]
            assert sum(connections) == opened
            if min(connections):
                return
    pytest.fail(f"one process took every association: {connections}")


def _established(worker: psutil.Process, port: int) -> int:
    found = worker.net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in found)


def test_many_clients_at_once_lose_nothing(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver(processes=2)
    series = generate_uid()
    statuses: list[int] = []

    def send() -> None:
        with association(receiver) as assoc:
            statuses.extend(store(assoc, ct(SeriesInstanceUID=series)).Status for _ in range(10))

    clients = [threading.Thread(target=send) for _ in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert statuses == [SUCCESS] * 60
    assert len(receiver.files()) == 60
    poll(lambda: len(receiver.rows(series)) == 60)


@pytest.mark.parametrize(
    "head", [b"\x05\x00\x00\x20\x00\x00", b"\x09\x00\x00\x00\x00\x04", b"\x01\x00\xff\xff\xff\xff"]
)
def test_a_malformed_pdu_is_told_once_and_ends_the_association(make_receiver: MakeReceiver, head: bytes) -> None:
    receiver = make_receiver()
    with association(receiver) as assoc:
        assoc.dul.socket.socket.sendall(head + bytes(2_100_000))
        assoc.join(10)
        assert assoc.is_aborted
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == SUCCESS
    assert receiver.log.read_text().count("event=malformed") == 1


def test_a_peer_that_proposes_unknown_classes_is_told_of_in_the_log(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver()
    with association(receiver, sop_classes=("1.2.840.10008.5.1.4.1.1.6.1", "1.2.3.4")) as assoc:
        assert [context.result for context in assoc.rejected_contexts] == [3, 3]
    poll(lambda: "none of the 2 proposed presentation contexts is supported" in receiver.log.read_text())
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == SUCCESS


def without(pdu: A_ASSOCIATE_RQ, part: type) -> bytes:
    """Return the request with such sub-items missing from its first presentation context."""
    context = pdu.presentation_context[0]
    context.abstract_transfer_syntax_sub_items = [
        item for item in context.abstract_transfer_syntax_sub_items if not isinstance(item, part)
    ]
    return pdu.encode()


@pytest.mark.parametrize("part", [AbstractSyntaxSubItem, TransferSyntaxSubItem], ids=["abstract", "transfer"])
def test_a_context_without_a_syntax_is_answered_and_ends_no_thread(make_receiver: MakeReceiver, part: type) -> None:
    receiver = make_receiver()
    with association(receiver) as assoc:
        request = assoc.requestor.primitive
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    with raw_connection(receiver) as peer:
        peer.sendall(without(pdu, part))
        # A-ABORT (PS3.8 9.3.8), not silence.
        assert peer.recv(1) == b"\x07"
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == SUCCESS
    text = receiver.log.read_text()
    assert text.count("event=malformed") == 1
    assert "where=" not in text


def test_a_peer_that_breaks_off_while_it_is_answered_leaves_no_trace(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver()
    with association(receiver) as assoc:
        request = assoc.requestor.primitive
        pdu = A_ASSOCIATE_RQ()
        pdu.from_primitive(request)
    for _ in range(20):
        with raw_connection(receiver) as probe:
            probe.sendall(pdu.encode() * 3)
    (worker,) = receiver.workers()
    poll(lambda: worker.num_threads() <= 5)
    assert "Traceback" not in receiver.log.read_text()


def arenas(process: psutil.Process) -> int:
    """Return how many arenas glibc has mapped for a process beside its heap: they begin at multiples of 64 MiB."""
    found = [line.split() for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()]
    return sum(len(line) == 5 and line[1] == "rw-p" and int(line[0].split("-")[0], 16) % 2**26 == 0 for line in found)


def test_many_associations_share_few_arenas_of_the_allocator(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(processes=1)
    with ExitStack() as stack:
        for _ in range(12):
            assert store(stack.enter_context(association(receiver)), ct()).Status == SUCCESS
        (worker,) = receiver.workers()
        assert worker.num_threads() > 12
        assert arenas(worker) <= 2
