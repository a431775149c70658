"""The two DIMSE command sets on the hot path: C-STORE-RQ read, C-STORE-RSP written (PS3.7 9.3.1).

pynetdicom encodes and decodes command sets through pydicom data sets, 0.4 ms for the pair; every other command
still goes that way. A command set is implicit VR little endian, whatever was negotiated (PS3.7 6.3.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_qa_node.dicom_io.element_scanner import default_text
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.receive.store_status import Answer

__all__ = [
    "MalformedCommand",
    "StoreRequest",
    "command_field",
    "decode",
    "encode",
    "encode_store_response",
    "has_data_set",
    "store_request",
]

C_STORE_RQ = 0x0001
C_GET_RQ, C_FIND_RQ, C_MOVE_RQ = 0x0010, 0x0020, 0x0021
N_EVENT_REPORT_RQ, N_ACTION_RQ = 0x0100, 0x0130
RESPONSE = 0x8000
"""The bit of the Command Field that makes a response of a request."""
NO_DATA_SET = 0x0101

#: Bits of the message control header of a presentation data value (PS3.8 E.2).
COMMAND, LAST = 0x01, 0x02

_GROUP_LENGTH = 0x0000
AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
COMMAND_DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001

_HEAD = struct.Struct("<HHL")


class MalformedCommand(Exception):
    """The bytes are not a command set; the association is aborted (PS3.8 9.3.1)."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ; the UIDs are as the peer wrote them, not yet checked."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


def decode(command_set: bytes) -> dict[int, bytes]:
    """Return the raw values of a command set by element number."""
    elements: dict[int, bytes] = {}
    position, end = 0, len(command_set)
    while position < end:
        if end - position < _HEAD.size:
            raise MalformedCommand("the command set ends inside an element")
        group, number, length = _HEAD.unpack_from(command_set, position)
        position += _HEAD.size
        if group != 0 or length > end - position:
            raise MalformedCommand("the command set has an element outside group 0000")
        elements[number] = command_set[position : position + length]
        position += length
    return elements


def command_field(elements: dict[int, bytes]) -> int:
    """Return the Command Field (0000,0100)."""
    return _unsigned_short(elements, COMMAND_FIELD)


def has_data_set(elements: dict[int, bytes]) -> bool:
    """Return whether a data set follows the command set."""
    return _unsigned_short(elements, COMMAND_DATA_SET_TYPE) != NO_DATA_SET


def store_request(elements: dict[int, bytes]) -> StoreRequest:
    """Read a C-STORE-RQ."""
    return StoreRequest(
        message_id=_unsigned_short(elements, MESSAGE_ID),
        sop_class_uid=_uid(elements, AFFECTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(elements, AFFECTED_SOP_INSTANCE_UID),
        has_data_set=has_data_set(elements),
    )


def encode_store_response(request: StoreRequest, answer: Answer) -> bytes:
    """Return the C-STORE-RSP to ``request`` as an encoded command set."""
    values = {
        AFFECTED_SOP_CLASS_UID: _echoed(request.sop_class_uid),
        COMMAND_FIELD: _short(C_STORE_RQ | RESPONSE),
        MESSAGE_ID_BEING_RESPONDED_TO: _short(request.message_id),
        COMMAND_DATA_SET_TYPE: _short(NO_DATA_SET),
        STATUS: _short(answer.status),
        ERROR_COMMENT: _even(answer.comment, b" "),
        AFFECTED_SOP_INSTANCE_UID: _echoed(request.sop_instance_uid),
    }
    return encode({number: value for number, value in values.items() if value})


def encode(elements: dict[int, bytes]) -> bytes:
    """Return a command set of these values, in the order of their element numbers."""
    body = b"".join(_element(number, value) for number, value in elements.items())
    return _element(_GROUP_LENGTH, struct.pack("<L", len(body))) + body


def _unsigned_short(elements: dict[int, bytes], number: int) -> int:
    value = elements.get(number, b"")
    if len(value) != 2:
        raise MalformedCommand(f"the command set lacks element (0000,{number:04X})")
    return int.from_bytes(value, "little")


def _uid(elements: dict[int, bytes], number: int) -> str:
    return default_text(elements.get(number, b""))


def _echoed(uid: str) -> bytes:
    """Return an optional UID of the answer; what is not a UID is not sent back."""
    return _even(uid, b"\0") if is_uid(uid) else b""


def _element(number: int, value: bytes) -> bytes:
    return _HEAD.pack(0, number, len(value)) + value


def _short(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _even(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding if len(value) % 2 else value
