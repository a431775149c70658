from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator

import pytest

from dicom_qa_node.receive import pending_connections
from dicom_qa_node.receive.fastpath.pdata import MessageTime, PeerTooSlow
from dicom_qa_node.receive.pending_connections import PendingConnections
from dicom_qa_node.receive.refusals import Refusals
from tests import raw_association as raw


class Port:
    """Pending connections with a clock that the test sets, and both ends of each connection."""

    def __init__(self) -> None:
        self.now = 0.0
        self.begun: list[str] = []
        self.dropped: list[tuple[str, str]] = []
        self.selector = selectors.DefaultSelector()
        self.pending: PendingConnections[str] = PendingConnections(
            self.selector,
            5,
            lambda found: self._begin(found),
            lambda *words: self.dropped.append(words),
            lambda: self.now,
        )
        self.ends: list[socket.socket] = []

    def _begin(self, found) -> None:
        self.begun.append(found.host)
        self.ends.append(found.socket)

    def connect(self, host: str, *, any_byte: bool = False) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.pending.add(ours, (host, 1), "listener", any_byte=any_byte)
        self.ends.append(theirs)
        return theirs

    def look(self) -> None:
        for key, _ in self.selector.select(0):
            self.pending.readable(key.data)
        self.pending.tick()

    def close(self) -> None:
        self.pending.close()
        self.selector.close()
        for end in self.ends:
            end.close()


@pytest.fixture
def port() -> Iterator[Port]:
    found = Port()
    yield found
    found.close()


def test_a_connection_begins_with_both_titles_of_its_request(port: Port) -> None:
    peer, pdu = port.connect("a"), raw.request()
    for count in (1, 5, 35):
        peer.sendall(pdu[:count])
        pdu = pdu[count:]
        port.look()
        assert port.begun == []
        assert port.pending.wait_s(1) < 0.1
    peer.sendall(pdu)
    port.look()
    assert port.begun == ["a"]
    assert len(port.pending) == 0


@pytest.mark.parametrize(("first", "any_byte"), [(b"\x16", True), (b"GET / HTTP/1.1", False)])
def test_anything_else_begins_at_once(port: Port, first: bytes, any_byte: bool) -> None:
    port.connect("a", any_byte=any_byte).sendall(first)
    port.look()
    assert port.begun == ["a"]


def test_silence_and_a_dripping_request_end_in_seconds(port: Port) -> None:
    port.connect("silent")
    dripping = port.connect("dripping")
    for second in range(7):
        port.now = float(second)
        if second < 5:
            dripping.sendall(b"\1")
        port.look()
    assert port.dropped == [(host, "no association request within 5 s") for host in ("silent", "dripping")]
    with pytest.raises(ConnectionResetError):
        dripping.recv(1)


def test_a_probe_that_closes_is_not_worth_a_word(port: Port) -> None:
    port.connect("a").close()
    port.look()
    assert (port.dropped, len(port.pending)) == ([], 0)


def test_the_oldest_silent_connection_of_the_crowded_address_goes_first(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_connections, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(pending_connections, "MOST_OF_ADDRESS", 6)
    crowd = [port.connect("crowd") for _ in range(20)]
    assert len(port.pending) == 6
    scanner = port.connect("scanner")
    more = [port.connect(f"other {number}") for number in range(2)]
    assert len(port.pending) == 8
    assert {host for host, _ in port.dropped} == {"crowd"}
    for peer in [scanner, *more, crowd[-1]]:
        peer.sendall(raw.request())
    port.look()
    assert sorted(port.begun) == ["crowd", "other 0", "other 1", "scanner"]


def test_a_message_may_take_as_long_as_its_bytes_do_and_no_drip_holds_it() -> None:
    now = [0.0]
    time = MessageTime(lambda: now[0])
    time.start(60, 4000)
    for _ in range(10):
        now[0] += 50
        time.count(400_000)
        assert time.left_s() > 60
    time.start(60, 4000)
    with pytest.raises(PeerTooSlow):
        for _ in range(5):
            time.left_s()
            now[0] += 20
            time.count(1)
    assert time.exceeded
    time.stop()
    assert time.left_s() == float("inf")


def test_a_refusal_is_told_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now, receipts = [0.0], []
    refusals = Refusals(receipts.append, lambda: now[0])
    for second in range(150):
        now[0] = float(second)
        for _ in range(10):
            refusals.note("not on the list", "192.0.2.7", "STRANGER", "DICOMQA")
        refusals.tick()
    assert [(item.host, item.calling_ae, item.times) for item in receipts] == [
        ("192.0.2.7", "STRANGER", 1), ("192.0.2.7", "STRANGER", 609), ("192.0.2.7", "STRANGER", 600)
    ]  # fmt: skip
    assert len(caplog.records) == 3
    refusals.note("not on the list", "192.0.2.8", "STRANGER", "DICOMQA")
    assert len(receipts) == 4


def test_a_thousand_titles_of_a_stranger_fill_neither_memory_nor_the_log() -> None:
    receipts = []
    refusals = Refusals(receipts.append, lambda: 0.0)
    for number in range(5000):
        refusals.note("not on the list", "192.0.2.7", f"X{number}", "DICOMQA")
    assert len(receipts) == 1001
    assert receipts[-1].host == "(others)"
