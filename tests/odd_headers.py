"""Source headers as they should not be: any bytes in any attribute that a report copies."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_qa_node.domain.results import SeriesResult
from dicom_qa_node.domain.series import StoredInstance
from dicom_qa_node.report.copied_modules import COPIED
from tests.report_samples import verdict, write_series

__all__ = ["ODD_VALUES", "headers", "raw", "series_with"]

FURTHER = ("SeriesNumber", "Modality", "FrameOfReferenceUID", "SeriesDescription", "SpecificCharacterSet")
GEOMETRY = ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient")

_TEXTS = (
    b"", b" ", b"\0\0", b"plain", b"  lead and trail  ", b"x" * 17, b"y" * 65, b"z" * 1025, b"A^B=C^D=E^F=G^H",
    b"A^B^C^D^E^F^G", b"^^^^", b"==", b"one\\two", b"\\\\", b"\\second", b"line\r\nend", b"tab\there",
    b"esc\x1b[31m", b"bell\x07", b"nul\0in", b"\x1b$B;3ED\x1b(B", b"\x1b$)C\xfb\xf3",
    "Müßig^Jörg".encode("latin-1"), "Müßig^Jörg".encode(), "王^小东".encode("gb18030"), b"\x81\x5c^\x90\x5c",
    b"\xff\xfe\xfd", b"<script>alert(1)</script>", b"=1+1", b"C:\\temp\\x", b"\xc2\x85\xe2\x80\xa8line",
    b"lower case", b"YES", b"yes", b"MALE", b"m", b"OTHER TEXT", b"ISO", b"guid", b"unaltered", b"owner",
)  # fmt: skip
_FORMS = {
    "DA": (
        b"19600101", b"19600231", b"20230229", b"00000101", b"1960.01.01", b"1960-01-01", b"00000000", b"unknown",
        b"196001", b"19600101\\19610101",
    ),
    "TM": (b"101500", b"10:15:00", b"101560", b"2500", b"7", b"10", b"101500.1234567", b"24", b"-1", b"abc"),
    "DT": (b"20240501", b"20240231", b"2024", b"abc", b"20240501101500.1+0100", b"20240501101500+2500"),
    "AS": (b"045Y", b"45Y", b"45", b"45y", b"045Y\\046Y", b"1000Y", b"Y"),
    "DS": (
        b"70", b"70.12345678901234567", b"70,5", b"70\\71", b"NaN", b"inf", b"7.0e1", b"-", b"1e999", b"abc",
        b"1.7500000000000000001",
    ),
    "IS": (b"2", b"12345678901", b"1.5", b"ABC", b"1\\2", b"-3", b"0x10", b"+7"),
    "UI": (b"1.2.3.4", b"1.2.03.4", b"1.2.3.4 ", b"abc", b"1..2", b"1." * 40 + b"1", b"../../x"),
    "CS": (b"TEXT", b"text", b"M", b"m", b"MALE", b"YES", b"NO", b"ct", b"CT", b"A\\B", b"too long for a code string"),
}  # fmt: skip
_OFFSETS = (b"+0100", b"+01:00", b"0100", b"Z", b"+2500", b"+0560", b"-0000", b"+0100\\+0200", b"-1200", b"+1401")
_CHARACTER_SETS = (
    b"", b"ISO_IR 100", b"ISO_IR 192", b"GB18030", b"GBK", b"ISO_IR 144", b"ISO_IR 13", b"\\ISO 2022 IR 87",
    b"ISO 2022 IR 13\\ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"ISO-IR 100", b"UTF8", b"KLINGON",
    b"ISO_IR 100\\ISO_IR 192",
    b"ISO_IR 203", b"iso_ir 100", b"ISO_IR 999", b"ISO 2022 IR 100", b"ISO_IR 6", b"\xff",
)  # fmt: skip

ODD_VALUES = {
    "TimezoneOffsetFromUTC": _OFFSETS,
    "SpecificCharacterSet": _CHARACTER_SETS,
}


def raw(keyword: str, value: bytes, vr: str | None = None) -> RawDataElement:
    """Return an element with these bytes, as pydicom reads and writes it."""
    stated = vr or dictionary_VR(keyword)
    value += (b"\0" if stated == "UI" else b" ") * (len(value) % 2)
    return RawDataElement(Tag(tag_for_keyword(keyword)), stated, len(value), value, 0, False, True)


def _values(keyword: str) -> st.SearchStrategy[bytes]:
    if keyword in ODD_VALUES:
        return st.sampled_from(ODD_VALUES[keyword])
    vr = dictionary_VR(keyword)
    chosen = st.sampled_from((*_FORMS.get(vr, ()), *_TEXTS)) if vr != "UI" else st.sampled_from(_FORMS["UI"])
    return chosen | st.binary(max_size=40) if vr != "UI" else chosen


_ITEM_KEYWORDS = (
    "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "LongCodeValue", "URNCodeValue",
    "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "LocalNamespaceEntityID", "UniversalEntityID",
    "UniversalEntityIDType", "ContextGroupVersion", "MappingResource",
)  # fmt: skip


@st.composite
def _item(draw: st.DrawFn) -> Dataset:
    item = Dataset()
    if draw(st.booleans()):
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "A", "99X", "a"
    if draw(st.booleans()):
        item.PatientID, item.TypeOfPatientID = "OTHER", "TEXT"
    for keyword in draw(st.lists(st.sampled_from(_ITEM_KEYWORDS), max_size=4, unique=True)):
        element = raw(keyword, draw(_values(keyword)))
        item._dict[element.tag] = element
    if draw(st.integers(0, 5)) == 0:
        item.add_new(0x00090010, "LO", "PRIVATE")
        item.add_new(0x00091010, "UN", b"\1\2\3\4")
    return item


@st.composite
def headers(draw: st.DrawFn) -> dict[str, object]:
    """Draw elements for a header, by keyword: bytes, or the items of a sequence."""
    count = draw(st.integers(1, 12))
    keywords = draw(st.lists(st.sampled_from((*COPIED, *FURTHER, *GEOMETRY)), min_size=1, max_size=count, unique=True))
    found: dict[str, object] = {}
    for keyword in sorted(keywords):
        if keyword == "StudyInstanceUID":
            continue
        if dictionary_VR(keyword) == "SQ":
            found[keyword] = draw(st.lists(_item(), max_size=3))
        else:
            found[keyword] = draw(_values(keyword))
    return found


def series_with(
    spool: Path, elements: dict[str, object], **changes: object
) -> tuple[list[StoredInstance], SeriesResult]:
    """Write a series whose every image has these elements; return its instances and a verdict on them."""
    instances = write_series(spool, slices=3)
    kept = []
    for item in instances:
        path = spool / item.path
        image = dcmread(path)
        for keyword, value in elements.items():
            if isinstance(value, bytes):
                element = raw(keyword, value)
                image._dict[element.tag] = element
            elif value is None:
                if keyword in image:
                    delattr(image, keyword)
            else:
                setattr(image, keyword, Sequence(value))
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Else pydicom would decode the other elements and encode them again.
            image.set_original_encoding(False, True, image._character_set)
            image.save_as(path, enforce_file_format=True)
        kept.append(dataclasses.replace(item, size_bytes=path.stat().st_size))
    return kept, verdict(kept, **changes)
