"""What one encoded instance says about itself and its series, in the terms of `records`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet, Buffer, Header, UnknownVr, encoding_of, scan
from dicom_qa_node.dicom_io.pydicom_patches import decoded_text
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.uids import check_uid, has_leading_zero, is_uid

__all__ = ["InstanceHeader", "read_instance_header"]

_SPECIFIC_CHARACTER_SET = 0x00080005
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_FRAME_OF_REFERENCE_UID = 0x00200052
_MODALITY = 0x00080060
_INSTANCE_NUMBER = 0x00200013
_ACQUISITION_NUMBER = 0x00200012
_IMAGE_TYPE = 0x00080008
_NUMBER_OF_FRAMES = 0x00280008
_IMAGES_IN_ACQUISITION = 0x00201002
_SERIES_TYPE = 0x00541000
_NUMBER_OF_RR_INTERVALS = 0x00540061
_NUMBER_OF_TIME_SLOTS = 0x00540071
_NUMBER_OF_SLICES = 0x00540081
_NUMBER_OF_TIME_SLICES = 0x00540101

_TEXT_TAGS = {
    "patient_id": 0x00100020,
    "patient_name": 0x00100010,
    "patient_birth_date": 0x00100030,
    "patient_sex": 0x00100040,
    "accession_number": 0x00080050,
    "study_id": 0x00200010,
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "study_description": 0x00081030,
    "series_number": 0x00200011,
    "series_description": 0x0008103E,
    "body_part_examined": 0x00180015,
    "protocol_name": 0x00181030,
    "manufacturer": 0x00080070,
    "manufacturer_model_name": 0x00081090,
    "station_name": 0x00081010,
    "device_serial_number": 0x00181000,
    "institution_name": 0x00080080,
}
_LONGEST_TEXT = 1024
_LARGEST_COUNT = 2**31 - 1
_WANTED = frozenset(
    {
        _SPECIFIC_CHARACTER_SET, _SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID,
        _FRAME_OF_REFERENCE_UID, _MODALITY, _INSTANCE_NUMBER, _ACQUISITION_NUMBER, _NUMBER_OF_FRAMES,
        _IMAGES_IN_ACQUISITION, _SERIES_TYPE, _NUMBER_OF_RR_INTERVALS, _NUMBER_OF_TIME_SLOTS, _NUMBER_OF_SLICES,
        _NUMBER_OF_TIME_SLICES, _IMAGE_TYPE, *_TEXT_TAGS.values(),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What the header of one instance says.

    ``series`` decodes the series' facts on call: most instances belong to a series whose facts are known.
    ``expected`` and ``expected_group`` are those of `records.StoredInstance`.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    instance_number: int | None
    number_of_frames: int
    expected: int | None
    expected_group: str
    series: Callable[[], SeriesHeader]
    unknown_vrs: tuple[UnknownVr, ...] = ()

    @property
    def remark(self) -> str:
        """What the standard forbids and the node stores all the same, "" where there is nothing to say."""
        uids = (self.sop_instance_uid, self.series_instance_uid, self.study_instance_uid)
        zeros = "UIDs with leading zeros (PS3.5 9.1)" if any(map(has_leading_zero, uids)) else ""
        tags = ", ".join(f"({item.tag >> 16:04X},{item.tag & 0xFFFF:04X})" for item in self.unknown_vrs)
        return "; ".join(filter(None, (zeros, f"unknown value representation of {tags}" if tags else "")))


def read_instance_header(data: Buffer, start: int, transfer_syntax_uid: str) -> InstanceHeader:
    """Read the facts of the data set that begins at ``start``.

    Raises
    ------
    BrokenDataSet
        It cannot be walked, or its pixel data or one of its four identifying UIDs is missing.
    InvalidUid
        One of them is not a UID.
    """
    header = scan(data, start, encoding_of(transfer_syntax_uid), _WANTED)
    if not header.has_pixel_data:
        raise BrokenDataSet("the data set has no pixel data")
    sop_instance_uid = _uid(header, _SOP_INSTANCE_UID, "SOP Instance UID (0008,0018)")
    series_uid = _uid(header, _SERIES_INSTANCE_UID, "Series Instance UID (0020,000E)")
    study_uid = _uid(header, _STUDY_INSTANCE_UID, "Study Instance UID (0020,000D)")
    frames = max(1, header.integer(_NUMBER_OF_FRAMES) or 1)
    expected, group = _expected(header, sop_instance_uid, frames)
    return InstanceHeader(
        sop_class_uid=_uid(header, _SOP_CLASS_UID, "SOP Class UID (0008,0016)"),
        sop_instance_uid=sop_instance_uid,
        study_instance_uid=study_uid,
        series_instance_uid=series_uid,
        instance_number=header.integer(_INSTANCE_NUMBER),
        number_of_frames=frames,
        expected=expected,
        expected_group=group,
        series=lambda: _series_facts(header, series_uid, study_uid),
        unknown_vrs=header.unknown_vrs,
    )


def _uid(header: Header, tag: int, name: str) -> str:
    text = header.text(tag)
    if not text:
        raise BrokenDataSet(f"{name} is missing")
    return check_uid(text, name)


def _expected(header: Header, sop_instance_uid: str, frames: int) -> tuple[int | None, str]:
    """Return the count that the header promises and the group it counts (PS3.3 C.8.9.1, C.7.6.2)."""
    if frames > 1:
        return 1, sop_instance_uid
    slices = header.unsigned_short(_NUMBER_OF_SLICES)
    if slices:
        series_type = header.text(_SERIES_TYPE)[:64]
        times = [_NUMBER_OF_TIME_SLICES]
        if series_type.startswith("GATED"):
            times = [_NUMBER_OF_RR_INTERVALS, _NUMBER_OF_TIME_SLOTS]
        for tag in times:
            slices *= header.unsigned_short(tag) or 1
        return (slices, series_type) if slices <= _LARGEST_COUNT else (None, "")
    images = header.integer(_IMAGES_IN_ACQUISITION)
    # it counts the images of the acquisition, not those that were derived from them
    if images and images > 0 and not header.text(_IMAGE_TYPE).upper().startswith("DERIVED"):
        return images, header.text(_ACQUISITION_NUMBER)[:16]
    return None, ""


def _series_facts(header: Header, series_uid: str, study_uid: str) -> SeriesHeader:
    frame_of_reference = header.text(_FRAME_OF_REFERENCE_UID)
    return SeriesHeader(
        series_instance_uid=series_uid,
        study_instance_uid=study_uid,
        modality=header.text(_MODALITY)[:16],
        frame_of_reference_uid=frame_of_reference if is_uid(frame_of_reference) else "",
        **_texts(header),
    )


def _texts(header: Header) -> dict[str, str]:
    """Decode the text values; bytes that fit no declared character set become U+FFFD (PS3.5 6.1)."""
    values = {name: header.values.get(tag, b"")[:_LONGEST_TEXT] for name, tag in _TEXT_TAGS.items()}
    terms = header.text(_SPECIFIC_CHARACTER_SET).split("\\")
    decoded = {name: decoded_text(value, terms) for name, value in values.items()}
    return {name: text.replace("\0", "").strip() for name, text in decoded.items()}
