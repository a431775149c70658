"""Reads chosen top-level elements of an encoded data set without building one: what the receiver checks inline.

Receiving a CT image costs about half a millisecond of processor time; pydicom would spend as much again on its
header. A walk over the element headers (PS3.5 7.1) that skips the values needs a fifth of that, never touches
pixel data and reads a memory-mapped file of any size. Everything else in the package reads files with pydicom.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from dataclasses import dataclass

from dicom_qa_node.dicom_io.deflated import InflatedStream, InflationEnded, InflationFailed, InflationLimit, chunks_of
from dicom_qa_node.domain.errors import Permanent

__all__ = [
    "BrokenDataSet",
    "Encoding",
    "Header",
    "HeaderBudget",
    "HeaderTooCostly",
    "UnknownVr",
    "check_items",
    "default_text",
    "encoding_of",
    "read_inflated_header",
    "scan",
]

Buffer = bytes | bytearray | memoryview | mmap.mmap

_MOST_UNKNOWN_VRS = 8
_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNDEFINED = 0xFFFFFFFF
_CHARACTER_SET = 0x00080005
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO"}
    | {b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
_LONGEST_VALUE = 64 * 1024
_MOST_TOP_LEVEL = 32_768
_MOST_NESTED = 1_000_000
_DEEPEST = 32
_MOST_INFLATED_BYTES = 64 << 20

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"


class BrokenDataSet(Permanent):
    """The bytes are not a data set in the transfer syntax they came in; the message says where it breaks."""


class HeaderTooCostly(BrokenDataSet):
    """The header exceeds its `HeaderBudget`; reading stopped there."""


@dataclass(frozen=True, slots=True)
class HeaderBudget:
    """What reading one header may cost, fixed before its first byte is looked at.

    Parameters
    ----------
    top_level
        Data elements outside of sequences.
    nested
        Data elements and items inside sequences of undefined length. An enhanced image of 20,000 frames has about a
        million.
    depth
        Levels of sequences in sequences.
    inflated_bytes
        Bytes that may come out of a deflated data set before its pixel data.
    """

    top_level: int = _MOST_TOP_LEVEL
    nested: int = _MOST_NESTED
    depth: int = _DEEPEST
    inflated_bytes: int = _MOST_INFLATED_BYTES

    @classmethod
    def for_received(cls, size_bytes: int, *, deflated: bool) -> HeaderBudget:
        """Return the budget of a data set of this size.

        How many elements a few deflated kilobytes may hold is in proportion to them: the densest real headers, those of
        enhanced images, have one for two bytes. Inflating itself costs 0.2 s at most.
        """
        if not deflated:
            return cls()
        return cls(
            top_level=min(_MOST_TOP_LEVEL, 4096 + size_bytes),
            nested=min(_MOST_NESTED, 4096 + size_bytes),
        )


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
class UnknownVr:
    """An element under a VR that PS3.5 does not know: ``offset`` is that of the VR in the buffer.

    Its length field is long (32 bits) under two capital letters, as PS3.5 7.1.2 has it for future VRs, and short under
    anything else, as DCMTK reads it.
    """

    tag: int
    offset: int
    long_form: bool


@dataclass(frozen=True, slots=True)
class Header:
    """The raw values found, by tag, and whether pixel data follows them.

    ``pixel_bytes`` is the length that the pixel data of a deflated data set gives itself, 0 where it is not read.
    ``unknown_vrs`` are the elements whose value representation PS3.5 does not know.
    """

    values: dict[int, bytes]
    big_endian: bool
    has_pixel_data: bool
    pixel_bytes: int = 0
    unknown_vrs: tuple[UnknownVr, ...] = ()

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

    What it costs has a bound in proportion to the size of ``data``: see `HeaderBudget`.

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
    HeaderTooCostly
        The header exceeds its budget, or a wanted value is longer than 64 KiB.
    """
    budget = HeaderBudget.for_received(len(data) - start, deflated=encoding.deflated)
    if encoding.deflated:
        return read_inflated_header(InflatedStream(chunks_of(data, start), budget.inflated_bytes), wanted, budget)
    kind = _Implicit if encoding.implicit_vr else _Explicit
    header, position = kind(data, _Meter(budget), big_endian=encoding.big_endian).collect(start, wanted)
    if position > len(data):
        raise BrokenDataSet("the pixel data ends before its length")
    return header


