"""Compares two files of one SOP Instance UID: another encoding is the same image, other pixels or patients are not.

A sender may write the same image with other sequence lengths, group lengths, padding or another transfer syntax, and
an archive corrects descriptions; none of that conflicts. What conflicts is kept apart, for an operator to choose.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicom_qa_node.dicom_io.file_reader import FileBudget
from dicom_qa_node.dicom_io.pydicom_patches import dcmread, decoded_text

__all__ = ["Difference", "differences"]

_UNREADABLE = (
    OSError, BytesLengthException, InvalidDicomError, ValueError, TypeError, AttributeError, LookupError, OverflowError,
    EOFError, NotImplementedError, RecursionError, struct.error,
)  # fmt: skip
_PATIENT = frozenset({"PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"})
_STUDY = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "StudyID", "AccessionNumber"})
_IMAGE_GROUPS = frozenset({0x0018, 0x0020, 0x0028, 0x0054, 0x5200, 0x5400})
_IMAGE = frozenset(
    {
        "SOPClassUID", "ImageType", "Modality", "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime",
        "AcquisitionDateTime", "ContentDate", "ContentTime", "PatientAge", "PatientSize", "PatientWeight",
        "TimezoneOffsetFromUTC", "RadiopharmaceuticalInformationSequence",
    }
)  # fmt: skip
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_NUMBERS = ("DS", "IS")
_STRING_VRS = _TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
_COMPRESSION = frozenset(
    {
        "PhotometricInterpretation", "PlanarConfiguration", "LossyImageCompression", "LossyImageCompressionRatio",
        "LossyImageCompressionMethod",
    }
)  # fmt: skip
_PIXEL_GROUP = 0x7FE0
_TRAILING_PADDING = 0xFFFCFFFC
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_STEP = 1 << 20
# A receiver compares, which has little memory to spare: what has a larger header is kept apart without a look.
_BUDGET = FileBudget(reads=60_000, header_bytes=1 << 20)


class Difference(StrEnum):
    """In what two images of one UID differ."""

    PATIENT = "patient"
    STUDY = "study"
    PIXELS = "pixels"
    IMAGE = "image attributes"


def differences(first: Path, second: Path) -> frozenset[Difference]:
    """Return in what two stored files conflict, empty for one image in two encodings.

    Attributes that only describe (comments, requests, private ones) do not conflict, nor does one that a file lacks
    unless it names patient or study. Pixels are compared as they are stored; of two different compressions only
    that neither has lost anything is known, and then the images count as one.
    """
    try:
        one, other = _Image(first), _Image(second)
        found = set(_header_differences(one.header, other.header))
        if not _same_pixels(one, other):
            found.add(Difference.PIXELS)
    except _UNREADABLE:
        return frozenset({Difference.IMAGE})
    return frozenset(found)


class _Image:
    """A stored file: its header, and where its pixel data lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.header = dcmread(file, stop_before_pixels=True, budget=_BUDGET)
            self.syntax: UID = self.header.file_meta.TransferSyntaxUID
            self.offset = file.tell()


def _header_differences(one: Dataset, other: Dataset) -> Iterator[Difference]:
    first, second = _canonical(one), _canonical(other)
    for tag in sorted(first.keys() | second.keys()):
        if first.get(tag) == second.get(tag):
            continue
        keyword = keyword_for_tag(tag)
        if keyword in _PATIENT:
            yield Difference.PATIENT
        elif keyword in _STUDY:
            yield Difference.STUDY
        elif tag in first and tag in second and _shapes_the_image(tag, keyword):
            yield Difference.IMAGE


def _shapes_the_image(tag: int, keyword: str) -> bool:
    return keyword in _IMAGE or (tag >> 16 in _IMAGE_GROUPS and keyword not in _COMPRESSION)


def _canonical(ds: Dataset, inherited: Sequence[str] = ()) -> dict[int, object]:
    """Return the values of a data set in one form, whatever the encoding; nothing for what is empty or private."""
    charset = _terms(ds) or inherited
    found: dict[int, object] = {}
    for tag in list(ds.keys()):
        number = int(tag)
        if tag.element == 0 or tag.is_private or number == _TRAILING_PADDING or tag.group == _PIXEL_GROUP:
            continue
        value = _value(ds, tag, charset)
        if value not in ("", (), None, b""):
            found[number] = value
    return found


def _terms(ds: Dataset) -> list[str]:
    value: Any = ds.get_item("SpecificCharacterSet").value if "SpecificCharacterSet" in ds else None
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").split("\\")
    return [str(item) for item in value] if isinstance(value, MultiValue) else [str(value)] if value else []


