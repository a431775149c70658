"""Shows where a slice loses its score: how much better the network judges it with one place after the other smoothed.

This is occlusion sensitivity (Zeiler and Fergus, ECCV 2014, arXiv 1311.2901) with a smooth patch instead of a grey
one: grey is itself a defect to a judge of quality. It asks the network only for scores and so serves every model.
Grad-CAM (arXiv 1610.02391) was measured first and is not used: the shipped network reads noise from statistics that no
feature map holds. On twelve phantom slices made noisy or streaky on one side, the share of its maps on that side was
below one half for every stage of both backbones but one, which missed the streaks; occlusion gave 0.80 and 0.86.
It shows noise, streaks and speckle; detail that is gone leaves no place to point at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from dicom_qa_node.records import SeriesKind
from dicom_qa_node.score.prepare import Crop, Picture, crop_plan, cut, pad_picture
from dicom_qa_node.score.verdict import Judge

__all__ = ["CELL", "FULL_GAIN", "heat_map", "heat_map_steps"]

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


def heat_map(picture: Picture, kind: SeriesKind, scorer: Judge) -> Picture:
    """Return the map of one picture; see `heat_map_steps`."""
    for drawn in heat_map_steps(picture, kind, scorer):
        if drawn is not None:
            return drawn
    raise AssertionError("a map ends with itself")


def heat_map_steps(picture: Picture, kind: SeriesKind, scorer: Judge) -> Iterator[Picture | None]:
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
    padded = pad_picture(picture, _SIDE, kind)
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
