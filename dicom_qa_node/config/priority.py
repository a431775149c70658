"""Which series are scored first: the rules of ``score.priority``, and the one place that applies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dicom_qa_node.config.base import Section
from dicom_qa_node.config.patterns import SHELL, any_matches, checked_patterns
from dicom_qa_node.records import SeriesFacts

__all__ = ["LEVELS", "PriorityRule", "priority_name", "priority_of"]

LEVELS = {"stat": 20, "high": 10, "routine": 0, "low": -10}
"""What the words count in the queue, after those of Requested Procedure Priority (0040,1003)."""


class PriorityRule(Section):
    """How urgent the series are that fit: each list that is given must have an entry that matches."""

    priority: Literal["stat", "high", "routine", "low"] = Field(
        "stat", description="how urgent they are; of those that wait, the most urgent is scored first"
    )
    modalities: list[str] = Field(default_factory=list, description=f"modality of the series; {SHELL}")
    calling_aes: list[str] = Field(default_factory=list, description=f"AE title that sent the images; {SHELL}")
    stations: list[str] = Field(default_factory=list, description=f"Station Name of the images; {SHELL}")
    institutions: list[str] = Field(default_factory=list, description=f"Institution Name of the images; {SHELL}")

    @field_validator("modalities", "calling_aes", "stations", "institutions")
    @classmethod
    def _whole(cls, patterns: list[str]) -> list[str]:
        return checked_patterns(patterns)

    @model_validator(mode="after")
    def _says_something(self) -> PriorityRule:
        if not (self.modalities or self.calling_aes or self.stations or self.institutions):
            raise ValueError("a rule of score.priority needs one list at least: it would fit every series")
        return self

    def fits(self, facts: SeriesFacts, calling_ae: str) -> bool:
        """Whether this rule is about a series."""
        pairs = (
            (facts.modality, self.modalities),
            (calling_ae.strip(), self.calling_aes),
            (facts.station_name.strip(), self.stations),
            (facts.institution_name.strip(), self.institutions),
        )
        return all(any_matches([value], patterns) for value, patterns in pairs if patterns)


def priority_of(rules: Sequence[PriorityRule], facts: SeriesFacts, calling_ae: str) -> int:
    """Return how urgent a series is, by the first rule that fits; ROUTINE where none does."""
    return next((LEVELS[rule.priority] for rule in rules if rule.fits(facts, calling_ae)), LEVELS["routine"])


def priority_name(level: int) -> str:
    """Return the word of a level of `LEVELS`, or its number where another version of the node has set it."""
    return next((name for name, known in LEVELS.items() if known == level), str(level))
