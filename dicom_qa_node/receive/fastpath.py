"""Takes the data sets of C-STORE requests from the socket to their sink, beneath pynetdicom's own message layer.

pynetdicom 3.0 turns each P-DATA-TF PDU into five Python objects and four copies, passes the whole message between
two threads that each poll once a millisecond, and holds it in memory. The classes here keep its negotiation, its
state machine and its handling of every other message, and replace three things through its own seams:

- `BufferedSocket` (an ``AssociationSocket``) reads ahead in large pieces instead of 4,096 bytes at a time;
- `StreamingProvider` (a ``DULServiceProvider``) sleeps until there is something to do, and in state Sta6 gives
  P-DATA-TF PDUs to `StoreReceiver`, which streams a C-STORE data set fragment by fragment to an `ObjectSink`
  and answers at once. The state machine is not involved: action DT-2 leaves Sta6 for Sta6;
- `StreamingAssociation` (an ``Association``) wakes up for work instead of looking for it.

Memory for one association is one read-ahead buffer, whatever the size of the object.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

from dicom_qa_node.receive import command
from dicom_qa_node.receive.command import MalformedCommand, StoreRequest
from dicom_qa_node.receive.status import Answer, Status

__all__ = ["BufferedSocket", "ObjectSink", "OpenSink", "StreamingAssociation"]

# Two of the largest PDUs that DCMTK sends (128 KiB and their heads).
READ_AHEAD_BYTES = 264 * 1024
_P_DATA_TF = 0x04
_PDU_HEAD = struct.Struct(">BBL")
_PDV_HEAD = struct.Struct(">LBB")
_COMMAND, _LAST = 0x01, 0x02
_LARGEST_COMMAND_SET = 64 * 1024
_LARGEST_OTHER_MESSAGE = 16 * 1024 * 1024
_LARGEST_CONTROL_PDU = 1024 * 1024
_IDLE_CHECK_S = 0.5


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


class PeerGone(Exception):
    """The connection closed, or was silent for too long, inside a PDU."""


class ProtocolViolation(Exception):
    """The peer sent what PS3.7 and PS3.8 do not allow; the association is aborted."""


class BufferedSocket(AssociationSocket):  # type: ignore[misc]
    """An ``AssociationSocket`` with a read-ahead buffer; ``timeout_s`` bounds the wait for the rest of a PDU."""

    def __init__(self, assoc: Association, client_socket: socket.socket, timeout_s: float) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._buffer = bytearray(READ_AHEAD_BYTES)
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
        """Wait until the socket can be read, ``wake`` is signalled, or time is up; say whether it was the socket."""
        poll = select.poll()
        descriptor = self.socket.fileno() if self.socket is not None else -1
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
        if wake is not None:
            poll.register(wake, select.POLLIN)
        return any(found == descriptor for found, _ in poll.poll(timeout_s * 1000))

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
            while self.buffered < _PDU_HEAD.size:
                self._fill()
        except PeerGone:
            return None
        pdu_type, _, length = _PDU_HEAD.unpack_from(self._buffer, self._start)
        return pdu_type, length

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
        # A peer with Nagle's algorithm on (DCMTK by default) waits 40 ms an image for a delayed acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class StoreReceiver:
    """Reads P-DATA-TF PDUs (PS3.8 9.3.5); streams C-STORE data sets, passes every other message to pynetdicom."""

    def __init__(self, assoc: StreamingAssociation, open_sink: OpenSink) -> None:
        self._assoc = assoc
        self._open_sink = open_sink
        self._syntaxes: dict[int, tuple[str, str]] | None = None
        self._command = bytearray()
        self._context_id = 0
        self._request: StoreRequest | None = None
        self._sink: ObjectSink | None = None
        self._other_data_set = False
        self._other_bytes = 0

    def receive_pdu(self, stream: BufferedSocket) -> None:
        """Read one P-DATA-TF PDU from ``stream``.

        Raises
        ------
        PeerGone, ProtocolViolation
            The association cannot go on.
        """
        _, _, remaining = _PDU_HEAD.unpack(stream.exactly(_PDU_HEAD.size))
        while remaining:
            if remaining < _PDV_HEAD.size:
                raise ProtocolViolation("a P-DATA-TF PDU ends inside a presentation data value")
            length, context_id, control = _PDV_HEAD.unpack(stream.exactly(_PDV_HEAD.size))
            payload = length - 2
            remaining -= length + 4
            if payload < 0 or remaining < 0:
                raise ProtocolViolation("a presentation data value does not fit its PDU")
            if control & _COMMAND:
                self._command_fragment(stream, context_id, payload, last=bool(control & _LAST))
            else:
                self._data_fragment(stream, context_id, payload, last=bool(control & _LAST))

    def abandon(self) -> None:
        """Drop an object whose transfer will not end."""
        if self._sink is not None:
            self._sink.abandon()
            self._sink = self._request = None

    def _command_fragment(self, stream: BufferedSocket, context_id: int, length: int, *, last: bool) -> None:
        if self._sink is not None or self._other_data_set:
            raise ProtocolViolation("a command set inside a data set")
        if len(self._command) + length > _LARGEST_COMMAND_SET:
            raise ProtocolViolation("the command set is too large")
        self._command += stream.exactly(length)
        if not last:
            return
        encoded = bytes(self._command)
        self._command.clear()
        self._context_id = context_id
        elements = command.decode(encoded)
        if command.command_field(elements) != command.C_STORE_RQ:
            self._other_bytes = 0
            self._other_data_set = command.has_data_set(elements)
            self._pass_on(context_id, _COMMAND | _LAST, encoded)
            return
        self._begin(context_id, command.store_request(elements))

    def _begin(self, context_id: int, request: StoreRequest) -> None:
        if self._syntaxes is None:
            contexts = self._assoc.accepted_contexts
            self._syntaxes = {cx.context_id: (str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in contexts}
        if context_id not in self._syntaxes:
            raise ProtocolViolation("a C-STORE request in a presentation context that was not accepted")
        sop_class_uid, transfer_syntax_uid = self._syntaxes[context_id]
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
        self._other_bytes += length
        if not self._other_data_set or self._other_bytes > _LARGEST_OTHER_MESSAGE:
            raise ProtocolViolation("a data set that is not expected, or too large for its message")
        self._other_data_set = not last
        self._pass_on(context_id, _LAST if last else 0, stream.exactly(length))

    def _finish(self) -> None:
        if self._sink is None or self._request is None:
            return
        sink, request = self._sink, self._request
        self._sink = self._request = None
        self._send(command.encode_store_response(request, sink.finish()))

    def _send(self, command_set: bytes) -> None:
        """Send a command set in P-DATA-TF PDUs that the peer's maximum length allows (PS3.8 D.1)."""
        longest = self._assoc.requestor.maximum_length or len(command_set) + 6
        step = max(1, longest - 6)
        for start in range(0, len(command_set), step):
            piece = command_set[start : start + step]
            control = _COMMAND | (_LAST if start + step >= len(command_set) else 0)
            value = _PDV_HEAD.pack(len(piece) + 2, self._context_id, control) + piece
            self._assoc.dul.socket.send(_PDU_HEAD.pack(_P_DATA_TF, 0, len(value)) + value)

    def _pass_on(self, context_id: int, control: int, value: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes([control]) + value))
        self._assoc.dimse.receive_primitive(primitive)


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


