"""Reads the headers of a series: one `SliceHeader` per slice or frame, and a reason for every object that is none."""

from __future__ import annotations

import datetime as dt
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.dicom_io.file_reader import ReadingLimit
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.modalities import ModalityClass, modality_class_for
from dicom_qa_node.score.pet_times import acquired_at

__all__ = [
    "LeftOut",
    "Lossy",
    "PixelFormat",
    "SliceHeader",
    "UnreadableHeader",
    "describe",
    "open_header",
    "slice_header",
]

_BROKEN_FILE = (
    *at.BROKEN_VALUE, InvalidDicomError, OSError, EOFError, RecursionError, struct.error, zlib.error, AssertionError,
    MemoryError,
)  # fmt: skip

_MAX_SIDE = 4096
_MAX_RESCALE = 1e9
_LOSSY_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.203",
    }
)  # fmt: skip
_TRAITS = {
    "acquisition": "AcquisitionNumber",
    "stack": "StackID",
    "time point": "TemporalPositionIdentifier",
    "time index": "TemporalPositionIndex",
    "cardiac phase": "NominalPercentageOfCardiacPhase",
    "trigger time": "TriggerTime",
    "echo": "EchoNumbers",
    "tube voltage": "KVP",
    "kernel": "ConvolutionKernel",
    "corrections": "CorrectedImage",
    "image type": "ImageType",
    "frame time": "FrameReferenceTime",
    "field of view": "ReconstructionDiameter",
    "acquisition time": "AcquisitionTime",
    "content time": "ContentTime",
}


