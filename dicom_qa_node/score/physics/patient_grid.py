"""Bring a PET and its CT onto one coarse grid in physical space, oriented like the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.score.physics.ct_sampling import BODY_HU, BoolArray, block_mean
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["PatientGrid", "body_of", "patient_grid"]

_STEP_MM = 4.5
_CT_STEP_MM = 3.0
_OUTSIDE_HU = -3000.0


@dataclass(frozen=True, slots=True)
class PatientGrid:
    """PET and CT on one grid: axis 0 rises to the head, axis 1 to the back, axis 2 to the left of the patient.

    Attributes
    ----------
    uptake
        float32, in the PET's unit.
    hu
        float32 on the same grid, None without a CT; `covered` is False where the CT does not reach.
    spacing_mm
        (head, back, left).
    index
        For each axis the positions of the grid in (fractional) slices, rows and columns of the PET volume.
    """

    uptake: FloatArray
    hu: FloatArray | None
    covered: BoolArray
    spacing_mm: tuple[float, float, float]
    index: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class _Reduced:
    """Block means: ``positions_mm`` along the normal, ``first`` and ``step`` in pixels for rows and columns."""

    values: FloatArray
    positions_mm: npt.NDArray[np.float64]
    slices: npt.NDArray[np.float64]
    first: tuple[float, float]
    step: tuple[int, int]


def patient_grid(pet: Volume, ct: Volume | None) -> PatientGrid | None:
    """Reduce a PET to about 4.5 mm and resample its CT there; None where the PET is not axial."""
    diagonal = np.abs([pet.direction[2, 0], pet.direction[1, 1], pet.direction[0, 2]])
    if diagonal.min() < 0.9 or len(pet.voxels) < 2:
        return None
    reduced = _reduce(pet, _STEP_MM)
    hu = None if ct is None else _resampled(ct, pet, reduced)
    flips = tuple(slice(None, None, 1 if pet.direction[axis, k] > 0 else -1) for k, axis in enumerate((2, 1, 0)))
    spacing = (
        float(np.median(np.diff(reduced.positions_mm))) if len(reduced.positions_mm) > 1 else pet.spacing_mm[0],
        pet.spacing_mm[1] * reduced.step[0],
        pet.spacing_mm[2] * reduced.step[1],
    )
    rows, columns = (
        np.asarray(reduced.first[i] + np.arange(reduced.values.shape[i + 1]) * reduced.step[i], np.float64)
        for i in (0, 1)
    )
    covered = np.ones(reduced.values.shape, bool) if hu is None else hu > _OUTSIDE_HU + 1.0
    return PatientGrid(
        uptake=reduced.values[flips],
        hu=None if hu is None else hu[flips],
        covered=covered[flips],
        spacing_mm=spacing,
        index=(reduced.slices[flips[0]], rows[flips[1]], columns[flips[2]]),
    )


def body_of(grid: PatientGrid) -> BoolArray:
    """Body with holes filled: from the CT where there is one, else from the uptake."""
    if grid.hu is not None:
        mask = np.asarray(grid.hu > BODY_HU)
    else:
        smooth = ndimage.gaussian_filter(grid.uptake, [6.0 / s / 2.355 for s in grid.spacing_mm])
        mask = smooth > uptake_threshold(smooth)
    return np.stack([_filled(plane) for plane in mask])


def uptake_threshold(uptake: FloatArray) -> float:
    """A quarter of the mean uptake of the body, found by iteration; works in any unit."""
    threshold = 0.02 * float(np.percentile(uptake[:, ::2, ::2], 99.5))
    for _ in range(12):
        above = uptake[uptake > threshold]
        if above.size == 0:
            return threshold
        threshold = 0.25 * float(above.mean())
    return threshold


def _filled(plane: BoolArray) -> BoolArray:
    empty, count = ndimage.label(~plane)
    if count < 2:
        return plane
    border = np.unique(np.concatenate([empty[0], empty[-1], empty[:, 0], empty[:, -1]]))
    outer = np.zeros(count + 1, bool)
    outer[border] = True
    outer[0] = False
    return np.asarray(~outer[empty])


def _reduce(volume: Volume, step_mm: float) -> _Reduced:
    """Block means over slices, rows and columns to about ``step_mm``; the volume is read slice by slice."""
    factors = [max(1, round(step_mm / spacing)) for spacing in volume.spacing_mm]
    count = max(1, len(volume.voxels) // factors[0])
    rows, columns = (n // f for n, f in zip(volume.voxels.shape[1:], factors[1:], strict=True))
    values = np.empty((count, rows, columns), np.float32)
    positions, slices = np.empty(count), np.empty(count)
    for k in range(count):
        members = range(k * factors[0], min((k + 1) * factors[0], len(volume.voxels)))
        values[k] = np.mean([_plane(volume, i, factors[1], factors[2], rows, columns) for i in members], axis=0)
        positions[k] = float(np.mean(volume.positions_mm[members.start : members.stop]))
        slices[k] = 0.5 * (members.start + members.stop - 1)
    first = ((factors[1] - 1) / 2, (factors[2] - 1) / 2)
    return _Reduced(values, positions, slices, first, (factors[1], factors[2]))


def _plane(volume: Volume, index: int, by_row: int, by_column: int, rows: int, columns: int) -> FloatArray:
    plane = np.asarray(volume.voxels[index][: rows * by_row, : columns * by_column], np.float32)
    return block_mean(plane, (by_row, by_column))


def _resampled(ct: Volume, pet: Volume, grid: _Reduced) -> FloatArray:
    """HU at the reduced PET grid, through patient coordinates; `_OUTSIDE_HU` where the CT does not reach."""
    source = _reduce(ct, _CT_STEP_MM)
    rows = grid.first[0] + np.arange(grid.values.shape[1]) * grid.step[0]
    columns = grid.first[1] + np.arange(grid.values.shape[2]) * grid.step[1]
    # the slice axis of a tilted gantry is not at right angles to the others, and positions count along the normal
    inverse = np.linalg.inv(ct.direction)
    inverse[0] *= abs(np.linalg.det(ct.direction))
    turn = inverse @ pet.direction
    start = inverse @ (np.asarray(pet.origin_mm) - np.asarray(ct.origin_mm))
    in_plane = turn[:, 1:2] * rows * pet.spacing_mm[1], turn[:, 2:3] * columns * pet.spacing_mm[2]
    hu = np.empty(grid.values.shape, np.float32)
    for k, position in enumerate(grid.positions_mm - pet.positions_mm[0]):
        at = start[:, None, None] + turn[:, :1, None] * position + in_plane[0][:, :, None] + in_plane[1][:, None, :]
        depth = np.interp(
            at[0] + ct.positions_mm[0], source.positions_mm, np.arange(len(source.positions_mm)), left=-9.0, right=-9.0
        )
        down = (at[1] / ct.spacing_mm[1] - source.first[0]) / source.step[0]
        across = (at[2] / ct.spacing_mm[2] - source.first[1]) / source.step[1]
        ndimage.map_coordinates(
            source.values, [depth, down, across], output=hu[k], order=1, mode="constant", cval=_OUTSIDE_HU
        )
    # between a voxel and nothing the interpolation mixes in the outside value
    hu[hu < -1100.0] = _OUTSIDE_HU
    return hu
