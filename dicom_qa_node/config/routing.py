"""Which targets a report goes to: the rules of a target, and the one place that applies them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field, field_validator

from dicom_qa_node.config.base import Section
from dicom_qa_node.config.patterns import SHELL, any_matches, checked_patterns
from dicom_qa_node.config.receiving import Peer
from dicom_qa_node.records import SeriesFacts, SeriesResult

__all__ = ["NO_GRADE", "Decision", "Route", "Traits", "decide", "traits_of"]

NO_GRADE = "none"
"""What a rule calls the grade of a series that was not rated."""


class Route(Section):
    """Which reports a target gets: each list that is given must have an entry that matches."""

    modalities: list[str] = Field(default_factory=list, description=f"modality of the scored series; {SHELL}")
    kinds: list[Literal["ct", "pt", "petct"]] = Field(
        default_factory=list, description="kind of picture that was scored"
    )
    calling_aes: list[str] = Field(default_factory=list, description=f"AE title that sent the images; {SHELL}")
    stations: list[str] = Field(default_factory=list, description=f"Station Name of the images; {SHELL}")
    scanners: list[str] = Field(
        default_factory=list, description=f"scanner as the log names it: Station Name, else AE title; {SHELL}"
    )
    institutions: list[str] = Field(default_factory=list, description=f"Institution Name of the images; {SHELL}")
    grades: list[Literal["diagnostic", "limited", "non-diagnostic", "none"]] = Field(
        default_factory=list, description="grade of the series; none: not rated"
    )
    findings: list[str] = Field(
        default_factory=list, description=f"keys of findings, of which the series has one at least; {SHELL}"
    )

    @field_validator("*")
    @classmethod
    def _whole(cls, patterns: list[str]) -> list[str]:
        return checked_patterns(patterns)

    def mismatch(self, traits: Traits) -> str:
        """Return the first rule that keeps a report from the target, in words; empty when it may go there."""
        for name, found in traits.by_rule():
            patterns = getattr(self, name)
            if patterns and not any_matches(found, patterns):
                return f"{name}: {', '.join(found) or 'nothing'} is none of {', '.join(patterns)}"
        return ""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the rules look at; ``host`` is where the latest images came from, empty when that is not known."""

    modality: str
    kind: str
    calling_ae: str
    station: str
    institution: str
    grade: str
    findings: tuple[str, ...] = ()
    host: str = ""

    def by_rule(self) -> Iterable[tuple[str, Sequence[str]]]:
        """Return the values that each rule of a route is compared with."""
        one = {
            "modalities": self.modality,
            "kinds": self.kind,
            "calling_aes": self.calling_ae,
            "stations": self.station,
            "scanners": self.station or self.calling_ae,
            "institutions": self.institution,
            "grades": self.grade,
        }
        return [*((name, (value,) if value else ()) for name, value in one.items()), ("findings", self.findings)]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one target gets a report; ``why_not`` is empty when it does."""

    target: str
    why_not: str = ""


class Routed(Protocol):
    """What a target's section offers to routing."""

    @property
    def kind(self) -> str:
        """Its kind."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def route(self) -> Route:
        """Its rules."""


def traits_of(facts: SeriesFacts, result: SeriesResult, calling_ae: str, host: str = "") -> Traits:
    """Return what the rules look at for one scored series."""
    return Traits(
        modality=facts.modality,
        kind=result.kind.value,
        calling_ae=calling_ae.strip(),
        station=facts.station_name.strip(),
        institution=facts.institution_name.strip(),
        grade=NO_GRADE if result.grade is None else result.grade.value,
        findings=tuple(dict.fromkeys(finding.key for finding in result.findings)),
        host=host,
    )


def decide(targets: Sequence[Routed], peers: Sequence[Peer], traits: Traits) -> list[Decision]:
    """Return for every target whether it gets the report, in the order of the configuration."""
    return [
        Decision(item.name, item.route.mismatch(traits) or _unknown_sender(item, peers, traits)) for item in targets
    ]


def _unknown_sender(target: Routed, peers: Sequence[Peer], traits: Traits) -> str:
    if target.kind != "sender":
        return ""
    peer = next((peer for peer in peers if peer.ae_title.strip() == traits.calling_ae), None)
    if peer is None:
        return f"the sender {traits.calling_ae or '(none)'} is not in receive.peers"
    if not peer.port:
        return f"receive.peers gives no port for the sender {traits.calling_ae}"
    return "" if traits.host else f"the address of the sender {traits.calling_ae} is not known"
