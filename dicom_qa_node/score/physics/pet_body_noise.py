"""Noise of a PET inside the body, and how far it is correlated, in closed form and without any organ.

Both come from mixed differences, which cancel what changes linearly along rows or columns: anatomy weighs little, and
the same noise reads the same in a thigh and in a trunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize, stats

from dicom_qa_node.score.physics.ct_sampling import BoolArray
from dicom_qa_node.score.physics.pet_body import DEPTH_MM, PetBody
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["LARGEST_PIXEL_MM", "BodyNoise", "body_noise", "noise_width", "relative_differences"]

LARGEST_PIXEL_MM = 6.0
"""Above this pixel size the differences follow the anatomy: 8 % reads 17 % at 8 mm."""

_NEAR_MM, _FAR_MM = 5.0, 10.0
_ANATOMY = 0.08
_GAIN = 1.08
_LEAST_SHARE = 0.2
_FEW = 500
_FEW_IN_SLICE = 150
_SLICES = 96
_DEPTHS = 24
_MAD = float(stats.norm.ppf(0.75))
_WIDTHS_MM = (0.5, 60.0)


@dataclass(frozen=True, slots=True)
class BodyNoise:
    """Noise of the body.

    Attributes
    ----------
    cov
        Relative noise, 1 = 100 %; reads 0.08 or less where it is lower than can be told from anatomy.
    width_mm
        FWHM of the Gaussian that white noise would have passed; None where the differences are smoother than any.
    by_slice
        Relative noise of the slices with enough body, by index.
    half_depth_mm
        Largest distance to the edge of the body, median over the slices: some 60 mm in a thigh, 100 mm in a trunk.
    """

    cov: float
    width_mm: float | None
    by_slice: Mapping[int, float]
    half_depth_mm: float


def body_noise(volume: Volume, body: PetBody) -> BodyNoise | str:
    """Measure noise and its width on up to 96 slices; a text gives the reason where that is not possible."""
    pixel_mm = float(np.sqrt(volume.spacing_mm[1] * volume.spacing_mm[2]))
    if pixel_mm > LARGEST_PIXEL_MM:
        return f"pixels of {pixel_mm:.1f} mm; noise can be told from anatomy up to {LARGEST_PIXEL_MM:g} mm"
    near_steps, far_steps = _steps(volume.spacing_mm[1:])
    shown = [(index, image, inner) for index, image, inner, _ in _spread(volume, body) if inner.any()]
    values = np.concatenate([image[inner] for _, image, inner in shown]) if shown else np.zeros(0, np.float32)
    middle = float(np.median(values)) if values.size else 0.0
    if middle <= 0:
        return "the body shows no uptake"
    least = _LEAST_SHARE * middle
    near, far = ({i: relative_differences(v, m, k, least) for i, v, m in shown} for k in (near_steps, far_steps))
    near_all, far_all = (np.concatenate(list(found.values())) for found in (near, far))
    if min(near_all.size, far_all.size) < _FEW:
        return "too little body in the field for the noise"
    n_near, n_far = _scale(near_all), _scale(far_all)
    if n_far <= 0:
        return "the body shows no noise"
    lags = tuple(float(np.mean([k * s for k, s in zip(steps, volume.spacing_mm[1:], strict=True)]))
                 for steps in (near_steps, far_steps))  # fmt: skip
    ratio = n_near / n_far
    width = noise_width(ratio, lags[0], lags[1])
    by_slice = {index: _cov(_scale(found)) for index, found in far.items() if found.size >= _FEW_IN_SLICE}
    return BodyNoise(_cov(n_far), width, by_slice, _half_depth_mm(body))


def relative_differences(image: FloatArray, inner: BoolArray, steps: tuple[int, int], least: float) -> FloatArray:
    """Mixed differences over the mean of their four pixels.

    ``d = (p[y,x] - p[y-k,x] - p[y,x-k] + p[y-k,x-k]) / 2`` has the SD of one pixel where the noise is white.

    Parameters
    ----------
    image, inner
        Shape (rows, columns); all four pixels lie in ``inner``.
    steps
        k along rows and along columns, in pixels.
    least
        Smallest mean that divides.
    """
    down, across = steps
    if image.shape[0] <= down or image.shape[1] <= across:
        return np.zeros(0, np.float32)
    a, b = image[down:, across:], image[:-down, across:]
    c, d = image[down:, :-across], image[:-down, :-across]
    inside = inner[down:, across:] & inner[:-down, across:] & inner[down:, :-across] & inner[:-down, :-across]
    mixed, mean = (a - b - c + d)[inside] / 2, (a + b + c + d)[inside] / 4
    return np.asarray(mixed / np.maximum(mean, least), np.float32)


def noise_width(ratio: float, near_mm: float, far_mm: float) -> float | None:
    """FWHM in mm of the filter that gives white noise this ratio of the SD of mixed differences at two distances.

    The autocorrelation of filtered white noise is ``rho(h) = exp(-h^2 / (4 sigma^2))``, and the variance of a mixed
    difference goes with ``(1 - rho(h))^2``. 0 for white noise (ratio 1 or more); None where the ratio is smaller than
    any width gives.
    """
    if ratio >= 1.0:
        return 0.0

    def off(width: float) -> float:
        four_sigma = 4.0 * (width / 2.3548) ** 2
        return float(np.expm1(-(near_mm**2) / four_sigma) / np.expm1(-(far_mm**2) / four_sigma)) - ratio

    low, high = _WIDTHS_MM
    if off(low) <= 0:
        return 0.0
    return None if off(high) >= 0 else float(optimize.brentq(off, low, high))


def _half_depth_mm(body: PetBody) -> float:
    depths = [
        float(ndimage.distance_transform_edt(np.pad(plane, 1), sampling=body.spacing_mm[1:]).max())
        for plane in body.inner[:: max(1, len(body.inner) // _DEPTHS)]
        if plane.any()
    ]
    return DEPTH_MM + float(np.median(depths)) if depths else 0.0


def _spread(volume: Volume, body: PetBody) -> Iterator[tuple[int, FloatArray, BoolArray, BoolArray]]:
    wanted = set(
        np.unique(np.linspace(0, len(volume.voxels) - 1, min(len(volume.voxels), _SLICES)).round().astype(int))
    )
    return (item for item in body.slices(volume) if item[0] in wanted)


def _steps(spacing: tuple[float, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    near = tuple(max(1, round(_NEAR_MM / step)) for step in spacing)
    far = tuple(max(round(_FAR_MM / step), k + 1) for step, k in zip(spacing, near, strict=True))
    return (near[0], near[1]), (far[0], far[1])


def _scale(differences: npt.NDArray[np.float32]) -> float:
    return float(np.median(np.abs(differences))) / _MAD if differences.size else 0.0


def _cov(n_far: float) -> float:
    return float(np.sqrt(max(n_far**2 - _ANATOMY**2, 0.0)) / _GAIN)
