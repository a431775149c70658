"""Generated volumes of CT and PET, their noise, and the planes in which they are reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.phantom.anatomy import render_slice
from dicom_qa_node.phantom.ct_acquisition import FULL_VIEWS, CtQuality, Scan, full_views, measure, photons_for_noise
from dicom_qa_node.phantom.patient import Patient, draw_patient
from dicom_qa_node.phantom.projector import FloatArray, ParallelBeam, attenuation_from_hu, hu_from_attenuation
from dicom_qa_node.phantom.voxel_canvas import LIVER, Channel

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

    Each slice is rendered, projected, counted and reconstructed on its own. The tube current follows the
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


Vector = npt.NDArray[np.float64]


class Plane(StrEnum):
    """Image planes and the ways to lie that turn them.

    The names of the turned axial ones are the Patient Position terms of PS3.3 C.7.3.1.1.2 they belong to.
    """

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"
    PRONE = "prone"
    RIGHT_DOWN = "decubitus-right"
    LEFT_DOWN = "decubitus-left"


@dataclass(frozen=True)
class Frame:
    """One image: pixels (rows, columns), and where they are (PS3.3 C.7.6.2.1.1)."""

    pixels: FloatArray
    position_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    exposure: float


# stack, row and column axes as (source axis, sign); source axes are 0 slice (up), 1 row (back), 2 column (left)
_AXES: dict[Plane, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    Plane.AXIAL: ((0, 1), (1, 1), (2, 1)),
    Plane.CORONAL: ((1, 1), (0, -1), (2, 1)),
    Plane.SAGITTAL: ((2, 1), (0, -1), (1, 1)),
    Plane.PRONE: ((0, 1), (1, -1), (2, -1)),
    Plane.RIGHT_DOWN: ((0, 1), (2, -1), (1, 1)),
    Plane.LEFT_DOWN: ((0, 1), (2, 1), (1, -1)),
}
# patient directions (left, posterior, superior) of the source axes
_DIRECTION = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def frames_of(volume: Volume, plane: Plane, tilt_deg: float, origin_mm: tuple[float, float, float]) -> list[Frame]:
    """Images of a volume in the wanted plane; ``origin_mm`` is added to every position."""
    if tilt_deg:
        if plane is not Plane.AXIAL:
            raise ValueError("a tilted gantry takes axial slices")
        return _tilted(volume, tilt_deg, np.asarray(origin_mm))
    step = float(np.diff(volume.heights_mm).mean()) if len(volume.heights_mm) > 1 else 1.0
    size = np.array([step, volume.pixel_mm, volume.pixel_mm])
    x, y = volume.first_pixel_mm
    first = np.array([x, y, volume.heights_mm[0]]) + origin_mm
    stack, row, column = _AXES[plane]
    voxels = volume.voxels
    for axis, sign in (stack, row, column):
        if sign < 0:
            first = first + _DIRECTION[axis] * size[axis] * (voxels.shape[axis] - 1)
            voxels = np.flip(voxels, axis)
    voxels = voxels.transpose(stack[0], row[0], column[0])
    cosines = (*_cosine(column), *_cosine(row))
    exposure = volume.exposure if stack[0] == 0 else np.full(voxels.shape[0], volume.exposure.mean())
    return [
        Frame(
            pixels=np.ascontiguousarray(image),
            position_mm=_triple(first + index * size[stack[0]] * np.asarray(_cosine(stack))),
            orientation=cosines,
            spacing_mm=(float(size[row[0]]), float(size[column[0]])),
            exposure=float(exposure[index]),
        )
        for index, image in enumerate(voxels)
    ]


def _cosine(axis: tuple[int, int]) -> tuple[float, float, float]:
    return _triple(_DIRECTION[axis[0]] * axis[1])


def _triple(vector: Vector) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def _tilted(volume: Volume, tilt_deg: float, origin: Vector) -> list[Frame]:
    """Slices whose rows lean towards the feet; the table still moves along the body, so the stack is sheared."""
    count, rows, columns = volume.voxels.shape
    angle = np.deg2rad(tilt_deg)
    step = float(np.diff(volume.heights_mm).mean()) if count > 1 else 1.0
    x, y = volume.first_pixel_mm
    along_row = y + np.arange(rows) * volume.pixel_mm
    source_row = (along_row * np.cos(angle) - y) / volume.pixel_mm
    frames = []
    for index, level in enumerate(volume.heights_mm):
        source_slice = index - along_row * np.sin(angle) / step
        grid = np.broadcast_arrays(source_slice[:, None], source_row[:, None], np.arange(columns)[None, :])
        pixels = ndimage.map_coordinates(volume.voxels, np.stack(grid), order=1, mode="nearest", cval=AIR_HU)
        corner = np.array([x, y * np.cos(angle), level - y * np.sin(angle)]) + origin
        frames.append(
            Frame(
                pixels=np.asarray(pixels, np.float32),
                position_mm=_triple(corner),
                orientation=(1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle))),
                spacing_mm=(volume.pixel_mm, volume.pixel_mm),
                exposure=float(volume.exposure[index]),
            )
        )
    return frames
