"""Strangers take neither seats nor memory nor time from the scanners of a node."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_qa_node.config import Config, Peer
from dicom_qa_node.db.engine import Database
from dicom_qa_node.flow.refused_callers import RefusedCallers
from tests import raw_association as raw
from tests.hostile_data_sets import HOSTILE, element, head
from tests.integration.receive_peer import MakeReceiver, Receiver, association, receiver_fixture, store
from tests.unit.encoded_images import ct

pytestmark = pytest.mark.integration
MOST_RECEIVER_MB = 150
LISTED = [Peer(ae_title="CT1", hosts=["127.0.0.1"])]


@pytest.fixture
def make_receiver(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


class Silent(threading.Thread):
    """Holds ``count`` connections that never send a byte, renewed as soon as they are closed."""

    def __init__(self, port: int, count: int, source: str) -> None:
        super().__init__(daemon=True)
        self._port, self._count, self._source = port, count, source
        self.stopped = threading.Event()
        self.held: list[socket.socket] = []
        self.renewed = 0

    def run(self) -> None:
        while not self.stopped.wait(0.1):
            self.held = [connection for connection in self.held if self._alive(connection)]
            with contextlib.suppress(OSError):
                while len(self.held) < self._count:
                    self.held.append(connect(self._port, self._source))
                    self.renewed += 1
        for connection in self.held:
            connection.close()

    @staticmethod
    def _alive(connection: socket.socket) -> bool:
        with contextlib.suppress(OSError):
            connection.setblocking(False)
            try:
                if connection.recv(1):
                    return True
            except BlockingIOError:
                return True
        connection.close()
        return False


class Dripping(threading.Thread):
    """Holds as many associations as it is given, up to ``count``, each inside a data set that does not go on."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__(daemon=True)
        self._port, self._count = port, count
        self.stopped = threading.Event()
        self.open: list[socket.socket] = []
        self.rejections: list[tuple[int, ...]] = []

    def run(self) -> None:
        for number in range(self._count):
            connection = connect(self._port)
            contexts = [raw.context(1, raw.CT, [raw.EXPLICIT])]
            connection.sendall(raw.request(calling="DRIP", contexts=contexts))
            kind, body = raw.answer(connection)
            if kind != 2:
                self.rejections.append(tuple(body[1:]))
                connection.close()
                continue
            connection.sendall(raw.store_request(f"1.2.3.{number + 1}"))
            connection.sendall(struct.pack(">BBLLBB", 4, 0, 1000006, 1000002, 1, 0))
            self.open.append(connection)
        while not self.stopped.wait(0.5):
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
        for connection in self.open:
            connection.close()


@contextmanager
def running(*threads: Silent | Dripping) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.stopped.set()
        for thread in threads:
            thread.join(10)


def peak_mb(receiver: Receiver) -> float:
    """Return the most memory that a receiver process ever had."""
    peaks = []
    for worker in receiver.workers():
        status = Path(f"/proc/{worker.pid}/status").read_text()
        peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    return max(peaks)


@pytest.mark.parametrize("source", ["127.0.0.9", "127.0.0.1"])
def test_a_scanner_is_served_under_silent_and_dripping_strangers(
    make_receiver: MakeReceiver, poll: Callable[..., Any], source: str
) -> None:
    receiver = make_receiver(processes=2, peers=LISTED, request_timeout_s=1)
    silent, dripping = Silent(receiver.port, 140, source), Dripping(receiver.port, 64)
    with running(silent, dripping):
        poll(lambda: len(silent.held) >= 130 or silent.renewed > 200, 30, "silent connections")
        poll(lambda: len(dripping.open) + len(dripping.rejections) == 64, 60, "dripping associations")
        assert len(dripping.open) == 8
        assert set(dripping.rejections) == {(2, 3, 2)}
        for _ in range(20):
            with association(receiver, "CT1") as assoc:
                assert assoc.is_established
                assert assoc.send_c_echo().Status == 0
                assert store(assoc, ct()).Status == 0
    assert peak_mb(receiver) < MOST_RECEIVER_MB
    lines = [line for line in receiver.log.read_text().splitlines() if "event=refused_caller" in line]
    # Once per source, reason and process in the first minute.
    assert 0 < len(lines) <= 8, lines


