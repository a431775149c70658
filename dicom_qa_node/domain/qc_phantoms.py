"""QC phantoms: what is known of a series that shows one instead of a patient."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "PhantomEvidence",
    "PhantomKind",
    "QcOutcome",
    "QcPhantom",
    "SubjectDecision",
    "Tolerance",
    "outcome_of_value",
]


class PhantomKind(StrEnum):
    """Phantoms that can be analysed."""

    CATPHAN503 = "catphan503"
    CATPHAN504 = "catphan504"
    CATPHAN600 = "catphan600"
    CATPHAN604 = "catphan604"
    CATPHAN700 = "catphan700"
    ACR_CT = "acr_ct"
    WATER = "water"
    NEMA_IQ_PET = "nema_iq_pet"
    UNIFORM_PET = "uniform_pet"

    @property
    def label(self) -> str:
        """The name of the phantom."""
        return _TITLES[self]

    @property
    def modality(self) -> str:
        """Modality (0008,0060) of its images."""
        return "PT" if self in (PhantomKind.NEMA_IQ_PET, PhantomKind.UNIFORM_PET) else "CT"

    @property
    def by_pylinac(self) -> bool:
        """Whether pylinac analyses it; the others are analysed by the node."""
        return self is PhantomKind.ACR_CT or self.value.startswith("catphan")


_TITLES = {
    PhantomKind.CATPHAN503: "CatPhan 503",
    PhantomKind.CATPHAN504: "CatPhan 504",
    PhantomKind.CATPHAN600: "CatPhan 600",
    PhantomKind.CATPHAN604: "CatPhan 604",
    PhantomKind.CATPHAN700: "CatPhan 700",
    PhantomKind.ACR_CT: "ACR CT 464",
    PhantomKind.WATER: "Water cylinder",
    PhantomKind.NEMA_IQ_PET: "NEMA IQ",
    PhantomKind.UNIFORM_PET: "Uniform PET cylinder",
}


class PhantomEvidence(StrEnum):
    """Why a series counts as one of a QC phantom, the strongest first."""

    PERSON = "decision of a person"
    SUBJECT = "Quality Control Subject"
    RULE = "configured rule"
    APPEARANCE = "name and shape"


class QcOutcome(StrEnum):
    """What the analysis of a phantom came to."""

    PASSED = "pass"
    OUTSIDE = "outside"
    NOT_JUDGED = "not judged"
    NOT_ANALYSED = "not analysed"


@dataclass(frozen=True, slots=True)
class QcPhantom:
    """A series of a QC phantom: it has no score and no grade.

    Attributes
    ----------
    evidence, reason
        Why it counts as a phantom; ``reason`` in words.
    phantom, kind
        Name of the configured phantom and what it is; "" where none is configured for scanner and protocol.
    outcome, remark
        What the analysis came to; ``remark`` says why there is none.
    """

    evidence: PhantomEvidence
    reason: str
    phantom: str = ""
    kind: str = ""
    outcome: QcOutcome = QcOutcome.NOT_ANALYSED
    remark: str = ""

    @property
    def title(self) -> str:
        """The name of what was scanned, as far as it is known."""
        return PhantomKind(self.kind).label if self.kind else "unknown phantom"


@dataclass(frozen=True, slots=True)
class SubjectDecision:
    """A person's decision whether a series shows a phantom or a patient."""

    phantom: bool
    author: str
    at: dt.datetime
    reason: str

    @property
    def sentence(self) -> str:
        """The decision in words."""
        what = "a QC phantom" if self.phantom else "a patient"
        why = f": {self.reason}" if self.reason else ""
        return f"{self.author} decided on {self.at:%Y-%m-%d} that the series shows {what}{why}"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The tolerance of one quantity of a phantom; both bounds None: the quantity is not judged.

    ``scanner`` is "" for all scanners. ``source`` and ``dated`` say where the bounds come from.
    """

    kind: PhantomKind
    quantity: str
    low: float | None
    high: float | None
    source: str
    dated: str
    scanner: str = ""
    author: str = ""
    reason: str = ""
    tolerance_id: int | None = None

    def outcome(self, value: float) -> QcOutcome:
        """Judge a value."""
        return outcome_of_value(value, self.low, self.high)


def outcome_of_value(value: float, low: float | None, high: float | None) -> QcOutcome:
    """Judge a value by its bounds, which belong to the tolerance; without any it is not judged."""
    if low is None and high is None:
        return QcOutcome.NOT_JUDGED
    inside = (low is None or value >= low) and (high is None or value <= high)
    return QcOutcome.PASSED if inside else QcOutcome.OUTSIDE
