"""The image quality test of NEMA NU 2 (2018, section 7): contrast, background variability, lung error, recovery.

The spheres are found by their order: on a circle of 57.2 mm radius, 60 degrees apart, each next to the one of the
next size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.quality_control.outline import Planes, pet_threshold
from dicom_qa_node.quality_control.phantom_quantities import SPHERES_MM, measurement, sphere_quantity

__all__ = ["Spheres", "find_spheres", "measure_nema_iq"]

FloatArray = npt.NDArray[np.float32]

_CIRCLE_MM = 57.2
_FROM_LARGEST = tuple(reversed(SPHERES_MM))
_SMOOTH_MM = 4.0
_HOT = 0.4
_FEWEST_FOUND = 3
_WORST_FIT_MM = 6.0
_MARGINS_MM = (15.0, 12.0, 9.0)
_BACKGROUND_MM = 37.0
_DISCS = 12
_LEVELS_MM = (-20.0, -10.0, 0.0, 10.0, 20.0)
_LUNG_MM = 50.0
_LUNG_ROI_MM = 30.0
_NO_LUNG = 70.0
_MOST_VOXELS = 60_000_000


@dataclass(frozen=True, slots=True)
class Spheres:
    """Where the spheres are: (row, column) in mm from the first pixel, by diameter; ``level_mm`` along the normal."""

    level_mm: float
    axis_mm: tuple[float, float]
    centres_mm: tuple[tuple[int, tuple[float, float]], ...]
    background: float


@dataclass(frozen=True, slots=True)
class _Scan:
    voxels: FloatArray
    positions_mm: npt.NDArray[np.float64]
    pixel_mm: tuple[float, float]
    threshold: float

    def slice_at(self, level_mm: float) -> FloatArray:
        """Return the slice next to a level."""
        return np.asarray(self.voxels[int(np.argmin(np.abs(self.positions_mm - level_mm)))])

    def disc(self, image: FloatArray, centre_mm: tuple[float, float], diameter_mm: float) -> FloatArray:
        """Return the share of each pixel inside a disc, shape of the image."""
        apart = np.hypot(*(axis - middle for axis, middle in zip(self.axes(), centre_mm, strict=True)))
        share = np.clip((diameter_mm / 2 - apart) / min(self.pixel_mm) + 0.5, 0.0, 1.0)
        return np.asarray(share, np.float32)

    def mean(self, image: FloatArray, centre_mm: tuple[float, float], diameter_mm: float) -> float:
        """Return the mean inside a disc, pixels at its edge by their share."""
        share = self.disc(image, centre_mm, diameter_mm)
        return float((image * share).sum() / share.sum())

    def axes(self) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Return the row and column positions in mm, to be broadcast over an image."""
        rows, columns = self.voxels.shape[1:]
        return (np.arange(rows) * self.pixel_mm[0])[:, None], (np.arange(columns) * self.pixel_mm[1])[None, :]


def measure_nema_iq(
    planes: Planes,
    positions_mm: npt.NDArray[np.float64],
    pixel_mm: tuple[float, float],
    sphere_to_background: float | None,
) -> tuple[Measurement, ...]:
    """Measure the NEMA IQ phantom.

    Parameters
    ----------
    planes
        Activity in any unit, shape (slices, rows, columns).
    positions_mm
        Of the slices along their normal, rising, shape (slices,).
    pixel_mm
        (row, column).
    sphere_to_background
        Activity of the spheres over that of the background as filled; None: contrast and recovery are withheld.

    Raises
    ------
    Permanent
        The spheres or a background around them are not found; the text says what is there.
    """
    scan = _scan(planes, positions_mm, pixel_mm)
    spheres = _find(scan)
    places = _background_places(scan, spheres)
    plane = scan.slice_at(spheres.level_mm)
    found: list[Measurement] = []
    for diameter, centre in spheres.centres_mm:
        discs = [scan.mean(image, place, diameter) for image in _levels(scan, spheres) for place in places]
        background = float(np.mean(discs))
        hot = scan.mean(plane, centre, diameter)
        found.append(_contrast(diameter, hot / background, sphere_to_background))
        found.append(_of(diameter, "variability", 100 * float(np.std(discs, ddof=1)) / background))
        found += _recovery(scan, spheres, diameter, centre, sphere_to_background)
    found.append(_background_cov(scan, spheres, places))
    found.append(_lung(scan, spheres, places))
    return tuple(sorted(found, key=lambda item: item.not_applicable != ""))


