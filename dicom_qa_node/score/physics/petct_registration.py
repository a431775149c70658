"""Do PET and CT show the patient at the same place? The liver dome and the outline of the body."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_sampling import BoolArray
from dicom_qa_node.score.physics.patient_grid import PatientGrid, body_of, uptake_threshold
from dicom_qa_node.score.physics.pet_liver import lungs_of
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.volume import FloatArray

__all__ = ["registration_measurements"]

Profile = npt.NDArray[np.float64]
Shift = npt.NDArray[np.float64]

_NAMES = ("misregistration_dome", "misregistration_contour", "ct_coverage")
_INTERFACE_HU = -400.0
_DOME_DEPTH_MM = 25.0
_REACH_MM = 50.0
_FEW_COLUMNS = 20
_DIAPHRAGM_MM = 3.0
"""Muscle and fat between lung and liver: dense on the CT, without the liver's uptake."""
_BLURS_MM = (24.0, 14.0)
_STEPS = 12
_FARTHEST_MM = 80.0
_ONE_SIDED = 8.0
"""Condition of the fit: 2 for an outline all round, above 8 where about 40 % of it is missing."""


def registration_measurements(grid: PatientGrid) -> tuple[Measurement, ...]:
    """Measure how far PET and CT are apart.

    * ``misregistration_dome`` (mm, lower is better): the columns of the right lung near the dome of the liver are
      laid over each other at their CT interface (-400 HU); the mean PET profile crosses half of its step from liver
      to lung at the reported distance, less 3 mm for the diaphragm (after Vogel et al. 2007, J Nucl Med).
    * ``misregistration_contour`` (mm, lower is better): the shift across the body that brings the outline of the CT
      onto that of the PET by least squares (Lucas & Kanade 1981). A constant margin is fitted along: the uptake of
      the skin does not reach the outline.
    * ``ct_coverage`` (%, higher is better): share of the PET voxels with uptake that lie inside the extent of the CT;
      with the length along the body that they share, in mm.
    """
    if grid.hu is None:
        return PET_QUANTITIES.absent_all(_NAMES, "no CT of this frame of reference")
    covered = _coverage(grid)
    if not grid.covered.any():
        return (*PET_QUANTITIES.absent_all(_NAMES[:2], "the CT shows another part of the body"), covered)
    body = body_of(grid) & grid.covered
    shift, reason = _outline_shift(grid, body)
    if shift is None:
        contour = PET_QUANTITIES.absent(_NAMES[1], reason)
    else:
        detail = f"PET {shift[1]:+.1f} mm to the left, {shift[0]:+.1f} mm to the back of CT"
        contour = PET_QUANTITIES.value(_NAMES[1], float(np.hypot(*shift)), detail)
    return _dome(grid, body, np.zeros(2) if shift is None else shift), contour, covered


def _coverage(grid: PatientGrid) -> Measurement:
    warm = grid.uptake > uptake_threshold(grid.uptake)
    if not warm.any():
        return PET_QUANTITIES.absent(_NAMES[2], "no uptake in the field")
    covered, whole = (_length_mm(part, grid) for part in (warm & grid.covered, warm))
    detail = f"{covered:.0f} mm of {whole:.0f} mm along the body"
    return PET_QUANTITIES.value(
        _NAMES[2], 100.0 * np.count_nonzero(warm & grid.covered) / np.count_nonzero(warm), detail
    )


def _length_mm(part: BoolArray, grid: PatientGrid) -> float:
    return np.count_nonzero(part.any(axis=(1, 2))) * grid.spacing_mm[0]


