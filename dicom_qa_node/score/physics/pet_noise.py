"""Noise and smoothness of a PET volume, without any organ: from slices spread over the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_noise import mode, noise_of
from dicom_qa_node.score.physics.patient_grid import uptake_threshold
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.physics.square_windows import BoolArray, shrunk
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["correlation_fwhm", "pet_noise_measurements"]

_WINDOW_MM = 25.0
_LAG_MM = 3.5
_SLICES = 24
_FEW = 300
_NAMES = ("global_noise_index", "noise_correlation_width")


@dataclass(frozen=True, slots=True)
class _Plane:
    """One slice with the relative SD of its sliding squares, and where these lie in the body."""

    uptake: FloatArray
    cov: FloatArray
    inside: BoolArray


def pet_noise_measurements(volume: Volume) -> tuple[Measurement, ...]:
    """Measure noise and smoothness on up to 24 slices.

    * ``global_noise_index`` (%, lower is better): histogram of SD / mean in sliding squares of 25 mm over the body;
      median of the values between half and one and a half of its mode (after Sartoretti et al. 2024, who take the
      SD in SUV).
    * ``noise_correlation_width`` (mm, context): see `correlation_fwhm`; from the pixels whose square shows no more than
      1.3 times the index.
    """
    planes = _planes(volume)
    found = [plane.cov[plane.inside] for plane in planes]
    values = np.concatenate(found) if found else np.zeros(0, np.float32)
    if values.size < _FEW:
        return PET_QUANTITIES.absent_all(_NAMES, "too little body in the field")
    peak = mode(values)
    near = values[(values >= 0.5 * peak) & (values <= 1.5 * peak)]
    if peak <= 0 or near.size == 0:
        return PET_QUANTITIES.absent_all(_NAMES, "the body shows no noise")
    index = float(np.median(near))
    return PET_QUANTITIES.value(_NAMES[0], 100.0 * index, f"{len(planes)} slices"), _width(volume, planes, index)


def correlation_fwhm(ratio: float, lag_mm: float) -> float | None:
    """FWHM in mm of the Gaussian filter that white noise has passed.

    Parameters
    ----------
    ratio
        Mean square difference at distance ``lag_mm`` over that at twice the distance: ``1 / (1 + u + u^2 + u^3)`` with
        ``u = exp(-lag^2 / (4 sigma^2))``; 1/4 for noise smooth beyond measure, 1 for white noise.

    Returns
    -------
    float or None
        0 for white noise; None where the ratio says nothing.
    """
    if not ratio > 0.26:
        return None
    if ratio >= 1.0:
        return 0.0
    roots = np.roots([1.0, 1.0, 1.0, 1.0 - 1.0 / ratio])
    u = float(np.max(roots[np.abs(roots.imag) < 1e-9].real))
    return 0.0 if u <= 1e-6 else float(2.3548 * lag_mm / (2.0 * np.sqrt(-np.log(u))))


def _planes(volume: Volume) -> list[_Plane]:
    count = len(volume.voxels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _SLICES)).round().astype(int))
    pixel_mm = float(np.sqrt(volume.spacing_mm[1] * volume.spacing_mm[2]))
    size = max(3, 2 * round(_WINDOW_MM / pixel_mm / 2) + 1)
    images = [np.asarray(volume.voxels[int(index)], np.float32) for index in chosen]
    local = [noise_of(image, size) for image in images]
    threshold = uptake_threshold(np.stack([mean for mean, _ in local]))
    planes = []
    for image, (mean, sd) in zip(images, local, strict=True):
        inside = shrunk(mean > 1.5 * threshold, size // 2)
        inside[: size // 2], inside[-(size // 2) :] = False, False
        inside[:, : size // 2], inside[:, -(size // 2) :] = False, False
        cov = np.divide(sd, mean, out=np.zeros_like(sd), where=inside & (mean > 0))
        planes.append(_Plane(image, cov, inside))
    return planes


def _width(volume: Volume, planes: list[_Plane], index: float) -> Measurement:
    name = _NAMES[1]
    pixel_mm = float(np.sqrt(volume.spacing_mm[1] * volume.spacing_mm[2]))
    homogeneous = [plane.inside & (plane.cov < 1.3 * index) for plane in planes]
    for lag in range(max(1, round(_LAG_MM / pixel_mm)), 0, -1):
        near, far, number = _mean_differences(planes, homogeneous, lag)
        if number < _FEW or far <= 0:
            return PET_QUANTITIES.absent(name, "too little calm tissue in the field")
        width = correlation_fwhm(near / far, lag * pixel_mm)
        if width is None:
            return PET_QUANTITIES.absent(name, "the differences follow the anatomy, not the noise")
        if width > 0:
            return PET_QUANTITIES.value(name, width)
    return PET_QUANTITIES.value(name, 0.0, "noise of neighbouring voxels is not correlated")


def _mean_differences(planes: list[_Plane], homogeneous: list[BoolArray], lag: int) -> tuple[float, float, int]:
    """Mean squared relative differences at one and two ``lag``, and the number of pixel pairs of the latter."""
    short, long, number = 0.0, 0.0, 0
    for plane, mask in zip(planes, homogeneous, strict=True):
        for axis in (0, 1):
            near, far = (_differences(plane.uptake, mask, distance, axis) for distance in (lag, 2 * lag))
            if near.size and far.size:
                # each slice weighs by its pixels, not by its uptake
                scale = float(np.mean(plane.uptake[mask])) ** 2
                short += float(np.mean(near)) / scale * far.size
                long += float(np.mean(far)) / scale * far.size
                number += far.size
    return short / max(number, 1), long / max(number, 1), number


def _differences(image: FloatArray, homogeneous: BoolArray, lag: int, axis: int) -> npt.NDArray[np.float32]:
    """Squared differences of pixels ``lag`` apart along an axis, both of them in calm tissue."""
    length = image.shape[axis]
    first = [slice(None)] * 2
    second = [slice(None)] * 2
    first[axis], second[axis] = slice(0, length - lag), slice(lag, length)
    both = homogeneous[tuple(first)] & homogeneous[tuple(second)]
    return np.asarray((image[tuple(second)] - image[tuple(first)])[both] ** 2, np.float32)
