"""Takes the data sets of C-STORE requests from the socket to their sink, beneath pynetdicom's own message layer.

pynetdicom 3.0 turns each P-DATA-TF PDU into five Python objects and four copies, passes the whole message between
two threads that each poll once a millisecond, and holds it in memory. The classes here keep its negotiation, its
state machine and its handling of every other message, and replace three things through its own seams:

- `stream.BufferedSocket` (an ``AssociationSocket``) reads ahead in large pieces instead of 4,096 bytes at a time;
- `StreamingProvider` (a ``DULServiceProvider``) sleeps until there is something to do, and in state Sta6 gives
  P-DATA-TF PDUs to `pdata.StoreReceiver`, which streams a C-STORE data set fragment by fragment to a sink and
  answers at once. The state machine is not involved: action DT-2 leaves Sta6 for Sta6;
- `StreamingAssociation` (an ``Association``) wakes up for work instead of looking for it.

Memory for one association is one read-ahead buffer, whatever the size of the object. The methods with a leading
underscore that are overridden here are the reason why `receive_path` lists the versions of pynetdicom it works with.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any, cast

from pynetdicom.ae import ApplicationEntity
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import P_DATA

from dicom_qa_node.dicom_io.associate_pdus import MalformedPdu
from dicom_qa_node.receive.fastpath.command_sets import MalformedCommand, StoreRequest
from dicom_qa_node.receive.fastpath.pdata import (
    P_DATA_TF,
    BufferedSocket,
    ObjectSink,
    OpenSink,
    PeerGone,
    PeerTooSlow,
    ProtocolViolation,
    StoreReceiver,
)
from dicom_qa_node.receive.received_association import ReceivedAssociation

__all__ = ["StreamingAssociation"]

_LOGGER = logging.getLogger(__name__)

_LARGEST_CONTROL_PDU = 1024 * 1024
_IDLE_CHECK_S = 0.5
_READ_PAST_S = 1.0
_PDU_TYPES = range(0x01, 0x08)
_TLS_HANDSHAKE = 0x16


class StreamingProvider(DULServiceProvider):
    """The upper layer of one association, woken by its socket or by its service user instead of a timer."""

    def __init__(self, assoc: StreamingAssociation, open_sink: OpenSink) -> None:
        super().__init__(assoc)
        self._association = assoc
        self._receiver = StoreReceiver(_AssociationLink(assoc), open_sink)
        self._wake_lock = threading.Lock()
        self._wake_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # The reactor sleeps this long in each idle round; waiting is done in _is_transport_event instead.
        self._run_loop_delay = 0

    @property
    def stream(self) -> BufferedSocket:
        """The connection; pynetdicom's name for it is ``socket``."""
        return cast(BufferedSocket, self.socket)

    def run_reactor(self) -> None:
        """Run until the association ends, then let go of everything that waits for it."""
        try:
            super().run_reactor()
        except InvalidEventError:
            self._association.refused("a PDU that does not fit the state of the association")
        except Exception:
            _LOGGER.exception("association_failed")
        finally:
            self._receiver.abandon()
            # Without it the association thread of a port probe waits out the whole ACSE timeout.
            self.to_user_queue.put(cast(Any, None))
            self._association.notify()
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
            self._read_past_and_close()
            return True
        was_read = False
        # Each return to the parent's loop costs a sleep, and a sleep of zero still lasts 60 microseconds.
        while self.event_queue.empty() and self.to_provider_queue.empty() and not self._kill_thread:
            if not (self.assoc.dimse.msg_queue.empty() and self.to_user_queue.empty()):
                self._association.notify()
            if not self.stream.buffered and not self.stream.readable(_IDLE_CHECK_S, self._wake_descriptor):
                self._forget_wake()
                break
            self._read_pdu_data()
            self._idle_timer.restart()
            was_read = True
        return was_read

    def _read_past_and_close(self) -> None:
        """End the connection in state Sta13, in which nothing that the peer says counts (PS3.8 table 9-10).

        Bytes that were not read when a connection is closed keep the peer from reading why.
        """
        deadline = time.monotonic() + _READ_PAST_S
        self.stream.time.start(_READ_PAST_S)
        with contextlib.suppress(PeerGone):
            while self.stream.ready and time.monotonic() < deadline:
                self.stream.take(_LARGEST_CONTROL_PDU)
        self.stream.close()

    def _forget_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_descriptor)

    def _read_pdu_data(self) -> None:
        """Read one PDU: P-DATA-TF of an open association by `StoreReceiver`, anything else by the parent.

        The time for the association request runs since the connection was made, that of any other message since now.
        """
        waits_for_request = self.state_machine.current_state == "Sta2"
        if not waits_for_request:
            self.stream.time.start(*self._association.message_time())
        self._read_one_pdu()
        if self.stream.time.exceeded:
            words = "the association request" if waits_for_request else "a message"
            self._association.refused(f"{words} came too slowly", event="peer_too_slow")
        else:
            self.stream.time.stop()

    def _read_one_pdu(self) -> None:
        head = self.stream.peek_pdu_head()
        if head is None:
            self.event_queue.put("Evt17")
            return
        pdu_type, length = head
        if pdu_type == P_DATA_TF and self.state_machine.current_state == "Sta6":
            self._receive_p_data()
        elif pdu_type not in _PDU_TYPES or length > _LARGEST_CONTROL_PDU:
            self._association.refused(_words_for(pdu_type, length))
            self.event_queue.put("Evt19")
        else:
            super()._read_pdu_data()

    def _decode_pdu(self, bytestream: bytearray) -> Any:
        """Decode a PDU as the parent does; the node's log tells of one that cannot be, or has impossible values."""
        try:
            pdu, event = super()._decode_pdu(bytestream)
            # The state machine does this, too, and where it fails there the peer would not be told.
            pdu.to_primitive()
            return pdu, event
        except MalformedPdu as error:
            self._association.refused(str(error), titles=error.titles)
            raise
        except Exception:
            self._association.refused(f"a PDU of type {bytestream[0]:02X} cannot be decoded")
            raise

    def _receive_p_data(self) -> None:
        try:
            self._receiver.receive_pdu(self.stream)
            while self._receiver.in_message and self._next_is_p_data():
                self._receiver.receive_pdu(self.stream)
        except PeerTooSlow:
            self._receiver.abandon()
            self.event_queue.put("Evt19")
        except PeerGone:
            self._receiver.abandon()
            self.event_queue.put("Evt17")
        except (ProtocolViolation, MalformedCommand) as error:
            self._association.refused(str(error))
            self._receiver.abandon()
            self.event_queue.put("Evt19")

    def _next_is_p_data(self) -> bool:
        head = self.stream.peek_pdu_head()
        return head is not None and head[0] == P_DATA_TF


