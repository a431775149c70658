"""Reads DICOM files with pydicom within a budget of elements and bytes, fixed before the first byte is read.

pydicom alone inflates a deflated data set whole, whatever comes out, even where only the header is wanted, and makes
an object of half a kilobyte of each eight bytes of a hostile sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom import FileDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_qa_node.dicom_io.deflated import (
    InflatedStream,
    InflationEnded,
    InflationFailed,
    InflationLimit,
    file_chunks,
    inflated,
)

__all__ = [
    "FileBudget",
    "MessageBudget",
    "ReadingLimit",
    "dcmread",
    "decode_message",
    "inflated_data_set",
    "is_deflated",
]

MOST_READS = 3_000_000
"""Calls of ``read`` for one file; pydicom makes two or three for each element."""

MOST_HEADER_BYTES = 64 << 20
"""Values before the pixel data, and plain bytes of a deflated header."""

MOST_INFLATED_BYTES = 256 << 20
"""Plain bytes of a deflated file that is read whole."""

_META_BYTES = 16 * 1024
_PIXEL_GROUP = 0x7FE0
_PIXEL_ELEMENTS = (0x0008, 0x0009, 0x0010)


@dataclass(frozen=True, slots=True)
class FileBudget:
    """What reading one file may cost: calls of ``read``, and bytes of values before the pixel data."""

    reads: int
    header_bytes: int


@dataclass(frozen=True, slots=True)
class MessageBudget:
    """What decoding the data set of a message may cost: plain bytes, and elements outside of sequences."""

    plain_bytes: int
    elements: int


class ReadingLimit(InvalidDicomError):
    """The file costs more than its budget; the text says what of it."""


def dcmread(
    source: Path | str | BinaryIO,
    *,
    stop_before_pixels: bool = False,
    specific_tags: Sequence[Any] | None = None,
    budget: FileBudget | None = None,
) -> FileDataset:
    """Read a DICOM file as ``pydicom.dcmread`` does, within a budget.

    Parameters
    ----------
    source
        A path, or an open file, which stays open; after a header of a file that is not deflated it is at its pixel
        data.
    budget
        What it may cost, where the process has less to spare than a scorer.

    Raises
    ------
    InvalidDicomError
        It is not a DICOM file, or costs too much (`ReadingLimit`).
    """
    tags = None if specific_tags is None else [Tag(tag) for tag in specific_tags]
    limit = budget or FileBudget(MOST_READS, MOST_HEADER_BYTES)
    with _opened(source) as file:
        if is_deflated(file):
            return _read_deflated(file, stop_before_pixels=stop_before_pixels, tags=tags, limit=limit)
        metered = _MeteredFile(file, limit.header_bytes if stop_before_pixels else None, limit.reads)
        return pydicom.dcmread(cast(BinaryIO, metered), stop_before_pixels=stop_before_pixels, specific_tags=tags)


def decode_message(encoded: bytes, syntax: UID, budget: MessageBudget) -> Dataset:
    """Decode the data set of a DIMSE message (pynetdicom's own decoder knows no limits).

    Sequences of defined length are decoded when somebody looks into them.

    Raises
    ------
    ReadingLimit
        It costs more than ``budget``.
    """
    try:
        plain = inflated(encoded, budget.plain_bytes) if syntax.is_deflated else encoded
    except InflationLimit as error:
        raise ReadingLimit(str(error)) from None
    except InflationFailed as error:
        raise InvalidDicomError(f"the data set cannot be inflated: {error}") from None
    if len(plain) > budget.plain_bytes:
        raise ReadingLimit(f"the data set is larger than {budget.plain_bytes} bytes")
    # A header, a length where it is long, and a value: three reads for an element, and a few to begin with.
    metered = _MeteredFile(BytesIO(plain), None, reads=3 * budget.elements + 16)
    found = read_dataset(cast(BinaryIO, metered), syntax.is_implicit_VR, syntax.is_little_endian)
    if len(found) > budget.elements:
        raise ReadingLimit(f"the data set has more than {budget.elements} elements")
    return found


def is_deflated(file: BinaryIO) -> bool:
    """Return whether an open file may hold a deflated data set; its position stays."""
    start = file.tell()
    head = file.read(_META_BYTES)
    file.seek(start)
    return DeflatedExplicitVRLittleEndian.encode("ascii") in head


def inflated_data_set(file: BinaryIO, limit_bytes: int) -> tuple[FileMetaDataset, bytes | None, InflatedStream]:
    """Read the File Meta Information; return it, the preamble and the plain bytes of the deflated data set."""
    metered = cast(BinaryIO, _MeteredFile(file, _META_BYTES))
    preamble = read_preamble(metered, force=False)
    meta = read_dataset(metered, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    return FileMetaDataset(meta), preamble, InflatedStream(file_chunks(file), limit_bytes)


def _read_deflated(
    file: BinaryIO, *, stop_before_pixels: bool, tags: list[Any] | None, limit: FileBudget
) -> FileDataset:
    meta, preamble, stream = inflated_data_set(file, limit.header_bytes if stop_before_pixels else MOST_INFLATED_BYTES)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        metered = _MeteredFile(file, limit.header_bytes if stop_before_pixels else None, limit.reads)
        return pydicom.dcmread(cast(BinaryIO, metered), stop_before_pixels=stop_before_pixels, specific_tags=tags)
    plain = cast(BinaryIO, _MeteredFile(cast(BinaryIO, _InflatedFile(stream)), None, limit.reads))
    stop = _at_pixel_data if stop_before_pixels else None
    dataset = read_dataset(plain, False, True, stop_when=stop, specific_tags=tags)
    found = FileDataset(getattr(file, "name", ""), dataset, preamble, meta, False, True)
    found.set_original_encoding(False, True, _character_set(dataset))
    return found


def _character_set(dataset: Dataset) -> Any:
    return dataset.original_character_set


def _at_pixel_data(tag: Any, _vr: str | None, _length: int) -> bool:
    return tag.group == _PIXEL_GROUP and tag.element in _PIXEL_ELEMENTS


@contextmanager
def _opened(source: Path | str | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, Path | str):
        with Path(source).open("rb") as file:
            yield file
    else:
        yield source


class _MeteredFile:
    """A file that ends with `ReadingLimit` what reads too often or too much."""

    def __init__(self, file: BinaryIO, limit_bytes: int | None, reads: int | None = None) -> None:
        self._read = file.read
        self._reads_left = MOST_READS if reads is None else reads
        self._bytes_left = limit_bytes
        self.seek, self.tell = file.seek, file.tell
        self.name = getattr(file, "name", "")

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes; all of them is what pydicom asks for before it inflates, which is done here."""
        if size < 0:
            raise ReadingLimit("the File Meta Information is too long")
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ReadingLimit("the data set has too many elements")
        if self._bytes_left is None:
            return self._read(size)
        data = self._read(min(size, self._bytes_left + 1))
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise ReadingLimit("the header is too large")
        return data


class _InflatedFile:
    """The plain bytes of a deflated data set as a file: what was read can be read again."""

    def __init__(self, stream: InflatedStream) -> None:
        self._stream = stream
        self._plain = bytearray()
        self._position = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes."""
        end = self._position + size
        try:
            while len(self._plain) < end and not self._ended:
                self._plain += self._stream.available()
        except InflationEnded:
            self._ended = True
        except InflationFailed as error:
            raise InvalidDicomError(f"the data set cannot be inflated: {error}") from None
        except InflationLimit as error:
            raise ReadingLimit(str(error)) from None
        found = bytes(self._plain[self._position : end])
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position from the start or from here; one beyond the end is found by the next read."""
        self._position = offset + (self._position if whence == 1 else 0)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position
