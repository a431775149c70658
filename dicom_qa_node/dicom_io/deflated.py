"""Reads deflated data sets (PS3.5 A.5) forward and within a limit, so that a few bytes never become gigabytes."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

__all__ = [
    "InflatedStream",
    "InflationEnded",
    "InflationFailed",
    "InflationLimit",
    "chunks_of",
    "file_chunks",
    "inflated",
]

_CHUNK_BYTES = 256 * 1024
_STEP_BYTES = 256 * 1024


class InflationFailed(Exception):
    """The bytes are not a deflate stream."""


class InflationEnded(InflationFailed):
    """The deflate stream ends before the bytes that were asked for."""


class InflationLimit(Exception):
    """More bytes would come out than the limit allows."""


class InflatedStream:
    """The plain bytes of a raw deflate stream, read from front to back; memory is constant.

    Parameters
    ----------
    compressed
        The stream in pieces.
    limit_bytes
        How many plain bytes may be produced; the byte after raises `InflationLimit`.
    """

    def __init__(self, compressed: Iterable[bytes], limit_bytes: int) -> None:
        self._compressed = iter(compressed)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._pending = b""
        self._plain = b""
        self._start = 0
        self._left = limit_bytes

    def read(self, count: int) -> bytes:
        """Return exactly ``count`` bytes.

        Raises
        ------
        InflationFailed, InflationEnded, InflationLimit
            They cannot be had.
        """
        end = self._start + count
        if end <= len(self._plain):
            found = self._plain[self._start : end]
            self._start = end
            return found
        pieces = [self._plain[self._start :]]
        missing = count - len(pieces[0])
        while missing > 0:
            self._inflate()
            pieces.append(self._plain[:missing])
            missing -= len(pieces[-1])
        self._start = len(pieces[-1])
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes; raises as `read` does."""
        self._start += count
        while self._start > len(self._plain):
            self._start -= len(self._plain)
            self._inflate(keep_start=True)

    def available(self) -> bytes:
        """Return at least one byte, and as many as are at hand; raises as `read` does."""
        if self._start == len(self._plain):
            self._inflate()
        found = self._plain[self._start :] if self._start else self._plain
        self._start = len(self._plain)
        return found

    def _inflate(self, *, keep_start: bool = False) -> None:
        """Replace the plain bytes at hand, all of which were read, by the next ones."""
        self._plain, self._start = b"", self._start if keep_start else 0
        while True:
            if self._inflater.eof:
                raise InflationEnded("the deflate stream ends too early")
            pending = self._pending or next(self._compressed, b"")
            try:
                plain = self._inflater.decompress(pending, _STEP_BYTES)
            except zlib.error as error:
                raise InflationFailed(str(error)) from None
            self._pending = self._inflater.unconsumed_tail
            if plain:
                break
            if not pending:
                raise InflationEnded("the deflate stream is cut off")
        self._left -= len(plain)
        if self._left < 0:
            raise InflationLimit("the data set inflates to more bytes than it may")
        self._plain = plain


def chunks_of(data: memoryview | bytes | bytearray | mmap.mmap, start: int = 0) -> Iterator[bytes]:
    """Yield a buffer (or a memory-mapped file) from ``start`` in pieces."""
    for position in range(start, len(data), _CHUNK_BYTES):
        yield bytes(data[position : position + _CHUNK_BYTES])


def file_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file in pieces."""
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def inflated(compressed: bytes, limit_bytes: int) -> bytes:
    """Return a whole deflate stream as plain bytes.

    Raises
    ------
    InflationFailed, InflationLimit
        It is damaged, or longer than ``limit_bytes``.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(compressed, limit_bytes + 1)
    except zlib.error as error:
        raise InflationFailed(str(error)) from None
    if len(plain) > limit_bytes:
        raise InflationLimit(f"the data set inflates to more than {limit_bytes} bytes")
    if not inflater.eof:
        raise InflationEnded("the deflate stream is cut off")
    return plain