class UnreadableHeader(Exception):
    """A file is not a DICOM Part 10 file, or its header cannot be read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of one file are stored (PS3.3 C.7.6.3).

    ``offset`` is where the Pixel Data element begins in the file, None where the data set is deflated. ``padding``
    bounds the allocated values outside the image; ``overlay_bits`` masks the bits that an overlay takes (PS3.3 C.9.2).
    """

    path: Path
    offset: int | None
    transfer_syntax: UID
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    frames: int
    padding: tuple[int, int] | None = None
    overlay_bits: int = 0

    @property
    def frame_bytes(self) -> int:
        """Size of one uncompressed frame."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class Lossy:
    """What is known of the loss of a slice.

    ``declared`` says that the header admits it: Lossy Image Compression (0028,2110) is 01. ``ratio`` is the last value
    of Lossy Image Compression Ratio (0028,2112); where that is missing and the pixels are still compressed with
    loss, the size of the uncompressed pixels over the size in the file (``measured``). None where neither is known.
    """

    declared: bool
    ratio: float | None
    measured: bool = False


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What assembly must know of one slice, be it a file or a frame of a multi-frame object.

    ``origin_mm`` is Image Position (Patient), ``orientation`` Image Orientation (Patient), ``spacing_mm`` (row,
    column). ``padding`` bounds the stored values outside the image. ``traits`` are the attributes that tell apart
    slices at one position. ``frame`` counts from 0; None for a single-frame object.
    """

    pixels: PixelFormat
    kind: ModalityClass
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    frame: int | None
    instance_number: int
    origin_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    padding: tuple[int, int] | None
    traits: tuple[tuple[str, str], ...]
    lossy: Lossy | None
    acquired: dt.datetime | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An object, or one frame of it, that is not part of any volume, and why.

    ``what`` is the group under which it is counted ("localizer", "broken header" ...); ``broken`` says that it
    should have been a slice.
    """

    sop_instance_uid: str
    what: str
    reason: str
    broken: bool = False


def open_header(path: Path) -> tuple[Dataset, int | None]:
    """Read a data set up to its pixels.

    Returns
    -------
    tuple
        The data set with its file meta information, and the offset of the Pixel Data element in the file
        (None where the data set is deflated).

    Raises
    ------
    UnreadableHeader
        The file cannot be read as DICOM.
    """
    try:
        with path.open("rb") as file:
            ds = dcmread(file, stop_before_pixels=True)
            syntax = ds.file_meta.TransferSyntaxUID
            return ds, None if syntax.is_deflated else file.tell()
    except ReadingLimit as error:
        raise UnreadableHeader(f"{path.name} cannot be read: {error}") from error
    except _BROKEN_FILE as error:
        raise UnreadableHeader(f"{path.name} cannot be read as a DICOM file") from error


def describe(ds: Dataset, path: Path) -> str:
    """Return how to name an object to an operator: by its SOP Instance UID, or by its file where it has none.

    A UID whose element is broken stands in the file meta information too; the spool writes it there.
    """
    meta = getattr(ds, "file_meta", None) or Dataset()
    return at.uid(ds, "SOPInstanceUID") or at.uid(meta, "MediaStorageSOPInstanceUID") or path.name


def slice_header(
    ds: Dataset, path: Path, offset: int | None, frame: int | None = None, frames: int = 1
) -> SliceHeader | LeftOut:
    """Return the slice that a header describes, or why it is none.

    Parameters
    ----------
    ds
        Header; for a multi-frame object with the functional groups of this frame flattened into it.
    path, offset
        See `open_header`.
    frame, frames
        Which frame of how many; None for a single-frame object.
    """
    uid = describe(ds, path)
    kind = modality_class_for(at.word(ds, "SOPClassUID"))
    if kind is None:
        return LeftOut(uid, _class_name(ds), "its SOP class holds no slices that are scored")
    what = _no_slice(ds, kind)
    if what:
        return LeftOut(uid, what, f"it is a {what}")
    try:
        pixels = _pixel_format(ds, path, offset, frames)
        return SliceHeader(
            pixels=pixels,
            kind=kind,
            sop_instance_uid=uid,
            sop_class_uid=at.word(ds, "SOPClassUID"),
            series_instance_uid=at.uid(ds, "SeriesInstanceUID"),
            frame=frame,
            instance_number=(at.integer(ds, "InstanceNumber") or 0) + (frame or 0),
            origin_mm=_three(_required(ds, "ImagePositionPatient", 3)),
            orientation=_orientation(ds),
            spacing_mm=_spacing(ds),
            thickness_mm=at.number(ds, "SliceThickness"),
            slope=_rescale(ds, "RescaleSlope"),
            intercept=_rescale(ds, "RescaleIntercept"),
            rescale_type=at.word(ds, "RescaleType"),
            padding=pixels.padding,
            traits=tuple(_traits(ds)),
            lossy=_lossy(ds, pixels),
            acquired=acquired_at(ds),
        )
    except _BadAttribute as error:
        return LeftOut(uid, "object with a broken header", str(error), broken=True)


class _BadAttribute(Exception):
    """An attribute without which a slice cannot be placed or decoded; the text names it."""


def _no_slice(ds: Dataset, kind: ModalityClass) -> str:
    """Return what an object is that stands in the series without being a slice, "" for a slice."""
    marks = [part.upper() for part in at.words(ds, "ImageType")]
    found = next((what for word, what in kind.left_out.items() if any(_marked(mark, word) for mark in marks)), "")
    if found:
        return found
    if (at.integer(ds, "SamplesPerPixel") or 1) != 1:
        return "colour picture"
    placed = any(keyword in ds for keyword in ("ImagePositionPatient", "ImageOrientationPatient"))
    return "" if placed or "ORIGINAL" in marks else "picture without a place in the patient"


def _marked(mark: str, word: str) -> bool:
    # "CT_SOM5 TOP", "DOSE INFO": vendors put a word among others in one value.
    return mark == word or word in mark.replace("_", " ").split() or mark.startswith(word + " ")


def _class_name(ds: Dataset) -> str:
    name = UID(at.word(ds, "SOPClassUID")).name
    return name.removesuffix(" Storage").lower() if name and not name[0].isdigit() else "object of unknown SOP class"


def _pixel_format(ds: Dataset, path: Path, offset: int | None, frames: int) -> PixelFormat:
    rows, columns = (_whole(ds, keyword, 1, _MAX_SIDE) for keyword in ("Rows", "Columns"))
    allocated = _whole(ds, "BitsAllocated", 8, 32)
    if allocated not in (8, 16, 32):
        raise _BadAttribute(f"Bits Allocated (0028,0100) is {allocated}")
    stored = _whole(ds, "BitsStored", 1, allocated)
    high = at.integer(ds, "HighBit")
    signed = at.integer(ds, "PixelRepresentation") == 1
    return PixelFormat(
        path=path,
        offset=offset,
        transfer_syntax=ds.file_meta.TransferSyntaxUID,
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high if high is not None and stored - 1 <= high < allocated else stored - 1,
        signed=signed,
        frames=frames,
        padding=_padding(ds, allocated, signed),
        overlay_bits=_overlay_bits(ds, stored),
    )


def _whole(ds: Dataset, keyword: str, low: int, high: int) -> int:
    value = at.integer(ds, keyword)
    if value is None or not low <= value <= high:
        shown = "missing" if value is None else str(value)
        raise _BadAttribute(f"{_name(keyword)} is {shown}")
    return value


def _required(ds: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    found = at.numbers(ds, keyword, count)
    if found is None or any(abs(value) > 1e6 for value in found):
        raise _BadAttribute(f"{_name(keyword)} is missing or cannot be used")
    return found


def _rescale(ds: Dataset, keyword: str) -> float | None:
    found = at.number(ds, keyword)
    # Beyond this, sums of squares over a slice leave the range of float32.
    if found is not None and abs(found) > _MAX_RESCALE:
        raise _BadAttribute(f"{_name(keyword)} is {found:g}")
    return found


def _orientation(ds: Dataset) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = _required(ds, "ImageOrientationPatient", 6)
    row, column = (a * a + b * b + c * c, d * d + e * e + f * f)
    if abs(row - 1) > 0.02 or abs(column - 1) > 0.02 or abs(a * d + b * e + c * f) > 0.01:
        raise _BadAttribute(f"{_name('ImageOrientationPatient')} holds no two perpendicular unit vectors")
    return a, b, c, d, e, f


def _spacing(ds: Dataset) -> tuple[float, float]:
    row, column = _required(ds, "PixelSpacing", 2)
    if not (0.01 <= row <= 50 and 0.01 <= column <= 50):
        raise _BadAttribute(f"{_name('PixelSpacing')} is {row:g} by {column:g} mm")
    return row, column


def _padding(ds: Dataset, allocated: int, signed: bool) -> tuple[int, int] | None:
    """Return the bounds of the padding as the pixels are stored, whatever the VR of its attributes was taken for."""
    value = at.integer(ds, "PixelPaddingValue")
    if value is None:
        return None
    limit = at.integer(ds, "PixelPaddingRangeLimit")
    ends = [_as_stored(end, allocated, signed) for end in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_stored(value: int, allocated: int, signed: bool) -> int:
    half = 1 << (allocated - 1)
    if signed and half <= value < 2 * half:
        return value - 2 * half
    return value + 2 * half if not signed and -half <= value < 0 else value


def _overlay_bits(ds: Dataset, stored: int) -> int:
    """Return a mask of the bits above Bits Stored that hold overlays."""
    positions = (at.integer(ds, (group, 0x0102)) for group in range(0x6000, 0x6020, 2))
    return sum({1 << position for position in positions if position is not None and stored <= position < 32})


def _traits(ds: Dataset) -> Iterator[tuple[str, str]]:
    for name, keyword in _TRAITS.items():
        value = "\\".join(at.words(ds, keyword))
        if value:
            yield name, value


def _lossy(ds: Dataset, pixels: PixelFormat) -> Lossy | None:
    """Return the loss that the header or the transfer syntax tells of, None for neither."""
    declared = at.word(ds, "LossyImageCompression") == "01"
    lossy_syntax = pixels.transfer_syntax in _LOSSY_SYNTAXES
    if not declared and not lossy_syntax:
        return None
    stated = next((_ratio(text) for text in reversed(at.words(ds, "LossyImageCompressionRatio"))), None)
    if stated is not None or not lossy_syntax or pixels.offset is None:
        return Lossy(declared, stated)
    compressed = pixels.path.stat().st_size - pixels.offset
    return Lossy(declared, pixels.frames * pixels.frame_bytes / max(compressed, 1), measured=True)


def _ratio(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z


def _name(keyword: str) -> str:
    from pydicom.datadict import dictionary_description, tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