def find_spheres(planes: Planes, positions_mm: npt.NDArray[np.float64], pixel_mm: tuple[float, float]) -> Spheres:
    """Return where the six spheres are; parameters and errors as for `measure_nema_iq`."""
    return _find(_scan(planes, positions_mm, pixel_mm))


def _scan(planes: Planes, positions_mm: npt.NDArray[np.float64], pixel_mm: tuple[float, float]) -> _Scan:
    voxels = np.stack([np.asarray(planes[index], np.float32) for index in range(len(planes))])
    if voxels.size > _MOST_VOXELS:
        raise Permanent(f"the series has {voxels.size // 1_000_000} million voxels: too many for this analysis")
    return _Scan(voxels, np.asarray(positions_mm, np.float64), pixel_mm, pet_threshold(planes))


def _find(scan: _Scan) -> Spheres:
    gap = float(np.median(np.abs(np.diff(scan.positions_mm)))) if len(scan.positions_mm) > 1 else 1.0
    sigma = [_SMOOTH_MM / 2.3548 / step for step in (gap or 1.0, *scan.pixel_mm)]
    smooth = ndimage.gaussian_filter(scan.voxels, sigma)
    body = smooth > scan.threshold
    if not body.any():
        raise Permanent("there is no activity")
    background = float(np.median(smooth[body]))
    excess = smooth - background
    highest = float(excess.max())
    if highest < 0.3 * background:
        raise Permanent("no sphere stands out from the background")
    labels, number = ndimage.label(excess > _HOT * highest)
    sums = ndimage.sum_labels(np.maximum(excess, 0.0), labels, np.arange(1, number + 1))
    largest = np.argsort(sums)[::-1][: len(SPHERES_MM)]
    middles = [ndimage.center_of_mass(excess, labels, int(index) + 1) for index in largest]
    if len(middles) < _FEWEST_FOUND:
        raise Permanent(f"{len(middles)} hot objects stand out from the background; three spheres are needed")
    points = np.array([(row * scan.pixel_mm[0], column * scan.pixel_mm[1]) for _, row, column in middles[:3]])
    level = float(np.interp(np.mean([middle[0] for middle in middles[:3]]), np.arange(len(scan.positions_mm)),
                            scan.positions_mm))  # fmt: skip
    axis, centres, misfit = _fit(points)
    if misfit > _WORST_FIT_MM:
        raise Permanent(f"the hot objects do not lie as the spheres do: off by {misfit:.0f} mm")
    return Spheres(level, axis, tuple(zip(_FROM_LARGEST, centres, strict=True)), background)


def _fit(points: npt.NDArray[np.float64]) -> tuple[tuple[float, float], list[tuple[float, float]], float]:
    """Lay the circle of spheres over the three largest, shape (3, 2); either way round (Kabsch)."""
    best: tuple[tuple[float, float], list[tuple[float, float]], float] | None = None
    for way in (1, -1):
        turns = np.deg2rad(60.0 * way * np.arange(len(SPHERES_MM)))
        model = _CIRCLE_MM * np.stack([np.sin(turns), np.cos(turns)], axis=1)
        used = model[: len(points)]
        shift_from, shift_to = used.mean(axis=0), points.mean(axis=0)
        left, _, right = np.linalg.svd((used - shift_from).T @ (points - shift_to))
        proper = np.diag([1.0, np.sign(np.linalg.det(left @ right))])
        turn = left @ proper @ right
        placed = (model - shift_from) @ turn + shift_to
        misfit = float(np.sqrt(((placed[: len(points)] - points) ** 2).sum(axis=1).mean()))
        axis = (np.zeros(2) - shift_from) @ turn + shift_to
        if best is None or misfit < best[2]:
            best = (float(axis[0]), float(axis[1])), [(float(y), float(x)) for y, x in placed], misfit
    assert best is not None
    return best


