"""Messages beside C-STORE: held until they are whole, then given to pynetdicom.

pynetdicom would hold any size. What is larger than its service can need is read past, up to a limit, and answered with
the failure of its service (PS3.4 tables C.4-1 to C.4-3, PS3.7 10.1): the peer keeps its association and learns why.
"""

from __future__ import annotations

import struct

from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.receive.fastpath import command_sets

__all__ = ["MOST_HELD_BYTES", "MOST_READ_PAST_BYTES", "OtherMessage"]

MOST_HELD_BYTES = 4 << 20
"""The largest data set of a query, a retrieval or a notification: 60,000 UIDs fill it."""
MOST_READ_PAST_BYTES = 64 << 20
"""What is read of a larger one before its association is aborted."""

# Fragments without a byte cost something, too.
_FRAGMENT_HEAD = 6
_OUT_OF_RESOURCES, _MATCHES_NOT_COUNTED, _RESOURCE_LIMITATION = 0xA700, 0xA701, 0x0213
_FAILURES = {
    command_sets.C_FIND_RQ: _OUT_OF_RESOURCES,
    command_sets.C_GET_RQ: _MATCHES_NOT_COUNTED,
    command_sets.C_MOVE_RQ: _MATCHES_NOT_COUNTED,
    command_sets.N_ACTION_RQ: _RESOURCE_LIMITATION,
    command_sets.N_EVENT_REPORT_RQ: _RESOURCE_LIMITATION,
}
_COMMENT = f"the data set is larger than {MOST_HELD_BYTES >> 20} MiB"


class OtherMessage:
    """One message whose data set comes in fragments; ``elements`` are the decoded ones of its command set."""

    def __init__(self, encoded: bytes, elements: dict[int, bytes]) -> None:
        self._encoded, self._elements = encoded, elements
        self._data_set = bytearray()
        self._received = 0

    @property
    def too_large(self) -> bool:
        """Whether the data set is no longer held but read past."""
        return self._received > MOST_HELD_BYTES

    def accepts(self, length: int) -> bool:
        """Count a fragment that is announced; False if the association has to end.

        A command without a failure for it, such as C-ECHO, has no data set of this size at all.
        """
        self._received += length + _FRAGMENT_HEAD
        if not self.too_large:
            return True
        self._data_set.clear()
        return self._received <= MOST_READ_PAST_BYTES and command_sets.command_field(self._elements) in _FAILURES

    def add(self, value: bytes) -> None:
        """Hold what a fragment brought."""
        self._data_set += value

    def fragments(self) -> tuple[bytes, bytes]:
        """Return command set and data set, each in one fragment with its control header."""
        command = bytes([command_sets.COMMAND | command_sets.LAST])
        return command + self._encoded, bytes([command_sets.LAST]) + self._data_set

    def refusal(self) -> bytes:
        """Return the encoded command set of the answer to a message that is too large."""
        elements, field = self._elements, command_sets.command_field(self._elements)
        sop_class = elements.get(
            command_sets.AFFECTED_SOP_CLASS_UID, elements.get(command_sets.REQUESTED_SOP_CLASS_UID)
        )
        instance = elements.get(
            command_sets.AFFECTED_SOP_INSTANCE_UID, elements.get(command_sets.REQUESTED_SOP_INSTANCE_UID)
        )
        values = {
            command_sets.AFFECTED_SOP_CLASS_UID: _uid(sop_class),
            command_sets.COMMAND_FIELD: struct.pack("<H", field | command_sets.RESPONSE),
            command_sets.MESSAGE_ID_BEING_RESPONDED_TO: elements.get(command_sets.MESSAGE_ID, bytes(2)),
            command_sets.COMMAND_DATA_SET_TYPE: struct.pack("<H", command_sets.NO_DATA_SET),
            command_sets.STATUS: struct.pack("<H", _FAILURES[field]),
            command_sets.ERROR_COMMENT: _COMMENT.encode("ascii") + b" " * (len(_COMMENT) % 2),
            command_sets.AFFECTED_SOP_INSTANCE_UID: _uid(instance),
        }
        return command_sets.encode({number: value for number, value in values.items() if value})


def _uid(value: bytes | None) -> bytes:
    """Return a UID as it came; what is not one is not sent back."""
    return value if value and is_uid(value.rstrip(b"\0").decode("ascii", "replace")) else b""
