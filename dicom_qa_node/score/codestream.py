"""Reads the size that a compressed picture gives itself, so that no decoder is asked for one of any other size."""

from __future__ import annotations

import struct

__all__ = ["size_of"]

_JPEG_START = b"\xff\xd8"
_JPEG2000_START = b"\xff\x4f\xff\x51"
_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 codestream; None for others and for broken ones."""
    if data.startswith(_JPEG_START):
        return _jpeg(data)
    if data.startswith(_JPEG2000_START):
        return _jpeg2000(data)
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Walk the marker segments to the frame header (ISO/IEC 10918-1 B.2.2, ISO/IEC 14495-1 C.2.2)."""
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", data, position + 5)
            return rows, columns
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return None


def _jpeg2000(data: bytes) -> tuple[int, int] | None:
    """Read the SIZ segment (ISO/IEC 15444-1 A.5.1)."""
    if len(data) < 24:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    return bottom - top, right - left
