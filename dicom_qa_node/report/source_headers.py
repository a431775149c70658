"""Reads from the spool what a report takes over from its source images: patient, study and geometry.

What describes patient, study and scanner is copied by `copied_modules`, which makes every value valid; of the geometry
only whole, finite numbers are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_qa_node.dicom_io.pydicom_patches import dcmread, writable_character_set
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import SeriesResult
from dicom_qa_node.domain.series import StoredInstance
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.report.copied_modules import (
    COPIED,
    READING_ERRORS,
    character_set_of_item,
    coded_items,
    copied_modules,
    patient_and_study,
)
from dicom_qa_node.report.valid_values import Changes, valid_element

__all__ = ["Sources", "patient_and_study", "read_sources", "referenced_uids"]

_IMAGE = ("SeriesNumber", "Modality", "FrameOfReferenceUID", "SeriesDescription", "BodyPartExamined")
_REGION = "AnatomicRegionSequence"
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_GEOMETRY = {"PixelSpacing": 2, "SliceThickness": 1, "ImagePositionPatient": 3, "ImageOrientationPatient": 6}
_FUNCTIONAL_GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
}
_SHAPE = ("Rows", "Columns")


@dataclass(frozen=True, slots=True)
class Sources:
    """The headers of the images that a report refers to, by SOP Instance UID; the first one gives the patient.

    ``character_set`` is the Specific Character Set of that image where a report may have it, () for the default
    repertoire. ``changes`` names what of its header could not be copied unchanged.
    """

    headers: Mapping[str, Dataset]
    character_set: tuple[str, ...]
    changes: str = ""

    @property
    def main(self) -> Dataset:
        """The header that patient, study and equipment are taken from."""
        return next(iter(self.headers.values()))


def referenced_uids(result: SeriesResult, instances: Sequence[StoredInstance]) -> list[str]:
    """Return the SOP Instance UIDs that the report of ``result`` refers to; never empty for a stored series."""
    wanted = [item.sop_instance_uid for item in result.slices]
    wanted += [uid for finding in result.findings for uid in finding.sop_instance_uids]
    # The images of a part may lie in a paired series that this node no longer holds.
    stored = {item.sop_instance_uid for item in instances}
    wanted += [uid for part in result.rated_parts for image in part.images if (uid := image.sop_instance_uid) in stored]
    own = [item.sop_instance_uid for item in instances if item.series.series_instance_uid == result.series_instance_uid]
    if own and not set(wanted) & set(own):
        wanted.insert(0, own[len(own) // 2])
    return list(dict.fromkeys(wanted))


def read_sources(spool_dir: Path, result: SeriesResult, instances: Sequence[StoredInstance]) -> Sources:
    """Read the headers of the images that the report of ``result`` refers to.

    Parameters
    ----------
    spool_dir
        Folder that the instances' paths are relative to.
    instances
        The stored instances of the series and of its paired series.

    Raises
    ------
    Permanent
        An image that the result names was never stored, or its file is gone or unreadable.
    """
    usable = [item for item in instances if not item.conflict]
    by_uid = {item.sop_instance_uid: item for item in usable}
    wanted = referenced_uids(result, usable)
    missing = [uid for uid in wanted if uid not in by_uid]
    if missing or not wanted:
        raise Permanent(f"the result refers to {len(missing)} image(s) that are not stored: {', '.join(missing[:3])}")
    images = [by_uid[uid] for uid in _patient_first(wanted, by_uid, result)]
    raw = [_read_header(spool_dir / item.path, item.sop_instance_uid) for item in images]
    changes, unused = Changes(), Changes()
    cleaned = {
        item.sop_instance_uid: _copied(header, item, unused if number else changes)
        for number, (header, item) in enumerate(zip(raw, images, strict=True))
    }
    return Sources(cleaned, writable_character_set(character_set_of_item(raw[0], ())), str(changes))


def _patient_first(wanted: Iterable[str], by_uid: Mapping[str, StoredInstance], result: SeriesResult) -> list[str]:
    # The scored series leads, so that a paired CT never lends its patient or equipment to a PET report.
    own = result.series_instance_uid
    return sorted(wanted, key=lambda uid: by_uid[uid].series.series_instance_uid != own)


def _read_header(path: Path, uid: str) -> Dataset:
    tags = [
        *COPIED,
        *_IMAGE,
        _REGION,
        *_UIDS,
        *_GEOMETRY,
        *_SHAPE,
        "SpecificCharacterSet",
        "SharedFunctionalGroupsSequence",
    ]
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except (OSError, InvalidDicomError, *READING_ERRORS) as error:
        raise Permanent(f"the image {uid} cannot be read from the spool") from error
    if header.file_meta.get("MediaStorageSOPInstanceUID") != uid:
        raise Permanent(f"the file of image {uid} holds another instance")
    if any(keyword not in header for keyword in _UIDS):
        raise Permanent(f"the file of image {uid} is incomplete")
    return header


def _copied(header: Dataset, image: StoredInstance, changes: Changes) -> Dataset:
    character_set = character_set_of_item(header, ())
    copy = copied_modules(header, character_set, changes)
    for keyword in _IMAGE:
        if keyword in header:
            element = valid_element(header.get_item(keyword), character_set, changes)
            if element is not None and element.value:
                copy.add(element)
    for keyword, count in _GEOMETRY.items():
        numbers = _numbers(header, keyword, count)
        if numbers:
            setattr(copy, keyword, numbers)
    if regions := coded_items(header, _REGION, character_set):
        copy.AnatomicRegionSequence = regions
    for keyword in _SHAPE:
        size = _value(header, keyword)
        if isinstance(size, int) and size > 0:
            setattr(copy, keyword, size)
    # The registry's UIDs, as the receiver checked them, hold even where those of the header cannot be read.
    copy.SOPClassUID, copy.SOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
    copy.SeriesInstanceUID = image.series.series_instance_uid
    if not is_uid(str(copy.get("StudyInstanceUID", ""))):
        copy.StudyInstanceUID = image.series.study_instance_uid
    return copy


def _numbers(header: Dataset, keyword: str, count: int) -> list[float]:
    """Return a multi-valued number from the top level or the shared functional groups, [] where it is not whole."""
    value = _value(header, keyword)
    if value is None:
        value = _functional(header, keyword)
    stated = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    try:
        # Nine digits: no coordinate is known better, and more would not fit into DS (PS3.5 6.2).
        numbers = [float(f"{float(item):.9g}") for item in stated]
    except (TypeError, ValueError):
        return []
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else []


def _functional(header: Dataset, keyword: str) -> Any:
    for groups in _value(header, "SharedFunctionalGroupsSequence") or []:
        for item in _value(groups, _FUNCTIONAL_GROUPS[keyword]) or []:
            return _value(item, keyword)
    return None


def _value(header: Dataset, keyword: str) -> Any:
    try:
        value = header.get(keyword)
        return [] if keyword.endswith("Sequence") and isinstance(value, (str, bytes)) else value
    except READING_ERRORS:
        return None
