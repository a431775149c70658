"""Closes gaps of pynetdicom 3.0 for all who accept or request associations.

It aborts at what PS3.8 asks to ignore, see `associate_pdus`: importing this module has its decoder look over each PDU
before. And an association's reactor may take the answer that `send_c_store` waits for.

The caller pauses the reactor by clearing an event, and takes its flag ``_is_paused`` for the proof. The reactor raises
the flag before it waits and lowers it after: preempted in between, it holds a flag from before the pause, goes on, and
reads the answer away. The caller then waits for its timeout. It happens where every core is busy.
"""

from __future__ import annotations

import threading
from typing import Any

from pynetdicom.dul import DULServiceProvider

from dicom_qa_node.dicom_io.associate_pdus import tolerated

__all__ = ["pause_for_certain"]


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


_decode_pdu = DULServiceProvider._decode_pdu


def _decode_tolerantly(self: Any, bytestream: bytearray) -> Any:
    """Decode a PDU; what had to be changed before stands in ``peer_deviations`` of the association."""
    pdu, notes = tolerated(bytes(bytestream))
    if notes:
        self.assoc.peer_deviations = notes
    return _decode_pdu(self, bytearray(pdu))


DULServiceProvider._decode_pdu = _decode_tolerantly  # type: ignore[method-assign]