def check_items(value: bytes, *, implicit_vr: bool, big_endian: bool, budget: HeaderBudget | None = None) -> None:
    """Count the items of a sequence of defined length, and the elements in them, before somebody decodes them.

    Raises
    ------
    HeaderTooCostly
        They are too many. Bytes that are not items are left to whoever decodes them.
    """
    walker = (_Implicit if implicit_vr else _Explicit)(value, _Meter(budget or HeaderBudget()), big_endian=big_endian)
    try:
        walker.count_items()
    except HeaderTooCostly:
        raise
    except (BrokenDataSet, struct.error):
        return


def read_inflated_header(stream: InflatedStream, wanted: Collection[int], budget: HeaderBudget) -> Header:
    """Read a deflated data set up to its pixel data; raises as `scan` does."""
    try:
        return _Streamed(stream, _Meter(budget)).collect(wanted)
    except InflationEnded:
        raise BrokenDataSet("the inflated data set ends before its pixel data") from None
    except InflationFailed as error:
        raise BrokenDataSet(f"the data set cannot be inflated: {error}") from None
    except InflationLimit:
        raise HeaderTooCostly("the header inflates to more than 64 MiB") from None


class _Meter:
    """Counts what one walk has cost."""

    __slots__ = ("depth", "nested", "top_level")

    def __init__(self, budget: HeaderBudget) -> None:
        self.top_level, self.nested, self.depth = budget.top_level, budget.nested, budget.depth

    def step(self, depth: int) -> None:
        """Count an element or item inside a sequence."""
        self.nested -= 1
        if self.nested < 0:
            raise HeaderTooCostly("the header has too many elements inside sequences")
        if depth > self.depth:
            raise HeaderTooCostly("sequences are nested too deeply")


def _checked_length(tag: int, length: int) -> None:
    if length > _LONGEST_VALUE:
        raise HeaderTooCostly(f"element {tag:08X} is {length} bytes long")


class _Walker:
    """Steps from element to element of a buffer; `_element` knows one encoding."""

    def __init__(self, data: Buffer, meter: _Meter, *, big_endian: bool) -> None:
        order = ">" if big_endian else "<"
        self._data = data
        self._unknown: list[UnknownVr] = []
        self._meter = meter
        self._end = len(data)
        self._big_endian = big_endian
        self._explicit_head = struct.Struct(f"{order}HH2sH").unpack_from
        self._implicit_head = struct.Struct(f"{order}HHL").unpack_from
        self._long_length = struct.Struct(f"{order}L").unpack_from

    def collect(self, position: int, wanted: Collection[int]) -> tuple[Header, int]:
        """Return the header, and where the pixel data (or else the last element) ends by its own length."""
        values: dict[int, bytes] = {}
        data, end, element, before = self._data, self._end, self._element, 0
        try:
            for _ in range(self._meter.top_level):
                if position >= end:
                    return Header(values, self._big_endian, has_pixel_data=False), position
                tag, value, position = element(position, 0)
                if tag in _PIXEL_DATA:
                    unknown = tuple(self._unknown)
                    return Header(values, self._big_endian, has_pixel_data=True, unknown_vrs=unknown), position
                if position > end:
                    raise BrokenDataSet(f"the data set ends inside element {tag:08X}")
                if self._unknown and self._unknown[-1].tag == tag and (tag in wanted or tag <= before):
                    raise BrokenDataSet(f"element {tag:08X} has no value representation")
                before = tag
                if tag in wanted:
                    _checked_length(tag, position - value)
                    values[tag] = bytes(data[value:position])
        except struct.error:
            raise BrokenDataSet("the data set ends inside an element header") from None
        raise HeaderTooCostly(f"the header has more than {self._meter.top_level} elements")

    def _element(self, position: int, depth: int) -> tuple[int, int, int]:
        """Return tag, start of the value and start of the next element."""
        raise NotImplementedError

    def _after_sequence(self, position: int, depth: int) -> int:
        """Return what follows a sequence or encapsulated value of undefined length (PS3.5 7.5)."""
        while True:
            self._meter.step(depth)
            group, number, length = self._implicit_head(self._data, position)
            position += 8
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM:
                raise BrokenDataSet(f"found {tag:08X} where a sequence item must be")
            position = self._after_item(position, depth + 1) if length == _UNDEFINED else position + length

    def count_items(self) -> None:
        """Walk over a buffer that holds items of any length, one after another."""
        position = 0
        while position < self._end:
            self._meter.step(0)
            _, _, length = self._implicit_head(self._data, position)
            position += 8
            if length == _UNDEFINED:
                position = self._after_item(position, 1)
                continue
            end = position + length
            while position < min(end, self._end):
                self._meter.step(1)
                _, _, position = self._element(position, 1)
            position = end

    def _after_item(self, position: int, depth: int) -> int:
        while True:
            group, number, _ = self._implicit_head(self._data, position)
            if group << 16 | number == _ITEM_END:
                return position + 8
            self._meter.step(depth)
            tag, value, position = self._element(position, depth)
            if tag == _CHARACTER_SET:
                _checked_length(tag, position - value)


