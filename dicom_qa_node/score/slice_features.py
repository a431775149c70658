"""What each slice shows, on a coarse sample of its voxels: body, detail, contrast, streaks, uptake.

The sample is symmetric about the middle of the slice and all differences are central, so that mirrored slices have the
same features.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.modalities import modality_class_of
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.slice_geometry import display_turn
from dicom_qa_node.score.threads import max_threads
from dicom_qa_node.score.volume import BoolArray, FloatArray, Volume

__all__ = ["SliceFeatures", "features_of"]

FloatVector = npt.NDArray[np.float64]

_SAMPLE_MM = 5.5
_FEWEST_SAMPLES = 40
_MANY_SLICES = 1000
_SMALL_COMPONENT = 0.05
_BINS = 32
_CT_DISPLAY_HU = (-200.0, 300.0)
_SOFT_TISSUE_HU = (-150.0, 200.0)
_METAL_HU = 2500.0
_EDGE_HU = 80.0
_BLOCK = 5
_CHUNK = 24


@dataclass(frozen=True, slots=True)
class SliceFeatures:
    """One value per slice; all have shape (slices,).

    ``body_mm2`` is the area of the patient, table excluded. ``gradient``, ``entropy`` (bit) and ``contrast`` measure
    information inside it, ``artefact`` is evidence of streaks (0 without), ``uptake`` the 95th percentile of a PET
    slice in its body (0 for CT).
    """

    body_mm2: FloatVector
    gradient: FloatVector
    entropy: FloatVector
    contrast: FloatVector
    artefact: FloatVector
    uptake: FloatVector


@dataclass(frozen=True, slots=True)
class _Grid:
    """Which voxels of a slice are sampled, and how large an area each stands for."""

    row: slice
    column: slice
    area_mm2: float
    lateral: str


def features_of(volume: Volume) -> SliceFeatures:
    """Return the features of every slice of a volume.

    A few slices at a time pass through all steps, in threads, while they are in the processor's cache.
    """
    grid = _grid(volume)
    slices = len(volume.positions_mm)
    chunks = [slice(first, min(first + _CHUNK, slices)) for first in range(0, slices, _CHUNK)]
    with ThreadPoolExecutor(max_threads()) as pool:
        values = list(pool.map(lambda chunk: np.ascontiguousarray(volume.voxels[chunk, grid.row, grid.column]), chunks))
        above = _body_above(values, volume)
        thick = list(pool.map(lambda part: _opened(part > above), values))
        body = _largest(np.concatenate(thick))
        shown = _display_range(values, body) if volume.kind is not SeriesKind.CT else _CT_DISPLAY_HU
        parts = list(
            pool.map(lambda chunk, part: _features(volume, grid, chunk, part, body[chunk], shown), chunks, values)
        )
    names = [field.name for field in fields(SliceFeatures)]
    return SliceFeatures(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _features(
    volume: Volume, grid: _Grid, chunk: slice, values: FloatArray, body: BoolArray, shown: tuple[float, float]
) -> SliceFeatures:
    pet = volume.kind is not SeriesKind.CT
    low, high = shown
    span = max(high - low, 1e-6)
    area = body.sum(axis=(1, 2))
    count = np.maximum(area, 1)
    voxels = volume.voxels
    down = voxels[chunk, _moved(grid.row, 1), grid.column] - voxels[chunk, _moved(grid.row, -1), grid.column]
    across = voxels[chunk, grid.row, _moved(grid.column, 1)] - voxels[chunk, grid.row, _moved(grid.column, -1)]
    displayed = np.clip(values, low, high)
    return SliceFeatures(
        body_mm2=area * grid.area_mm2,
        gradient=_gradient(down, across, body, count, span),
        entropy=_entropy(displayed, body, low, span),
        contrast=_contrast(displayed, body) / span,
        artefact=np.zeros(len(area)) if pet else _streaks(values, down, across, body, grid.lateral),
        uptake=_uptake(values, body) if pet else np.zeros(len(area)),
    )


def _grid(volume: Volume) -> _Grid:
    slices, rows, columns = volume.voxels.shape
    _, row_mm, column_mm = volume.spacing_mm
    # Thousands of slices are sampled more coarsely: memory stays bounded.
    sample_mm = _SAMPLE_MM * max(1.0, (slices / _MANY_SLICES) ** 0.5)
    row_step, column_step = _odd_step(row_mm, rows, sample_mm), _odd_step(column_mm, columns, sample_mm)
    lateral = "down" if display_turn(volume.direction).exchange else "across"
    area = row_step * column_step * row_mm * column_mm
    return _Grid(_symmetric(rows, row_step), _symmetric(columns, column_step), area, lateral)


def _odd_step(spacing_mm: float, side: int, sample_mm: float) -> int:
    """Return an odd step: the same grid then falls on itself when the slice is mirrored."""
    step = min(sample_mm / spacing_mm, side / _FEWEST_SAMPLES)
    return max(2 * round((step - 1) / 2) + 1, 1)


def _symmetric(side: int, step: int) -> slice:
    """Return every ``step``-th of ``side`` pixels, at least one from the borders, symmetric about the middle."""
    first = next((first for first in range(1, step + 2) if (side - 1 - 2 * first) % step == 0), 1)
    return slice(first, max(side - first, first + 1), step)


def _moved(chosen: slice, by: int) -> slice:
    return slice(chosen.start + by, chosen.stop + by, chosen.step)


def _body_above(values: Sequence[FloatArray], volume: Volume) -> float:
    if volume.kind is SeriesKind.CT or volume.unit.startswith("SUV"):
        return modality_class_of(volume.kind).body_above
    # Without a scale, tissue is a tenth of what the brighter part of the field holds on average.
    everything = np.concatenate([part.ravel() for part in values])
    mean = float(everything.mean(dtype=np.float64))
    bright = everything[everything > mean]
    return 0.1 * float(bright.mean(dtype=np.float64)) if bright.size else np.inf


def _opened(mask: BoolArray) -> BoolArray:
    """Remove what is thinner than three samples, as a table top is: erosion and dilation with a cross in the slice."""
    kept = mask.copy()
    for axis in (1, 2):
        before, after = _neighbours(axis)
        kept[after] &= mask[before]
        kept[before] &= mask[after]
    kept[:, [0, -1], :] = False
    kept[:, :, [0, -1]] = False
    grown = kept.copy()
    for axis in (1, 2):
        before, after = _neighbours(axis)
        grown[after] |= kept[before]
        grown[before] |= kept[after]
    return grown


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    everything = [slice(None)] * 3
    before, after = everything.copy(), everything.copy()
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)


def _largest(mask: BoolArray) -> BoolArray:
    """Keep the components that are not small beside the largest: a leg beside a leg, no islands of table or noise."""
    labels, found = ndimage.label(mask)
    if found <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= _SMALL_COMPONENT * sizes.max()).take(labels))


def _display_range(values: Sequence[FloatArray], body: BoolArray) -> tuple[float, float]:
    inside = np.concatenate([part.ravel() for part in values])[body.ravel()]
    return (0.0, max(float(np.percentile(inside, 99)), 1e-6)) if inside.size else (0.0, 1.0)


def _mean(values: npt.NDArray[Any], body: BoolArray, count: npt.NDArray[Any]) -> FloatVector:
    return np.asarray(np.where(body, values, 0.0).sum(axis=(1, 2), dtype=np.float64) / count)


def _gradient(
    down: FloatArray, across: FloatArray, body: BoolArray, count: npt.NDArray[Any], span: float
) -> FloatVector:
    """Mean slope inside the body as a share of the display range for each pixel, strong edges limited."""
    limit = 0.5 * span
    slope = np.sqrt(np.minimum(down * down, limit * limit) + np.minimum(across * across, limit * limit))
    return _mean(slope, body, count) / span


def _entropy(shown: FloatArray, body: BoolArray, low: float, span: float) -> FloatVector:
    """Shannon entropy in bit of the displayed grey levels inside the body, 32 bins."""
    slices = len(shown)
    level = ((shown - low) * ((_BINS - 1e-3) / span)).astype(np.int32)
    level += (np.arange(slices, dtype=np.int32) * _BINS)[:, None, None]
    counts = np.bincount(level[body], minlength=slices * _BINS).reshape(slices, _BINS).astype(np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.asarray(-(share * np.log2(np.where(share > 0, share, 1.0))).sum(axis=1))


def _contrast(shown: FloatArray, body: BoolArray) -> FloatVector:
    """SD of means over about 2.5 cm that lie inside the body: structure beyond the noise."""
    if min(shown.shape[1:]) < 2 * _BLOCK:
        return np.zeros(len(shown))
    smooth = _window_sums(_window_sums(shown, 1), 2) / _BLOCK**2
    inside = body[:, _BLOCK // 2 : -(_BLOCK // 2), _BLOCK // 2 : -(_BLOCK // 2)]
    count = np.maximum(inside.sum(axis=(1, 2)), 1)
    mean = _mean(smooth, inside, count)
    return np.sqrt(_mean((smooth - mean[:, None, None].astype(np.float32)) ** 2, inside, count))


def _window_sums(values: FloatArray, axis: int) -> FloatArray:
    length = values.shape[axis] - _BLOCK + 1
    windows = [values[(slice(None),) * axis + (slice(first, first + length),)] for first in range(_BLOCK)]
    # Pairs from both ends: the same rounding from either side.
    return (windows[0] + windows[4]) + (windows[1] + windows[3]) + windows[2]


def _streaks(values: FloatArray, down: FloatArray, across: FloatArray, body: BoolArray, lateral: str) -> FloatVector:
    """Return how much rougher soft tissue is from front to back than from side to side (log2), plus metal.

    Photon starvation leaves streaks from side to side, through shoulders and hips; across them values jump.
    """
    low, high = _SOFT_TISSUE_HU
    soft = body & (values > low) & (values < high) & (np.abs(down) < _EDGE_HU) & (np.abs(across) < _EDGE_HU)
    count = np.maximum(soft.sum(axis=(1, 2)), 1)
    rough_down, rough_across = (_mean(d * d, soft, count) + 1.0 for d in (down, across))
    ratio = rough_down / rough_across if lateral == "across" else rough_across / rough_down
    metal = (body & (values > _METAL_HU)).sum(axis=(1, 2)) / np.maximum(body.sum(axis=(1, 2)), 1)
    return np.asarray(np.maximum(np.log2(ratio), 0.0) + 50.0 * metal)


def _uptake(values: FloatArray, body: BoolArray) -> FloatVector:
    """95th percentile inside the body."""
    return np.array([float(np.percentile(a[m], 95)) if m.any() else 0.0 for a, m in zip(values, body, strict=True)])
