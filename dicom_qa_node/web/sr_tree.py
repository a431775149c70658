"""A Structured Report as a tree of words (PS3.3 C.17.3), for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_qa_node.dicom_io.pydicom_patches import dcmread

__all__ = ["Node", "read_tree"]

_DEEPEST = 20
_TEXTS = {
    "TEXT": "TextValue", "DATE": "Date", "TIME": "Time", "DATETIME": "DateTime", "UIDREF": "UID", "PNAME": "PersonName",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """One content item: its concept, its value as text, and its children; ``relation`` as in PS3.3 C.17.3.2.4."""

    relation: str
    kind: str
    concept: str
    value: str
    children: tuple[Node, ...]


def read_tree(path: Path, *, names: bool) -> Node | None:
    """Read a report; None where the file is gone or no report.

    Parameters
    ----------
    names
        Whether items that hold a person's name are shown.
    """
    try:
        ds = dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError):
        return None
    return _node(ds, names, 0) if "ValueType" in ds else None


def _node(item: Dataset, names: bool, depth: int) -> Node:
    kind = str(item.get("ValueType", ""))
    value = "" if kind == "PNAME" and not names else _value(item, kind)
    inner = item.get("ContentSequence") or []
    children = tuple(_node(child, names, depth + 1) for child in inner) if depth < _DEEPEST else ()
    return Node(
        str(item.get("RelationshipType", "")).lower(), kind, _coded(item, "ConceptNameCodeSequence"), value, children
    )


def _value(item: Dataset, kind: str) -> str:
    if kind in _TEXTS:
        return str(item.get(_TEXTS[kind], ""))
    if kind == "CODE":
        return _coded(item, "ConceptCodeSequence")
    if kind == "NUM":
        return _number(item)
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        return "; ".join(_reference(entry) for entry in item.get("ReferencedSOPSequence") or [])
    return ""


def _number(item: Dataset) -> str:
    measured = item.get("MeasuredValueSequence") or []
    if not measured:
        return _coded(item, "NumericValueQualifierCodeSequence") or "no value"
    unit = (measured[0].get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
    word = str(unit.get("CodeValue", ""))
    return f"{measured[0].get('NumericValue', '')} {'' if word == '1' else word}".strip()


def _reference(entry: Dataset) -> str:
    frames = entry.get("ReferencedFrameNumber")
    return str(entry.get("ReferencedSOPInstanceUID", "")) + (f" frame {frames}" if frames is not None else "")


def _coded(item: Dataset, keyword: str) -> str:
    found = item.get(keyword) or []
    return str(found[0].get("CodeMeaning", "")) if found else ""
