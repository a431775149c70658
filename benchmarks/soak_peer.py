"""The scanners of the soak benchmark: they use DICOM over plain sockets, so that they cost little beside the node.

A sender stores series over one association after the other. Some associations are aborted inside a data set, some are
left without waiting for the answer (what was sent so comes again), some images come twice, some data sets are
broken; between the associations come port probes, noise, titles that the node does not answer to, and half PDUs.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.images import header
from dicom_qa_node.domain.uids import uid_key

__all__ = ["TITLE", "Report", "Sender", "sender_of"]

TITLE = "SOAKNODE"
_VERIFICATION = "1.2.840.10008.1.1"
_PDU = struct.Struct(">BxL")
_DATA, _RELEASE, _RELEASED, _ABORT = 4, 5, 6, 7
_ACCEPTED, _REJECTED = 2, 3
_WAIT_S = 120.0
_PIXELS = 16
_MOST_HANGING = 3


@dataclass
class Report:
    """What one sender did since its last report.

    ``fingerprint`` is the exclusive or of the spool keys of what was acknowledged for the first time: equal counts and
    fingerprints mean equal sets. ``latencies`` has the seconds from a request to its answer.
    """

    acknowledged: int = 0
    fingerprint: int = 0
    duplicates: int = 0
    refused: int = 0
    associations: int = 0
    mischief: Counter[str] = field(default_factory=Counter)
    latencies: array[float] = field(default_factory=lambda: array("f"))
    failures: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take what another report says to this one."""
        self.acknowledged += other.acknowledged
        self.fingerprint ^= other.fingerprint
        self.duplicates += other.duplicates
        self.refused += other.refused
        self.associations += other.associations
        self.mischief += other.mischief
        self.latencies += other.latencies
        self.failures += other.failures


class Broken(Exception):
    """The node did not do what it owes a well-behaved peer."""


