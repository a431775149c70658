"""Heat maps on demand: a worker without a series to score makes those that somebody asked for on a page.

They are made of the pictures that the verdict rests on, which stay when retention takes the images; so they explain
that verdict and no other, and only the model that passed it may make them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dicom_qa_node.errors import Permanent, Transient
from dicom_qa_node.log import Seldom, log_event
from dicom_qa_node.records import SeriesKind
from dicom_qa_node.score.heat_map import heat_map_steps
from dicom_qa_node.score.pictures import write_heat_map
from dicom_qa_node.score.prepare import Picture
from dicom_qa_node.score.verdict import Judge, model_ref
from dicom_qa_node.spool.gallery import heat_name, read_gallery
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.store import Database, HeatRequests, QualityLog
from dicom_qa_node.store.heat_requests import HeatRequest

__all__ = ["AskedMaps"]

_LOGGER = logging.getLogger(__name__)
_LOOK_S = 1.0
_RENEW_S = 60.0


@dataclass(slots=True)
class _Work:
    request: HeatRequest
    steps: Iterator[None]
    renewed: float = field(default_factory=time.monotonic)


class AskedMaps:
    """The request that this worker is at; ``scorer`` is the opened network."""

    def __init__(self, database: Database, spool_dir: Path, scorer: Judge) -> None:
        self._requests, self._log = HeatRequests(database), QualityLog(database)
        self._layout, self._scorer = SpoolLayout(spool_dir), scorer
        self._work: _Work | None = None
        self._looked = -_LOOK_S
        self._told = Seldom(_LOGGER)

    def step(self) -> bool:
        """Do a fraction of a second's work; False when there is none."""
        try:
            work = self._work or self._take()
            if work is not None:
                self._go_on(work)
            return work is not None
        except Transient as error:
            # The claim runs out by itself, and the request is taken again.
            self._told.log(logging.WARNING, "heat_maps_interrupted", reason=str(error))
            self._work = None
            return False

    def give_back(self) -> None:
        """Leave the request to the next worker, which makes only the maps that are still missing."""
        work, self._work = self._work, None
        if work is None:
            return
        try:
            self._requests.release(work.request)
        except Transient as error:
            log_event(_LOGGER, logging.WARNING, "heat_maps_interrupted", reason=str(error))

    def _take(self) -> _Work | None:
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return None
        self._looked = now
        request = self._requests.claim()
        self._work = None if request is None else _Work(request, self._steps(request))
        return self._work

    def _go_on(self, work: _Work) -> None:
        try:
            next(work.steps)
        except StopIteration:
            self._end(work, "")
        except Permanent as error:
            self._end(work, str(error))
        except (OSError, RuntimeError) as error:
            # A full disk, a GPU without memory: the verdict stands, and whoever asked can ask again.
            self._end(work, f"the scoring worker could not make them ({type(error).__name__})")
        else:
            if time.monotonic() - work.renewed > _RENEW_S:
                work.renewed = time.monotonic()
                self._work = work if self._requests.renew(work.request) else None

    def _end(self, work: _Work, problem: str) -> None:
        self._work = None
        self._looked = -_LOOK_S
        self._requests.end(work.request, problem)
        level = logging.WARNING if problem else logging.INFO
        request = work.request
        log_event(
            _LOGGER, level, "heat_maps_made", series=request.series_instance_uid, version=request.version,
            problem=problem,
        )  # fmt: skip

    def _steps(self, request: HeatRequest) -> Iterator[None]:
        uid, version = request.series_instance_uid, request.version
        entry = self._log.entry(uid, version)
        folder = self._layout.pictures(uid, version)
        gallery = read_gallery(folder)
        if entry is None or gallery is None or not gallery.slices:
            raise Permanent("the pictures of this version are no longer in the spool")
        judged, own = entry.result.model, model_ref(self._scorer)
        if judged != own:
            raise Permanent(
                f"version {version} was judged by {judged.name} {judged.version}, this node now has "
                f"{own.name} {own.version}; score the series again to have maps"
            )
        for item in gallery.slices:
            if (folder / heat_name(item.number)).is_file():
                continue
            for drawn in heat_map_steps(_picture(folder / item.display), SeriesKind(gallery.kind), self._scorer):
                if drawn is not None:
                    write_heat_map(drawn, folder, item.number)
                yield


def _picture(path: Path) -> Picture:
    """Return what the network saw of a slice, uint8 RGB, shape (rows, columns, 3)."""
    try:
        with Image.open(path) as image:
            picture: Picture = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise Permanent("the pictures of this version are no longer in the spool") from None
    return picture