def _dome(grid: PatientGrid, body: BoolArray, across_mm: Shift) -> Measurement:
    name = _NAMES[0]
    lungs = lungs_of(grid, body)
    columns = np.flatnonzero(body.any(axis=(0, 1)))
    if not lungs.any() or columns.size == 0:
        return PET_QUANTITIES.absent(name, "no lung in the field")
    lungs[:, :, int(columns.mean()) :] = False
    heights = _interfaces(grid, lungs)
    found = np.isfinite(heights)
    if np.count_nonzero(found) < _FEW_COLUMNS:
        return PET_QUANTITIES.absent(name, "no liver dome under the right lung in the field")
    # near the top the interface lies across the columns; its flanks do not
    top = float(np.percentile(heights[found], 95))
    chosen = found & (heights > top - _DOME_DEPTH_MM / grid.spacing_mm[0])
    chosen &= ndimage.binary_erosion(found)
    if np.count_nonzero(chosen) < _FEW_COLUMNS:
        return PET_QUANTITIES.absent(name, "too little of the liver dome in the field")
    shift = _half_step(grid, heights, chosen, across_mm)
    if shift is None:
        return PET_QUANTITIES.absent(name, "the uptake shows no step from liver to lung")
    shift += _DIAPHRAGM_MM
    side = "above" if shift > 0 else "below"
    return PET_QUANTITIES.value(
        name, abs(shift), f"PET {abs(shift):.1f} mm {side} CT, {np.count_nonzero(chosen)} columns"
    )


def _interfaces(grid: PatientGrid, lungs: BoolArray) -> Profile:
    """Height in grid steps at which each column passes from 3 cm of soft tissue to lung; NaN where it does not."""
    assert grid.hu is not None
    below, above = (max(2, round(mm / grid.spacing_mm[0])) for mm in (30.0, 20.0))
    heights = np.full(lungs.shape[1:], np.nan)
    first = np.argmax(lungs, axis=0)
    ok = lungs.any(axis=0) & (first >= below) & (first + above <= len(lungs))
    for row, column in np.argwhere(ok):
        k = int(first[row, column])
        hu = grid.hu[k - below : k + above, row, column]
        solid = np.flatnonzero(hu >= _INTERFACE_HU)
        # the first lung voxel may hold a part of the liver: allow one step between
        if solid.size == 0 or solid[-1] > below or not (hu[: below - 2] > -200.0).all():
            continue
        if (hu[below + 1 :] < -600.0).mean() < 0.8:
            continue
        last = int(solid[-1])
        part = (hu[last] - _INTERFACE_HU) / (hu[last] - hu[last + 1])
        heights[row, column] = k - below + last + float(part)
    return heights


def _half_step(grid: PatientGrid, heights: Profile, chosen: BoolArray, across_mm: Shift) -> float | None:
    """Distance in mm from the CT interface to half the uptake step, positive towards the head.

    The columns are looked up in the PET where the outline says that they are: a dome is not a plane.
    """
    dz = grid.spacing_mm[0]
    away = np.arange(-_REACH_MM, _REACH_MM + 0.5, 1.0)
    rows, columns = np.nonzero(chosen)
    at = heights[rows, columns][:, None] + away[None, :] / dz
    back, left = across_mm / np.asarray(grid.spacing_mm[1:])
    where = [at, np.broadcast_to(rows[:, None] + back, at.shape), np.broadcast_to(columns[:, None] + left, at.shape)]
    profiles = ndimage.map_coordinates(grid.uptake, where, order=1, mode="constant", cval=np.nan)
    seen = np.isfinite(profiles)
    enough = seen.mean(axis=0) > 0.3
    if not enough[np.abs(away) <= 20.0].all():
        return None
    mean = np.sum(np.where(seen, profiles, 0.0)[:, enough], axis=0) / seen[:, enough].sum(axis=0)
    return _crossing(away[enough], ndimage.gaussian_filter1d(mean, 2.0))


def _crossing(away: Profile, mean: Profile) -> float | None:
    """Where a falling profile crosses the middle between its plateaus; None if it does not fall by a quarter.

    The plateaus depend on the place of the step: they are taken 20 to 35 mm from the last estimate.
    """
    shift = 0.0
    for _ in range(6):
        liver = mean[(away > max(shift - 35.0, -50.0)) & (away < shift - 18.0)]
        lung = mean[(away > shift + 18.0) & (away < min(shift + 35.0, 50.0))]
        if liver.size < 3 or lung.size < 3 or lung.mean() > 0.75 * liver.mean():
            return None
        half = 0.5 * (float(liver.mean()) + float(lung.mean()))
        falls = np.flatnonzero((mean[:-1] >= half) & (mean[1:] < half))
        if falls.size == 0:
            return None
        k = int(falls[np.argmin(np.abs(away[falls] - shift))])
        moved = float(away[k] + (mean[k] - half) / (mean[k] - mean[k + 1]) * (away[k + 1] - away[k]))
        if abs(moved - shift) < 0.05:
            return moved
        shift = moved
    return shift


