"""Reads the verdict out of a quality report by its codes: score, grade and sentence of the first measurement group."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.codes import (
    COMMENT,
    IMAGE_SET_QUALITY_RATING,
    IMAGING_MEASUREMENTS,
    MEASUREMENT_GROUP,
    QUALITY_ASSESSMENT,
    Code,
)
from dicom_qa_node.domain.errors import Permanent

__all__ = ["ReportedVerdict", "read_verdict"]

_GRADES = {"RID12": "diagnostic", "RID13": "limited", "RID14": "non-diagnostic"}
_NOT_RATED = "not rated"


@dataclass(frozen=True, slots=True)
class ReportedVerdict:
    """What a report concludes: ``score`` from 0 to 4 or None, ``grade`` after CID 7036 or "not rated", one sentence."""

    report_uid: str
    score: float | None
    grade: str
    sentence: str

    @property
    def score_text(self) -> str:
        """The score with two decimals."""
        return _NOT_RATED if self.score is None else f"{self.score:.2f}"


def read_verdict(content: bytes) -> ReportedVerdict:
    """Return the verdict of a report, a Part 10 file.

    Raises
    ------
    Permanent
        It is not a report of this kind.
    """
    try:
        report = dcmread(BytesIO(content), stop_before_pixels=True)
        group = _first_group(report)
        if group is not None:
            return _verdict(str(report.SOPInstanceUID), group)
    except (InvalidDicomError, AttributeError, EOFError, LookupError, TypeError, ValueError, OSError) as error:
        raise Permanent(f"the report cannot be read ({type(error).__name__})") from error
    raise Permanent("the report has no measurement group (125007, DCM)")


def _verdict(uid: str, group: Dataset) -> ReportedVerdict:
    score = _score(group)
    grade = next(
        (_GRADES.get(_value(item.ConceptCodeSequence[0]), "") for item in _named(group, QUALITY_ASSESSMENT, "CODE")), ""
    )
    sentence = next((str(item.TextValue) for item in _named(group, COMMENT, "TEXT")), "")
    return ReportedVerdict(uid, score, grade or _NOT_RATED, " ".join(sentence.split()))


def _score(group: Dataset) -> float | None:
    for item in _named(group, IMAGE_SET_QUALITY_RATING, "NUM"):
        measured: Any = item.get("MeasuredValueSequence")
        value = float(measured[0].NumericValue) if measured else math.nan
        return value if math.isfinite(value) else None
    return None


def _first_group(report: Dataset) -> Dataset | None:
    for measurements in _named(report, IMAGING_MEASUREMENTS, "CONTAINER"):
        return next(_named(measurements, MEASUREMENT_GROUP, "CONTAINER"), None)
    return None


def _named(parent: Dataset, name: Code, value_type: str) -> Iterator[Dataset]:
    for item in parent.get("ContentSequence") or []:
        concept = item.get("ConceptNameCodeSequence")
        if item.get("ValueType") == value_type and concept and _is(concept[0], name):
            yield item


def _is(concept: Dataset, code: Code) -> bool:
    return _value(concept) == code.value and str(concept.get("CodingSchemeDesignator", "")) == code.scheme


def _value(concept: Dataset) -> str:
    return str(concept.get("CodeValue", ""))
