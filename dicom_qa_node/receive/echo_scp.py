"""The verification service (PS3.4 annex A)."""

from __future__ import annotations

from pynetdicom.events import Event

from dicom_qa_node.receive.status import Status

__all__ = ["handle_echo"]


def handle_echo(event: Event) -> int:
    """Serve ``evt.EVT_C_ECHO``: the node is there and takes associations."""
    return int(Status.SUCCESS)