class _Explicit(_Walker):
    def _note_unknown(self, tag: int, offset: int, long_form: bool) -> None:
        # More than a few, or one that belongs to the structure, are not an oddity of an element: the bytes are damaged.
        structural = tag in _PIXEL_DATA or tag >> 16 in (0x0000, 0x0002, 0xFFFE)
        if structural or len(self._unknown) == _MOST_UNKNOWN_VRS:
            raise BrokenDataSet(f"element {tag:08X} has no value representation")
        self._unknown.append(UnknownVr(tag, offset, long_form))

    def _element(self, position: int, depth: int) -> tuple[int, int, int]:
        group, number, vr, length = self._explicit_head(self._data, position)
        tag = group << 16 | number
        if vr in _SHORT_VRS:
            position += 8
            return tag, position, position + length
        if vr not in _LONG_VRS:
            long_form = vr.isalpha() and vr.isupper()
            self._note_unknown(tag, position + 4, long_form)
            if not long_form:
                position += 8
                return tag, position, position + length
        (length,) = self._long_length(self._data, position + 8)
        position += 12
        if length != _UNDEFINED:
            return tag, position, position + length
        if tag in _PIXEL_DATA and depth == 0:
            return tag, position, position
        # UN of undefined length holds an implicit VR little endian sequence (PS3.5 6.2.2).
        walker = _Implicit(self._data, self._meter, big_endian=False) if vr == b"UN" else self
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


class _Streamed:
    """The same walk over a deflated data set, whose bytes can be read once only."""

    def __init__(self, stream: InflatedStream, meter: _Meter) -> None:
        self._stream = stream
        self._meter = meter

    def collect(self, wanted: Collection[int]) -> Header:
        """Return the header; the stream is then at the value of the pixel data."""
        values: dict[int, bytes] = {}
        for _ in range(self._meter.top_level):
            tag, vr, length = self._head(implicit=False)
            if tag in _PIXEL_DATA:
                return Header(values, big_endian=False, has_pixel_data=True, pixel_bytes=length)
            if length == _UNDEFINED:
                self._sequence(0, implicit=vr == b"UN")
            elif tag in wanted:
                _checked_length(tag, length)
                values[tag] = self._stream.read(length)
            else:
                self._stream.skip(length)
        raise HeaderTooCostly(f"the header has more than {self._meter.top_level} elements")

    def _head(self, *, implicit: bool) -> tuple[int, bytes, int]:
        """Read tag, value representation (empty where implicit) and length of an element."""
        group, number, vr, length = _EXPLICIT_HEAD(self._stream.read(8))
        tag = group << 16 | number
        if implicit or group == 0xFFFE:
            return tag, b"", int.from_bytes(vr, "little") | length << 16
        if vr in _SHORT_VRS:
            return tag, vr, length
        if vr not in _LONG_VRS:
            raise BrokenDataSet(f"element {tag:08X} has no value representation")
        return tag, vr, int.from_bytes(self._stream.read(4), "little")

    def _sequence(self, depth: int, *, implicit: bool) -> None:
        while True:
            self._meter.step(depth)
            tag, _, length = self._head(implicit=True)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise BrokenDataSet(f"found {tag:08X} where a sequence item must be")
            if length == _UNDEFINED:
                self._item(depth + 1, implicit=implicit)
            else:
                self._stream.skip(length)

    def _item(self, depth: int, *, implicit: bool) -> None:
        while True:
            tag, vr, length = self._head(implicit=implicit)
            if tag == _ITEM_END:
                return
            self._meter.step(depth)
            if tag == _CHARACTER_SET:
                _checked_length(tag, length)
            if length == _UNDEFINED:
                self._sequence(depth, implicit=implicit or vr == b"UN")
            else:
                self._stream.skip(length)


_EXPLICIT_HEAD = struct.Struct("<HH2sH").unpack
