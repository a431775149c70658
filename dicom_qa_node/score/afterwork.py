"""What a scorer does for a series beside its verdict: the heat maps, in small steps while no series waits.

A map that is not finished when the worker ends is made only if somebody asks for it: `score.asked_maps`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from dicom_qa_node.log import log_event
from dicom_qa_node.records import Grade
from dicom_qa_node.score.heat_map import heat_map_steps
from dicom_qa_node.score.pictures import write_heat_map
from dicom_qa_node.score.pipeline import SeriesVerdict
from dicom_qa_node.score.verdict import Judge

__all__ = ["Afterwork", "wants_heat_maps"]

_LOGGER = logging.getLogger(__name__)
_MOST_SERIES = 8


def wants_heat_maps(verdict: SeriesVerdict) -> bool:
    """Return whether there is something to show: a score that is not diagnostic."""
    return verdict.result.grade not in (None, Grade.DIAGNOSTIC)


class Afterwork:
    """The heat maps that are still to be made; with too many series waiting the oldest goes without."""

    def __init__(self, scorer: Judge) -> None:
        self._scorer = scorer
        self._waiting: deque[Iterator[None]] = deque(maxlen=_MOST_SERIES)

    def add(self, verdict: SeriesVerdict, folder: Path) -> None:
        """Take a series whose pictures lie in ``folder``."""
        if wants_heat_maps(verdict):
            self._waiting.append(self._steps(verdict, folder))

    def step(self) -> bool:
        """Do a fraction of a second's work; False when there is none."""
        if not self._waiting:
            return False
        try:
            next(self._waiting[0])
        except StopIteration:
            self._waiting.popleft()
        except (OSError, RuntimeError) as error:
            # A full disk, a GPU without memory: the verdict stands, and nobody waits for the map.
            self._waiting.popleft()
            log_event(_LOGGER, logging.WARNING, "heat_map_failed", error=type(error).__name__)
        return True

    def _steps(self, verdict: SeriesVerdict, folder: Path) -> Iterator[None]:
        for number, picture in enumerate(verdict.pictures, start=1):
            for drawn in heat_map_steps(picture, verdict.result.kind, self._scorer):
                if drawn is not None:
                    write_heat_map(drawn, folder, number)
                yield
