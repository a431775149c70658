"""The sections of scoring: workers, model, grades and priorities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dicom_qa_node.config.fields import SHELL, Section, Site, any_matches, checked_patterns
from dicom_qa_node.domain.series import SeriesHeader

__all__ = ["BACKFILL_PRIORITY", "LEVELS", "Grades", "PriorityRule", "Score", "priority_name", "priority_of"]


class Grades(Section):
    """Score thresholds of the grades (score 0-4, higher is better)."""

    diagnostic: float = Field(2.5, ge=0, le=4, description="lowest score graded diagnostic (RID12)")
    limited: float = Field(
        1.5, ge=0, le=4, description="lowest score graded limited (RID13); below: non-diagnostic (RID14)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Grades:
        if self.limited > self.diagnostic:
            raise ValueError("limited must not be above diagnostic")
        return self


class Score(Section):
    """The scoring workers."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        json_schema_extra={"allowed": "auto, cpu, cuda or cuda:N"},
        description="where the network runs; auto: the first GPU, else the CPU",
    )
    workers: int = Field(1, ge=1, le=64, description="scoring processes (on the CPU one is usually best)")
    threads: int = Field(0, ge=0, le=256, description="CPU threads of each step; 0: one per core, four at most")
    model: str = Field("ms_iqa_small", min_length=1, description="name of an installed model (models list)")
    ct_model: str = Field(
        "tfkt_ct",
        min_length=1,
        description="model that rates CT: tfkt_ct, ct_panel (all four), ms_iqa_ct, md_iqa_ct or mediqa_ct; the name of "
        "model: the same network for all",
    )
    site_calibration: Path | None = Field(
        None, strict=False, description="file written by models tune: the site's own mapping of ct_model; empty: none"
    )
    models_dir: Path | None = Field(
        None, strict=False, description="folder of site-trained weights; empty: those shipped"
    )
    sites: list[Site] = Field(
        default_factory=list, description="score only what was received at these sites (receive.site); empty: at all"
    )
    priority: list[PriorityRule] = Field(
        default_factory=list, description="which series go first; the first rule that fits counts, else routine"
    )
    slices: int = Field(7, ge=1, le=64, description="salient slices per series")
    slice_rule: Literal["salient", "positional"] = Field(
        "salient", description="salient: by content; positional: MedIQA's rule"
    )
    grades: Grades = Field(default_factory=Grades, description="thresholds of the grades")
    heat_maps: Literal["off", "idle", "first"] = Field(
        "idle",
        description="maps of where a slice loses its score, for series that are not diagnostic; idle: while no series "
        "waits; first: before the result, seconds later, so that companions show them; off: only those that somebody "
        "asks for on the page of a series",
    )
    lease_s: float = Field(60, ge=5, le=3600, description="a worker that is silent for this long loses its job")
    max_attempts: int = Field(3, ge=1, le=20, description="tries before a series is parked")
    recycle_after: int = Field(500, ge=1, description="series after which a worker process is replaced")
    max_memory_mb: int = Field(
        2500, ge=512, description="resident memory at which a worker is replaced after its series"
    )


BACKFILL_PRIORITY = -20
"""The level of past series that a backfill brings in: behind every other."""
LEVELS = {"stat": 20, "high": 10, "routine": 0, "low": -10, "backfill": BACKFILL_PRIORITY}
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

    def fits(self, header: SeriesHeader, calling_ae: str) -> bool:
        """Whether this rule is about a series."""
        pairs = (
            (header.modality, self.modalities),
            (calling_ae.strip(), self.calling_aes),
            (header.station_name.strip(), self.stations),
            (header.institution_name.strip(), self.institutions),
        )
        return all(any_matches([value], patterns) for value, patterns in pairs if patterns)


def priority_of(rules: Sequence[PriorityRule], header: SeriesHeader, calling_ae: str) -> int:
    """Return how urgent a series is, by the first rule that fits; ROUTINE where none does."""
    return next((LEVELS[rule.priority] for rule in rules if rule.fits(header, calling_ae)), LEVELS["routine"])


def priority_name(level: int) -> str:
    """Return the word of a level of `LEVELS`, or its number where another version of the node has set it."""
    return next((name for name, known in LEVELS.items() if known == level), str(level))
