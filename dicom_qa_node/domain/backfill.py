"""Runs of the backfill: what a person asks for, how far it is, and the series that were found."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["BackfillRequest", "BackfillRun", "EntryState", "FoundSeries", "RunState", "SeriesEntry"]


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    DONE = "DONE"


class EntryState(StrEnum):
    """What became of a series that a run found.

    FOUND waits to be retrieved, MOVING is being retrieved, MOVED has arrived and waits for its score, SCORED has one.
    SKIPPED was not retrieved, FAILED could not be retrieved or not be scored: the words say why.
    """

    FOUND = "FOUND"
    MOVING = "MOVING"
    MOVED = "MOVED"
    SCORED = "SCORED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """What to bring in: series of studies of these days, first and last included.

    ``scanner`` is the Station Name, "" for every one. ``deliver`` lets the reports go to the targets.
    """

    source: str
    first_day: dt.date
    last_day: dt.date
    modalities: tuple[str, ...]
    rate_per_hour: float
    scanner: str = ""
    deliver: bool = False


@dataclass(frozen=True, slots=True)
class BackfillRun:
    """A run and how far it is.

    ``found`` counts all its series, ``moved`` those that have arrived, ``scored`` those of them with a score; a series
    that fails or is skipped counts as nothing else. ``words`` is what holds the run up, "" where nothing does.
    """

    run_id: int
    request: BackfillRequest
    state: RunState
    created_at: dt.datetime
    created_by: str
    next_day: dt.date
    next_at: dt.datetime
    attempts: int
    words: str
    found: int
    moved: int
    scored: int
    skipped: int
    failed: int
    lease_token: str | None = None

    @property
    def searched(self) -> bool:
        """Whether every day has been searched."""
        return self.next_day > self.request.last_day

    @property
    def waiting(self) -> int:
        """Series that are still to be retrieved."""
        return self.found - self.moved - self.skipped - self.failed

    @property
    def unscored(self) -> int:
        """Series that have arrived and wait for their score."""
        return self.moved - self.scored


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series of an archive, from its answers to C-FIND; ``skip`` is why it is not wanted, "" where it is."""

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    study_date: dt.date | None = None
    images: int | None = None
    skip: str = ""


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """A series of a run."""

    entry_id: int
    run_id: int
    series_instance_uid: str
    study_instance_uid: str
    study_date: dt.date | None
    modality: str
    images: int | None
    state: EntryState
    attempts: int
    words: str
    changed_at: dt.datetime
