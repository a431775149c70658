"""P-DATA-TF PDUs (PS3.8 9.3.5) read from a buffered socket: data sets of C-STORE go to a sink."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from dicom_qa_node.receive.fastpath import command_sets
from dicom_qa_node.receive.fastpath.command_sets import COMMAND, LAST, StoreRequest
from dicom_qa_node.receive.fastpath.other_messages import OtherMessage
from dicom_qa_node.receive.store_status import Answer, Status

__all__ = [
    "PDU_HEAD",
    "P_DATA_TF",
    "BufferedSocket",
    "Link",
    "MessageTime",
    "ObjectSink",
    "OpenSink",
    "PeerGone",
    "PeerTooSlow",
    "ProtocolViolation",
    "StoreReceiver",
]

PDU_HEAD = struct.Struct(">BBL")

# Two of the largest PDUs that DCMTK sends (128 KiB and their heads).
_READ_AHEAD_BYTES = 264 * 1024


class PeerGone(Exception):
    """The connection closed, or was silent for too long, inside a PDU."""


class PeerTooSlow(PeerGone):
    """The peer has sent a message more slowly than it may."""


class MessageTime:
    """How long the peer may take for one message, from its first byte on: so long, and longer for what it sends.

    A limit on silence alone is none: a byte every now and then would hold a connection for ever. ``exceeded`` tells
    that a message has used up its time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = float("inf")
        self._s_per_byte = 0.0
        self.exceeded = False

    def start(self, grace_s: float, lowest_rate: float = 0.0) -> None:
        """Begin a message that may take ``grace_s``, and as much more as its bytes take at ``lowest_rate`` a second."""
        self._ends = self._clock() + grace_s
        self._s_per_byte = 1 / lowest_rate if lowest_rate else 0.0

    def stop(self) -> None:
        """End the message: silence between messages is limited elsewhere."""
        self._ends = float("inf")

    def count(self, received: int) -> None:
        """Count bytes that have come."""
        self._ends += received * self._s_per_byte

    def left_s(self) -> float:
        """Return how long the next bytes may take.

        Raises
        ------
        PeerTooSlow
            No time is left.
        """
        left = self._ends - self._clock()
        if left <= 0:
            self.exceeded = True
            raise PeerTooSlow
        return left


class BufferedSocket(AssociationSocket):
    """An ``AssociationSocket`` with a read-ahead buffer; ``timeout_s`` bounds each wait inside of a PDU.

    Its ``socket`` may be replaced by one that uses TLS until the first byte was read. ``time`` bounds a message.
    """

    def __init__(self, assoc: Association, client_socket: socket.socket, timeout_s: float) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self.time = MessageTime()
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
        try:
            while len(received) < nr_bytes:
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
            self._receive()
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
        """Receive within the time of the message."""
        left_s = min(self.time.left_s(), self._timeout_s)
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                self.socket.settimeout(left_s)
        elif not self.readable(left_s):
            self.time.left_s()
            raise PeerGone
        try:
            self.time.count(self._receive())
        except PeerGone:
            self.time.left_s()
            raise

    def _receive(self) -> int:
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
        return count


P_DATA_TF = 0x04
_PDV_HEAD = struct.Struct(">LBB")
_LARGEST_COMMAND_SET = 64 * 1024


class ProtocolViolation(Exception):
    """The peer sent what PS3.7 and PS3.8 do not allow; the association is aborted."""


class ObjectSink(Protocol):
    """Where one C-STORE data set goes. `finish` or `abandon` ends it; no method raises."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes; the view is valid during the call only."""

    def finish(self) -> Answer:
        """Take the end of the data set and say what the peer is to be told."""

    def abandon(self) -> None:
        """Forget what was written: the association ended inside the data set."""


OpenSink = Callable[[StoreRequest, str], ObjectSink]
"""Called with the request and the negotiated transfer syntax when a C-STORE-RQ command set is there."""


class Link(Protocol):
    """What a `StoreReceiver` needs of its association."""

    def contexts(self) -> Mapping[int, tuple[str, str]]:
        """Return abstract syntax and transfer syntax of the accepted presentation contexts, by their ID."""

    def longest_pdu(self) -> int:
        """Return the largest P-DATA-TF length that the peer takes, 0 for any."""

    def send(self, pdu: bytes) -> None:
        """Send an encoded PDU."""

    def pass_on(self, context_id: int, value: bytes) -> None:
        """Give a presentation data value, control header first, to pynetdicom."""

    def too_large(self) -> None:
        """Note that a message was answered with a failure for its size."""


