"""Degrade images the way scanners do: the simulated half of training and of validation.

Every function takes its severity in a physical unit, grows worse monotonically with it, returns a new array
and, where it draws noise, draws it from the given generator, so a seed reproduces it. CT arrays are in HU,
PET arrays in SUV or any unit proportional to activity, shape (slices, rows, columns) or (rows, columns);
spacing is (slice, row, column) in mm.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from dicom_qa_node.phantom import ct_acquisition
from dicom_qa_node.phantom.ct_acquisition import Scan
from dicom_qa_node.phantom.projector import Filter, FloatArray, ParallelBeam
from dicom_qa_node.phantom.volumes import FWHM_PER_SIGMA, noise_of_counts, smoothed

Spacing = tuple[float, float, float]

_F50_TIMES_SIGMA = np.sqrt(np.log(2.0) / 2.0) / np.pi  # 0.187


def scan_of(
    hu: npt.NDArray[Any],
    pixel_mm: float,
    noise_hu: float | None = None,
    views: int = 720,
    kernel: Filter = Filter.HANN,
) -> Scan:
    """The scan that an image is taken to come from: its geometry, and photons that explain its noise.

    Parameters
    ----------
    hu
        The image, square; of a volume the middle slice is used.
    noise_hu
        Noise SD measured in its soft tissue (global noise level). Without it I0 is 1e6, routine dose for an
        abdomen.
    """
    beam = ParallelBeam(hu.shape[-1], views, pixel_mm)
    scan = Scan(beam, kernel=kernel)
    if noise_hu is None:
        return scan
    middle = hu if hu.ndim == 2 else hu[hu.shape[0] // 2]
    return Scan(beam, ct_acquisition.photons_for_noise(middle, scan, noise_hu), kernel=kernel)


def low_dose(hu: npt.NDArray[Any], scan: Scan, dose_fraction: float, rng: np.random.Generator) -> FloatArray:
    """CT at a fraction of its dose, noise added in the projections of an image that has noise already.

    Variance added to each reading: ``e^p/I0 (1-d)/d + sigma_e^2 e^{2p}/I0^2 (1-d^2)/d^2`` (Massoumzadeh
    2009, Med Phys 36:174; Yu 2012, JCAT 36:477). The total SD goes with ``1/sqrt(d)`` until photons run
    out.
    """
    image = np.asarray(hu, np.float32)
    return image + ct_acquisition.dose_reduction_noise(image, scan, dose_fraction, rng)


def sparse_views(hu: npt.NDArray[Any], scan: Scan, views: int) -> FloatArray:
    """CT reconstructed from ``views`` of the scan's views: streaks, and the noise of fewer photons.

    The increment is FBP(few views) - FBP(all views) of the image's own projections; streak-free is a radius
    of about ``views * pixel / pi`` (Kak & Slaney 1988, section 5.1).
    """
    image = np.asarray(hu, np.float32)
    return image + ct_acquisition.missing_view_streaks(image, scan, views)


def kernel_blur(hu: npt.NDArray[Any], sigma_mm: float, pixel_mm: float) -> FloatArray:
    """Softer reconstruction kernel: Gaussian point spread function of SD ``sigma_mm`` in the slice plane.

    ``MTF(f) = exp(-2 pi^2 sigma^2 f^2)``, so ``f50 = 0.187 / sigma`` (cycles/mm); with the image's own f50
    it combines as ``1/f50^2 = 1/f50a^2 + 1/f50b^2`` for Gaussian shapes.
    """
    _not_negative("sigma_mm", sigma_mm)
    image = np.asarray(hu, np.float32)
    sigma = sigma_mm / pixel_mm
    return _gaussian(image, (0.0,) * (image.ndim - 2) + (sigma, sigma))


def sigma_for_f50(f50_per_mm: float) -> float:
    """SD in mm of the Gaussian point spread function whose MTF is one half at ``f50_per_mm``."""
    return float(_F50_TIMES_SIGMA / f50_per_mm)


def thick_slices(hu: npt.NDArray[Any], spacing_mm: Spacing, thickness_mm: float) -> FloatArray:
    """Slices ``thickness_mm`` thick at the old positions: the mean along the slice axis over that length.

    Noise goes with ``1/sqrt(thickness)`` where neighbouring slices are independent; partial volume blurs
    structures.
    """
    ratio = thickness_mm / spacing_mm[0]
    if ratio < 1.0:
        raise ValueError(f"slices {spacing_mm[0]} mm apart cannot be made {thickness_mm} mm thin")
    # odd window with the fraction of the outermost slices that the thickness covers
    outer = int(np.ceil((ratio - 1.0) / 2.0))
    weights = np.ones(2 * outer + 1)
    if outer:
        weights[[0, -1]] = (ratio - (2 * outer - 1)) / 2.0
    return np.asarray(
        ndimage.correlate1d(np.asarray(hu, np.float32), weights / ratio, axis=0, mode="nearest"), np.float32
    )


def jpeg(picture: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Baseline JPEG and back; grey (rows, columns) or RGB (rows, columns, 3) with 4:2:0 chroma.

    ``quality`` 1 to 100 scales the tables of ITU-T T.81 annex K as libjpeg does; PET-CT-IQA-DS uses 100, 70
    and 40.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality is 1 to 100, not {quality}")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    buffer.seek(0)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded, np.uint8).copy()


def display_noise(picture: npt.NDArray[np.uint8], sigma_grey: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Gaussian noise of SD ``sigma_grey`` grey levels in every channel (PET-CT-IQA-DS: 0, 5, 10)."""
    _not_negative("sigma_grey", sigma_grey)
    noisy = picture + sigma_grey * rng.standard_normal(picture.shape, np.float32)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)