class StreamingProvider(DULServiceProvider):  # type: ignore[misc]
    """The upper layer of one association, woken by its socket or by its service user instead of a timer."""

    def __init__(self, assoc: StreamingAssociation, open_sink: OpenSink) -> None:
        super().__init__(assoc)
        self._receiver = StoreReceiver(assoc, open_sink)
        self._wake_lock = threading.Lock()
        self._wake_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # The reactor sleeps this long in each idle round; waiting is done in _is_transport_event instead.
        self._run_loop_delay = 0

    def run_reactor(self) -> None:
        """Run until the association ends, then let go of everything that waits for it."""
        try:
            super().run_reactor()
        finally:
            self._receiver.abandon()
            # Without it the association thread of a port probe waits out the whole ACSE timeout.
            self.to_user_queue.put(None)
            self.assoc.notify()
            self.close()

    def close(self) -> None:
        """Release the wake-up descriptor."""
        with self._wake_lock:
            if self._wake_descriptor >= 0:
                os.close(self._wake_descriptor)
                self._wake_descriptor = -1

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer and wake the reactor."""
        super().send_pdu(primitive)
        self._wake()

    def kill_dul(self) -> None:
        """End the reactor and wake it to notice."""
        super().kill_dul()
        self._wake()

    def stop_dul(self) -> bool:
        """End the reactor if the state machine is idle (Sta1); as the parent's, without polling."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        self.join()
        return True

    def _wake(self) -> None:
        with self._wake_lock:
            if self._wake_descriptor >= 0:
                os.eventfd_write(self._wake_descriptor, 1)

    def _is_transport_event(self) -> bool:
        """Wait for the peer or the service user; read from the peer until there is something else to do."""
        if self.state_machine.current_state == "Sta13" and self.event_queue.empty():
            return bool(super()._is_transport_event())
        was_read = False
        # Each return to the parent's loop costs a sleep, and a sleep of zero still lasts 60 microseconds.
        while self.event_queue.empty() and self.to_provider_queue.empty() and not self._kill_thread:
            if not (self.assoc.dimse.msg_queue.empty() and self.to_user_queue.empty()):
                self.assoc.notify()
            if not self.socket.buffered and not self.socket.readable(_IDLE_CHECK_S, self._wake_descriptor):
                self._forget_wake()
                break
            self._read_pdu_data()
            self._idle_timer.restart()
            was_read = True
        return was_read

    def _forget_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_descriptor)

    def _read_pdu_data(self) -> None:
        """Read one PDU: P-DATA-TF of an open association by `StoreReceiver`, anything else by the parent."""
        head = self.socket.peek_pdu_head()
        if head is None:
            self.event_queue.put("Evt17")
            return
        pdu_type, length = head
        if pdu_type == _P_DATA_TF and self.state_machine.current_state == "Sta6":
            self._receive_p_data()
        elif length > _LARGEST_CONTROL_PDU:
            self.event_queue.put("Evt19")
        else:
            super()._read_pdu_data()

    def _receive_p_data(self) -> None:
        try:
            self._receiver.receive_pdu(self.socket)
        except PeerGone:
            self._receiver.abandon()
            self.event_queue.put("Evt17")
        except (ProtocolViolation, MalformedCommand):
            self._receiver.abandon()
            self.event_queue.put("Evt19")


