"""Where a PET shows the body: masks on its own voxels, from its CT where there is one, else from its own outline.

The plausibility rules, the noise and its width look at the same tissue, so that one cannot contradict the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.score.physics.ct_sampling import BoolArray
from dicom_qa_node.score.physics.patient_grid import PatientGrid, body_of, uptake_threshold
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["DEPTH_MM", "PetBody", "body_on_pet"]

DEPTH_MM = 6.0
_FAR_MM = 15.0
_AIR_HU = -940.0
_SMOOTH_MM = 8.0

IndexArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class PetBody:
    """Masks of a PET volume.

    Attributes
    ----------
    inner
        bool, shape (slices, rows, columns) of a coarse grid: deeper than 6 mm in the body.
    far
        The same shape: more than 15 mm outside the body, where the CT covers.
    nearest
        For each axis of the PET volume the index into the coarse grid, -1 where that does not reach.
    from_ct
        Whether the body was found on a CT, which says nothing of the PET itself.
    uptake, hu
        float32 of the coarse grid, in the order of the PET volume; ``hu`` is None without a CT.
    spacing_mm
        (slice, row, column) of the coarse grid.
    """

    inner: BoolArray
    far: BoolArray
    nearest: tuple[IndexArray, IndexArray, IndexArray]
    from_ct: bool
    uptake: FloatArray
    hu: FloatArray | None
    spacing_mm: tuple[float, float, float]

    def slices(self, volume: Volume) -> Iterator[tuple[int, FloatArray, BoolArray, BoolArray]]:
        """Yield index, uptake (rows, columns), inner body and far outside for every slice that the grid reaches."""
        for index, place in enumerate(self.nearest[0]):
            if place >= 0:
                uptake = np.asarray(volume.voxels[index], np.float32)
                yield index, uptake, self._on_slice(self.inner[place]), self._on_slice(self.far[place])

    def _on_slice(self, plane: BoolArray) -> BoolArray:
        rows, columns = self.nearest[1:]
        mask = plane[np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))]
        return np.asarray(mask & (rows >= 0)[:, None] & (columns >= 0)[None, :])


def body_on_pet(volume: Volume, grid: PatientGrid | None) -> PetBody:
    """Return the masks; without a CT, or where the slices are not axial, from the PET's own outline."""
    if grid is None:
        return _own_outline(volume)
    inside = body_of(grid)
    inner = _deeper(inside & grid.covered, grid.spacing_mm[1:], DEPTH_MM)
    far = _deeper(~inside, grid.spacing_mm[1:], _FAR_MM) & grid.covered
    if grid.hu is not None:
        # a lung that the border of the PET cuts open counts as outside the body, but it is not air
        far &= grid.hu < _AIR_HU
    index = grid.index
    flips = tuple(slice(None, None, 1 if places[0] <= places[-1] else -1) for places in index)
    sizes = (len(volume.voxels), *volume.voxels.shape[1:])
    nearest = [_nearest(places[flip], size) for places, flip, size in zip(index, flips, sizes, strict=True)]
    return PetBody(
        inner=inner[flips],
        far=far[flips],
        nearest=(nearest[0], nearest[1], nearest[2]),
        from_ct=grid.hu is not None,
        uptake=grid.uptake[flips],
        hu=None if grid.hu is None else grid.hu[flips],
        spacing_mm=grid.spacing_mm,
    )


def _own_outline(volume: Volume) -> PetBody:
    sigma = [_SMOOTH_MM / step / 2.355 for step in volume.spacing_mm[1:]]
    smooth = np.stack([ndimage.gaussian_filter(np.asarray(plane, np.float32), sigma) for plane in volume.voxels])
    above = smooth > uptake_threshold(smooth)
    inside = np.stack([ndimage.binary_fill_holes(plane) for plane in above])
    inner = _deeper(inside, volume.spacing_mm[1:], DEPTH_MM)
    nearest = [np.arange(size) for size in inside.shape]
    far = _deeper(~inside, volume.spacing_mm[1:], _FAR_MM)
    return PetBody(inner, far, (nearest[0], nearest[1], nearest[2]), False, smooth, None, volume.spacing_mm)


def _deeper(mask: BoolArray, spacing: tuple[float, float], depth_mm: float) -> BoolArray:
    """Voxels deeper in the plane than a distance from the edge of the mask; the image border does not count as one."""
    return np.stack([_deeper_plane(plane, spacing, depth_mm) for plane in mask])


def _deeper_plane(plane: BoolArray, spacing: tuple[float, float], depth_mm: float) -> BoolArray:
    if plane.all():
        return plane
    return np.asarray(ndimage.distance_transform_edt(plane, sampling=spacing) > depth_mm)


def _nearest(places: npt.NDArray[np.float64], size: int) -> IndexArray:
    """Index of the nearest of rising places for each voxel; -1 further than a step from all of them."""
    if len(places) == 1:
        return np.zeros(size, np.intp)
    middles = (places[1:] + places[:-1]) / 2
    found = np.searchsorted(middles, np.arange(size))
    step = float(np.median(np.diff(places)))
    away = np.abs(places[found] - np.arange(size)) > max(step, 1.0)
    return np.asarray(np.where(away, -1, found), np.intp)