class StoreReceiver:
    """The messages of one association, in the order in which they come."""

    def __init__(self, link: Link, open_sink: OpenSink) -> None:
        self._link = link
        self._open_sink = open_sink
        self._contexts: Mapping[int, tuple[str, str]] = {}
        self._command = bytearray()
        self._context_id = 0
        self._request: StoreRequest | None = None
        self._sink: ObjectSink | None = None
        self._other: OtherMessage | None = None

    @property
    def in_message(self) -> bool:
        """Whether the rest of a message is still to come."""
        return self._sink is not None or bool(self._command) or self._other is not None

    def receive_pdu(self, stream: BufferedSocket) -> None:
        """Read one P-DATA-TF PDU from ``stream``.

        Raises
        ------
        PeerGone, ProtocolViolation
            The association cannot go on.
        """
        _, _, remaining = PDU_HEAD.unpack(stream.exactly(PDU_HEAD.size))
        while remaining:
            if remaining < _PDV_HEAD.size:
                raise ProtocolViolation("a P-DATA-TF PDU ends inside a presentation data value")
            length, context_id, control = _PDV_HEAD.unpack(stream.exactly(_PDV_HEAD.size))
            payload = length - 2
            remaining -= length + 4
            if payload < 0 or remaining < 0:
                raise ProtocolViolation("a presentation data value does not fit its PDU")
            if control & COMMAND:
                self._command_fragment(stream, context_id, payload, last=bool(control & LAST))
            else:
                self._data_fragment(stream, context_id, payload, last=bool(control & LAST))

    def abandon(self) -> None:
        """Drop an object whose transfer will not end."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = self._request = None
        self._other = None

    def _command_fragment(self, stream: BufferedSocket, context_id: int, length: int, *, last: bool) -> None:
        if self._sink is not None or self._other is not None:
            raise ProtocolViolation("a command set inside a data set")
        if len(self._command) + length > _LARGEST_COMMAND_SET:
            raise ProtocolViolation("the command set is too large")
        self._command += stream.exactly(length)
        if not last:
            return
        encoded = bytes(self._command)
        self._command.clear()
        self._context_id = context_id
        elements = command_sets.decode(encoded)
        if command_sets.command_field(elements) == command_sets.C_STORE_RQ:
            self._begin(context_id, command_sets.store_request(elements))
        elif command_sets.has_data_set(elements):
            self._other = OtherMessage(encoded, elements)
        else:
            self._link.pass_on(context_id, bytes([COMMAND | LAST]) + encoded)

    def _begin(self, context_id: int, request: StoreRequest) -> None:
        self._contexts = self._contexts or self._link.contexts()
        if context_id not in self._contexts:
            raise ProtocolViolation("a C-STORE request in a presentation context that was not accepted")
        sop_class_uid, transfer_syntax_uid = self._contexts[context_id]
        self._request = request
        if request.sop_class_uid == sop_class_uid:
            self._sink = self._open_sink(request, transfer_syntax_uid)
        else:
            comment = "SOP class is not that of the presentation context"
            self._sink = RefusedObject(Answer(Status.SOP_CLASS_NOT_SUPPORTED, comment))
        if not request.has_data_set:
            self._finish()

    def _data_fragment(self, stream: BufferedSocket, context_id: int, length: int, *, last: bool) -> None:
        if context_id != self._context_id or self._command:
            raise ProtocolViolation("a data set fragment without its command set")
        if self._sink is None:
            self._other_fragment(stream, context_id, length, last=last)
            return
        while length:
            data = stream.take(length)
            self._sink.write(data)
            length -= len(data)
        if last:
            self._finish()

    def _other_fragment(self, stream: BufferedSocket, context_id: int, length: int, *, last: bool) -> None:
        if self._other is None or not self._other.accepts(length):
            raise ProtocolViolation("a data set that is not expected, or too large for its message")
        if not self._other.too_large:
            self._other.add(stream.exactly(length))
        while self._other.too_large and length:
            length -= len(stream.take(length))
        if last:
            other, self._other = self._other, None
            self._end_other(context_id, other)

    def _end_other(self, context_id: int, other: OtherMessage) -> None:
        if other.too_large:
            self._link.too_large()
            self._send(other.refusal())
            return
        for fragment in other.fragments():
            self._link.pass_on(context_id, fragment)

    def _finish(self) -> None:
        if self._sink is None or self._request is None:
            return
        sink, request = self._sink, self._request
        self._sink = self._request = None
        self._send(command_sets.encode_store_response(request, sink.finish()))

    def _send(self, command_set: bytes) -> None:
        """Send a command set in P-DATA-TF PDUs that the peer's maximum length allows (PS3.8 D.1)."""
        longest = self._link.longest_pdu() or len(command_set) + 6
        step = max(1, longest - 6)
        for start in range(0, len(command_set), step):
            piece = command_set[start : start + step]
            control = COMMAND | (LAST if start + step >= len(command_set) else 0)
            value = _PDV_HEAD.pack(len(piece) + 2, self._context_id, control) + piece
            self._link.send(PDU_HEAD.pack(P_DATA_TF, 0, len(value)) + value)


class RefusedObject:
    """The sink of an object that is not wanted: reads past it and gives the prepared answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def write(self, data: memoryview) -> None:
        """Drop the bytes."""

    def finish(self) -> Answer:
        """Return the prepared answer."""
        return self._answer

    def abandon(self) -> None:
        """Do nothing; nothing was kept."""
