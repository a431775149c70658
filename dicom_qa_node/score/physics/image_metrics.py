"""The physics of CT and PET as functions of arrays and spacing in millimetres, usable without DICOM.

Each is what the node reports beside the score; how slices and regions are chosen for a series is in `measurements`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dicom_qa_node.score.physics.ct_dose_and_protocol import size_factor, water_equivalent_diameter_mm
from dicom_qa_node.score.physics.ct_noise import corrected_level, level_of, local_noise, noise_of, roi_pixels
from dicom_qa_node.score.physics.ct_noise_power_spectrum import NoisePower, noise_power_spectrum, spectrum_of
from dicom_qa_node.score.physics.ct_resolution import skin_edge_f50
from dicom_qa_node.score.physics.ct_sampling import slice_of
from dicom_qa_node.score.suv import body_surface_m2, lean_body_mass_kg, suv_factor
from dicom_qa_node.score.volume import FloatArray

__all__ = [
    "NoisePower",
    "body_surface_m2",
    "coefficient_of_variation",
    "global_noise_level_hu",
    "lean_body_mass_kg",
    "noise_map_hu",
    "noise_power_spectrum",
    "size_factor",
    "skin_edge_f50",
    "suv_factor",
    "water_equivalent_diameter_mm",
]

_SPHERE_MM = 15.0
_ROI_MM = 6.5


def noise_map_hu(hu: FloatArray, pixel_mm: float, side_mm: float = _ROI_MM) -> FloatArray:
    """Return the local noise of one CT slice: the unbiased SD in a sliding square.

    Parameters
    ----------
    hu
        CT numbers, shape (rows, columns).
    pixel_mm
        Side of a pixel in mm.
    side_mm
        Side of the square, 6.5 mm as by Christianson et al. 2015 (AJR 205:W93); at least 7 pixels.

    Returns
    -------
    array
        SD in HU, float32, shape of ``hu``.

    Examples
    --------
    >>> noise = np.random.default_rng(1).normal(40, 12, (128, 128)).astype(np.float32)
    >>> bool(abs(np.median(noise_map_hu(noise, 0.8)) - 12) < 0.3)
    True
    """
    size = max(7, round(side_mm / pixel_mm) // 2 * 2 + 1)
    return noise_of(np.asarray(hu, np.float32), size)[1]


def global_noise_level_hu(
    slices: Sequence[FloatArray], pixel_mm: tuple[float, float], *, contrast: bool = False
) -> float | None:
    """Return the global noise level of CT slices (Christianson, Winslow, Frush & Samei 2015, AJR 205:W93).

    Main peak of the histogram of the local SD over soft tissue 12 mm below the skin, freed of the low-pass bias of the
    squares by the noise power spectrum of the same tissue.

    Parameters
    ----------
    slices
        Axial slices of HU, each of shape (rows, columns).
    pixel_mm
        Distance of neighbouring rows and columns in mm.
    contrast
        Soft tissue reaches to 170 HU instead of 100 HU.

    Returns
    -------
    float or None
        HU; None where the slices show no soft tissue.

    Examples
    --------
    A water-like cylinder of 40 HU in noise of 10 HU:

    >>> y, x = np.ogrid[-128:128, -128:128]
    >>> body = np.where(x**2 + y**2 < 100**2, 40.0, -1000.0)
    >>> noise = np.random.default_rng(1).normal(0, 10, (3, 256, 256))
    >>> level = global_noise_level_hu([(body + n).astype(np.float32) for n in noise], (1.0, 1.0))
    >>> bool(abs(level - 10) < 0.3)
    True
    """
    parts = [slice_of(np.asarray(image, np.float32), pixel_mm, index=n) for n, image in enumerate(slices)]
    noises = tuple(local_noise(part, contrast) for part in parts)
    if not any(noise.soft.any() for noise in noises):
        return None
    level = level_of(noises)
    spectrum = spectrum_of(parts, noises)
    bias = None if isinstance(spectrum, str) else spectrum.shown_by(roi_pixels(parts[0])).of_median
    return corrected_level(level, bias)


def coefficient_of_variation(
    uptake: FloatArray,
    centre: tuple[float, float, float],
    spacing_mm: tuple[float, float, float],
    radius_mm: float = _SPHERE_MM,
) -> float:
    """Return SD / mean of the voxels of a sphere, as the EANM and EARL ask for the liver (at most 0.15).

    Parameters
    ----------
    uptake
        PET values in any unit, shape (slices, rows, columns).
    centre
        Of the sphere, in (fractional) slices, rows and columns.
    spacing_mm
        (slice, row, column).
    radius_mm
        15 mm for the liver (Koopman et al. 2016).

    Examples
    --------
    >>> liver = np.random.default_rng(1).normal(2.0, 0.2, (20, 20, 20)).astype(np.float32)
    >>> bool(abs(coefficient_of_variation(liver, (10, 10, 10), (4.0, 4.0, 4.0)) - 0.1) < 0.01)
    True
    """
    axes = [(np.arange(n) - c) * mm for n, c, mm in zip(uptake.shape, centre, spacing_mm, strict=True)]
    away: npt.NDArray[np.float64] = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2] ** 2
    values = np.asarray(uptake)[away <= radius_mm**2].astype(np.float64)
    return float(values.std(ddof=1) / values.mean())
