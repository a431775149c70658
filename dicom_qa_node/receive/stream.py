"""The bytes of one connection: pynetdicom's socket wrapper with a read-ahead buffer."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

__all__ = ["PDU_HEAD", "BufferedSocket", "PeerGone"]

PDU_HEAD = struct.Struct(">BBL")

# Two of the largest PDUs that DCMTK sends (128 KiB and their heads).
_READ_AHEAD_BYTES = 264 * 1024


class PeerGone(Exception):
    """The connection closed, or was silent for too long, inside a PDU."""


class BufferedSocket(AssociationSocket):
    """An ``AssociationSocket`` with a read-ahead buffer; ``timeout_s`` bounds the wait for the rest of a PDU.

    Its ``socket`` may be replaced by one that speaks TLS until the first byte was read.
    """

    def __init__(self, assoc: Association, client_socket: socket.socket, timeout_s: float) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._buffer = bytearray(_READ_AHEAD_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._timeout_s = timeout_s

    @property
    def buffered(self) -> int:
        """The number of bytes that were read ahead."""
        return self._end - self._start

    @property
    def ready(self) -> bool:
        """Whether reading would not block (the parent's ``select`` knows nothing of the buffer)."""
        return self.buffered > 0 or self.readable(0.0)

    def readable(self, timeout_s: float, wake: int | None = None) -> bool:
        """Wait until there is something to read, ``wake`` is signalled, or time is up; say whether it was the first."""
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        poll = select.poll()
        descriptor = self.socket.fileno() if self.socket is not None else -1
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
        if wake is not None:
            poll.register(wake, select.POLLIN)
        found = any(found == descriptor for found, _ in poll.poll(timeout_s * 1000))
        return found and (not isinstance(self.socket, ssl.SSLSocket) or self._has_record(self.socket))

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly ``nr_bytes``, or fewer if the peer closes or dawdles (as the parent's method)."""
        received = bytearray()
        deadline = time.monotonic() + self._timeout_s
        try:
            while len(received) < nr_bytes and time.monotonic() < deadline:
                received += self.take(nr_bytes - len(received))
        except PeerGone:
            pass
        return received

    def exactly(self, count: int) -> bytes:
        """Read exactly ``count`` bytes or raise `PeerGone`."""
        if self.buffered >= count:
            self._start += count
            return bytes(self._view[self._start - count : self._start])
        received = bytes(self.recv(count))
        if len(received) != count:
            raise PeerGone
        return received

    def take(self, limit: int) -> memoryview:
        """Return at least one and at most ``limit`` bytes; the view is valid until the next call."""
        if self._start == self._end:
            self._fill()
        start = self._start
        self._start = min(self._end, start + limit)
        return self._view[start : self._start]

    def peek_pdu_head(self) -> tuple[int, int] | None:
        """Return type and length of the PDU that comes next without consuming it, None if the peer is gone."""
        try:
            while self.buffered < PDU_HEAD.size:
                self._fill()
        except PeerGone:
            return None
        pdu_type, _, length = PDU_HEAD.unpack_from(self._buffer, self._start)
        return pdu_type, length

    def forget(self) -> None:
        """Give the buffer back once the connection is closed; whoever still reads finds the peer gone.

        Otherwise it would stay until the garbage collector comes for the association, which refers to itself, and each
        allocator arena of the process would grow by the buffers of many.
        """
        self._start = self._end = 0
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)

    def _has_record(self, connection: ssl.SSLSocket) -> bool:
        """Read ahead if a whole TLS record with data is there: the bytes may be part of one, or of another kind."""
        try:
            connection.settimeout(0)
            self._fill()
        except PeerGone as gone:
            waits = isinstance(gone.__cause__, ssl.SSLWantReadError | ssl.SSLWantWriteError)
        except OSError:
            # Shut down by the association's other thread; whoever reads next learns it.
            return True
        else:
            waits = False
        with contextlib.suppress(OSError):
            connection.settimeout(self._timeout_s)
        return not waits

    def _fill(self) -> None:
        if self._start:
            kept = self.buffered
            self._buffer[:kept] = self._view[self._start : self._end]
            self._start, self._end = 0, kept
        if self.socket is None:
            raise PeerGone
        try:
            count = self.socket.recv_into(self._view[self._end :])
        except OSError as error:
            raise PeerGone from error
        if not count:
            raise PeerGone
        self._end += count
        # Nagle's algorithm (on by default in DCMTK) holds the end of an object back until the rest is acknowledged:
        # acknowledging at once gives such a sender a quarter more images a second.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
