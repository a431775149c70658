from __future__ import annotations

import itertools
import socket
import struct
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage

from dicom_qa_node.receive.fastpath import command_sets
from dicom_qa_node.receive.fastpath.command_sets import MalformedCommand, StoreRequest
from dicom_qa_node.receive.fastpath.pdata import BufferedSocket, PeerGone, ProtocolViolation, StoreReceiver
from dicom_qa_node.receive.store_status import SUCCESS, Answer, Status
from tests.unit.test_fastpath_command_sets import store_rq

CT = str(CTImageStorage)
EXPLICIT = "1.2.840.10008.1.2.1"


class Sink:
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pieces: list[int] = []
        self.ended = ""

    def write(self, data: memoryview) -> None:
        self.data += data
        self.pieces.append(len(data))

    def finish(self) -> Answer:
        self.ended = "finished"
        return SUCCESS

    def abandon(self) -> None:
        self.ended = "abandoned"


class Wire:
    """One association as a receiver sees it: a connected socket, one accepted context, everything sent."""

    def __init__(self, longest_pdu: int = 0) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.peer = socket.create_connection(server.getsockname())
            self.ours, _ = server.accept()
        assoc: Any = SimpleNamespace(dul=SimpleNamespace(event_queue=SimpleNamespace(put=lambda event: None)))
        self.stream = BufferedSocket(assoc, self.ours, timeout_s=5)
        self.sinks: list[Sink] = []
        self.requests: list[tuple[StoreRequest, str]] = []
        self.sent: list[bytes] = []
        self.passed: list[tuple[int, bytes]] = []
        self.longest = longest_pdu
        self.refused_for_size = 0
        self.receiver = StoreReceiver(self, self.open_sink)

    def open_sink(self, request: StoreRequest, transfer_syntax: str) -> Sink:
        self.requests.append((request, transfer_syntax))
        self.sinks.append(Sink())
        return self.sinks[-1]

    def contexts(self) -> Mapping[int, tuple[str, str]]:
        return {1: (CT, EXPLICIT)}

    def longest_pdu(self) -> int:
        return self.longest

    def send(self, pdu: bytes) -> None:
        self.sent.append(pdu)

    def pass_on(self, context_id: int, value: bytes) -> None:
        self.passed.append((context_id, value))

    def too_large(self) -> None:
        self.refused_for_size += 1

    def feed(self, *pdus: bytes) -> None:
        """Send ``pdus`` from a thread, as a peer does, and read as many."""
        sender = threading.Thread(target=self.peer.sendall, args=(b"".join(pdus),))
        sender.start()
        try:
            for _ in pdus:
                self.receiver.receive_pdu(self.stream)
        finally:
            sender.join(5)


@pytest.fixture
def wire() -> Iterator[Wire]:
    found = Wire()
    yield found
    found.peer.close()
    found.ours.close()


def pdv(value: bytes, control: int, context_id: int = 1) -> bytes:
    return struct.pack(">LBB", len(value) + 2, context_id, control) + value


def pdu(*values: bytes) -> bytes:
    body = b"".join(values)
    return struct.pack(">BBL", 4, 0, len(body)) + body


COMMAND, LAST_COMMAND, DATA, LAST_DATA = 1, 3, 0, 2


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=2, max_size=4000),
    st.lists(st.integers(0, 4000), max_size=6),
    st.lists(st.integers(0, 200), max_size=3),
    st.booleans(),
)
def test_fragments_of_any_size_are_put_together(
    data: bytes, cuts: list[int], command_cuts: list[int], one: bool
) -> None:
    wire = Wire()
    try:
        commands, parts = pieces(store_rq(), command_cuts), pieces(data, cuts)
        values = [pdv(part, COMMAND) for part in commands[:-1]] + [pdv(commands[-1], LAST_COMMAND)]
        values += [pdv(part, DATA) for part in parts[:-1]] + [pdv(parts[-1], LAST_DATA)]
        wire.feed(*([pdu(*values)] if one else [pdu(value) for value in values]))
        assert bytes(wire.sinks[0].data) == data
        assert wire.sinks[0].ended == "finished"
        assert wire.requests == [(StoreRequest(7, CT, "1.2.3", True), EXPLICIT)]
        assert len(wire.sent) == 1
    finally:
        wire.peer.close()
        wire.ours.close()


