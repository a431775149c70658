"""The Part 10 envelope around a received data set: who sent it, how it came, and a seal written when it was whole.

The data set follows the envelope byte for byte as received, in the transfer syntax that was negotiated. The
private information (0002,0102) of the envelope has a fixed length; sealing overwrites it in place with the
association, the time of receipt, and the SHA-256 and length of the data set. So a file rebuilds its own rows.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import struct
from dataclasses import dataclass

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet, Buffer, encoding_of, scan
from dicom_qa_node.domain.uids import derived_uid

__all__ = [
    "CHECKSUM_TAGS",
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "Checksum",
    "Envelope",
    "Origin",
    "StoredChecksum",
    "checksum_in",
    "open_envelope",
    "with_checksum",
]

IMPLEMENTATION_CLASS_UID = derived_uid("dicom-qa-node", "implementation")
IMPLEMENTATION_VERSION_NAME = "DICOM_QA_NODE_1"

_PRIVATE_CREATOR = derived_uid("dicom-qa-node", "seal")
_MAGIC_AT, _GROUP_AT = 128, 144
_SEAL_LENGTH = 256
_LONGEST_TEXT = 64
_EXPLICIT_LITTLE = encoding_of("1.2.840.10008.1.2.1")

_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010
_SENDING_AE, _RECEIVING_AE = 0x00020017, 0x00020018
_CREATOR, _PRIVATE = 0x00020100, 0x00020102
CHECKSUM_TAGS = (_CREATOR, _PRIVATE)
"""Elements of the File Meta Information that hold the checksum."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the association and the C-STORE request said before the first byte of the data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    association_id: str


@dataclass(frozen=True, slots=True)
class Checksum:
    """What is known when the last byte of the data set is there; ``size_bytes`` counts the data set only."""

    association_id: str
    received_at: dt.datetime
    sha256: str
    size_bytes: int

    def encode(self) -> bytes:
        """Return the value of (0002,0102), always of the same length."""
        text = json.dumps([self.association_id, self.received_at.isoformat(), self.sha256, self.size_bytes])
        return text.encode("ascii").ljust(_SEAL_LENGTH)


@dataclass(frozen=True, slots=True)
class Envelope:
    """The part of a file before its data set, which begins at ``data_start``; ``seal`` is None while incomplete."""

    origin: Origin
    checksum: Checksum | None
    data_start: int


def compose(origin: Origin) -> bytes:
    """Return preamble and File Meta Information (PS3.10 7.1) with room for the seal in its last bytes."""
    group = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _text(0x0002, b"UI", origin.sop_class_uid),
            _text(0x0003, b"UI", origin.sop_instance_uid),
            _text(0x0010, b"UI", origin.transfer_syntax_uid),
            _text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _text(0x0016, b"AE", origin.calling_ae),
            _text(0x0017, b"AE", origin.calling_ae),
            _text(0x0018, b"AE", origin.called_ae),
            _text(0x0100, b"UI", _PRIVATE_CREATOR),
            _element(0x0102, b"OB", b" " * _SEAL_LENGTH),
        )
    )
    return bytes(_MAGIC_AT) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(group)) + group


def checksum_offset(data_start: int) -> int:
    """Return where in the file the seal stands."""
    return data_start - _SEAL_LENGTH


def open_envelope(data: Buffer) -> Envelope:
    """Read the envelope of a file that `compose` began.

    Raises
    ------
    BrokenDataSet
        The file does not begin with such an envelope.
    """
    if bytes(data[_MAGIC_AT : _MAGIC_AT + 4]) != b"DICM" or len(data) < _GROUP_AT:
        raise BrokenDataSet("the file has no Part 10 envelope")
    (length,) = struct.unpack_from("<L", data, _GROUP_AT - 4)
    wanted = (_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX, _SENDING_AE, _RECEIVING_AE, _CREATOR, _PRIVATE)
    header = scan(bytes(data[_GROUP_AT : _GROUP_AT + length]), 0, _EXPLICIT_LITTLE, wanted)
    if header.text(_CREATOR) != _PRIVATE_CREATOR:
        raise BrokenDataSet("the file was not written by this receiver")
    checksum = _read_seal(header.values.get(_PRIVATE, b""))
    origin = Origin(
        sop_class_uid=header.text(_SOP_CLASS),
        sop_instance_uid=header.text(_SOP_INSTANCE),
        transfer_syntax_uid=header.text(_TRANSFER_SYNTAX),
        calling_ae=header.text(_SENDING_AE),
        called_ae=header.text(_RECEIVING_AE),
        association_id=checksum.association_id if checksum else "",
    )
    return Envelope(origin, checksum, _GROUP_AT + length)


@dataclass(frozen=True, slots=True)
class StoredChecksum:
    """SHA-256 and length of the data set that begins at ``data_start``, as they were written with it."""

    data_start: int
    sha256: str
    size_bytes: int


def checksum_in(data: Buffer) -> StoredChecksum | None:
    """Return the checksum that a file carries in its File Meta Information, None if it was written without one.

    Raises
    ------
    BrokenDataSet
        The file does not begin as it was written.
    """
    if bytes(data[_MAGIC_AT : _MAGIC_AT + 4]) != b"DICM" or len(data) < _GROUP_AT:
        raise BrokenDataSet("the file has no Part 10 envelope")
    (length,) = struct.unpack_from("<L", data, _GROUP_AT - 4)
    header = scan(bytes(data[_GROUP_AT : _GROUP_AT + length]), 0, _EXPLICIT_LITTLE, (_CREATOR, _PRIVATE))
    if header.text(_CREATOR) != _PRIVATE_CREATOR:
        return None
    try:
        *_, sha256, size_bytes = json.loads(header.values.get(_PRIVATE, b""))
        return StoredChecksum(_GROUP_AT + length, str(sha256), int(size_bytes))
    except (ValueError, TypeError):
        raise BrokenDataSet("the checksum cannot be read") from None


def with_checksum(file: bytes) -> bytes:
    """Return a Part 10 file with the checksum of its data set in its File Meta Information."""
    (length,) = struct.unpack_from("<L", file, _GROUP_AT - 4)
    data_start = _GROUP_AT + length
    data_set = file[data_start:]
    value = json.dumps(["", "", hashlib.sha256(data_set).hexdigest(), len(data_set)]).encode("ascii")
    added = _text(0x0100, b"UI", _PRIVATE_CREATOR) + _element(0x0102, b"OB", value.ljust(_SEAL_LENGTH))
    group_length = struct.pack("<L", length + len(added))
    return file[: _GROUP_AT - 4] + group_length + file[_GROUP_AT:data_start] + added + data_set


def _read_seal(value: bytes) -> Checksum | None:
    try:
        association_id, received_at, sha256, size_bytes = json.loads(value)
        return Checksum(str(association_id), dt.datetime.fromisoformat(received_at), str(sha256), int(size_bytes))
    except (ValueError, TypeError):
        return None


def _text(number: int, vr: bytes, text: str) -> bytes:
    value = text[:_LONGEST_TEXT].encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _element(number, vr, value)


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr == b"OB":
        return struct.pack("<HH2sHL", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value
