"""What the header alone says about a series that the networks were not trained on: age, body region, tracer."""

from __future__ import annotations

import datetime as dt

from pydicom import Dataset

from dicom_qa_node.records import SeriesKind
from dicom_qa_node.score import attributes as at

__all__ = ["unlike_training"]

ADULT_YEARS = 16.0
"""The youngest patients of the training data are 17."""

_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}

# fmt: off
_LIMBS = frozenset((
    "ANKLE", "ARM", "CALF", "CLAVICLE", "ELBOW", "EXTREMITY", "FINGER", "FOOT", "FOREARM", "HAND", "HUMERUS", "KNEE",
    "LEG", "LOWERARM", "LOWERLEG", "SHOULDER", "THIGH", "THUMB", "TOE", "UPPERARM", "UPPERLEG", "WRIST",
))
_HEAD = frozenset((
    "BRAIN", "EAR", "EYE", "FACE", "HEAD", "JAW", "MANDIBLE", "MAXILLA", "NOSE", "ORBIT", "SINUS", "SKULL", "TEETH",
    "TMJ",
))
# fmt: on
"""Body Part Examined (0018,0015), defined terms of PS3.16 annex L, without blanks."""

_FDG = ("FDG", "FLUORODEOXYGLUCOSE", "FLUDEOXYGLUCOSE", "FLUORO-2-DEOXY", "FLUORO-D-GLUCOSE", "C-B1031", "35321007")


def unlike_training(header: Dataset, kind: SeriesKind) -> str:
    """Return why a series of this kind is unlike the training data, "" where the header does not say so."""
    years = _age(header)
    if years is not None and years < ADULT_YEARS:
        return f"the patient is a child of {years:.0f} years and the model was trained on adults"
    if kind is SeriesKind.CT:
        part = at.word(header, "BodyPartExamined").upper().replace(" ", "").replace("_", "")
        if part in _LIMBS:
            return f"the body part is {part.lower()} and the model has seen no CT of limbs"
        if part in _HEAD:
            return f"the body part is {part.lower()} and the model has seen no CT of heads in this window"
        return ""
    tracer = _tracer(header)
    if tracer and not any(name in tracer.upper() for name in _FDG):
        return "the tracer is not FDG and the model has seen no other"
    return ""


def _age(header: Dataset) -> float | None:
    """Age in years from Patient's Age (VR AS), else from the dates of birth and study."""
    text = at.word(header, "PatientAge")
    if len(text) == 4 and text[:3].isdigit() and text[3] in _PER_YEAR:
        return int(text[:3]) / _PER_YEAR[text[3]]
    born, seen = (_date(at.word(header, keyword)) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or seen is None or seen < born:
        return None
    return (seen - born).days / 365.25


def _date(text: str) -> dt.date | None:
    try:
        return dt.date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None


def _tracer(header: Dataset) -> str:
    """Everything that names the tracer, "" where nothing does."""
    item = at.one_item(header, "RadiopharmaceuticalInformationSequence")
    code = at.one_item(item, "RadiopharmaceuticalCodeSequence")
    names = (at.word(item, "Radiopharmaceutical"), at.word(code, "CodeMeaning"), at.word(code, "CodeValue"))
    return " ".join(name for name in names if name)