def _value(ds: Dataset, tag: BaseTag, charset: Sequence[str]) -> object:
    raw: Any = ds.get_item(tag)
    if isinstance(raw, RawDataElement):
        vr = raw.VR if raw.VR not in (None, "UN") else dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
        # Strings are not converted by pydicom, whose warnings would quote what may be a name.
        if vr in _STRING_VRS and isinstance(raw.value, bytes):
            text = decoded_text(raw.value, charset) if vr in _TEXT_VRS else raw.value.decode("ascii", "replace")
            return _numbers(text) if vr in _NUMBERS else _stripped(text)
    try:
        return _plain(ds[tag], charset)
    except _UNREADABLE:
        # A value that breaks its VR is compared as it is stored.
        return raw.value if isinstance(raw, RawDataElement) else None


def _plain(element: DataElement, charset: Sequence[str]) -> object:
    value = element.value
    if element.VR == "SQ":
        return tuple(tuple(sorted(_canonical(item, charset).items())) for item in value or ())
    if isinstance(value, bytes):
        return value.rstrip(b"\0 ")
    many = value if isinstance(value, (MultiValue, list)) else [value]
    return tuple(item if isinstance(item, (int, float)) else _stripped(str(item)) for item in many)


def _numbers(text: str) -> object:
    try:
        return tuple(float(item) for item in text.split("\\") if item.strip(" \0"))
    except ValueError:
        return _stripped(text)


def _stripped(text: str) -> str:
    values = (item.strip(" \0") for item in text.split("\\"))
    return "\\".join("=".join(group.rstrip("^ ") for group in item.split("=")).rstrip("=") for item in values).rstrip(
        "\\"
    )


def _same_pixels(one: _Image, other: _Image) -> bool:
    if one.syntax.is_deflated or other.syntax.is_deflated:
        return _digest_inflated(one.path) == _digest_inflated(other.path)
    if one.syntax.is_compressed != other.syntax.is_compressed or (
        one.syntax.is_compressed and one.syntax != other.syntax
    ):
        return not (_lossy(one) or _lossy(other))
    return _digest(one) == _digest(other)


def _lossy(image: _Image) -> bool:
    return image.syntax in _LOSSY or str(image.header.get("LossyImageCompression", "")) == "01"


_LOSSY = frozenset(
    {
        "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.93", "1.2.840.10008.1.2.4.203",
    }
)  # fmt: skip


def _digest_inflated(path: Path) -> str:
    ds = dcmread(path)
    return hashlib.sha256(bytes(ds.PixelData).rstrip(b"\0")).hexdigest()


def _digest(image: _Image) -> str:
    """Return the SHA-256 of the stored pixels, without padding at their end and in the order of little endian."""
    digest = hashlib.sha256()
    with image.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tag, start, length = _pixel_element(data, image)
        if tag and length == _UNDEFINED:
            for fragment in _fragments(data, start):
                digest.update(data[fragment])
        elif tag:
            end = min(start + length, len(data), start + (_native_bytes(image.header) or length))
            for position in range(start, end, _STEP):
                digest.update(_little(data[position : min(position + _STEP, end)], image))
    return digest.hexdigest()


def _pixel_element(data: mmap.mmap, image: _Image) -> tuple[int, int, int]:
    order = "<" if image.syntax.is_little_endian else ">"
    at = image.offset
    if len(data) < at + 8:
        return 0, at, 0
    group, number = struct.unpack_from(f"{order}HH", data, at)
    if image.syntax.is_implicit_VR:
        return group << 16 | number, at + 8, struct.unpack_from(f"{order}L", data, at + 4)[0]
    if data[at + 4 : at + 6] not in _LONG_VRS:
        raise ValueError("the pixel data has no value representation of bytes")
    return group << 16 | number, at + 12, struct.unpack_from(f"{order}L", data, at + 8)[0]


def _native_bytes(header: Dataset) -> int | None:
    """Return how many bytes the pixels of all frames take, None where the header does not say."""
    sizes = [header.get(keyword) for keyword in ("Rows", "Columns", "BitsAllocated")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    return int(sizes[0] * sizes[1] * sizes[2] * frames * samples) // 8


def _little(block: bytes, image: _Image) -> bytes:
    if image.syntax.is_little_endian or image.header.get("BitsAllocated") != 16:
        return block
    swapped = bytearray(block)
    swapped[0::2], swapped[1::2] = block[1::2], block[0::2]
    return bytes(swapped)


def _fragments(data: mmap.mmap, position: int) -> Iterator[slice]:
    """Yield where the fragments of encapsulated pixels lie, the offset table aside (PS3.5 A.4)."""
    first = True
    while True:
        group, number, length = struct.unpack_from("<HHL", data, position)
        position += 8
        if group << 16 | number == _SEQUENCE_END:
            return
        if group << 16 | number != _ITEM or position + length > len(data):
            raise ValueError("the encapsulated pixel data is not a sequence of items")
        if not first:
            yield slice(position, position + length)
        first = False
        position += length