def test_a_pdu_larger_than_any_buffer_is_streamed(wire: Wire) -> None:
    data = bytes(range(256)) * 16_384
    wire.feed(pdu(pdv(store_rq(), LAST_COMMAND)), pdu(pdv(data, LAST_DATA)))
    assert bytes(wire.sinks[0].data) == data
    assert max(wire.sinks[0].pieces) <= 264 * 1024


def test_several_objects_one_after_another_without_waiting(wire: Wire) -> None:
    one = [pdu(pdv(store_rq(), LAST_COMMAND)), pdu(pdv(b"12", LAST_DATA))]
    wire.feed(*one, *one, *one)
    assert [sink.ended for sink in wire.sinks] == ["finished"] * 3
    assert len(wire.sent) == 3


def test_the_answer_respects_the_peers_longest_pdu() -> None:
    wire = Wire(longest_pdu=50)
    try:
        wire.feed(pdu(pdv(store_rq(), LAST_COMMAND)), pdu(pdv(b"12", LAST_DATA)))
        assert all(len(sent) - 6 <= 50 for sent in wire.sent)
        answer = b"".join(sent[12:] for sent in wire.sent)
        assert [sent[11] for sent in wire.sent] == [COMMAND] * (len(wire.sent) - 1) + [LAST_COMMAND]
        assert command_sets.decode(answer)[0x0900] == b"\0\0"
    finally:
        wire.peer.close()
        wire.ours.close()


def test_another_sop_class_than_the_contexts_is_refused_and_read_past(wire: Wire) -> None:
    request = store_rq().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.4\0")
    wire.feed(pdu(pdv(request, LAST_COMMAND)), pdu(pdv(b"12", LAST_DATA)))
    assert not wire.sinks
    answer = command_sets.decode(wire.sent[0][12:])
    assert answer[0x0900] == int(Status.SOP_CLASS_NOT_SUPPORTED).to_bytes(2, "little")


def test_a_request_without_a_data_set_is_answered(wire: Wire) -> None:
    request = command_sets.decode(store_rq())
    request[0x0800] = b"\1\1"
    encoded = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in request.items())
    wire.feed(pdu(pdv(encoded, LAST_COMMAND)))
    assert wire.sinks[0].ended == "finished"
    assert len(wire.sent) == 1


def command(field: int) -> bytes:
    """Return a C-STORE request's command set as one of another kind."""
    request = command_sets.decode(store_rq())
    request[0x0100] = field.to_bytes(2, "little")
    return b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in request.items())


def test_other_messages_go_to_pynetdicom_when_they_are_whole(wire: Wire) -> None:
    echo = command(0x30)
    wire.feed(pdu(pdv(echo[:10], COMMAND), pdv(echo[10:], LAST_COMMAND)), pdu(pdv(b"ab", DATA), pdv(b"c", LAST_DATA)))
    assert wire.passed == [(1, b"\3" + echo), (1, b"\2abc")]
    assert not wire.sinks


@pytest.mark.parametrize(
    "wrong",
    [
        pdu(pdv(b"ab", DATA)),
        pdu(pdv(store_rq(), LAST_COMMAND, context_id=3)),
        pdu(pdv(store_rq(), LAST_COMMAND), pdv(b"12", DATA), pdv(store_rq(), LAST_COMMAND)),
        pdu(pdv(store_rq(), LAST_COMMAND), pdv(b"12", DATA, context_id=5)),
        pdu(b"\0\0\0"),
        pdu(struct.pack(">LBB", 1, 1, 3)),
        pdu(struct.pack(">LBB", 100, 1, 3) + b"short"),
        pdu(pdv(bytes(70_000), COMMAND)),
    ],
)
def test_what_the_standard_forbids_ends_the_association(wire: Wire, wrong: bytes) -> None:
    with pytest.raises((ProtocolViolation, MalformedCommand)):
        wire.feed(wrong)


