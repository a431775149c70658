"""A wire to an archive that fails where the test wants: it passes PDUs (PS3.8 9.3) on and breaks one connection's flow.

Everything is done with plain sockets, half-closing included; what the archive behind it has, it has.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

__all__ = ["FAULTS", "Wire"]

_DATA = 0x04
_ABORT = struct.pack(">BBIBBBB", 0x07, 0, 4, 0, 0, 2, 0)
_PATIENCE_S = 20.0


class Wire:
    """Listens on a port of its own while it is up; ``fault`` names what happens to the connections that come."""

    def __init__(self, archive_port: int) -> None:
        self.fault = ""
        self.connections = 0
        self._archive_port = archive_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._run(self._accept)

    def close(self) -> None:
        self._ended.set()
        # A thread that waits in accept does not notice that its socket is closed.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _run(self, call: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=call, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                node, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            node.settimeout(_PATIENCE_S)
            self._open.append(node)
            FAULTS.get(self.fault, _pass_on)(self, node)

    def to_archive(
        self,
        node: socket.socket,
        upwards: Callable[[int, bytes], bytes | None],
        downwards: Callable[[int, bytes], bytes | None],
    ) -> None:
        """Connect node and archive; the functions change a PDU by its type, None ends the flow in that direction."""
        try:
            archive = socket.create_connection(("127.0.0.1", self._archive_port), _PATIENCE_S)
        except ConnectionRefusedError:
            _reset(self, node)
            return
        self._open.append(archive)
        self._run(_pump, node, archive, upwards)
        self._run(_pump, archive, node, downwards)

    def trickle(self, node: socket.socket, data: bytes, every_s: float) -> None:
        """Send byte after byte."""
        for byte in data:
            if self._ended.wait(every_s):
                return
            with contextlib.suppress(OSError):
                node.sendall(bytes([byte]))


def _pump(source: socket.socket, sink: socket.socket, change: Callable[[int, bytes], bytes | None]) -> None:
    with contextlib.suppress(OSError):
        for kind, pdu in _pdus(source):
            changed = change(kind, pdu)
            if changed is None:
                break
            sink.sendall(changed)
        # The half-close: nothing more comes from here, the other direction stays open.
        sink.shutdown(socket.SHUT_WR)


def _pdus(source: socket.socket) -> Iterator[tuple[int, bytes]]:
    while len(head := _exactly(source, 6)) == 6:
        (length,) = struct.unpack(">I", head[2:])
        body = _exactly(source, length)
        if len(body) < length:
            return
        yield head[0], head + body


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := source.recv(count - len(data))):
        data += more
    return data


def _same(_kind: int, pdu: bytes) -> bytes:
    return pdu


def _pass_on(wire: Wire, node: socket.socket) -> None:
    wire.to_archive(node, _same, _same)


def _reset(_wire: Wire, node: socket.socket) -> None:
    node.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    node.close()


def _half_close_at_once(_wire: Wire, node: socket.socket) -> None:
    node.shutdown(socket.SHUT_WR)


def _half_close_after_accept(wire: Wire, node: socket.socket) -> None:
    def downwards(_kind: int, pdu: bytes) -> None:
        with contextlib.suppress(OSError):
            node.sendall(pdu)

    wire.to_archive(node, lambda kind, pdu: None if kind == _DATA else pdu, downwards)


def _stored_but_half_closed(wire: Wire, node: socket.socket) -> None:
    wire.to_archive(node, _same, lambda kind, pdu: None if kind == _DATA else pdu)


def _stored_but_aborted(wire: Wire, node: socket.socket) -> None:
    wire.to_archive(node, _same, lambda kind, pdu: _ABORT if kind == _DATA else pdu)


def _stored_but_half_an_answer(wire: Wire, node: socket.socket) -> None:
    wire.to_archive(node, _same, lambda kind, pdu: pdu[: len(pdu) // 2] if kind == _DATA else pdu)


def _aborted_in_the_data(wire: Wire, node: socket.socket) -> None:
    def upwards(kind: int, pdu: bytes) -> bytes | None:
        if kind != _DATA:
            return pdu
        with contextlib.suppress(OSError):
            node.sendall(_ABORT)
        return None

    wire.to_archive(node, upwards, _same)


def _stored_but_slow(wire: Wire, node: socket.socket) -> None:
    def downwards(kind: int, pdu: bytes) -> bytes | None:
        if kind != _DATA:
            return pdu
        wire.trickle(node, pdu, 0.3)
        return b""

    wire.to_archive(node, _same, downwards)


def _slow(wire: Wire, node: socket.socket) -> None:
    def downwards(_kind: int, pdu: bytes) -> bytes | None:
        wire.trickle(node, pdu, 0.3)
        return None

    wire.to_archive(node, lambda kind, pdu: None if kind == _DATA else pdu, downwards)


def _silent(_wire: Wire, _node: socket.socket) -> None:
    """Take the connection and say nothing."""


def _garbage(_wire: Wire, node: socket.socket) -> None:
    with contextlib.suppress(OSError):
        node.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


#: What can happen to a connection, by name; names that begin with "stored" leave the report in the archive.
FAULTS: dict[str, Callable[[Wire, socket.socket], None]] = {
    "reset": _reset,
    "half-closed at once": _half_close_at_once,
    "half-closed after the acceptance": _half_close_after_accept,
    "aborted in the data": _aborted_in_the_data,
    "silent": _silent,
    "slow": _slow,
    "garbage": _garbage,
    "stored, then half-closed": _stored_but_half_closed,
    "stored, then aborted": _stored_but_aborted,
    "stored, half an answer": _stored_but_half_an_answer,
    "stored, a slow answer": _stored_but_slow,
}
