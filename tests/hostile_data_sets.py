"""Data sets that are small to send and costly to read: what a peer may send to take a node's memory or time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from pydicom.uid import UID, CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

__all__ = ["HOSTILE", "Hostile", "deflate", "element", "head"]

Hostile = tuple[UID, Callable[[str], bytes]]
"""The transfer syntax, and what makes the data set of a SOP Instance UID."""

_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC")
_UNDEFINED = 0xFFFFFFFF
MIB = 1 << 20


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Return one element in Explicit VR Little Endian."""
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    if vr in _LONG:
        return struct.pack("<HH2sHL", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def head(uid: str, group_8: bytes = b"") -> bytes:
    """Return the identifying elements of a CT image; ``group_8`` stands among those of group 0008."""
    return (
        element(8, 0x16, b"UI", CTImageStorage.encode())
        + element(8, 0x18, b"UI", uid.encode())
        + element(8, 0x60, b"CS", b"CT")
        + group_8
        + element(0x10, 0x10, b"PN", b"A^B")
        + element(0x20, 0xD, b"UI", b"1.2.3.4")
        + element(0x20, 0xE, b"UI", uid.encode() + b".1")
    )


def _image(uid: str, group_8: bytes = b"") -> bytes:
    return head(uid, group_8) + element(0x7FE0, 0x10, b"OW", b"\0\0")


def _open_sequence(number: int = 0x1140) -> bytes:
    return struct.pack("<HH2sHL", 8, number, b"SQ", 0, _UNDEFINED)


_OPEN_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, _UNDEFINED)
_END_ITEM = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
_EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
_END_SEQUENCE = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
_EMPTY = struct.pack("<HH2sH", 9, 0x1001, b"LO", 0)


def deflate(*pieces: bytes) -> bytes:
    """Return the raw deflate stream of these pieces."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(map(compressor.compress, pieces)) + compressor.flush()


def _repeated(lead: bytes, piece: bytes, count: int, tail: bytes = b"") -> bytes:
    """Return the deflate stream of ``piece`` many times over, which is compressed once."""
    closed = [_flushed(part) for part in (lead, piece)]
    return closed[0] + closed[1] * count + deflate(tail)


def _flushed(piece: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(piece) + compressor.flush(zlib.Z_FULL_FLUSH)


def _deflated_empty_elements(uid: str) -> bytes:
    return _repeated(head(uid), _EMPTY * (MIB // 8), 256)


def _deflated_full_elements(uid: str) -> bytes:
    """Return elements whose ends fall on every step of an inflater: 2.9 GB from 2.9 MB."""
    lead = head(uid)
    lead += element(9, 0x1010, b"LT", b" " * (65536 - len(lead) - 8))
    return _repeated(lead, element(9, 0x1001, b"LT", b" " * 65528) * 16, 2900)


def _deflated_nested(uid: str) -> bytes:
    return _repeated(head(uid) + _open_sequence() + _OPEN_ITEM, _EMPTY * (MIB // 8), 256, _END_ITEM + _END_SEQUENCE)


def _deflated_items(uid: str) -> bytes:
    return _repeated(head(uid) + _open_sequence(), _EMPTY_ITEM * (MIB // 8), 256, _END_SEQUENCE)


def _deflated_long_value(uid: str) -> bytes:
    return _repeated(head(uid) + struct.pack("<HH2sHL", 9, 0x1001, b"OB", 0, 2 << 30), bytes(MIB), 2048)


HOSTILE: dict[str, Hostile] = {
    "empty elements": (ExplicitVRLittleEndian, lambda uid: _image(uid, _EMPTY * 4_000_000)),
    "empty items": (
        ExplicitVRLittleEndian, lambda uid: _image(uid, _open_sequence() + _EMPTY_ITEM * 4_000_000 + _END_SEQUENCE)
    ),
    "empty elements in an item": (
        ExplicitVRLittleEndian,
        lambda uid: _image(uid, _open_sequence() + _OPEN_ITEM + _EMPTY * 4_000_000 + _END_ITEM + _END_SEQUENCE),
    ),
    "nested 10,000 deep": (
        ExplicitVRLittleEndian, lambda uid: _image(uid, (_open_sequence() + _OPEN_ITEM) * 10_000)
    ),
    "character set of 60 MB": (
        ExplicitVRLittleEndian,
        lambda uid: element(8, 5, b"UN", b"\\ISO 2022 IR 87" * (4 * MIB)) + _image(uid),
    ),
    "description of 40 MB": (
        ExplicitVRLittleEndian, lambda uid: _image(uid, element(8, 0x1030, b"UN", b"A" * (40 * MIB)))
    ),
    "length of 4 GB": (
        ExplicitVRLittleEndian,
        lambda uid: _image(uid, struct.pack("<HH2sHL", 9, 0x1001, b"OB", 0, 0xFFFFFFF0)),
    ),
    "pixel data of 4 GB": (
        ExplicitVRLittleEndian,
        lambda uid: head(uid) + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 0xFFFFFFF0),
    ),
    "deflated empty elements": (DeflatedExplicitVRLittleEndian, _deflated_empty_elements),
    "deflated elements of 64 KiB": (DeflatedExplicitVRLittleEndian, _deflated_full_elements),
    "deflated elements in an item": (DeflatedExplicitVRLittleEndian, _deflated_nested),
    "deflated items": (DeflatedExplicitVRLittleEndian, _deflated_items),
    "deflated value of 2 GB": (DeflatedExplicitVRLittleEndian, _deflated_long_value),
}  # fmt: skip
