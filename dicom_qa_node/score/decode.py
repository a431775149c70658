"""Decodes stored pixels: native frames straight from the file, compressed ones by pydicom's decoders."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder

from dicom_qa_node.deflated import InflationFailed, InflationLimit
from dicom_qa_node.dicom_files import MOST_HEADER_BYTES, inflated_data_set
from dicom_qa_node.score.attributes import BROKEN_VALUE, tolerant
from dicom_qa_node.score.codestream import size_of
from dicom_qa_node.score.headers import PixelFormat
from dicom_qa_node.spool.header import BrokenDataSet, HeaderBudget, read_inflated_header

__all__ = [
    "BrokenPixels",
    "Codestream",
    "StoredArray",
    "codestreams",
    "decode_codestream",
    "inflated_frames",
    "native_frame",
]

StoredArray = npt.NDArray[np.integer[Any]]

_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"UN")
_FAILURES = (
    *BROKEN_VALUE, RuntimeError, OSError, EOFError, MemoryError, struct.error, zlib.error, InflationFailed,
    InflationLimit, BrokenDataSet,
)  # fmt: skip


class BrokenPixels(Exception):
    """The pixels of a slice cannot be decoded; the text says why."""


@dataclass(frozen=True, slots=True)
class Codestream:
    """One compressed frame, and how its pixels are to be read."""

    data: bytes
    pixels: PixelFormat


def native_frame(pixels: PixelFormat, frame: int) -> StoredArray:
    """Read one uncompressed frame (counted from 0) of a file that is not deflated, shape (rows, columns).

    Raises
    ------
    BrokenPixels
        The pixel data are missing or end too early.
    """
    end = (frame + 1) * pixels.frame_bytes
    try:
        with _pixel_data(pixels) as (file, length):
            if length < end:
                raise BrokenPixels(f"its pixel data hold {length} bytes of {end}")
            file.seek(frame * pixels.frame_bytes, 1)
            data = file.read(pixels.frame_bytes)
    except _FAILURES as error:
        raise BrokenPixels("its pixel data cannot be read") from error
    if len(data) < pixels.frame_bytes:
        raise BrokenPixels(f"its pixel data end {pixels.frame_bytes - len(data)} bytes too early")
    return _as_frame(data, pixels)


def inflated_frames(pixels: PixelFormat) -> Iterator[StoredArray]:
    """Yield the frames of a deflated file in order, each of shape (rows, columns).

    The file is inflated once and no further than the header says that there are pixels.

    Raises
    ------
    BrokenPixels
        The pixel data are missing or end too early.
    """
    limit = MOST_HEADER_BYTES + pixels.frames * pixels.frame_bytes
    try:
        with pixels.path.open("rb") as file:
            _, _, stream = inflated_data_set(file, limit)
            held = read_inflated_header(stream, (), HeaderBudget()).pixel_bytes
            for frame in range(pixels.frames):
                if held < (frame + 1) * pixels.frame_bytes:
                    raise BrokenPixels(f"its pixel data hold {held} bytes of {(frame + 1) * pixels.frame_bytes}")
                yield _as_frame(stream.read(pixels.frame_bytes), pixels)
    except _FAILURES as error:
        raise BrokenPixels("its deflated pixel data cannot be read") from error


def _as_frame(data: bytes, pixels: PixelFormat) -> StoredArray:
    dtype = np.dtype(f"{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}")
    dtype = dtype.newbyteorder("<" if pixels.transfer_syntax.is_little_endian else ">")
    return _used_bits(np.frombuffer(data, dtype).reshape(pixels.rows, pixels.columns), pixels)


def codestreams(pixels: PixelFormat) -> Iterator[Codestream]:
    """Yield the compressed frames of one file in order, as stored.

    Raises
    ------
    BrokenPixels
        The fragments cannot be told apart (PS3.5 A.4).
    """
    try:
        with tolerant(), _pixel_data(pixels) as (file, _):
            # Fragments may spread over the frames in any number; pydicom pairs them.
            for data in generate_frames(file, number_of_frames=pixels.frames):
                yield Codestream(data, pixels)
    except _FAILURES as error:
        raise BrokenPixels("its compressed pixel data cannot be taken apart") from error


def decode_codestream(stream: Codestream) -> StoredArray:
    """Decode one compressed frame to shape (rows, columns).

    Raises
    ------
    BrokenPixels
        The decoder refuses it, or its size is not that of the header.
    """
    pixels = stream.pixels
    inside = size_of(stream.data)
    if inside not in (None, (pixels.rows, pixels.columns)):
        raise BrokenPixels(f"its compressed picture is not {pixels.rows}x{pixels.columns} as its header says")
    try:
        with tolerant():
            array, _ = get_decoder(pixels.transfer_syntax).as_array(
                encapsulate([stream.data]), index=0, raw=True, **_decoder_options(pixels)
            )
            return _used_bits(array.reshape(pixels.rows, pixels.columns), pixels)
    except _FAILURES as error:
        raise BrokenPixels("its compressed pixel data cannot be decoded") from error


def _decoder_options(pixels: PixelFormat) -> dict[str, Any]:
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.signed),
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
    }


def _used_bits(stored: StoredArray, pixels: PixelFormat) -> StoredArray:
    """Drop what lies outside Bits Stored: overlays in high bits, and bits below the used ones (PS3.5 8.1.1)."""
    above = pixels.bits_allocated - 1 - pixels.high_bit
    below = pixels.high_bit + 1 - pixels.bits_stored
    if above == below == 0:
        return stored
    half = 1 << (pixels.bits_stored - 1)
    low, high = (-half, half - 1) if pixels.signed else (0, 2 * half - 1)
    if below == 0 and low <= stored.min() and stored.max() <= high:
        return stored
    return np.asarray((stored << above) >> (above + below))


@contextmanager
def _pixel_data(pixels: PixelFormat) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file at the value of its Pixel Data element; also give the length of that value."""
    if pixels.offset is None:
        raise BrokenPixels("its pixel data are deflated")
    with pixels.path.open("rb") as file:
        file.seek(pixels.offset)
        yield file, _value_length(file, pixels)


def _value_length(file: BinaryIO, pixels: PixelFormat) -> int:
    """Read the element's tag and length, and leave the file at its value (PS3.5 7.1)."""
    order = "<" if pixels.transfer_syntax.is_little_endian else ">"
    group, element = struct.unpack(f"{order}HH", file.read(4))
    if (group, element) != (0x7FE0, 0x0010):
        raise BrokenPixels("it holds no Pixel Data (7FE0,0010)")
    if pixels.transfer_syntax.is_implicit_VR:
        return int(struct.unpack(f"{order}I", file.read(4))[0])
    vr, _, length = struct.unpack(f"{order}2sHI", file.read(8))
    if vr not in _LONG_VRS:
        raise BrokenPixels("its Pixel Data (7FE0,0010) have a wrong value representation")
    return int(length)