@pytest.mark.parametrize(
    ("field", "status"), [(0x20, 0xA700), (0x21, 0xA701), (0x10, 0xA701), (0x0130, 0x0213), (0x0100, 0x0213)]
)
def test_a_message_above_its_budget_is_read_past_and_answered_with_a_failure(
    wire: Wire, field: int, status: int
) -> None:
    piece = pdu(pdv(bytes(1 << 20), DATA))
    wire.feed(pdu(pdv(command(field), LAST_COMMAND)), *[piece] * 10, pdu(pdv(b"ab", LAST_DATA)))
    assert wire.passed == []
    answer = command_sets.decode(wire.sent[0][12:])
    assert answer[0x0100] == (field | 0x8000).to_bytes(2, "little")
    assert answer[0x0120] == command_sets.decode(command(field))[0x0110]
    assert answer[0x0900] == status.to_bytes(2, "little")
    assert answer[0x0902].strip() == b"the data set is larger than 4 MiB"
    assert answer[0x0002] == CT.encode() + b"\0"
    assert wire.refused_for_size == 1
    assert not wire.receiver.in_message
    wire.feed(pdu(pdv(store_rq(), LAST_COMMAND)), pdu(pdv(b"12", LAST_DATA)))
    assert wire.sinks[0].ended == "finished"


def test_memory_for_a_message_that_is_read_past_stays_small(wire: Wire) -> None:
    piece = pdu(pdv(bytes(1 << 20), DATA))
    tracemalloc.start()
    try:
        wire.feed(pdu(pdv(command(0x20), LAST_COMMAND)), *[piece] * 3)
        tracemalloc.reset_peak()
        wire.feed(*[piece] * 30)
        # The sender's own copy of what it sends is 30 MiB.
        assert tracemalloc.get_traced_memory()[1] < 36 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "pieces_sent"), [(0x20, 65), (0x0130, 65), (0x30, 5), (0x0150, 5)], ids=["find", "action", "echo", "get"]
)
def test_a_message_without_end_ends_the_association(wire: Wire, field: int, pieces_sent: int) -> None:
    """PS3.7 has no failure for the data set of a C-ECHO, and the rest of an endless one cannot be awaited."""
    piece = pdu(pdv(bytes(1 << 20), DATA))
    wire.feed(pdu(pdv(command(field), LAST_COMMAND)), *[piece] * (pieces_sent - 2))
    with pytest.raises(ProtocolViolation):
        wire.feed(piece, piece)
    assert wire.passed == wire.sent == []


def test_fragments_without_a_byte_are_counted(wire: Wire) -> None:
    empty = pdu(*[pdv(b"", DATA)] * 100_000)
    wire.feed(pdu(pdv(command(0x30), LAST_COMMAND)))
    with pytest.raises(ProtocolViolation):
        wire.feed(*[empty] * 8)


@pytest.mark.parametrize("length", [3, 6, 10, 100, 300])
def test_a_peer_that_leaves_inside_a_pdu_is_noticed_and_its_object_dropped(wire: Wire, length: int) -> None:
    data = pdu(pdv(store_rq(), LAST_COMMAND), pdv(bytes(1000), LAST_DATA))
    wire.peer.sendall(data[:length])
    wire.peer.close()
    with pytest.raises(PeerGone):
        wire.receiver.receive_pdu(wire.stream)
    wire.receiver.abandon()
    assert [sink.ended for sink in wire.sinks] in ([], ["abandoned"])
    assert bool(wire.sinks) == (length > 250)


def test_an_ended_connection_gives_its_read_ahead_buffer_back(wire: Wire) -> None:
    wire.peer.sendall(b"four")
    assert wire.stream.take(1) == b"f"
    assert sys.getsizeof(wire.stream._buffer) > 100_000
    wire.stream.forget()
    assert sys.getsizeof(wire.stream._buffer) < 1000
    # Whoever still reads finds the peer gone, though more is there.
    wire.peer.sendall(b"more")
    assert wire.stream.buffered == 0
    assert wire.stream.peek_pdu_head() is None
    with pytest.raises(PeerGone):
        wire.stream.take(4)
