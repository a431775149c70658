"""Heat maps: occlusion sensitivity of a slice, computed in the background or on request."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Permanent, Transient
from dicom_qa_node.domain.results import Grade, SeriesKind
from dicom_qa_node.flow.heat_map_requests import HeatRequest, HeatRequests
from dicom_qa_node.log import RateLimitedLog, log_event
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.score.display_images import Crop, Picture, crop_plan, cut, pad_image
from dicom_qa_node.score.grading import ScoringModel, model_ref
from dicom_qa_node.score.image_files import write_heat_map
from dicom_qa_node.score.pipeline import ScoredSeries
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import heat_name, read_manifest

__all__ = [
    "CELL",
    "FULL_GAIN",
    "BackgroundHeatMaps",
    "RequestedHeatMaps",
    "heat_map",
    "heat_map_steps",
    "wants_heat_maps",
]

CELL = 64
"""Side in pixels of the places that are smoothed in turn."""

FULL_GAIN = 0.1
"""Least number of points of the slice's score that one place costs where a map is brightest (255).

A map with a larger gain is scaled to it, so that one with small gains stays dark and none is all bright.
"""

_SMOOTH = 5
_SIDE = 256
_PER_STEP = 8
_AIR = 20

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Place:
    """A cell of one crop, and the share of the crop in the slice's score."""

    crop: int
    row: int
    column: int
    share: float


def heat_map(picture: Picture, kind: SeriesKind, scorer: ScoringModel) -> Picture:
    """Return the map of one picture; see `heat_map_steps`."""
    for drawn in heat_map_steps(picture, kind, scorer):
        if drawn is not None:
            return drawn
    raise AssertionError("a map ends with itself")


def heat_map_steps(picture: Picture, kind: SeriesKind, scorer: ScoringModel) -> Iterator[Picture | None]:
    """Work on one map in small steps, so that a worker can look for better work between them.

    Parameters
    ----------
    picture
        As the network saw it: uint8 RGB, shape (rows, columns, 3).

    Yields
    ------
    Picture or None
        None after each step of eight pictures to score, at last the map: uint8, shape (rows, columns), 255 where
        smoothing raises the slice's score most, by `FULL_GAIN` at least.
    """
    padded = pad_image(picture, _SIDE, kind)
    plan = crop_plan(padded, _SIDE, kind)
    crops, smooth = cut(padded, plan, _SIDE), cut(_smoothed(padded), plan, _SIDE)
    places = list(_places(crops, plan, kind))
    base = np.asarray(scorer.score(crops, kind.value).score, np.float32)
    yield None
    gains: list[float] = []
    for start in range(0, len(places), _PER_STEP):
        step = places[start : start + _PER_STEP]
        scores = scorer.score(np.stack([_changed(crops, smooth, place) for place in step]), kind.value).score
        gains += [place.share * float(score - base[place.crop]) for place, score in zip(step, scores, strict=True)]
        yield None
    yield _drawn(places, gains, plan, padded.shape[:2])[: picture.shape[0], : picture.shape[1]]


def _smoothed(picture: Picture) -> Picture:
    mean = ndimage.uniform_filter(picture.astype(np.float32), (_SMOOTH, _SMOOTH, 1), mode="nearest")
    smooth: Picture = np.rint(mean).astype(np.uint8)
    return smooth


def _places(crops: Picture, plan: tuple[Crop, ...], kind: SeriesKind) -> Iterator[_Place]:
    """Yield the cells that show something; smoothing air changes nothing."""
    total = sum(crop.weight for crop in plan) or 1.0
    air = 255 if kind is SeriesKind.PT else 0
    for number, crop in enumerate(plan):
        for row in range(0, _SIDE, CELL):
            for column in range(0, _SIDE, CELL):
                cell = crops[number, row : row + CELL, column : column + CELL].astype(np.int16)
                if np.abs(cell - air).max() > _AIR:
                    yield _Place(number, row, column, crop.weight / total)


