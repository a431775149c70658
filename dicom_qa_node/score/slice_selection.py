"""Chooses the slices that a series is judged by: by content, spread over the body, the same for any order of the files.

`salient_slices` is the node's rule, `positional_slices` that of MedIQA (arXiv 2507.19004), kept for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.kernel_sharpness import KernelSharpness
from dicom_qa_node.score.reading_windows import readable_slices
from dicom_qa_node.score.slice_features import SliceFeatures, features_of
from dicom_qa_node.score.volume import Volume

__all__ = ["ChosenSlice", "centres_along", "choose_slices", "positional_slices", "salient_slices"]

FloatVector = npt.NDArray[np.float64]

_BODY_SHARE = 0.1
_BODY_LEAST_MM2 = 150.0
_SMOOTH_MM = 4.0
_SMALLEST_SIDE = 16
_CENTRE_PULL = 0.5
_DECIMALS = 4
_CT_WEIGHTS = {"detail": 0.5, "body": 0.2, "streaks": 0.3}
_PET_WEIGHTS = {"uptake": 0.5, "detail": 0.3, "body": 0.2}
_REASONS = {
    "detail": "most detail in its part of the body",
    "body": "most body in its part of the scan",
    "streaks": "streaks: the artefacts of its part of the body",
    "uptake": "highest uptake in its part of the body",
    "typical": "typical of its part of the body",
}


@dataclass(frozen=True, slots=True)
class ChosenSlice:
    """A slice to judge the series by; the weights of all chosen ones sum to 1."""

    index: int
    weight: float
    reason: str


def choose_slices(
    volume: Volume,
    count: int = 7,
    rule: Literal["salient", "positional"] = "salient",
    paired_ct: Volume | None = None,
    kernel: KernelSharpness | None = None,
) -> tuple[ChosenSlice, ...]:
    """Choose by the configured rule; see `salient_slices` and `positional_slices`."""
    if rule == "positional":
        return positional_slices(len(volume.positions_mm))
    return salient_slices(volume, count, paired_ct, kernel)


def salient_slices(
    volume: Volume, count: int = 7, paired_ct: Volume | None = None, kernel: KernelSharpness | None = None
) -> tuple[ChosenSlice, ...]:
    """Choose the most telling slice of each of ``count`` equal lengths of the body.

    A slice is telling by its detail (gradient, entropy, contrast inside the body), its streaks, its uptake (PET) and
    the body it shows; nearness to the middle of its length breaks near ties. Slices without body are never chosen.
    The weight of a slice is the share of the body's slices that it stands for (those nearest to it).

    Parameters
    ----------
    volume
        CT or PET.
    count
        How many slices; fewer come back where fewer show body, none where none does.
    paired_ct
        The CT of a PET volume: its detail counts as well, and only slices that it covers are chosen.
    kernel
        Sharpness of a CT, measured here where it is not given: of a chest in a sharp kernel slices of lung are chosen.
    """
    if min(volume.voxels.shape[1:]) < _SMALLEST_SIDE:
        return ()
    features = features_of(volume)
    parts = _contributions(volume, features)
    body = features.body_mm2
    if paired_ct is not None:
        body, parts = _with_ct(volume, parts, paired_ct)
    least = max(_BODY_SHARE * float(np.percentile(body, 95)), _BODY_LEAST_MM2)
    readable = readable_slices(volume, kernel) if volume.kind is SeriesKind.CT else None
    candidates = np.flatnonzero((body >= least) & (True if readable is None else readable))
    if candidates.size == 0:
        return ()
    places = volume.positions_mm[candidates]
    shares = {name: value[candidates] for name, value in parts.items()}
    salience = np.round(np.sum(list(shares.values()), axis=0), _DECIMALS)
    picked = _one_for_each_length(places, salience, body[candidates], count)
    weights = _shares_of_body(places, picked)
    reasons = [_reason(shares, picked_index, picked, places) for picked_index in picked]
    return tuple(
        ChosenSlice(int(candidates[index]), float(weight), reason)
        for index, weight, reason in zip(picked, weights, reasons, strict=True)
    )


def positional_slices(slices: int) -> tuple[ChosenSlice, ...]:
    """Choose by position alone: first, last and five about the middle; a slice chosen twice has twice the weight."""
    middle, sixth = slices // 2, slices // 6
    wanted = [0, *(middle + step * sixth for step in (-2, -1, 0, 1, 2)), slices - 1]
    indices, counts = np.unique(np.clip(wanted, 0, slices - 1), return_counts=True)
    return tuple(
        ChosenSlice(int(index), float(n) / len(wanted), "by its position (MedIQA's rule)")
        for index, n in zip(indices, counts, strict=True)
    )


def _contributions(volume: Volume, features: SliceFeatures) -> dict[str, FloatVector]:
    """Return what each property adds to the salience of each slice; the sum lies in 0-1."""
    detail = sum(_spread(value) for value in (features.gradient, features.entropy, features.contrast)) / 3
    found = {
        "detail": np.asarray(detail),
        "body": _spread(features.body_mm2),
        "streaks": np.clip(features.artefact / 2.0, 0.0, 1.0),
        "uptake": _spread(np.log1p(np.maximum(features.uptake, 0.0))),
    }
    weights = _PET_WEIGHTS if features.uptake.any() else _CT_WEIGHTS
    gap = max(volume.spacing_mm[0], 1e-3)
    return {
        name: weight * ndimage.gaussian_filter1d(found[name], _SMOOTH_MM / gap, mode="nearest")
        for name, weight in weights.items()
    }


def _spread(values: FloatVector) -> FloatVector:
    """Map to 0-1 between the 5th and the 95th percentile; 0.5 where all are alike."""
    low, high = np.percentile(values, [5, 95])
    if high - low <= 1e-6 * max(abs(high), 1e-12):
        return np.full(len(values), 0.5)
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0))


def _with_ct(volume: Volume, parts: dict[str, FloatVector], ct: Volume) -> tuple[FloatVector, dict[str, FloatVector]]:
    """Blend the CT's detail in, taken from the CT slice nearest to each PET slice; without one there is no body."""
    features = features_of(ct)
    normal = np.cross(volume.direction[:, 2], volume.direction[:, 1])
    here, there = centres_along(volume, normal), centres_along(ct, normal)
    nearest = np.abs(here[:, None] - there[None, :]).argmin(axis=1)
    covered = np.abs(here - there[nearest]) <= 0.75 * max(ct.spacing_mm[0], volume.spacing_mm[0])
    blended = {name: value / 2 for name, value in parts.items()}
    for name, value in _contributions(ct, features).items():
        blended[name] = blended.get(name, 0.0) + value[nearest] / 2
    return np.where(covered, features.body_mm2[nearest], 0.0), blended