def _outline_shift(grid: PatientGrid, body: BoolArray) -> tuple[Shift | None, str]:
    """Shift of the PET's outline against the CT's in mm (back, left), or None and why."""
    spacing = np.asarray(grid.spacing_mm[1:])
    smooth = ndimage.gaussian_filter(grid.uptake, [6.0 / s / 2.355 for s in grid.spacing_mm])
    threshold = uptake_threshold(smooth)
    if threshold <= 0:
        return None, "no uptake in the field"
    usable = grid.covered.any(axis=(1, 2))
    if np.count_nonzero(usable) < 3:
        return None, "fewer than three slices of PET and CT overlap"
    warm = np.clip(smooth[usable] / (2.0 * threshold), 0.0, 1.0)
    solid, covered = body[usable].astype(np.float32), grid.covered[usable].astype(np.float32)
    shift = np.zeros(2)
    for blur_mm in _BLURS_MM:
        sigma = (0.0, *(blur_mm / 2.355 / spacing))
        # outside the CT nothing is known: averaging over what is known leaves no edge there
        known = ndimage.gaussian_filter(covered, sigma)
        outline = ndimage.gaussian_filter(solid * covered, sigma) / np.maximum(known, 1e-3)
        blurred = ndimage.gaussian_filter(warm, sigma)
        for _ in range(_STEPS):
            step = _least_squares(blurred, outline, known > 0.6, shift, spacing)
            if step is None:
                return None, "the body's outline is not seen from enough sides"
            shift = shift + step
            if np.hypot(*step) < 0.2:
                break
    return (shift, "") if np.hypot(*shift) < _FARTHEST_MM else (None, "the outlines in PET and CT do not match")


def _least_squares(
    warm: FloatArray, solid: FloatArray, seen: BoolArray, shift: Shift, spacing: Profile
) -> Shift | None:
    """One Gauss-Newton step of the in-plane shift in mm; None where the outline does not fix it."""
    way = shift / spacing
    moved = _shifted(solid, way)
    inside = _shifted(seen.astype(np.float32), way, outside=0.0) > 0.9
    # numpy's own numbers would make float64 of the volume
    back, left = (np.asarray(part, np.float32) for part in np.gradient(moved, *spacing.tolist(), axis=(1, 2)))
    slope = np.hypot(back, left)
    edge = (slope > 0.2 * slope.max()) & inside
    edge[:, :2], edge[:, -2:], edge[:, :, :2], edge[:, :, -2:] = False, False, False, False
    if np.count_nonzero(edge) < 200:
        return None
    normal = np.stack([-back[edge], -left[edge], slope[edge]], axis=1)
    matrix = normal.T @ normal
    if np.linalg.cond(matrix) > _ONE_SIDED:
        return None
    step = np.linalg.solve(matrix, normal.T @ (warm[edge] - moved[edge]))
    return np.asarray(step[:2], np.float64)


def _shifted(values: FloatArray, way: Profile, outside: float | None = None) -> FloatArray:
    """Shift each slice by ``way`` (rows, columns) in pixels, linearly; beyond the edge its last values or ``outside``.

    In planes and with two products a pixel: `scipy.ndimage.shift` takes eight of a volume, and five times as long.
    """
    for axis, pixels in enumerate(way, start=1):
        last = values.shape[axis] - 1
        at = np.arange(last + 1) - pixels
        low = np.floor(at).astype(np.intp)
        share = (at - low).astype(np.float32)
        share = share[:, None] if axis == 1 else share
        before = values.take(low.clip(0, last), axis)
        values = before + share * (values.take((low + 1).clip(0, last), axis) - before)
        if outside is not None:
            beyond = (at < 0) | (at > last)
            values[(slice(None), beyond) if axis == 1 else (..., beyond)] = outside
    return values