def _changed(crops: Picture, smooth: Picture, place: _Place) -> Picture:
    changed: Picture = crops[place.crop].copy()
    part = (slice(place.row, place.row + CELL), slice(place.column, place.column + CELL))
    changed[part] = smooth[place.crop][part]
    return changed


def _drawn(places: list[_Place], gains: list[float], plan: tuple[Crop, ...], shape: tuple[int, ...]) -> Picture:
    """Interpolate between the centres of the cells; crops fade into each other, so that their edges are not seen."""
    total, covered = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    ramp = np.minimum(np.arange(1, _SIDE + 1), np.arange(_SIDE, 0, -1)).astype(np.float32)
    fade = np.outer(ramp, ramp)
    cells = np.zeros((len(plan), _SIDE // CELL, _SIDE // CELL), np.float32)
    for place, gain in zip(places, gains, strict=True):
        cells[place.crop, place.row // CELL, place.column // CELL] = max(gain, 0.0)
    for crop, grid in zip(plan, cells, strict=True):
        window = (slice(crop.row, crop.row + _SIDE), slice(crop.column, crop.column + _SIDE))
        total[window] += fade * np.asarray(Image.fromarray(grid).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
        covered[window] += fade
    heat = ndimage.gaussian_filter(total / np.maximum(covered, 1), CELL / 4)
    drawn: Picture = np.rint(heat / max(FULL_GAIN, float(heat.max())) * 255).astype(np.uint8)
    return drawn


_LOGGER = logging.getLogger(__name__)
_MOST_SERIES = 8


def wants_heat_maps(verdict: ScoredSeries) -> bool:
    """Return whether there is something to show: a score that is not diagnostic."""
    return verdict.result.grade not in (None, Grade.DIAGNOSTIC)


class BackgroundHeatMaps:
    """The heat maps that are still to be made; with too many series waiting the oldest goes without."""

    def __init__(self, scorer: ScoringModel) -> None:
        self._scorer = scorer
        self._waiting: deque[Iterator[None]] = deque(maxlen=_MOST_SERIES)

    def add(self, verdict: ScoredSeries, folder: Path) -> None:
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

    def _steps(self, verdict: ScoredSeries, folder: Path) -> Iterator[None]:
        for number, picture in enumerate(verdict.pictures, start=1):
            for drawn in heat_map_steps(picture, verdict.result.kind, self._scorer):
                if drawn is not None:
                    write_heat_map(drawn, folder, number)
                yield


_LOOK_S = 1.0
_RENEW_S = 60.0


@dataclass(slots=True)
class _Work:
    request: HeatRequest
    steps: Iterator[None]
    renewed: float = field(default_factory=time.monotonic)


class RequestedHeatMaps:
    """The request that this worker is at; ``scorer`` is the opened network."""

    def __init__(self, database: Database, spool_dir: Path, scorer: ScoringModel) -> None:
        self._requests, self._log = HeatRequests(database), QualityLog(database)
        self._layout, self._scorer = SpoolLayout(spool_dir), scorer
        self._work: _Work | None = None
        self._looked = -_LOOK_S
        self._told = RateLimitedLog(_LOGGER)

    def step(self) -> bool:
        """Do a fraction of a second's work; False when there is none."""
        try:
            work = self._work or self._take()
            if work is not None:
                self._go_on(work)
            return work is not None
        except Transient as error:
            # The claim expires, and the request is taken again.
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
        manifest = read_manifest(folder)
        if entry is None or manifest is None or not manifest.slices:
            raise Permanent("the pictures of this version are no longer in the spool")
        judged, own = entry.result.model, model_ref(self._scorer)
        if judged != own:
            raise Permanent(
                f"version {version} was judged by {judged.name} {judged.version}, this node now has "
                f"{own.name} {own.version}; score the series again to have maps"
            )
        for item in manifest.slices:
            if (folder / heat_name(item.number)).is_file():
                continue
            for drawn in heat_map_steps(_picture(folder / item.display), SeriesKind(manifest.kind), self._scorer):
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
