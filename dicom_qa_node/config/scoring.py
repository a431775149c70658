"""The sections of scoring: workers, model and grades."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_qa_node.config.base import Section, Site
from dicom_qa_node.config.priority import PriorityRule

__all__ = ["Grades", "Score"]


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