def centres_along(volume: Volume, normal: FloatVector) -> FloatVector:
    """Return the positions of the middles of all slices along a direction."""
    origins = volume.origins_mm
    if origins is None:
        steps = np.arange(len(volume.positions_mm))[:, None] * volume.spacing_mm[0]
        origins = np.asarray(volume.origin_mm) + steps * volume.direction[:, 0]
    _, rows, columns = volume.voxels.shape
    half = volume.direction[:, 1:] @ (np.array([rows - 1, columns - 1]) / 2 * volume.spacing_mm[1:])
    return np.asarray((origins + half) @ normal)


def _one_for_each_length(places: FloatVector, salience: FloatVector, body: FloatVector, count: int) -> list[int]:
    """Return indices into ``places`` in ascending order."""
    if len(places) <= count:
        return list(range(len(places)))
    low, high = float(places[0]), float(places[-1])
    length = (high - low) / count
    middles = low + length * (np.arange(count) + 0.5)
    # A slice on the border of two lengths belongs to the one nearer to the middle: the same from both ends.
    away = np.abs(places[:, None] - middles[None, :])
    tie = np.abs(middles - (low + high) / 2) * 1e-6
    home = np.argmin(np.round(away + tie, 9), axis=1)
    pull = 1.0 - _CENTRE_PULL * np.square(away[np.arange(len(places)), home] / (length / 2))
    value = np.round(salience * pull, _DECIMALS)
    to_middle = np.round(np.abs(places - (low + high) / 2), 3)
    picked = [
        min(members, key=lambda i: (-value[i], to_middle[i], -body[i], places[i]))
        for members in (np.flatnonzero(home == number) for number in range(count))
        if members.size
    ]
    return sorted(_filled(places, [int(index) for index in picked], count))


def _filled(places: FloatVector, picked: list[int], count: int) -> list[int]:
    """Add the slices farthest from those chosen until there are enough: a gap left a length empty."""
    while len(picked) < count:
        distance = np.abs(places[:, None] - places[picked][None, :]).min(axis=1)
        distance[picked] = -1.0
        picked.append(int(np.argmax(distance)))
    return picked


def _shares_of_body(places: FloatVector, picked: list[int]) -> FloatVector:
    """Return the share of slices nearest to each chosen one; a slice between two counts half for each."""
    away = np.round(np.abs(places[:, None] - places[picked][None, :]), 6)
    nearest = away == away.min(axis=1, keepdims=True)
    share = (nearest / nearest.sum(axis=1, keepdims=True)).sum(axis=0)
    return np.asarray(share / share.sum())


def _reason(shares: dict[str, FloatVector], index: int, picked: list[int], places: FloatVector) -> str:
    """Name the property in which a slice stands out most from the slices it stands for."""
    home = np.abs(places[:, None] - places[picked][None, :]).argmin(axis=1)
    own = home == picked.index(index)
    excess = {name: float(value[index] - value[own].mean()) for name, value in shares.items()}
    name = max(excess, key=lambda key: excess[key])
    return _REASONS[name if excess[name] > 0.02 else "typical"]
