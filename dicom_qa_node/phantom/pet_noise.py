"""Noise of a reconstructed PET image: correlated, and stronger where there is more activity."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.phantom.projector import FloatArray

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


def noise_of_counts(
    activity: npt.NDArray[Any],
    cov: float,
    reference: float,
    spacing_mm: tuple[float, ...],
    rng: np.random.Generator,
    *,
    exponent: float = 1.0,
    fwhm_mm: float = 5.0,
) -> FloatArray:
    """Noise with coefficient of variation ``cov`` where the activity is ``reference``.

    The local SD is ``cov * reference * (I / reference)^exponent``: exponent 1 for iterative reconstruction,
    0.5 for filtered backprojection; ``fwhm_mm`` is the correlation length, that of the reconstruction's
    filter.
    """
    image = np.asarray(activity, np.float32)
    local = cov * reference * (np.maximum(image, 0.0) / reference) ** exponent
    return np.asarray(local * correlated_noise(image.shape, fwhm_mm, spacing_mm, rng), np.float32)


def correlated_noise(
    shape: tuple[int, ...], fwhm_mm: float, spacing_mm: tuple[float, ...], rng: np.random.Generator
) -> FloatArray:
    """Gaussian noise of unit SD, smoothed by a Gaussian of ``fwhm_mm``."""
    if not fwhm_mm >= 0:
        raise ValueError(f"fwhm_mm must not be negative: {fwhm_mm}")
    noise = rng.standard_normal(shape, np.float32)
    gain = 1.0
    for axis, spacing in enumerate(spacing_mm):
        sigma = fwhm_mm / FWHM_PER_SIGMA / spacing
        if sigma == 0 or shape[axis] == 1:
            continue
        impulse = np.zeros(2 * int(4 * sigma + 1) + 1)
        impulse[impulse.size // 2] = 1.0
        gain *= float(np.sum(ndimage.gaussian_filter1d(impulse, sigma) ** 2))
        noise = ndimage.gaussian_filter1d(noise, sigma, axis=axis, mode="wrap")
    return np.asarray(noise / np.sqrt(gain), np.float32)


def smoothed(image: npt.NDArray[Any], sigma_mm: float, spacing_mm: tuple[float, ...]) -> FloatArray:
    """Gaussian blur of SD ``sigma_mm`` along every axis."""
    sigma = tuple(sigma_mm / step for step in spacing_mm[-image.ndim :])
    return np.asarray(ndimage.gaussian_filter(np.asarray(image, np.float32), sigma, mode="nearest"), np.float32)