def _background_places(scan: _Scan, spheres: Spheres) -> list[tuple[float, float]]:
    """Return twelve centres of discs of 37 mm, as far from edge, spheres and lung insert as NEMA asks, and apart."""
    bodies = [image > scan.threshold for image in _levels(scan, spheres)]
    body = np.asarray(ndimage.binary_fill_holes(np.logical_and.reduce(bodies)))
    depth = ndimage.distance_transform_edt(np.pad(body, 1), sampling=scan.pixel_mm)[1:-1, 1:-1]
    y, x = np.broadcast_arrays(*scan.axes())
    half = _BACKGROUND_MM / 2
    for margin in _MARGINS_MM:
        free = depth >= half + margin
        for diameter, centre in spheres.centres_mm:
            free &= np.hypot(y - centre[0], x - centre[1]) >= half + diameter / 2 + margin
        free &= np.hypot(y - spheres.axis_mm[0], x - spheres.axis_mm[1]) >= half + _LUNG_MM / 2
        candidates = np.stack([y[free], x[free]], axis=1)
        if len(candidates) >= _DISCS:
            return _spread(candidates, spheres.axis_mm)
    raise Permanent("twelve discs of background do not fit around the spheres: the phantom is cut off or another one")


def _spread(candidates: npt.NDArray[np.float64], axis_mm: tuple[float, float]) -> list[tuple[float, float]]:
    """Choose the candidates that lie farthest from each other, beginning with the one farthest from the axis."""
    nearest = -np.hypot(*(candidates - np.asarray(axis_mm)).T)
    chosen = [int(np.argmin(nearest))]
    apart = np.full(len(candidates), np.inf)
    while len(chosen) < _DISCS:
        last = candidates[chosen[-1]]
        apart = np.minimum(apart, np.hypot(*(candidates - last).T))
        chosen.append(int(np.argmax(apart)))
    return [(float(y), float(x)) for y, x in candidates[chosen]]


def _levels(scan: _Scan, spheres: Spheres) -> Iterator[FloatArray]:
    for offset in _LEVELS_MM:
        yield scan.slice_at(spheres.level_mm + offset)


def _of(diameter: int, what: str, value: float) -> Measurement:
    return measurement(sphere_quantity(what, diameter), value)


def _withheld(diameter: int, what: str) -> Measurement:
    why = "the activity of the filling (sphere_to_background) is not configured"
    return replace(_of(diameter, what, 0.0), value=None, not_applicable=why)


def _contrast(diameter: int, ratio: float, filled: float | None) -> Measurement:
    if filled is None:
        return _of(diameter, "ratio", ratio)
    return _of(diameter, "contrast", 100 * (ratio - 1.0) / (filled - 1.0))


def _recovery(
    scan: _Scan, spheres: Spheres, diameter: int, centre: tuple[float, float], filled: float | None
) -> list[Measurement]:
    if filled is None:
        return [_withheld(diameter, "contrast"), _withheld(diameter, "recovery_mean"),
                _withheld(diameter, "recovery_max")]  # fmt: skip
    around = (np.hypot(*(axis - middle for axis, middle in zip(scan.axes(), centre, strict=True)))[None]
              <= diameter / 2 + 8.0)  # fmt: skip
    near = around & (np.abs(scan.positions_mm - spheres.level_mm) <= diameter / 2 + 8.0)[:, None, None]
    inside = np.where(near, scan.voxels, 0.0)
    highest = float(inside.max())
    labels, _ = ndimage.label(inside >= 0.5 * (highest + spheres.background))
    core = labels == labels[np.unravel_index(int(np.argmax(inside)), inside.shape)]
    truth = filled * spheres.background
    return [_of(diameter, "recovery_mean", float(scan.voxels[core].mean()) / truth),
            _of(diameter, "recovery_max", highest / truth)]  # fmt: skip


def _background_cov(scan: _Scan, spheres: Spheres, places: Sequence[tuple[float, float]]) -> Measurement:
    plane = scan.slice_at(spheres.level_mm)
    values = np.concatenate([plane[scan.disc(plane, place, _BACKGROUND_MM) > 0.5] for place in places])
    return measurement("phantom_background_cov", 100 * float(values.std() / values.mean()))


def _lung(scan: _Scan, spheres: Spheres, places: Sequence[tuple[float, float]]) -> Measurement:
    """The lung insert over the background of its slice, averaged over the slices that show a full background."""
    shares = []
    for image in scan.voxels:
        background = float(np.mean([scan.mean(image, place, _BACKGROUND_MM) for place in places]))
        if abs(background / spheres.background - 1.0) < 0.2:
            shares.append(scan.mean(image, spheres.axis_mm, _LUNG_ROI_MM) / background)
    value = 100 * float(np.mean(shares)) if shares else 100.0
    found = measurement("phantom_lung_error", value)
    if value > _NO_LUNG:
        return replace(found, value=None, not_applicable="no lung insert is seen")
    return found
