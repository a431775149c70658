"""Makes each value that is copied from a source header valid for its VR and VM (PS3.5 6.2), or leaves it out.

`valid_element` is the only way from a source header into a report, a companion or a key object. It works on the bytes
of the element, so that no value of a source can stop it, and collects what it could not copy unchanged.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydicom import DataElement
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from dicom_qa_node.dicom_io.pydicom_patches import decoded_text
from dicom_qa_node.domain.uids import is_valid_uid

__all__ = ["Changes", "plain_text", "stated_text", "valid_element", "valid_values"]

_CHARACTERS = {"AE": 16, "CS": 16, "LO": 64, "LT": 10240, "PN": 64, "SH": 16, "ST": 1024}
"""Longest value in characters (PS3.5 table 6.2-1); of PN, one component group."""

_PARAGRAPHS = frozenset({"LT", "ST", "UT"})
_DECODED = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_STRINGS = _DECODED | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
_SEPARATORS = "\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}"
_NAME_GROUPS, _NAME_COMPONENTS = 3, 5
_IDENTIFIERS = frozenset(
    {
        "AccessionNumber", "ClinicalTrialProtocolID", "ClinicalTrialSiteID", "ClinicalTrialSubjectID",
        "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID", "CodeValue", "CodingSchemeDesignator",
        "DeviceSerialNumber", "IssuerOfPatientID", "LocalNamespaceEntityID", "PatientID", "StudyID",
        "UniversalEntityID",
    }
)  # fmt: skip
"""A part of an identifier identifies something else: these are copied whole or not at all."""

_ENUMERATED = {
    "PatientSex": ("M", "F", "O"),
    "TypeOfPatientID": ("TEXT", "RFID", "BARCODE"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "PatientSexNeutered": ("ALTERED", "UNALTERED"),
    "UniversalEntityIDType": ("DNS", "EUI64", "ISO", "URI", "UUID", "X400", "X500"),
    "ResponsiblePersonRole": (
        "OWNER", "PARENT", "CHILD", "SPOUSE", "SIBLING", "RELATIVE", "GUARDIAN", "CUSTODIAN", "AGENT", "INVESTIGATOR",
        "VETERINARIAN",
    ),
}  # fmt: skip
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")
_DATE = re.compile(r"(\d{4})([.-]?)(\d\d)\2(\d\d)")
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d+))?)?)?")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,11}")


@dataclass(slots=True)
class Changes:
    """What could not be copied unchanged, by keyword; never the value itself, which may identify a patient."""

    found: dict[str, str] = field(default_factory=dict)

    def note(self, keyword: str, what: str) -> None:
        """Add one; the first of an element is kept."""
        self.found.setdefault(keyword, what)

    def __str__(self) -> str:
        return ", ".join(f"{keyword} {what}" for keyword, what in sorted(self.found.items()))


def valid_element(
    raw: RawDataElement | DataElement, character_set: Sequence[str], changes: Changes
) -> DataElement | None:
    """Return an element of a source header as it may be copied, None where nothing of it can be.

    Parameters
    ----------
    raw
        An element with a string VR, as pydicom reads it from a file.
    character_set
        The Specific Character Set (0008,0005) that its text is encoded in.
    changes
        Takes what was changed or left out.
    """
    tag = BaseTag(raw.tag)
    keyword = keyword_for_tag(tag)
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    text = stated_text(raw, vr, character_set)
    if text is None or vr not in _STRINGS:
        changes.note(keyword, "left out (its value representation is not that of PS3.6)")
        return None
    values = valid_values(text, keyword, vr, many=dictionary_VM(tag) != "1", changes=changes)
    if vr == "PN":
        names = [PersonName(value) for value in values]
        return DataElement(tag, vr, names if len(names) > 1 else (names[0] if names else PersonName("")))
    return DataElement(tag, vr, values if len(values) > 1 else (values[0] if values else ""))


def valid_values(text: str, keyword: str, vr: str, *, many: bool, changes: Changes) -> list[str]:
    """Return the valid values of a decoded text, [] where there is none; see `valid_element`."""
    split = [text] if vr in _PARAGRAPHS or vr == "UR" else text.split("\\")
    stated = [item for item in split if item.strip(" \0")]
    if len(stated) > 1 and not many:
        if keyword in _IDENTIFIERS:
            changes.note(keyword, f"left out ({len(stated)} values where one is allowed)")
            return []
        changes.note(keyword, f"reduced to the first of {len(stated)} values")
        stated = stated[:1]
    found = []
    for item in stated:
        value = _valid(item, keyword, vr)
        if value is None:
            changes.note(keyword, f"left out (not a valid {vr} value)")
            continue
        if value != item.strip(" \0") and not _same(value, item, vr):
            changes.note(keyword, "made valid")
        if value:
            found.append(value)
    return found


def plain_text(text: str, *, paragraphs: bool = False) -> str:
    """Return a text without control characters (PS3.5 6.1.3): white space among them becomes a space.

    ``paragraphs`` keeps line and page ends, which LT, ST and UT may hold.
    """
    kept = "\r\n\f" if paragraphs else ""
    return "".join(char if char in kept else _printable(char) for char in text)


def _printable(char: str) -> str:
    if char in _SEPARATORS or (char.isspace() and char != " "):
        return " " if char < " " or "\x7f" <= char <= "\x9f" or char in _SEPARATORS else char
    if char < " " or "\x7f" <= char <= "\x9f":
        return ""
    return "\N{REPLACEMENT CHARACTER}" if "\ud800" <= char <= "\udfff" else char


def stated_text(raw: RawDataElement | DataElement, vr: str, character_set: Sequence[str]) -> str | None:
    """Return the text of an element as the source has it, None where its bytes are those of another kind of VR."""
    value, stated = raw.value, raw.VR
    # A text that somebody wrote as UN, or under the name of another text VR, is that text still.
    if stated not in (None, "UN") and not (stated == vr or {stated, vr} <= _DECODED - {"PN"}):
        return None
    if value is None:
        return ""
    if isinstance(value, bytes):
        return decoded_text(value, character_set) if vr in _DECODED else value.decode("ascii", "replace")
    if isinstance(value, (str, PersonName)):
        return str(value)
    return "\\".join(str(item) for item in value) if hasattr(value, "__iter__") else str(value)


def _same(value: str, source: str, vr: str) -> bool:
    """Return whether the form only differs in what PS3.5 calls insignificant: padding, trailing delimiters."""
    stripped = source.strip(" \0")
    return vr == "PN" and value.rstrip("^=") == "=".join(group.rstrip("^ ") for group in stripped.split("=")).rstrip(
        "="
    )


def _valid(item: str, keyword: str, vr: str) -> str | None:
    if keyword == "TimezoneOffsetFromUTC":
        return _offset(item)
    if vr in _FORMS:
        return _FORMS[vr](item.strip(" \0"), keyword)
    return _text(item, keyword, vr)


def _text(item: str, keyword: str, vr: str) -> str | None:
    source = item.strip("\0 \r\n\t\f")
    value = plain_text(source, paragraphs=vr in _PARAGRAPHS).strip()
    longest = _CHARACTERS.get(vr)
    if keyword in _IDENTIFIERS and (value != source or (longest and len(value) > longest)):
        return None
    return value if longest is None else value[:longest].strip()


def _name(item: str, _: str) -> str:
    groups = [_name_group(plain_text(group)) for group in item.split("=")[:_NAME_GROUPS]]
    return "=".join(groups).rstrip("=")


def _name_group(group: str) -> str:
    parts = [part.strip() for part in group.split("^")]
    parts = [*parts[: _NAME_COMPONENTS - 1], " ".join(filter(None, parts[_NAME_COMPONENTS - 1 :]))]
    return "^".join(parts)[: _CHARACTERS["PN"]].rstrip("^ ")


def _code_string(item: str, keyword: str) -> str | None:
    value = item.upper()
    allowed = _ENUMERATED.get(keyword)
    valid = value in allowed if allowed else _CODE_STRING.fullmatch(value) is not None
    return value if valid else None


def _date(item: str, _: str) -> str | None:
    found = _DATE.fullmatch(item)
    if found is None:
        return None
    try:
        day = dt.date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None
    return f"{day.year:04d}{day.month:02d}{day.day:02d}"


def _time(item: str, _: str) -> str | None:
    found = _TIME.fullmatch(item)
    if found is None or int(found[1]) > 23 or int(found[2] or 0) > 59 or int(found[3] or 0) > 59:
        return None
    fraction = f".{found[4][:6]}" if found[4] else ""
    return "".join(filter(None, found.group(1, 2, 3))) + fraction


def _date_time(item: str, _: str) -> str | None:
    stated = re.fullmatch(r"(\d{4,14})(\.\d{1,6})?([+-]\d{4})?", item)
    if stated is None or (stated[3] and _offset(stated[3]) is None):
        return None
    digits = stated[1]
    day, clock = (digits + "0101"[len(digits) - 4 :] if len(digits) in (4, 6) else digits[:8]), digits[8:]
    return item if _date(day, "") and (not clock or _time(clock, "")) and len(item) <= 26 else None


def _offset(item: str) -> str | None:
    text = item.strip(" \0")
    found = _OFFSET.fullmatch("+0000" if text == "Z" else text)
    if found is None:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    # -1200 to +1400; -0000 is not allowed (PS3.3 C.12.1).
    reach = 14 * 60 if found[1] == "+" else 12 * 60
    if int(found[3]) > 59 or minutes > reach or (found[1] == "-" and not minutes):
        return None
    return "".join(found.group(1, 2, 3))


def _age(item: str, _: str) -> str | None:
    found = _AGE.fullmatch(item.upper())
    return f"{int(found[1]):03d}{found[2]}" if found else None


def _decimal(item: str, _: str) -> str | None:
    if _DECIMAL.fullmatch(item) is None or not math.isfinite(float(item)):
        return None
    return item if len(item) <= 16 else f"{float(item):.9g}"


def _integer(item: str, _: str) -> str | None:
    return item if _INTEGER.fullmatch(item) and -(2**31) <= int(item) < 2**31 else None


def _uid(item: str, _: str) -> str | None:
    return item if is_valid_uid(item) else None


def _uri(item: str, _: str) -> str | None:
    return item if re.fullmatch(r"[!-\[\]-~]+", item) else None


def _title(item: str, _: str) -> str | None:
    return item if len(item) <= _CHARACTERS["AE"] and item.isascii() and item.isprintable() else None


_FORMS: dict[str, Callable[[str, str], str | None]] = {
    "AE": _title, "AS": _age, "CS": _code_string, "DA": _date, "DS": _decimal, "DT": _date_time, "IS": _integer,
    "PN": _name, "TM": _time, "UI": _uid, "UR": _uri,
}  # fmt: skip
