"""Scan a generated patient: CT volumes in HU and PET volumes in SUV, before they become DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dicom_qa_node.phantom.acquisition import Scan, measure, photons_for_noise
from dicom_qa_node.phantom.anatomy import render_slice
from dicom_qa_node.phantom.patient import Patient, draw_patient
from dicom_qa_node.phantom.pet_noise import FWHM_PER_SIGMA, noise_of_counts, smoothed
from dicom_qa_node.phantom.projector import (
    FloatArray,
    ParallelBeam,
    attenuation_from_hu,
    hu_from_attenuation,
)
from dicom_qa_node.phantom.quality import FULL_VIEWS, CtQuality, full_views
from dicom_qa_node.phantom.tissue import LIVER, Channel

LIVER_HEIGHT_MM = -62.0
AIR_HU, TOP_HU = -1024.0, 3071.0

# a tenth of the routine COV of the liver at full counts, in a 3 cm sphere
PET_LIVER_COV = 0.08
PET_RESOLUTION_MM = 6.0


@dataclass(frozen=True)
class Volume:
    """Axial slices in rising height.

    ``voxels`` is (slices, rows, columns) float32; ``heights_mm`` is the level of each slice, ``x_mm`` and
    ``y_mm`` the pixel centres to the left and to the back; ``exposure`` the tube current of each slice
    against the routine.
    """

    voxels: FloatArray
    heights_mm: npt.NDArray[np.float64]
    pixel_mm: float
    exposure: npt.NDArray[np.float64]

    @property
    def first_pixel_mm(self) -> tuple[float, float]:
        """Centre of the first pixel, (left, posterior)."""
        rows, columns = self.voxels.shape[1:]
        return -(columns - 1) / 2 * self.pixel_mm, -(rows - 1) / 2 * self.pixel_mm


def heights(slices: int, spacing_mm: float, centre_mm: float) -> npt.NDArray[np.float64]:
    """Levels of evenly spaced slices around a centre, rising."""
    if slices < 1 or not spacing_mm > 0:
        raise ValueError(f"impossible stack: {slices} slices, {spacing_mm} mm apart")
    return np.float64(centre_mm) + (np.arange(slices, dtype=np.float64) - (slices - 1) / 2) * spacing_mm


def ct_volume(
    seed: int,
    levels_mm: Sequence[float] | npt.NDArray[np.float64],
    rows: int,
    fov_mm: float,
    quality: CtQuality,
    channel: Channel = Channel.VENOUS_CT,
) -> Volume:
    """Scan and reconstruct slices of the patient of ``seed``.

    Each slice is rendered, projected, counted and reconstructed by itself. The tube current follows the
    patient's attenuation along the body, as exposure control does, with the liver as its reference.
    """
    patient = draw_patient(seed)
    pixel_mm = fov_mm / rows
    axis = pixel_axis(rows, pixel_mm)
    scan = Scan(ParallelBeam(rows, quality.views_at(rows), pixel_mm), kernel=quality.kernel, cutoff=quality.cutoff)
    photons, thickest = _reference(seed, rows, fov_mm, replace(quality, dose_fraction=1.0, views=FULL_VIEWS), channel)
    rng = np.random.default_rng([seed, 0xC7, rows, round(1e6 * quality.dose_fraction), quality.views])
    voxels = np.empty((len(levels_mm), rows, rows), np.float32)
    exposure = np.empty(len(levels_mm))
    for index, level in enumerate(levels_mm):
        integrals = scan.beam.forward(attenuation_from_hu(render_slice(patient, float(level), axis, axis, channel)))
        # half the attenuation is made good, the usual strength of exposure control
        exposure[index] = np.clip(np.exp(0.5 * (_thickness(integrals) - thickest)), 0.12, 4.0)
        counted = measure(integrals, photons * exposure[index] * quality.dose_fraction, _electronic(photons), rng)
        image = scan.beam.reconstruct(counted, scan.kernel, scan.cutoff)
        voxels[index] = np.clip(np.rint(hu_from_attenuation(image)), AIR_HU, TOP_HU)
    return Volume(voxels, np.asarray(levels_mm, np.float64), pixel_mm, exposure * quality.dose_fraction)


def pet_volume(
    seed: int,
    levels_mm: Sequence[float] | npt.NDArray[np.float64],
    rows: int,
    pixel_mm: float,
    count_fraction: float = 1.0,
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Volume:
    """FDG uptake in SUV of the patient of ``seed``, at PET resolution and with the noise of its counts.

    ``shift_mm`` displaces the patient by (slice, row, column) against the CT: up, to the back, to the left.
    """
    patient = draw_patient(seed)
    levels = np.asarray(levels_mm, np.float64)
    axis = pixel_axis(rows, pixel_mm)
    up, back, left = shift_mm
    uptake = np.stack(
        [render_slice(patient, float(level) - up, axis - left, axis - back, Channel.FDG) for level in levels]
    )
    step = float(levels[1] - levels[0]) if levels.size > 1 else pixel_mm
    spacing = (step, pixel_mm, pixel_mm)
    blurred = smoothed(uptake, PET_RESOLUTION_MM / FWHM_PER_SIGMA, spacing)
    rng = np.random.default_rng([seed, 0x9E7, rows, round(1e6 * count_fraction)])
    noise = noise_of_counts(
        blurred, PET_LIVER_COV / np.sqrt(count_fraction), LIVER.suv, spacing, rng, fwhm_mm=PET_RESOLUTION_MM
    )
    return Volume(np.maximum(blurred + noise, 0.0), levels, pixel_mm, np.ones(levels.size))


def pixel_axis(count: int, pixel_mm: float) -> npt.NDArray[np.float64]:
    """Pixel centres around the middle of the scanner, in mm."""
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * pixel_mm


@lru_cache(maxsize=16)
def _reference(seed: int, rows: int, fov_mm: float, quality: CtQuality, channel: Channel) -> tuple[float, float]:
    """Photons that give the target noise in the liver with all views, and the liver's attenuation."""
    patient: Patient = draw_patient(seed)
    pixel_mm = fov_mm / rows
    axis = pixel_axis(rows, pixel_mm)
    image = render_slice(patient, LIVER_HEIGHT_MM, axis, axis, channel)
    liver = np.abs(image - LIVER.value(channel)) < 8.0
    beam = ParallelBeam(rows, full_views(rows), pixel_mm)
    scan = Scan(beam, kernel=quality.kernel, cutoff=quality.cutoff)
    for _ in range(2):
        photons = photons_for_noise(image, scan, quality.noise_hu, liver)
        scan = replace(scan, photons=photons, electronic=_electronic(photons))
    return photons, _thickness(ParallelBeam(rows, 16, pixel_mm).forward(attenuation_from_hu(image)))


def _electronic(photons: float) -> float:
    """Readout noise in photons: the same share of the quantum noise at routine dose whatever the pixel."""
    return 4.0 * float(np.sqrt(photons / 1e6))


def _thickness(integrals: FloatArray) -> float:
    """Largest line integral of the average view."""
    return float(integrals.max(axis=1).mean())
