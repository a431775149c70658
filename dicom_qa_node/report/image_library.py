"""The image library of a report (TID 1600): what each source image is, as far as its header says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    UIDRefContentItem,
)
from pydicom import Dataset

from dicom_qa_node.domain.codes import Code
from dicom_qa_node.report import sr_codes
from dicom_qa_node.report.sr_codes import coded_concept

__all__ = ["image_library"]

_CONTEXT = RelationshipTypeValues.HAS_ACQ_CONTEXT
_CONTAINS = RelationshipTypeValues.CONTAINS


def image_library(headers: Sequence[Dataset]) -> ContainerContentItem:
    """Return the library; images of one series and shape share the descriptors of their group (TID 1602, 1604)."""
    library = ContainerContentItem(
        coded_concept(sr_codes.IMAGE_LIBRARY), template_id="1600", relationship_type=_CONTAINS
    )
    library.ContentSequence = ContentSequence()
    groups: dict[tuple[object, ...], list[Dataset]] = {}
    for header in headers:
        key = (header.SeriesInstanceUID, header.get("Rows"), header.get("Columns"), str(_shared(header)))
        groups.setdefault(key, []).append(header)
    for members in groups.values():
        library.ContentSequence.append(_group(members))
    return library


def _group(headers: Sequence[Dataset]) -> ContainerContentItem:
    group = ContainerContentItem(coded_concept(sr_codes.IMAGE_LIBRARY_GROUP), relationship_type=_CONTAINS)
    group.ContentSequence = ContentSequence([*_descriptors(headers[0]), *(_entry(header) for header in headers)])
    return group


def _entry(header: Dataset) -> ImageContentItem:
    # Descriptors of a single image (its position, TID 1604) would be a footnote each where a report is shown as text,
    # and the library stands before the groups: they are left to the image itself.
    return ImageContentItem(
        coded_concept(sr_codes.LIBRARY_SOURCE),
        referenced_sop_class_uid=header.SOPClassUID,
        referenced_sop_instance_uid=header.SOPInstanceUID,
        relationship_type=_CONTAINS,
    )


def _descriptors(header: Dataset) -> Iterator[ContentItem]:
    """Yield the descriptors in the order of the rows of TID 1602 and 1604."""
    modality = sr_codes.MODALITIES.get(header.get("Modality", ""))
    if modality is not None:
        yield CodeContentItem(coded_concept(sr_codes.MODALITY), coded_concept(modality), relationship_type=_CONTEXT)
    for code, keyword in ((sr_codes.PIXEL_DATA_ROWS, "Rows"), (sr_codes.PIXEL_DATA_COLUMNS, "Columns")):
        if header.get(keyword):
            yield from _numbers([code], [int(header.get(keyword))], sr_codes.PIXELS)
    shared = _shared(header)
    # Pixel Spacing (0028,0030) has the spacing between rows, the vertical one, first (PS3.3 10.7.1.3).
    horizontal_first = [sr_codes.HORIZONTAL_PIXEL_SPACING, sr_codes.VERTICAL_PIXEL_SPACING]
    yield from _numbers(horizontal_first, shared["PixelSpacing"][::-1], sr_codes.MILLIMETER)
    yield from _numbers([sr_codes.SLICE_THICKNESS], shared["SliceThickness"], sr_codes.MILLIMETER)
    if header.get("FrameOfReferenceUID"):
        yield UIDRefContentItem(
            coded_concept(sr_codes.FRAME_OF_REFERENCE_UID), header.FrameOfReferenceUID, relationship_type=_CONTEXT
        )
    yield from _numbers(sr_codes.IMAGE_ORIENTATION, shared["ImageOrientationPatient"], sr_codes.DIRECTION_COSINE)


def _shared(header: Dataset) -> dict[str, list[float]]:
    lengths = {"PixelSpacing": 2, "SliceThickness": 1, "ImageOrientationPatient": 6}
    return {keyword: _values(header, keyword, length) for keyword, length in lengths.items()}


def _values(header: Dataset, keyword: str, length: int) -> list[float]:
    value: Any = header.get(keyword)
    found = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return [float(item) for item in found] if len(found) == length and None not in found else []


def _numbers(names: Sequence[Code], values: Sequence[float], unit: Code) -> Iterator[NumContentItem]:
    for name, value in zip(names, values, strict=False):
        yield NumContentItem(coded_concept(name), value, coded_concept(unit), relationship_type=_CONTEXT)
