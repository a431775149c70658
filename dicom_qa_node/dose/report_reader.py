"""Reads CT dose reports (PS3.16 TID 10011) by code values, within a budget of bytes, items and depth.

Meanings of codes are text that vendors translate and change, so they are never compared. Whatever a report does not
say in a form that can be relied on is absent, with a remark; the rest of the report counts.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.dicom_io.file_reader import FileBudget
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.dose import PHANTOMS_CM, AcquisitionType, DoseReport, IrradiationEvent
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import is_uid

__all__ = ["DOSE_REPORT_CLASSES", "LARGEST_BYTES", "NoDoseReport", "UnreadableReport", "dose_report_of", "read_report"]

_DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"
DOSE_REPORT_CLASSES = frozenset({_DOSE_SR, "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33"})
"""X-Ray Radiation Dose SR, and the Enhanced and Comprehensive SR under which some scanners send the same content."""

LARGEST_BYTES = 1 << 20
"""The largest real reports have some hundred kilobytes. Of eight bytes, an item, pydicom makes a data set."""

_READS = 600_000
_MOST_ITEMS = 20_000
_DEEPEST = 24
_MOST_EVENTS = 500
_LONGEST_TEXT = 200
_MOST_REMARKS = 20

_TITLE, _TEMPLATE = "113701", "10011"
_ACCUMULATED, _DLP_TOTAL = "113811", "113813"
_ACQUISITION, _EVENT_UID = "113819", "113769"
_PROTOCOL, _TYPE = "125203", "113820"
_CTDI_VOL, _PHANTOM, _DLP, _SSDE, _KVP = "113830", "113835", "113838", "113930", "113733"
_SCHEMES = {"DCM", ""}

_TYPES = {
    "113804": AcquisitionType.SEQUENCED,
    "113805": AcquisitionType.CONSTANT_ANGLE,
    "113806": AcquisitionType.STATIONARY,
    "113807": AcquisitionType.FREE,
    "P5-08001": AcquisitionType.SPIRAL,
    "116152004": AcquisitionType.SPIRAL,
    "R-FB8F1": AcquisitionType.CONE_BEAM,
    "702569007": AcquisitionType.CONE_BEAM,
}
"""CID 10013; SNOMED codes in both of their forms."""

_MGY = {"mGy": 1.0, "cGy": 10.0, "Gy": 1000.0, "uGy": 0.001}
_MGY_CM = {
    "mGy.cm": 1.0, "mGycm": 1.0, "mGy*cm": 1.0, "mGy-cm": 1.0, "mGy cm": 1.0, "cm.mGy": 1.0, "Gy.cm": 1000.0,
    "mGy.m": 100.0, "uGy.m": 0.1,
}  # fmt: skip
_KV = {"kV": 1.0, "V": 0.001}
_CTDI_RANGE, _DLP_RANGE, _KV_RANGE = (0.001, 1000.0), (0.001, 100_000.0), (20.0, 200.0)

_BROKEN = (
    *at.BROKEN_VALUE, InvalidDicomError, OSError, EOFError, RecursionError, struct.error, zlib.error, AssertionError,
)  # fmt: skip


class NoDoseReport(Permanent):
    """The document can be read and is not a CT dose report; the text says what it is instead."""


class UnreadableReport(Permanent):
    """The document cannot be read, or costs more than its budget."""


@dataclass(frozen=True, slots=True)
class _Code:
    """A coded concept; the scheme in capitals."""

    value: str
    scheme: str


_NO_CODE = _Code("", "")
_Content = Mapping[str, Sequence[Dataset]]


def read_report(source: Path | BinaryIO) -> DoseReport:
    """Read one Part 10 file.

    Raises
    ------
    NoDoseReport
        It is another document.
    UnreadableReport
        It cannot be read within the budget.
    """
    try:
        data = source.read_bytes() if isinstance(source, Path) else source.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UnreadableReport(f"the file of the report cannot be read: {error.strerror}") from error
    if len(data) > LARGEST_BYTES:
        raise UnreadableReport(f"a dose report has at most {LARGEST_BYTES >> 20} MiB")
    try:
        with at.tolerant():
            budget = FileBudget(_READS, LARGEST_BYTES)
            return dose_report_of(dcmread(BytesIO(data), stop_before_pixels=True, budget=budget))
    except _BROKEN as error:
        # The words of the error may quote a value of the data set.
        raise UnreadableReport(f"the report cannot be read ({type(error).__name__})") from error


def dose_report_of(ds: Dataset) -> DoseReport:
    """Return what a data set holds as a CT dose report; raises as `read_report` does."""
    items = _Walk()
    root = list(items.below(ds, 0))
    acquisitions = [item for item in root if _is(item, _ACQUISITION)]
    _require_ct_report(ds, root, acquisitions)
    study = at.uid(ds, "StudyInstanceUID")
    if not study:
        raise UnreadableReport("the report has no Study Instance UID (0020,000D)")
    if len(acquisitions) > _MOST_EVENTS:
        raise UnreadableReport(f"the report holds more than {_MOST_EVENTS} irradiation events")
    events = _distinct([_event(item) for item in acquisitions], study)
    accumulated = [item for item in root if _is(item, _ACCUMULATED)]
    total, _ = _single(_values(accumulated[0], _DLP_TOTAL, _MGY_CM, _DLP_RANGE)) if accumulated else (None, "")
    return DoseReport(
        sop_class_uid=at.word(ds, "SOPClassUID"),
        sop_instance_uid=at.uid(ds, "SOPInstanceUID"),
        study_instance_uid=study,
        patient_id=_short(at.text(ds, "PatientID")),
        content_at=_digits(at.word(ds, "ContentDate"), 8) + _digits(at.word(ds, "ContentTime"), 6),
        events=events,
        dlp_total_mgy_cm=total,
        manufacturer=_short(at.text(ds, "Manufacturer")),
        model=_short(at.text(ds, "ManufacturerModelName")),
        station=_short(at.text(ds, "StationName")),
    )


class _Walk:
    """Counts what is looked at, so that a hostile tree ends early."""

    def __init__(self) -> None:
        self._left = _MOST_ITEMS

    def below(self, ds: Dataset, depth: int) -> Iterator[Dataset]:
        """Yield every content item below a data set, but none inside of an acquisition."""
        if depth >= _DEEPEST:
            raise UnreadableReport(f"the content of the report is nested deeper than {_DEEPEST} levels")
        for item in at.items(ds, "ContentSequence"):
            self._left -= 1
            if self._left < 0:
                raise UnreadableReport(f"the report has more than {_MOST_ITEMS} content items")
            yield item
            if not _is(item, _ACQUISITION):
                yield from self.below(item, depth + 1)


def _inside(ds: Dataset, depth: int = 0, left: list[int] | None = None) -> Iterator[Dataset]:
    budget = [_MOST_ITEMS] if left is None else left
    if depth >= _DEEPEST:
        raise UnreadableReport(f"the content of the report is nested deeper than {_DEEPEST} levels")
    for item in at.items(ds, "ContentSequence"):
        budget[0] -= 1
        if budget[0] < 0:
            raise UnreadableReport(f"the report has more than {_MOST_ITEMS} content items")
        yield item
        yield from _inside(item, depth + 1, budget)


def _require_ct_report(ds: Dataset, root: Sequence[Dataset], acquisitions: Sequence[Dataset]) -> None:
    """Refuse other documents than dose reports of CT; the SOP class alone decides neither way."""
    sop_class = at.word(ds, "SOPClassUID")
    if sop_class not in DOSE_REPORT_CLASSES:
        raise NoDoseReport("the object is not of an SOP class of dose reports")
    template = at.word(at.one_item(ds, "ContentTemplateSequence"), "TemplateIdentifier")
    titled = _is(ds, _TITLE)
    if not (sop_class == _DOSE_SR or template == _TEMPLATE or titled):
        raise NoDoseReport("structured report, but not a dose report (template 10011)")
    holds_ct = bool(acquisitions) or any(_is(item, _ACCUMULATED) for item in root)
    if template != _TEMPLATE and not holds_ct:
        raise NoDoseReport("dose report, but not of CT (template 10011)")


def _event(acquisition: Dataset) -> IrradiationEvent:
    """Return one acquisition; its key is given when all of the report are known."""
    content = _by_concept(_inside(acquisition))
    remarks: list[str] = []

    def measured(concept: str, name: str, units: dict[str, float], limits: tuple[float, float]) -> float | None:
        value, remark = _single([_number(item, units, limits) for item in content.get(concept, ())])
        if remark:
            remarks.append(f"{name}: {remark}")
        return value

    ctdi = measured(_CTDI_VOL, "CTDIvol", _MGY, _CTDI_RANGE)
    dlp = measured(_DLP, "DLP", _MGY_CM, _DLP_RANGE)
    ssde = measured(_SSDE, "SSDE", _MGY, _CTDI_RANGE)
    phantoms = {PHANTOMS_CM[code.value] for code in _codes(content, _PHANTOM) if code.value in PHANTOMS_CM}
    if len(phantoms) > 1:
        remarks.append("CTDIvol for two phantoms")
        ctdi = dlp = None
    types = {_TYPES.get(code.value, AcquisitionType.UNKNOWN) for code in _codes(content, _TYPE)}
    kv = [_number(item, _KV, _KV_RANGE)[0] for item in content.get(_KVP, ())]
    return IrradiationEvent(
        key="",
        uid=_event_uid(content),
        acquisition_type=types.pop() if len(types) == 1 else AcquisitionType.UNKNOWN,
        protocol=_first_text(content, _PROTOCOL),
        ctdi_vol_mgy=ctdi,
        phantom_cm=phantoms.pop() if len(phantoms) == 1 else None,
        dlp_mgy_cm=dlp,
        ssde_mgy=ssde,
        kv=tuple(value for value in kv if value is not None),
        remarks=tuple(remarks[:_MOST_REMARKS]),
    )


def _event_uid(content: _Content) -> str:
    found = {uid for item in content.get(_EVENT_UID, ()) if is_uid(uid := at.word(item, "UID"))}
    return found.pop() if len(found) == 1 else ""


def _distinct(events: Sequence[IrradiationEvent], study: str) -> tuple[IrradiationEvent, ...]:
    """Give each event its key; an acquisition that stands twice in the same words counts once.

    Several different acquisitions under one UID are kept apart, and none of them can be found by that UID any more.
    """
    seen: Counter[str] = Counter()
    found: list[IrradiationEvent] = []
    for event in dict.fromkeys(event for event in events if event.uid):
        seen[event.uid] += 1
        key = event.uid if seen[event.uid] == 1 else f"{event.uid}#{seen[event.uid]}"
        found.append(replace(event, key=key))
    for event in events:
        if event.uid:
            continue
        digest = hashlib.sha256(
            repr((study, event.acquisition_type.value, event.protocol, event.ctdi_vol_mgy, event.dlp_mgy_cm)).encode()
        ).hexdigest()[:32]
        seen[digest] += 1
        remark = "no valid Irradiation Event UID"
        found.append(replace(event, key=f"{digest}#{seen[digest]}", remarks=(*event.remarks, remark)))
    return tuple(found)


# -- single items --------------------------------------------------------------------------------------------


def _code(ds: Dataset, sequence: str) -> _Code:
    item = at.one_item(ds, sequence)
    value = at.word(item, "CodeValue") or at.word(item, "LongCodeValue")
    return _Code(value[:64], at.word(item, "CodingSchemeDesignator").upper()[:16])


def _concept(item: Dataset) -> _Code:
    return _code(item, "ConceptNameCodeSequence")


def _dcm(code: _Code) -> bool:
    return code.scheme in _SCHEMES


def _is(item: Dataset, value: str) -> bool:
    concept = _concept(item)
    return concept.value == value and _dcm(concept)


def _by_concept(items: Iterable[Dataset]) -> _Content:
    """Return items by the code value of their concept, those of other schemes than DCM left out."""
    found: dict[str, list[Dataset]] = {}
    for item in items:
        concept = _concept(item)
        if concept.value and _dcm(concept):
            found.setdefault(concept.value, []).append(item)
    return found


def _codes(content: _Content, concept: str) -> Iterator[_Code]:
    codes = (_code(item, "ConceptCodeSequence") for item in content.get(concept, ()))
    return (code for code in codes if code != _NO_CODE)


def _first_text(content: _Content, concept: str) -> str:
    return next((text for item in content.get(concept, ()) if (text := _short(at.text(item, "TextValue")))), "")


def _values(
    container: Dataset, concept: str, units: dict[str, float], limits: tuple[float, float]
) -> list[tuple[float | None, str]]:
    return [_number(item, units, limits) for item in _inside(container) if _is(item, concept)]


def _number(item: Dataset, units: dict[str, float], limits: tuple[float, float]) -> tuple[float | None, str]:
    """Return a NUM item in the unit that ``units`` converts to; else None and why."""
    measured = at.one_item(item, "MeasuredValueSequence")
    value = at.number(measured, "NumericValue")
    if value is None:
        value = at.number(measured, "FloatingPointValue")
    if value is None:
        return None, "no single number"
    unit = _code(measured, "MeasurementUnitsCodeSequence").value
    if unit not in units:
        return None, f"unit {_short(unit)[:16]} is not known" if unit else "no unit"
    found = value * units[unit]
    if not limits[0] <= found <= limits[1]:
        return None, f"{found:g} is implausible"
    return found, ""


def _single(found: Sequence[tuple[float | None, str]]) -> tuple[float | None, str]:
    """Return the one value that several items agree on; else None and why."""
    values = {value for value, _ in found if value is not None}
    if len(values) == 1:
        return values.pop(), ""
    if values:
        return None, f"{len(values)} different values"
    return None, found[0][1] if found else ""


def _short(text: str) -> str:
    return " ".join(text.replace("\0", "").split())[:_LONGEST_TEXT]


def _digits(text: str, count: int) -> str:
    found = "".join(filter(str.isdigit, text))[:count]
    return found.ljust(count, "0") if text.isascii() and found else "0" * count
