"""Reads chosen top-level elements of an encoded data set without building one: what the receiver checks inline.

Receiving a CT image costs about half a millisecond of processor time; pydicom would spend as much again on its
header. A walk over the element headers (PS3.5 7.1) that skips the values needs a fifth of that, never touches
pixel data and reads a memory-mapped file of any size. Everything else in the package reads files with pydicom.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass

from dicom_qa_node.errors import Permanent

__all__ = ["BrokenDataSet", "Encoding", "Header", "default_text", "encoding_of", "scan"]

Buffer = bytes | bytearray | memoryview | mmap.mmap

_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO"}
    | {b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
_MAX_DEPTH = 32
_MAX_INFLATED_HEADER = 64 * 1024 * 1024
_INFLATE_STEP = 256 * 1024

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"


class BrokenDataSet(Permanent):
    """The bytes are not a data set in the transfer syntax they came in; the message says where it breaks."""


class _Truncated(BrokenDataSet):
    """The bytes end before the element does."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a transfer syntax encodes elements (PS3.5 A)."""

    implicit_vr: bool = False
    big_endian: bool = False
    deflated: bool = False


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return the encoding of a transfer syntax; every compressed one is explicit VR little endian."""
    return Encoding(
        implicit_vr=transfer_syntax_uid == _IMPLICIT_LITTLE,
        big_endian=transfer_syntax_uid == _EXPLICIT_BIG,
        deflated=transfer_syntax_uid == _DEFLATED,
    )


def default_text(value: bytes) -> str:
    """Return a value of the default character repertoire (PS3.5 6.1.1) without its padding.

    What does not belong to it becomes U+FFFD, NUL included: no database of the node must have to take that.
    """
    return value.decode("ascii", "replace").strip(" \0").replace("\0", "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True, slots=True)
class Header:
    """The raw values found, by tag, and whether pixel data follows them."""

    values: dict[int, bytes]
    big_endian: bool
    has_pixel_data: bool

    def text(self, tag: int) -> str:
        """Return a value of the default character repertoire without its padding, "" where it is absent."""
        return default_text(self.values.get(tag, b""))

    def integer(self, tag: int) -> int | None:
        """Return a value of VR IS (32 bits, PS3.5 6.2), None where it is absent or no such number."""
        try:
            number = int(self.text(tag)[:16])
        except ValueError:
            return None
        return number if -(2**31) <= number < 2**31 else None

    def unsigned_short(self, tag: int) -> int | None:
        """Return a value of VR US, None where it is absent."""
        value = self.values.get(tag, b"")
        return int.from_bytes(value, "big" if self.big_endian else "little") if len(value) == 2 else None


def scan(data: Buffer, start: int, encoding: Encoding, wanted: Collection[int]) -> Header:
    """Return the wanted top-level elements that stand before the pixel data.

    Parameters
    ----------
    data
        A buffer (often a memory-mapped file) whose data set begins at ``start`` and runs to its end.
    wanted
        Tags as ``(group << 16) | element``.

    Raises
    ------
    BrokenDataSet
        An element, pixel data included, runs past the end or is not an element at all.
    """
    if encoding.deflated:
        return _scan_deflated(data, start, wanted)
    walker = (_Implicit if encoding.implicit_vr else _Explicit)(data, big_endian=encoding.big_endian)
    header, position = walker.collect(start, wanted)
    if position > len(data):
        raise BrokenDataSet("the pixel data ends before its length")
    return header


def _scan_deflated(data: Buffer, start: int, wanted: Collection[int]) -> Header:
    """Inflate as much as the header needs (PS3.5 A.5) and no more, so that memory stays bounded."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = bytearray()
    pending = b""
    while True:
        if not pending:
            pending = bytes(data[start : start + _INFLATE_STEP])
            start += len(pending)
        exhausted = not pending
        try:
            plain += inflater.decompress(pending, max(_INFLATE_STEP, len(plain)))
        except zlib.error as error:
            raise BrokenDataSet(f"the data set cannot be inflated: {error}") from None
        pending = inflater.unconsumed_tail
        try:
            header, _ = _Explicit(plain, big_endian=False).collect(0, wanted)
            if header.has_pixel_data:
                return header
        except _Truncated:
            if len(plain) > _MAX_INFLATED_HEADER:
                raise
        if inflater.eof or exhausted:
            raise BrokenDataSet("the inflated data set ends before its pixel data")


class _Walker:
    """Steps from element to element; `_element` knows one encoding."""

    def __init__(self, data: Buffer, *, big_endian: bool) -> None:
        order = ">" if big_endian else "<"
        self._data = data
        self._end = len(data)
        self._big_endian = big_endian
        self._explicit_head = struct.Struct(f"{order}HH2sH").unpack_from
        self._implicit_head = struct.Struct(f"{order}HHL").unpack_from
        self._long_length = struct.Struct(f"{order}L").unpack_from

    def collect(self, position: int, wanted: Collection[int]) -> tuple[Header, int]:
        """Return the header, and where the pixel data (or else the last element) ends by its own length."""
        values: dict[int, bytes] = {}
        found = False
        data, end, element = self._data, self._end, self._element
        try:
            while position < end:
                tag, value, position = element(position, 0)
                if tag in _PIXEL_DATA:
                    found = True
                    break
                if position > end:
                    raise _Truncated(f"the data set ends inside element {tag:08X}")
                if tag in wanted:
                    values[tag] = bytes(data[value:position])
        except struct.error:
            raise _Truncated("the data set ends inside an element header") from None
        return Header(values, self._big_endian, found), position

    def _element(self, position: int, depth: int) -> tuple[int, int, int]:
        """Return tag, start of the value and start of the next element."""
        raise NotImplementedError

    def _after_sequence(self, position: int, depth: int) -> int:
        """Return what follows a sequence or encapsulated value of undefined length (PS3.5 7.5)."""
        if depth > _MAX_DEPTH:
            raise BrokenDataSet("sequences are nested too deeply")
        while True:
            group, number, length = self._implicit_head(self._data, position)
            position += 8
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM:
                raise BrokenDataSet(f"found {tag:08X} where a sequence item must be")
            position = self._after_item(position, depth + 1) if length == _UNDEFINED else position + length

    def _after_item(self, position: int, depth: int) -> int:
        while True:
            group, number, _ = self._implicit_head(self._data, position)
            if group << 16 | number == _ITEM_END:
                return position + 8
            _, _, position = self._element(position, depth)


class _Explicit(_Walker):
    def _element(self, position: int, depth: int) -> tuple[int, int, int]:
        group, number, vr, length = self._explicit_head(self._data, position)
        tag = group << 16 | number
        if vr in _SHORT_VRS:
            position += 8
            return tag, position, position + length
        if vr not in _LONG_VRS:
            raise BrokenDataSet(f"element {tag:08X} has no value representation")
        (length,) = self._long_length(self._data, position + 8)
        position += 12
        if length != _UNDEFINED:
            return tag, position, position + length
        if tag in _PIXEL_DATA and depth == 0:
            return tag, position, position
        # UN of undefined length holds an implicit VR little endian sequence (PS3.5 6.2.2).
        walker = _Implicit(self._data, big_endian=False) if vr == b"UN" else self
        return tag, position, walker._after_sequence(position, depth)


class _Implicit(_Walker):
    def _element(self, position: int, depth: int) -> tuple[int, int, int]:
        group, number, length = self._implicit_head(self._data, position)
        tag = group << 16 | number
        position += 8
        if length != _UNDEFINED:
            return tag, position, position + length
        if tag in _PIXEL_DATA and depth == 0:
            return tag, position, position
        return tag, position, self._after_sequence(position, depth)
