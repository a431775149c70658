"""Carries one volume onto the grid of a slice of another through physical space, never by index (SimpleITK)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from dicom_qa_node.score.slice_geometry import spacing_of
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["on_slice", "slice_origins"]

_itk: Any = SimpleITK  # without type annotations of its own
FloatMatrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Block:
    """Some neighbouring slices on an even grid; ``axes`` are its (slice, row, column) steps in millimetres."""

    voxels: FloatArray
    origin_mm: FloatMatrix
    axes: FloatMatrix


def slice_origins(volume: Volume) -> FloatMatrix:
    """Return the patient coordinates of the first voxel of each slice, shape (slices, 3)."""
    if volume.origins_mm is not None:
        return volume.origins_mm
    steps = np.arange(len(volume.positions_mm))[:, None] * volume.spacing_mm[0]
    return np.asarray(np.asarray(volume.origin_mm) + steps * volume.direction[:, 0])


def on_slice(moving: Volume, fixed: Volume, index: int) -> FloatArray:
    """Return ``moving`` interpolated linearly at the voxel centres of one slice of ``fixed``.

    Tilt, oblique planes, uneven gaps and different extents are respected; only the few slices near the plane are read.

    Returns
    -------
    FloatArray
        Shape (rows, columns) of ``fixed``; NaN where ``moving`` has no voxels.
    """
    _, rows, columns = fixed.voxels.shape
    origin = slice_origins(fixed)[index]
    steps = fixed.direction * np.asarray(fixed.spacing_mm)
    ends = [origin + steps[:, 1:] @ (np.array(corner) * (rows - 1, columns - 1)) for corner in np.ndindex(2, 2)]
    block = _block_around(moving, np.array(ends))
    if block is None:
        return np.full((rows, columns), np.nan, np.float32)
    return _resampled(block, origin, steps, rows, columns)


def _block_around(volume: Volume, points: FloatMatrix) -> _Block | None:
    """Return the slices on both sides of points, None where these lie outside the stack."""
    normal = np.cross(volume.direction[:, 2], volume.direction[:, 1])
    places = volume.positions_mm
    origins = slice_origins(volume)
    offset = float(origins[0] @ normal - places[0])
    wanted = points @ normal - offset
    half = volume.spacing_mm[0] / 2
    if wanted.max() < places[0] - half or wanted.min() > places[-1] + half:
        return None
    first = max(int(np.searchsorted(places, wanted.min(), side="right")) - 2, 0)
    last = min(int(np.searchsorted(places, wanted.max(), side="left")) + 2, len(places) - 1)
    voxels = np.asarray(volume.voxels[first : last + 1])
    row, column = volume.direction[:, 1] * volume.spacing_mm[1], volume.direction[:, 2] * volume.spacing_mm[2]
    if last == first:
        axes = np.stack([normal * volume.spacing_mm[0], row, column], axis=1)
        return _Block(voxels, origins[first], axes)
    gap = spacing_of(places[first : last + 1])
    if gap.uneven or gap.missing:
        voxels = _evened(voxels, places[first : last + 1], volume.spacing_mm[0])
    step = (origins[last] - origins[first]) / (len(voxels) - 1)
    return _Block(voxels, origins[first], np.stack([step, row, column], axis=1))


def _evened(voxels: FloatArray, places: FloatMatrix, usual_mm: float) -> FloatArray:
    """Interpolate slices at uneven positions to an even grid between the same ends."""
    count = max(round(float(places[-1] - places[0]) / usual_mm), 1) + 1
    grid = np.linspace(places[0], places[-1], count)
    below = np.clip(np.searchsorted(places, grid, side="right") - 1, 0, len(places) - 2)
    share = ((grid - places[below]) / (places[below + 1] - places[below])).astype(np.float32)[:, None, None]
    return np.asarray((1 - share) * voxels[below] + share * voxels[below + 1])


def _resampled(block: _Block, origin: FloatMatrix, steps: FloatMatrix, rows: int, columns: int) -> FloatArray:
    image = _itk.GetImageFromArray(block.voxels)
    # ITK counts (column, row, slice); both images live in index space and one affine map carries the patient's.
    to_index = np.linalg.inv(block.axes[:, ::-1])
    matrix = to_index @ steps[:, ::-1]
    transform = _itk.AffineTransform(3)
    transform.SetMatrix(matrix.ravel().tolist())
    transform.SetTranslation((to_index @ (origin - block.origin_mm)).tolist())
    resampled = _itk.Resample(
        image,
        (columns, rows, 1),
        transform,
        _itk.sitkLinear,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        float("nan"),
        _itk.sitkFloat32,
    )
    return np.asarray(_itk.GetArrayFromImage(resampled)[0], np.float32)