class _WorkGate:
    """Stands in for the ``Event`` that pauses an association's reactor, and also holds it until there is work.

    The reactor passes it once a round; a plain Event makes it a poll of 1,000 rounds a second per association.
    """

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._work = threading.Event()

    def set(self) -> None:
        """Let the reactor go on."""
        self._open.set()
        self._work.set()

    def clear(self) -> None:
        """Pause the reactor."""
        self._open.clear()
        self._work.set()

    def wait(self) -> None:
        """Return when the reactor is not paused and has work, or after a short while to look at its timers."""
        self._work.wait(_IDLE_CHECK_S)
        self._work.clear()
        self._open.wait()

    def notify(self) -> None:
        """Say that there is work."""
        self._work.set()


class StreamingAssociation(Association):  # type: ignore[misc]
    """An accepted association whose C-STORE requests are streamed; ``on_end`` runs when it is over, however it ended."""

    def __init__(
        self, ae: ApplicationEntity, open_sink: Callable[[Association], OpenSink], on_end: Callable[[Association], None]
    ) -> None:
        super().__init__(ae, "acceptor")
        self._gate = _WorkGate()
        self._reactor_checkpoint = self._gate
        self._on_end = on_end
        self.dul = StreamingProvider(self, open_sink(self))
        # The parent gave these to the provider that was just replaced.
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout

    def notify(self) -> None:
        """Wake the association's reactor."""
        self._gate.notify()

    def run_reactor(self) -> None:
        """Serve the peer until the association ends."""
        try:
            super().run_reactor()
        finally:
            self._on_end(self)