class Sender:
    """Sends ``images`` images in series of ``per_series`` and reports after each association."""

    def __init__(self, port: int, number: int, images: int, per_series: int, tell: Callable[[Report], object]) -> None:
        self._port, self._number, self._left, self._per_series = port, number, images, per_series
        self._tell = tell
        self._chance = random.Random(number)
        self._template = _Template()
        self._hanging: list[socket.socket] = []
        self._report = Report()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Send until everything is acknowledged or ``stopped``."""
        series = 0
        while self._left > 0 and not stopped():
            series += 1
            count = min(self._left, self._per_series)
            self._send_series(series, count, stopped)
            self._left -= count
            self._mischief()
            self._pass_on()
        for connection in self._hanging:
            connection.close()
        self._pass_on()

    def _pass_on(self) -> None:
        report, self._report = self._report, Report()
        self._tell(report)

    def _send_series(self, series: int, count: int, stopped: Callable[[], bool]) -> None:
        """Store every image of a series, over as many associations as it takes.

        It is finished even when ``stopped``, since what was sent without waiting for the answer has none yet.
        """
        waiting = list(range(1, count + 1))
        while waiting:
            try:
                with _Association(self._port, "SOAKSCANNER", TITLE) as assoc:
                    self._report.associations += 1
                    waiting = self._store(assoc, series, waiting)
            except (OSError, Broken) as error:
                self._report.failures.append(f"sender {self._number}, series {series}: {error!r}")
                if stopped():
                    return
                time.sleep(1.0)

    def _store(self, assoc: _Association, series: int, numbers: list[int]) -> list[int]:
        """Send on one association; return the images that have no answer yet."""
        leave_at = self._chance.randrange(len(numbers)) if self._chance.random() < 0.1 else -1
        for index, number in enumerate(numbers):
            uid, data = self._template.image(self._number, series, number)
            if index == leave_at:
                self._leave(assoc, uid, data)
                return numbers[index:]
            self._one(assoc, uid, data)
            if self._chance.random() < 0.02:
                self._expect(assoc.store(uid, data) == 0, "a duplicate was refused")
                self._report.duplicates += 1
            if self._chance.random() < 0.002:
                self._expect(assoc.store(f"{uid}.9", data) != 0, "a wrong instance was accepted")
                self._report.refused += 1
        assoc.release()
        return []

    def _one(self, assoc: _Association, uid: str, data: bytes) -> None:
        began = time.perf_counter()
        self._expect(assoc.store(uid, data) == 0, "an image was refused")
        self._report.latencies.append(time.perf_counter() - began)
        self._report.acknowledged += 1
        self._report.fingerprint ^= int(uid_key(uid), 16)

    def _expect(self, right: bool, otherwise: str) -> None:
        if not right:
            raise Broken(otherwise)

    def _leave(self, assoc: _Association, uid: str, data: bytes) -> None:
        """End an association inside a data set, or without waiting for the answer."""
        kind = self._chance.choice(("abort", "close", "reset", "no answer"))
        if kind == "no answer":
            assoc.send(assoc.request(uid, data))
        elif kind == "abort":
            assoc.send(assoc.request(uid, data[: len(data) // 2], last=False) + _pdu(_ABORT, bytes(4)))
        else:
            assoc.send(assoc.request(uid, data)[: -len(data) // 2])
        if kind == "reset":
            assoc.reset()
        self._report.mischief[f"left: {kind}"] += 1

    def _mischief(self) -> None:
        for act in (self._probe, self._noise, self._wrong_title, self._half, self._hang, self._echo):
            if self._chance.random() < 0.15:
                self._report.mischief[act.__name__.strip("_").replace("_", " ")] += 1
                # What the node does to such a peer is its own choice.
                with suppress(OSError):
                    act()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), _WAIT_S)

    def _probe(self) -> None:
        self._connect().close()

    def _noise(self) -> None:
        with self._connect() as connection:
            connection.sendall(
                self._chance.choice((b"GET / HTTP/1.1\r\n\r\n", self._chance.randbytes(300), b"\x16\x03"))
            )

    def _wrong_title(self) -> None:
        with self._connect() as connection:
            connection.sendall(_associate("SOAKSCANNER", "NOBODY", str(CTImageStorage)))
            if (kind := _read(connection)[0]) != _REJECTED:
                self._report.failures.append(f"another AE title was answered with PDU {kind}")

    def _half(self) -> None:
        with self._connect() as connection:
            request = _associate("SOAKSCANNER", TITLE, str(CTImageStorage))
            connection.sendall(request[: self._chance.randrange(1, len(request))])

    def _hang(self) -> None:
        """Leave a connection open in the middle of a PDU for as long as the node bears it."""
        connection = self._connect()
        connection.sendall(_associate("SOAKSCANNER", TITLE, str(CTImageStorage))[:40])
        self._hanging.append(connection)
        if len(self._hanging) > _MOST_HANGING:
            self._hanging.pop(0).close()

    def _echo(self) -> None:
        try:
            with _Association(self._port, "SOAKPROBE", TITLE, _VERIFICATION) as assoc:
                self._expect(assoc.echo() == 0, "an echo was refused")
                assoc.release()
        except (OSError, Broken) as error:
            self._report.failures.append(f"echo: {error!r}")


class _Template:
    """An encoded CT image in which the UIDs and the place can be exchanged; 16 x 16 pixels, a scanner-sized header."""

    _STUDY, _SERIES, _SOP, _NUMBER = "study", "series", "instance", "99999"

    def __init__(self) -> None:
        ds = header(0)
        names = {word: _uid(word, 0, 0, 0) for word in (self._STUDY, self._SERIES, self._SOP)}
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = names.values()
        ds.InstanceNumber = self._NUMBER
        ds.ImagePositionPatient = ["-250", "-250", f"-{self._NUMBER}"]
        ds.Rows = ds.Columns = _PIXELS
        ds.PixelData = random.Random(0).randbytes(2 * _PIXELS * _PIXELS)
        self._data, self._names = _encoded(ds), names

    def image(self, sender: int, series: int, number: int) -> tuple[str, bytes]:
        """Return the SOP Instance UID and the data set of an image."""
        uid = _uid(self._SOP, sender, series, number)
        data = self._data
        for word in (self._STUDY, self._SERIES):
            data = data.replace(self._names[word].encode(), _uid(word, sender, series, 0).encode(), 1)
        data = data.replace(self._names[self._SOP].encode(), uid.encode(), 1)
        return uid, data.replace(self._NUMBER.encode(), f"{number:05d}".encode())


def _uid(word: str, sender: int, series: int, number: int) -> str:
    kind = {"study": 1, "series": 2, "instance": 3}[word]
    return f"1.2.826.0.1.3680043.10.77.9.{kind}.1{sender:03d}.1{series:07d}.1{number:05d}"


def sender_of(uid: str) -> int:
    """Return the number of the sender that made a UID."""
    return int(uid.split(".")[-3]) - 1000


def _encoded(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


class _Association:
    """One association with one presentation context, from the requestor's side."""

    def __init__(self, port: int, calling: str, called: str, sop_class: str = str(CTImageStorage)) -> None:
        self._sop_class = sop_class
        self._socket = socket.create_connection(("127.0.0.1", port), _WAIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(_associate(calling, called, sop_class))
        kind, _ = _read(self._socket)
        if kind != _ACCEPTED:
            self._socket.close()
            raise Broken(f"the association was answered with PDU {kind}")

    def __enter__(self) -> _Association:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def request(self, uid: str, data: bytes, *, last: bool = True) -> bytes:
        """Return a C-STORE request with its data set; without ``last``, more of the data set is to follow."""
        command = _command(
            (0x0002, _text(self._sop_class)), (0x0100, b"\1\0"), (0x0110, b"\1\0"), (0x0700, b"\0\0"),
            (0x0800, b"\1\0"), (0x1000, _text(uid)),
        )  # fmt: skip
        return _pdu(_DATA, _pdv(3, command)) + _pdu(_DATA, _pdv(2 if last else 0, data))

    def store(self, uid: str, data: bytes) -> int:
        """Send an image; return the status of the answer."""
        self.send(self.request(uid, data))
        return self._status()

    def echo(self) -> int:
        """Return the status of the answer to a C-ECHO."""
        command = _command((0x0002, _text(self._sop_class)), (0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1"))
        self.send(_pdu(_DATA, _pdv(3, command)))
        return self._status()

    def release(self) -> None:
        """End the association in order."""
        self.send(_pdu(_RELEASE, bytes(4)))
        kind, _ = _read(self._socket)
        if kind != _RELEASED:
            raise Broken(f"the release was answered with PDU {kind}")

    def reset(self) -> None:
        """End the connection as a peer that lost its power does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _status(self) -> int:
        kind, body = _read(self._socket)
        if kind != _DATA:
            raise Broken(f"a request was answered with PDU {kind}")
        for tag, value in _elements(body[6:]):
            if tag == 0x0900:
                return int.from_bytes(value, "little")
        raise Broken("an answer without a status")


def _read(connection: socket.socket) -> tuple[int, bytes]:
    kind, length = _PDU.unpack(_exactly(connection, _PDU.size))
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionResetError("the node closed the connection")
        data += more
    return data


def _pdu(kind: int, body: bytes) -> bytes:
    return _PDU.pack(kind, len(body)) + body


def _pdv(control: int, data: bytes) -> bytes:
    return struct.pack(">LBB", len(data) + 2, 1, control) + data


def _text(value: str) -> bytes:
    data = value.encode()
    return data + b"\0" * (len(data) % 2)


def _command(*elements: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _elements(command: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(command):
        _, tag, length = struct.unpack_from("<HHL", command, at)
        yield tag, command[at + 8 : at + 8 + length]
        at += 8 + length


def _associate(calling: str, called: str, sop_class: str) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2) that proposes one context, explicit VR little endian."""
    context = b"\1\0\0\0" + _item(0x30, sop_class.encode()) + _item(0x40, str(ExplicitVRLittleEndian).encode())
    user = _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.826.0.1.3680043.10.77.9")
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    return _pdu(1, struct.pack(">HH", 1, 0) + titles + bytes(32) + items)


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(data)) + data
