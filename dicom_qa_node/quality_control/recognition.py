"""Whether the header of a series speaks of a QC phantom; the first step of the phantoms' own lane.

The strongest evidence first: a person's decision, Quality Control Subject (0010,0200), a configured rule. Words in
names prove nothing by themselves: they ask for a look at the pixels (`quality_control.outline`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import combining, normalize

from pydicom import Dataset

from dicom_qa_node.config.phantoms import PhantomRule
from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.qc_phantoms import PhantomEvidence, QcPhantom, SubjectDecision

__all__ = ["NamedLike", "named_like_phantom", "stated_phantom"]

_NAMED = (
    "PatientName", "PatientID", "StudyDescription", "SeriesDescription", "ProtocolName",
    "PerformedProcedureStepDescription", "RequestedProcedureDescription", "BodyPartExamined",
)  # fmt: skip
_WORDS = frozenset(
    (
        "qa", "qc", "phantom", "phantoms", "phantome", "phantoom", "fantom", "fantome", "fantoma", "fantomas",
        "catphan", "nema", "jaszczak", "gammex", "konstanzprufung", "constancy",
    )
)  # fmt: skip
_WEAK = frozenset(
    (
        "acr", "water", "wasser", "eau", "agua", "acqua", "cylinder", "zylinder", "cylindre", "cilindro", "uniformity",
        "esser", "konstanz",
    )
)  # fmt: skip
_JOINED = ("catphan", "phantom", "dailyqa", "dailyqc", "qualitycontrol", "qualityassurance", "qualitatskontrolle")


def stated_phantom(
    header: Dataset, rules: Sequence[PhantomRule], calling_ae: str, decision: SubjectDecision | None
) -> QcPhantom | None:
    """Return why a series is one of a QC phantom, by what persons, the scanner and the configuration state.

    Parameters
    ----------
    header
        Attributes of one image.
    calling_ae
        AE title that sent the images; "" where they came from a folder.
    decision
        The latest decision of a person; one for "patient" ends the search for evidence.
    """
    if decision is not None:
        return QcPhantom(PhantomEvidence.PERSON, decision.sentence) if decision.phantom else None
    if at.word(header, "QualityControlSubject").upper() == "YES":
        return QcPhantom(PhantomEvidence.SUBJECT, "Quality Control Subject (0010,0200) is YES")
    for rule in rules:
        if rule.fits(
            calling_ae=calling_ae,
            station=at.text(header, "StationName"),
            protocol=at.text(header, "ProtocolName"),
            patient_id=at.text(header, "PatientID"),
        ):
            return QcPhantom(PhantomEvidence.RULE, f"rule of the configuration: {rule.words()}")
    return None


@dataclass(frozen=True, slots=True)
class NamedLike:
    """A word of phantoms and the attribute it stands in; ``strong`` where it hardly means anything else."""

    word: str
    attribute: str
    strong: bool


def named_like_phantom(header: Dataset) -> NamedLike | None:
    """Return the first word of phantoms in the names of a patient, study, series or protocol, None without one.

    Not the name itself, so that the answer may stand in reports and logs.
    """
    found = [hit for keyword in _NAMED if (hit := _word_in(header, keyword)) is not None]
    return next((hit for hit in found if hit.strong), next(iter(found), None))


def _word_in(header: Dataset, keyword: str) -> NamedLike | None:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", at.text(header, keyword))
    plain = "".join(sign for sign in normalize("NFKD", apart.casefold()) if not combining(sign))
    words = re.findall(r"[^\W\d_]+", plain)
    joined = "".join(words)
    strong = next((word for word in words if word in _WORDS), "")
    strong = strong or next((word for word in _JOINED if word in joined), "")
    weak = next((word for word in words if word in _WEAK), "")
    return NamedLike(strong or weak, keyword, bool(strong)) if strong or weak else None
