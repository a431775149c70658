"""Closes gaps of pynetdicom 3.0 for all who accept or request associations.

``tests/contracts/test_upstream_gaps.py`` fails for each that a newer pynetdicom closes itself.

It aborts at what PS3.8 asks to ignore, and fails over contexts without syntaxes, see `associate_pdus`: importing this
module has its decoder look over each PDU before. It holds PDUs and messages of any size in memory: `limit_received`.
Its reactor ends with an error where a user aborts an association that is just closing. And an association's reactor may
take the answer that `send_c_store` waits for: `pause_for_certain`.

The caller pauses the reactor by clearing an event, and takes its flag ``_is_paused`` for the proof. The reactor raises
the flag before it waits and lowers it after: preempted in between, it holds a flag from before the pause, goes on, and
reads the answer away. The caller then waits for its timeout. It happens where every core is busy.

And it checks each UID of an association request several times over, the same few hundred with every association: a
usual request of 128 contexts took 4 of its 6 ms so. What it makes of a UID is remembered.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydicom.uid import UID
from pynetdicom import pdu_items, pdu_primitives, presentation, utils
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.presentation import PresentationContext

from dicom_qa_node.dicom_io.associate_pdus import tolerated

__all__ = ["MOST_PDU_BYTES", "limit_messages", "limit_received", "pause_for_certain"]

MOST_PDU_BYTES = 1 << 20
"""The longest PDU that the node takes where it calls; its A-ASSOCIATE requests announce it."""
_MOST_MESSAGE_BYTES = 4 << 20
_UNRECOGNIZED_PDU = "Evt19"
# Fragments without a byte cost something, too.
_FRAGMENT_HEAD = 6


def pause_for_certain(association: Any) -> None:
    """Let the reactor of a pynetdicom association (as requestor) be paused for certain when it says so."""
    association._reactor_checkpoint = _Checkpoint(association)


class _Checkpoint(threading.Event):
    """The event that lets the reactor go; it keeps the flag of its association true to what the reactor does."""

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        self._flag_lock = threading.Lock()
        self.set()

    def clear(self) -> None:
        """Stop the reactor at its next look; a flag from before counts for nothing."""
        with self._flag_lock:
            super().clear()
            # A reactor that has ended takes nothing away, and would never raise it again.
            self._association._is_paused = not self._association.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Hold the reactor until the event is set; its flag is up exactly while it is held."""
        while True:
            with self._flag_lock:
                if self.is_set():
                    self._association._is_paused = False
                    return True
                self._association._is_paused = True
            if not super().wait(timeout) and timeout is not None:
                return False


def limit_received(association: Any) -> None:
    """Abort an association that the node has asked for at a PDU or message that is larger than any answer can be.

    To be called when its connection is open (``evt.EVT_CONN_OPEN``), before anything is read. Nothing is read after.
    """
    transport = association.dul.socket
    receive = transport.recv
    ended = threading.Event()

    def received(count: int) -> bytearray:
        if count > MOST_PDU_BYTES:
            association.dul.event_queue.put(_UNRECOGNIZED_PDU)
            ended.set()
        return bytearray() if ended.is_set() else receive(count)

    transport.recv = received
    limit_messages(association, ended.set)


def limit_messages(association: Any, on_excess: Callable[[], object] = lambda: None) -> None:
    """Abort an association at a message above 4 MiB, unless pynetdicom writes its data set to a file."""
    dimse, held = association.dimse, 0
    take = dimse.receive_primitive

    def taken(primitive: Any) -> None:
        nonlocal held
        if held > _MOST_MESSAGE_BYTES:
            return
        take(primitive)
        message = dimse.message
        if message is None or message._data_set_path is not None:
            held = 0
            return
        held += sum(len(value) + _FRAGMENT_HEAD for _, value in primitive.presentation_data_value_list)
        if held > _MOST_MESSAGE_BYTES:
            dimse.message = None
            association.dul.event_queue.put(_UNRECOGNIZED_PDU)
            on_excess()

    dimse.receive_primitive = taken


_decode_pdu = DULServiceProvider._decode_pdu


def _decode_tolerantly(self: Any, bytestream: bytearray) -> Any:
    """Decode a PDU; what had to be changed before stands in ``peer_deviations`` of the association."""
    pdu, notes = tolerated(bytes(bytestream))
    if notes:
        self.assoc.peer_deviations = notes
    return _decode_pdu(self, bytearray(pdu))


DULServiceProvider._decode_pdu = _decode_tolerantly  # type: ignore[method-assign]

_process_recv_primitive = DULServiceProvider._process_recv_primitive


def _take_primitive(self: Any) -> bool:
    """Take what the service user wants to send, unless the association has ended in the meantime."""
    if self.state_machine.current_state == "Sta13":
        with contextlib.suppress(queue.Empty):
            self.to_provider_queue.get_nowait()
        return False
    return _process_recv_primitive(self)


DULServiceProvider._process_recv_primitive = _take_primitive  # type: ignore[method-assign]
# A request to abort that was noticed twice, because another event stood before it: PS3.8 table 9-10 has no such cell.
TRANSITION_TABLE.setdefault(("Evt15", "Sta13"), "AA-6")

_LONGEST_UID = 64
_UIDS_REMEMBERED = 2048
_remembered_uid = lru_cache(_UIDS_REMEMBERED)(utils.set_uid)


def _short(value: object) -> bool:
    return isinstance(value, str | bytes) and len(value) <= _LONGEST_UID


def _set_uid(value: Any, *args: Any, **kwargs: Any) -> UID | None:
    """Check a UID as pynetdicom does, once; a refusal is not remembered, nor is anything longer than a UID."""
    return (_remembered_uid if _short(value) else utils.set_uid)(value, *args, **kwargs)


for _module in (pdu_items, pdu_primitives, presentation):
    _module.set_uid = _set_uid  # type: ignore[attr-defined]

_add_transfer_syntax = PresentationContext.add_transfer_syntax


@lru_cache(_UIDS_REMEMBERED)
def _added_by(syntax: str | bytes) -> tuple[UID, ...]:
    """Return what pynetdicom adds to a presentation context for this transfer syntax: one or nothing."""
    context = PresentationContext()
    _add_transfer_syntax(context, syntax)
    return tuple(context.transfer_syntax)


def _add_syntax(self: PresentationContext, syntax: Any) -> None:
    if not _short(syntax):
        _add_transfer_syntax(self, syntax)
        return
    for uid in _added_by(syntax):
        if uid not in self.transfer_syntax:
            self.transfer_syntax.append(uid)


PresentationContext.add_transfer_syntax = _add_syntax  # type: ignore[method-assign]