def test_who_does_not_ask_for_an_association_is_gone_in_seconds(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(request_timeout_s=1)
    began = time.monotonic()
    with closing(connect(receiver.port)) as silent, closing(connect(receiver.port)) as begun:
        begun.sendall(raw.request()[:60])
        for connection in (silent, begun):
            connection.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert time.monotonic() - began < 5


def test_a_message_that_drips_ends_with_its_time(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver(dimse_timeout_s=2)
    dripping = Dripping(receiver.port, 1)
    with running(dripping):
        poll(lambda: dripping.open)
        began = time.monotonic()
        poll(lambda: "event=peer_too_slow" in receiver.log.read_text(), 20)
        assert 1 < time.monotonic() - began < 15
        kind, _ = raw.answer(dripping.open[0])
        assert kind == 7
    poll(lambda: not list(receiver.layout.incoming.iterdir()))
    assert "calling_ae=DRIP" in receiver.log.read_text()


def test_a_slow_line_that_goes_on_is_no_drip(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(dimse_timeout_s=1, min_rate_kb_s=4)
    uid = "1.2.826.0.1.3680043.10.999.8"
    data, pace = head(uid) + element(0x7FE0, 0x10, b"OW", bytes(20_000)), threading.Event()
    with closing(connect(receiver.port)) as connection:
        connection.sendall(raw.request(calling="SLOW", contexts=[raw.context(1, raw.CT, [raw.EXPLICIT])]))
        assert raw.answer(connection)[0] == 2
        connection.sendall(raw.store_request(uid))
        for start in range(0, len(data), 2000):
            last = start + 2000 >= len(data)
            connection.sendall(raw.p_data(2 if last else 0, data[start : start + 2000]))
            pace.wait(0.3)
        assert raw.status_of(raw.answer(connection)[1]) == 0


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"user": raw.user_information(raw.item(0x5F, b"abcd"))}, 2),
        ({"user": raw.user_information(version=b"V" * 20)}, 2),
        ({"user": raw.user_information(maximum=None)}, 2),
        ({"called": b"DICOMQA".ljust(16, b"\0"), "calling": b"SCANNER".ljust(16, b"\0")}, 2),
        ({"calling": "MÜLLER".encode("latin-1").ljust(16)}, 2),
        ({"version": 3}, 2),
        ({"version": 2}, (1, 2, 2)),
        ({"application_context": "1.2.840.10008.3.1.1.2"}, (1, 1, 2)),
        ({"application_context": None}, (1, 1, 2)),
        ({"calling": ""}, (1, 1, 3)),
        ({"called": ""}, (1, 1, 7)),
    ],
)
def test_negotiation_as_orthanc_and_dcmtk_do_it(
    make_receiver: MakeReceiver, change: dict[str, Any], answer: int | tuple[int, ...]
) -> None:
    receiver = make_receiver()
    with closing(connect(receiver.port)) as connection:
        connection.sendall(raw.request(**change))
        kind, body = raw.answer(connection)
    assert (tuple(body[1:]) if kind == 3 else kind) == answer


def test_refused_callers_are_kept_for_the_node_page_with_an_entry_to_copy(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver(peers=LISTED, allow_unknown_peers=False)
    for pdu in (raw.request(calling="CT2"), raw.request(calling="CT2")[:-2] + b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n"):
        with closing(connect(receiver.port)) as connection:
            connection.sendall(pdu)
            with contextlib.suppress(EOFError, OSError):
                raw.answer(connection)
    database = Database(receiver.config.database_url)
    try:
        found = poll(lambda: (rows := RefusedCallers(database).latest()) and len(rows) >= 2 and rows)
    finally:
        database.close()
    by_title = {row.calling_ae: row for row in found}
    assert by_title["CT2"].peers_entry == "- ae_title: 'CT2'\n  hosts: ['127.0.0.1']"
    assert by_title[""].reason == "no PDU of DICOM begins with 47"
    assert by_title[""].peers_entry == ""
    assert "calling AE title or host is not on the list" in {row.reason for row in found}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_costly_data_set_is_refused_and_kept_apart_for_little(
    make_receiver: MakeReceiver, poll: Callable[..., Any], kind: str
) -> None:
    receiver = make_receiver()
    syntax, make = HOSTILE[kind]
    uid = "1.2.826.0.1.3680043.10.999.9"
    data = make(uid)
    with closing(connect(receiver.port)) as connection:
        connection.settimeout(60)
        connection.sendall(raw.request(contexts=[raw.context(1, raw.CT, [syntax])]))
        assert raw.answer(connection)[0] == 2
        connection.sendall(raw.store_request(uid))
        raw.send_data_set(connection, data)
        began = time.monotonic()
        with association(receiver, "OTHER") as other:
            assert store(other, ct()).Status == 0
        other_s = time.monotonic() - began
        assert raw.status_of(raw.answer(connection)[1]) == 0xC000
        took_s = time.monotonic() - began
    assert took_s < 15
    assert other_s < 10
    mapped_mb = len(data) / (1 << 20) if not syntax.is_deflated else 0
    assert peak_mb(receiver) < MOST_RECEIVER_MB + mapped_mb
    poll(lambda: len(list(receiver.layout.quarantine.glob("*.json"))) == 1)


def commitment_request(data: bytes) -> Iterator[bytes]:
    """Yield the PDUs of an N-ACTION for storage commitment in context 1."""
    model = b"1.2.840.10008.1.20.1"
    elements = {
        0x0003: model, 0x0100: b"\x30\x01", 0x0110: b"\7\0", 0x0800: b"\1\0", 0x1001: model + b".1", 0x1008: b"\1\0"
    }  # fmt: skip
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements.items())
    yield raw.p_data(3, struct.pack("<HHLL", 0, 0, 4, len(body)) + body)
    step = 1 << 18
    for start in range(0, len(data), step):
        yield raw.p_data(2 if start + step >= len(data) else 0, data[start : start + step])


@pytest.mark.parametrize("path", ["fastpath", "fallback"])
def test_a_message_above_its_budget_costs_little_and_is_answered_where_the_node_receives_itself(
    make_receiver: MakeReceiver, path: str
) -> None:
    receiver = make_receiver("" if path == "fastpath" else "unknown-pynetdicom", storage_commitment=True)
    push_model = raw.context(1, "1.2.840.10008.1.20.1", ["1.2.840.10008.1.2"])
    with closing(connect(receiver.port)) as connection:
        connection.settimeout(60)
        connection.sendall(raw.request(contexts=[push_model]))
        assert raw.answer(connection)[0] == 2
        with contextlib.suppress(ConnectionError):
            for pdu in commitment_request(bytes(30 << 20)):
                connection.sendall(pdu)
        if path == "fastpath":
            assert raw.status_of(raw.answer(connection)[1]) == 0x0213
            # The association goes on.
            for pdu in commitment_request(b"\0\0"):
                connection.sendall(pdu)
            assert raw.status_of(raw.answer(connection)[1]) == 0x0115
            assert "event=message_too_large" in receiver.log.read_text()
        else:
            with contextlib.suppress(ConnectionError, EOFError):
                assert raw.answer(connection)[0] == 7
    assert peak_mb(receiver) < MOST_RECEIVER_MB