def _words_for(pdu_type: int, length: int) -> str:
    if pdu_type == _TLS_HANDSHAKE:
        return "TLS on the port without TLS"
    if pdu_type not in _PDU_TYPES:
        return f"no PDU of DICOM begins with {pdu_type:02X}"
    return f"a PDU of type {pdu_type:02X} is {length} bytes long"


class _AssociationLink:
    """What `StoreReceiver` needs, from pynetdicom's objects."""

    def __init__(self, assoc: ReceivedAssociation) -> None:
        self._assoc = assoc

    def contexts(self) -> dict[int, tuple[str, str]]:
        """Return the syntaxes of the accepted contexts in which the peer may send."""
        accepted = [context for context in self._assoc.accepted_contexts if context.as_scp]
        return {cx.context_id or 0: (str(cx.abstract_syntax), str(cx.transfer_syntax[0])) for cx in accepted}

    def longest_pdu(self) -> int:
        """Return what the peer announced."""
        return self._assoc.requestor.maximum_length or 0

    def send(self, pdu: bytes) -> None:
        """Send from the provider's own thread, which alone writes to the socket."""
        if self._assoc.dul.socket is not None:
            self._assoc.dul.socket.send(pdu)

    def pass_on(self, context_id: int, value: bytes) -> None:
        """Do what action DT-2 of the state machine does."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, value))
        self._assoc.dimse.receive_primitive(primitive)

    def too_large(self) -> None:
        """Say so in the log."""
        self._assoc.refused("the data set of a message was too large", event="message_too_large")


class _WorkGate(threading.Event):
    """The ``Event`` that pauses an association's reactor, which also holds it until there is work.

    The reactor passes it once a round; a plain Event makes that a poll of 1,000 rounds a second per association.
    """

    def __init__(self) -> None:
        super().__init__()
        self._work = threading.Event()
        self.set()

    def set(self) -> None:
        """Let the reactor go on."""
        super().set()
        self._work.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Return when the reactor is not paused and has work, or after a short while to look at its timers."""
        self._work.wait(_IDLE_CHECK_S)
        self._work.clear()
        return super().wait(timeout)

    def notify(self) -> None:
        """Say that there is work."""
        self._work.set()


class StreamingAssociation(ReceivedAssociation):
    """An accepted association whose C-STORE requests are streamed to the spool."""

    def _replace_provider(self, ae: ApplicationEntity) -> None:
        self._gate = _WorkGate()
        self._reactor_checkpoint = self._gate
        self.dul = self._provider = StreamingProvider(self, self._open_sink)
        # The parent gave these to the provider that was just replaced.
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout

    def _open_sink(self, request: StoreRequest, transfer_syntax_uid: str) -> ObjectSink:
        return self.services.intake.open(request, transfer_syntax_uid, self.sender())

    def notify(self) -> None:
        """Wake the association's reactor."""
        self._gate.notify()

    def _end_unserved(self) -> None:
        self._provider.close()
        super()._end_unserved()