def display_impulses(picture: npt.NDArray[np.uint8], rate: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Positive impulses in single channels, likelier where it is bright: ``x + 255 Poisson(rate x / 255)``.

    ``rate`` is the mean count at full white; PET-CT-IQA-DS shows about 0, 0.006 and 0.014.
    """
    _not_negative("rate", rate)
    hits = rng.poisson(rate * (picture.astype(np.float32) / 255.0))
    return np.asarray(np.clip(picture + 255 * hits, 0, 255), np.uint8)


def thin_counts(
    counts: npt.NDArray[np.integer[Any]], count_fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Keep each event with probability ``count_fraction``: binomial thinning, exact for Poisson data."""
    return np.asarray(rng.binomial(counts, _count_fraction(count_fraction)), np.int64)


def fewer_counts(
    activity: npt.NDArray[Any],
    count_fraction: float,
    spacing_mm: Spacing,
    rng: np.random.Generator,
    *,
    reference: float = 2.0,
    reference_cov: float = 0.08,
    exponent: float = 1.0,
    fwhm_mm: float = 5.0,
) -> FloatArray:
    """PET from a fraction of its counts, as correlated noise added to the reconstructed image: a surrogate.

    ``I' = max(I + G_fwhm n, 0)`` with SD of the addition ``reference_cov * reference *
    (I/reference)^exponent * sqrt(1/f - 1)``, so that the COV at ``reference`` grows from ``reference_cov``
    to ``reference_cov / sqrt(f)``: SNR squared in the liver goes with the counts (Yan et al. 2016, Cancer
    Imaging 16:26).

    Parameters
    ----------
    reference, reference_cov
        Uptake and measured COV of the liver before the reduction.
    exponent
        1 for iterative reconstruction (noise follows the signal), 0.5 for filtered backprojection.
    fwhm_mm
        Correlation length: the reconstruction's own filter, 4 to 7 mm.
    """
    image = np.asarray(activity, np.float32)
    added_cov = reference_cov * np.sqrt(1.0 / _count_fraction(count_fraction) - 1.0)
    spacing = spacing_mm[-image.ndim :]
    noise = noise_of_counts(image, added_cov, reference, spacing, rng, exponent=exponent, fwhm_mm=fwhm_mm)
    return np.asarray(np.maximum(image + noise, 0.0), np.float32)


def misregister(pet: npt.NDArray[Any], shift_mm: tuple[float, float, float], spacing_mm: Spacing) -> FloatArray:
    """Shift the PET rigidly against its CT by (slice, row, column) mm, the edge values repeated."""
    steps = [shift / spacing for shift, spacing in zip(shift_mm, spacing_mm, strict=True)]
    return np.asarray(ndimage.shift(np.asarray(pet, np.float32), steps, order=1, mode="nearest"), np.float32)


def misregister_diaphragm(
    pet: npt.NDArray[Any], shift_mm: float, dome_slice: float, reach_mm: float, spacing_mm: Spacing
) -> FloatArray:
    """Breathing mismatch: slices near the dome move by ``shift_mm``, and less with the distance from it.

    Displacement ``shift exp(-d^2 / 2 reach^2)``; it folds no tissue while ``shift < 1.6 reach``.
    """
    if not abs(shift_mm) < 1.6 * reach_mm:
        raise ValueError(f"a shift of {shift_mm} mm within {reach_mm} mm would fold the volume")
    volume = np.asarray(pet, np.float32)
    slices = np.arange(volume.shape[0], dtype=np.float64)
    distance = (slices - dome_slice) * spacing_mm[0]
    source = slices - shift_mm / spacing_mm[0] * np.exp(-0.5 * (distance / reach_mm) ** 2)
    source = np.clip(source, 0, volume.shape[0] - 1)
    lower = np.minimum(source.astype(np.intp), max(volume.shape[0] - 2, 0))
    part = (source - lower).astype(np.float32)[:, None, None]
    upper = np.minimum(lower + 1, volume.shape[0] - 1)
    return np.asarray((1.0 - part) * volume[lower] + part * volume[upper], np.float32)


def smooth_pet(activity: npt.NDArray[Any], fwhm_mm: float, spacing_mm: Spacing) -> FloatArray:
    """Heavier post-filter, a Gaussian of ``fwhm_mm``: lowers COV and the recovery of small lesions."""
    _not_negative("fwhm_mm", fwhm_mm)
    return smoothed(activity, fwhm_mm / FWHM_PER_SIGMA, spacing_mm)


def _gaussian(image: FloatArray, sigma: tuple[float, ...]) -> FloatArray:
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest"), np.float32)


def _not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must not be negative: {value}")


def _count_fraction(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"a count fraction lies in (0, 1], not {value}")
    return value
