"""Find the liver in a PET/CT and measure noise and uptake in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_sampling import BoolArray
from dicom_qa_node.score.physics.patient_grid import PatientGrid, body_of
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.tracers import is_fdg
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["Liver", "find_liver", "liver_measurements", "lungs_of"]

_NAMES = ("liver_cov", "liver_snr", "liver_suv_mean")
_LIVER_HU = (-10.0, 170.0)
_LUNG_HU = (-980.0, -500.0)
_LUNG_CM3 = 150.0
_LIVER_CM3 = 20.0
_RADIUS_MM = 15.0
_ABOVE_MUSCLE = 1.35
_DOME_REACH_MM = 180.0
_SPHERES = 12


@dataclass(frozen=True, slots=True)
class Liver:
    """Centres of 3 cm spheres that lie wholly in the liver, (n, 3) in slices, rows and columns of the PET volume."""

    centres: npt.NDArray[np.float64]
    deep_cm3: float


def find_liver(grid: PatientGrid) -> Liver | str:
    """Locate the liver; a text says why there is none.

    The liver is the largest region that has soft-tissue HU, more uptake than muscle, lies in the right half of the body
    below a lung, and holds spheres of 3 cm.
    """
    if grid.hu is None:
        return "the liver is located on the CT, and there is none"
    body = body_of(grid) & grid.covered
    lungs = lungs_of(grid, body)
    voxel_cm3 = float(np.prod(grid.spacing_mm)) / 1000.0
    if np.count_nonzero(lungs) * voxel_cm3 < _LUNG_CM3:
        return "no lung in the field, so that no liver can be told from other tissue"
    deep = _eroded(_candidates(grid, body, lungs), grid.spacing_mm)
    parts, count = ndimage.label(deep)
    if count == 0:
        return "no liver below the lungs in the field"
    size = np.bincount(parts.ravel())
    size[0] = 0
    label = int(np.argmax(size))
    if size[label] * voxel_cm3 < _LIVER_CM3:
        return "too little liver in the field for a sphere of 3 cm"
    voxels = np.argwhere(parts == label)
    return Liver(_spread(voxels, grid), float(size[label] * voxel_cm3))


def lungs_of(grid: PatientGrid, body: BoolArray) -> BoolArray:
    """Lungs in the field: large regions of lung density inside the body."""
    if grid.hu is None:
        return np.zeros(body.shape, bool)
    airy = body & (grid.hu > _LUNG_HU[0]) & (grid.hu < _LUNG_HU[1])
    airy = ndimage.binary_opening(airy, np.ones((2, 2, 2), bool))
    parts, count = ndimage.label(airy)
    if count == 0:
        return np.asarray(airy)
    cm3 = np.bincount(parts.ravel(), minlength=count + 1) * np.prod(grid.spacing_mm) / 1000.0
    cm3[0] = 0.0
    return np.asarray((cm3 > 0.2 * _LUNG_CM3)[parts])


def liver_measurements(volume: Volume, liver: Liver | str) -> tuple[Measurement, ...]:
    """Measure noise and uptake of the liver.

    * ``liver_cov`` (%, lower is better): SD / mean over the voxels of a sphere of 3 cm (EANM/EARL: at most 15 %,
      Koopman et al. 2016); median of up to 12 spheres that do not overlap by more than half.
    * ``liver_snr`` (1, higher is better): mean / SD in the same spheres (Fukukita et al. 2014: above 10).
    * ``liver_suv_mean`` (SUVbw, target): mean of the spheres, usual range 1.3 to 3.0.
    """
    if isinstance(liver, str):
        return PET_QUANTITIES.absent_all(_NAMES, liver)
    fdg = is_fdg(volume.header)
    spheres = [_sphere(volume, centre) for centre in liver.centres]
    mean = np.array([float(values.mean()) for values in spheres])
    if not np.all(mean > 0):
        return PET_QUANTITIES.absent_all(_NAMES, "no uptake in the liver")
    cov = float(np.median([values.std(ddof=1) / m for values, m in zip(spheres, mean, strict=True)]))
    if cov <= 0:
        return PET_QUANTITIES.absent_all(_NAMES, "no noise in the liver")
    detail = f"{len(spheres)} spheres of 3 cm in {liver.deep_cm3:.0f} cm3 of inner liver"
    first = (
        PET_QUANTITIES.value("liver_cov", 100.0 * cov, detail, usual=fdg),
        PET_QUANTITIES.value("liver_snr", 1.0 / cov, detail, usual=fdg),
    )
    if volume.unit != "SUVbw":
        return (*first, PET_QUANTITIES.absent("liver_suv_mean", f"no SUV: the values are {volume.unit}"))
    return (*first, PET_QUANTITIES.value("liver_suv_mean", float(np.median(mean)), detail, usual=fdg))


def _candidates(grid: PatientGrid, body: BoolArray, lungs: BoolArray) -> BoolArray:
    assert grid.hu is not None
    soft = body & (grid.hu > _LIVER_HU[0]) & (grid.hu < _LIVER_HU[1])
    uptake = ndimage.gaussian_filter(grid.uptake, [8.0 / s / 2.355 for s in grid.spacing_mm])
    # muscle and blood make up most of the soft tissue of a trunk
    usual = float(np.percentile(uptake[soft], 40)) if soft.any() else np.inf
    warm = soft & (uptake > _ABOVE_MUSCLE * usual)
    columns = np.flatnonzero(body.any(axis=(0, 1)))
    middle = round(float(columns.mean())) if columns.size else 0
    warm[:, :, middle + round(15.0 / grid.spacing_mm[2]) :] = False
    heights = np.flatnonzero(lungs[:, :, :middle].any(axis=(1, 2)))
    if heights.size == 0:
        return np.zeros(body.shape, bool)
    lowest, top = int(heights[0]), int(np.percentile(heights, 60))
    reach = round(_DOME_REACH_MM / grid.spacing_mm[0])
    warm[top:], warm[: max(lowest - reach, 0)] = False, False
    return np.asarray(warm)


def _eroded(mask: BoolArray, spacing: tuple[float, float, float]) -> BoolArray:
    """Voxels whose sphere of 15 mm lies in the mask."""
    if not mask.any():
        return mask
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    inner = np.pad(mask[box], 1)
    depth = ndimage.distance_transform_edt(inner, sampling=spacing)
    deep = np.zeros_like(mask)
    deep[box] = depth[1:-1, 1:-1, 1:-1] > _RADIUS_MM + 2.0
    return deep


def _spread(voxels: npt.NDArray[np.intp], grid: PatientGrid) -> npt.NDArray[np.float64]:
    """Up to 12 voxels at least 15 mm apart, the first nearest to the middle of the region."""
    place = voxels * np.asarray(grid.spacing_mm)
    chosen = [int(np.argmin(((place - place.mean(axis=0)) ** 2).sum(axis=1)))]
    nearest = np.full(len(place), np.inf)
    while len(chosen) < _SPHERES:
        nearest = np.minimum(nearest, ((place - place[chosen[-1]]) ** 2).sum(axis=1))
        far = int(np.argmax(nearest))
        if nearest[far] < _RADIUS_MM**2:
            break
        chosen.append(far)
    return np.stack([[grid.index[axis][voxels[i][axis]] for axis in range(3)] for i in chosen])


def _sphere(volume: Volume, centre: npt.NDArray[np.float64]) -> FloatArray:
    """Voxels of the PET within 15 mm of a place given in slices, rows and columns."""
    spacing = np.asarray(volume.spacing_mm)
    low = np.maximum(np.ceil(centre - _RADIUS_MM / spacing), 0).astype(int)
    high = np.minimum(np.floor(centre + _RADIUS_MM / spacing), np.asarray(volume.voxels.shape) - 1).astype(int) + 1
    axes = [(np.arange(a, b) - c) * s for a, b, c, s in zip(low, high, centre, spacing, strict=True)]
    away = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    box = [volume.voxels[k, low[1] : high[1], low[2] : high[2]] for k in range(low[0], high[0])]
    return np.asarray(np.stack(box)[away <= _RADIUS_MM**2], np.float32)
