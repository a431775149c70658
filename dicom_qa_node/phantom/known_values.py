"""Volumes whose noise, blur, dose, uptake or shift is known exactly: the yardstick of the measurements."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.special import erfc

from dicom_qa_node.phantom.ct_acquisition import ROUTINE, Scan, exposure_noise, full_views, noise_map, photons_for_noise
from dicom_qa_node.phantom.projector import Filter, FloatArray, ParallelBeam
from dicom_qa_node.phantom.volumes import Volume, ct_volume, heights, noise_of_counts, pet_volume, pixel_axis
from dicom_qa_node.phantom.voxel_canvas import Channel

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class KnownCt:
    """A cylinder in air with its truth.

    ``voxels`` is (slices, rows, columns) in HU; ``noise_hu`` the SD of its noise (at the centre, where the noise
    varies), ``f50_per_mm`` the frequency at which the MTF of its edge is one half (infinite without blur).
    """

    voxels: FloatArray
    spacing_mm: Spacing
    noise_hu: float
    diameter_mm: float
    f50_per_mm: float


@dataclass(frozen=True)
class KnownPet:
    """A PET of a body with a liver of known uptake and noise.

    ``voxels`` is (slices, rows, columns) in SUV; ``liver`` marks the uniform liver; ``cov`` is SD over mean in it.
    """

    voxels: FloatArray
    spacing_mm: Spacing
    liver: npt.NDArray[np.bool_]
    suv: float
    cov: float


def known_noise_volume(
    noise_hu: float,
    *,
    diameter_mm: float = 300.0,
    hu: float = 40.0,
    sigma_mm: float = 0.0,
    slices: int = 8,
    rows: int = 256,
    pixel_mm: float = 1.5,
    spacing_mm: float = 3.0,
    seed: int = 0,
    spectrum: Filter | None = Filter.HANN,
    centre_mm: tuple[float, float] = (0.0, 0.0),
) -> KnownCt:
    """A cylinder with stationary noise of SD ``noise_hu`` and edges blurred by a Gaussian of ``sigma_mm``.

    Parameters
    ----------
    spectrum
        Shape of the noise power: ``|f| W(f)^2`` of a filtered backprojection with that window, or None for white.
    centre_mm
        Axis of the cylinder, (left, posterior).
    """
    disc = _disc(rows, pixel_mm, diameter_mm, sigma_mm, centre_mm)
    rng = np.random.default_rng([seed, 0x6E0])
    noise = np.stack([_coloured(rows, spectrum, rng) for _ in range(slices)])
    return KnownCt(
        voxels=np.asarray(-1000.0 + (hu + 1000.0) * disc + noise_hu * noise, np.float32),
        spacing_mm=(spacing_mm, pixel_mm, pixel_mm),
        noise_hu=noise_hu,
        diameter_mm=diameter_mm,
        f50_per_mm=float(np.sqrt(np.log(2.0) / 2.0) / np.pi / sigma_mm) if sigma_mm else np.inf,
    )


def known_dose_volume(
    dose_fraction: float,
    *,
    routine_noise_hu: float = 12.0,
    diameter_mm: float = 300.0,
    slices: int = 6,
    rows: int = 256,
    pixel_mm: float = 1.5,
    spacing_mm: float = 3.0,
    seed: int = 0,
) -> KnownCt:
    """A water cylinder scanned at a fraction of the dose that gives ``routine_noise_hu`` near its middle.

    The noise is that of the photons alone, drawn in the projections; ``noise_hu`` of the result is the SD predicted
    for its centre.
    """
    water = np.asarray(1000.0 * _disc(rows, pixel_mm, diameter_mm, 0.0, (0.0, 0.0)) - 1000.0, np.float32)
    axis = pixel_axis(rows, pixel_mm)
    middle = np.hypot(*np.meshgrid(axis, axis)) < diameter_mm / 10.0
    scan = Scan(ParallelBeam(rows, full_views(rows), pixel_mm), electronic=0.0)
    photons = photons_for_noise(water, scan, routine_noise_hu, middle)
    scan = replace(scan, photons=photons * dose_fraction)
    stack = np.repeat(water[None], slices, axis=0)
    noise = exposure_noise(stack, scan, np.random.default_rng([seed, 0xD05E]))
    return KnownCt(
        voxels=stack + noise,
        spacing_mm=(spacing_mm, pixel_mm, pixel_mm),
        noise_hu=float(noise_map(water, scan)[middle].mean()),
        diameter_mm=diameter_mm,
        f50_per_mm=np.inf,
    )


def known_pet_liver(
    cov: float,
    *,
    suv: float = 2.2,
    slices: int = 40,
    rows: int = 96,
    pixel_mm: float = 4.0,
    spacing_mm: float = 4.0,
    fwhm_mm: float = 5.0,
    seed: int = 0,
) -> KnownPet:
    """A body of SUV 0.7 with a large uniform liver on its right, and noise that gives the liver this COV."""
    axis = pixel_axis(rows, pixel_mm)
    level = pixel_axis(slices, spacing_mm)[:, None, None]
    y, x = axis[None, :, None], axis[None, None, :]
    body = np.broadcast_to((x / 165.0) ** 2 + (y / 120.0) ** 2 < 1.0, (slices, rows, rows))
    liver = ((x + 62.0) / 72.0) ** 2 + (y / 75.0) ** 2 + (level / 62.0) ** 2 < 1.0
    activity = np.where(liver, suv, np.where(body, 0.7, 0.0)).astype(np.float32)
    spacing = (spacing_mm, pixel_mm, pixel_mm)
    rng = np.random.default_rng([seed, 0x11E2])
    noise = noise_of_counts(activity, cov, suv, spacing, rng, fwhm_mm=fwhm_mm)
    return KnownPet(np.maximum(activity + noise, 0.0), spacing, liver, suv, cov)


def known_misregistration(
    shift_mm: tuple[float, float, float], *, seed: int = 1, slices: int = 24, rows: int = 128
) -> tuple[Volume, Volume]:
    """CT (HU) and PET (SUV) of one patient, the PET displaced by (up, back, left); no other difference in place."""
    levels = heights(slices, 5.0, -35.0)
    ct = ct_volume(seed, levels, rows, 500.0, ROUTINE, Channel.NATIVE_CT)
    pet = pet_volume(seed, levels, rows, 500.0 / rows, shift_mm=shift_mm)
    return ct, pet


def _disc(
    rows: int, pixel_mm: float, diameter_mm: float, sigma_mm: float, centre_mm: tuple[float, float]
) -> FloatArray:
    """Coverage of a disc; its edge is the Gaussian's error function, sampled without a pixel aperture."""
    axis = pixel_axis(rows, pixel_mm)
    x, y = np.meshgrid(axis - centre_mm[0], axis - centre_mm[1])
    outside = np.hypot(x, y) - diameter_mm / 2.0
    if sigma_mm:
        return np.asarray(0.5 * erfc(outside / (np.sqrt(2.0) * sigma_mm)), np.float32)
    return np.asarray(np.clip(0.5 - outside / pixel_mm, 0.0, 1.0), np.float32)


def _coloured(rows: int, spectrum: Filter | None, rng: np.random.Generator) -> FloatArray:
    """One slice of noise of unit SD with the power spectrum of filtered backprojection."""
    white = rng.standard_normal((rows, rows), np.float32)
    if spectrum is None:
        return white
    frequency = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(rows)[None, :])
    amplitude = np.sqrt(frequency) * spectrum.response(np.minimum(frequency / 0.5, 1.0)) * (frequency <= 0.5)
    # variance of the result by Parseval, every bin but the edges of the half plane standing for two
    weight = np.full(frequency.shape, 2.0)
    weight[:, 0] = 1.0
    if rows % 2 == 0:
        weight[:, -1] = 1.0
    gain = float(np.sum(weight * amplitude**2) / rows**2)
    shaped = fft.irfft2(fft.rfft2(white) * amplitude.astype(np.float32), s=white.shape)
    return np.asarray(shaped / np.sqrt(gain), np.float32)
