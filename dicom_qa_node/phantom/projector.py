"""Project images to parallel-beam sinograms and reconstruct them, for the phantom and for simulated dose.

Both directions are one non-uniform Fourier transform: by the Fourier slice theorem the spectrum of a view
is a radial line of the image's spectrum. The radial lines are interpolated from a twice oversampled FFT
with a Kaiser-Bessel kernel (Fessler & Sutton 2003, IEEE TSP 51:560), held as one sparse matrix per
geometry; the reconstruction applies its transpose (Matej & Bajla 1990). That is exact backprojection of
band-limited views up to the kernel's error (below 1e-3 of the signal), and about a tenth of a second for
512x512 pixels and 720 views.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, sparse
from scipy.special import i0

FloatArray = npt.NDArray[np.float32]

MU_WATER_PER_MM = 0.0192
"""Linear attenuation of water near 70 keV, the effective energy of a 120 kV beam."""

_KERNEL_WIDTH = 4
_OVERSAMPLING = 2


class Filter(StrEnum):
    """Apodisation of the ramp; the names are those of the usual textbooks (Kak & Slaney 1988, chapter 3)."""

    RAM_LAK = "ram-lak"
    SHEPP_LOGAN = "shepp-logan"
    COSINE = "cosine"
    HANN = "hann"

    def response(self, relative: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The window at frequencies given as a fraction (0 to 1) of its cutoff."""
        match self:
            case Filter.RAM_LAK:
                return np.ones_like(relative)
            case Filter.SHEPP_LOGAN:
                return np.asarray(np.sinc(relative / 2.0), np.float64)
            case Filter.COSINE:
                return np.asarray(np.cos(np.pi * relative / 2.0), np.float64)
            case Filter.HANN:
                return np.asarray(0.5 * (1.0 + np.cos(np.pi * relative)), np.float64)


@dataclass(frozen=True)
class ParallelBeam:
    """Views spread evenly over 180 degrees; detector pitch equals the pixel size.

    ``pixels`` is the side of the square image, ``detectors`` cover its diagonal.
    """

    pixels: int
    views: int
    pixel_mm: float = 0.7

    def __post_init__(self) -> None:
        if self.pixels < 8 or self.views < 1 or not self.pixel_mm > 0:
            raise ValueError(f"impossible geometry: {self.pixels} pixels, {self.views} views, {self.pixel_mm} mm")

    @property
    def detectors(self) -> int:
        """Detector cells per view."""
        return int(np.ceil(self.pixels * np.sqrt(2.0))) + 2

    def forward(self, images: npt.NDArray[Any]) -> FloatArray:
        """Line integrals of images.

        Parameters
        ----------
        images
            Shape (rows, columns) or (slices, rows, columns); for attenuation in 1/mm.

        Returns
        -------
        FloatArray
            Shape (views, detectors) or (slices, views, detectors): integrals over mm, so dimensionless for
            attenuation.
        """
        batch, single = _as_batch(images, (self.pixels, self.pixels))
        sinograms = np.stack([self._forward_one(image) for image in batch])
        return sinograms[0] if single else sinograms

    def reconstruct(self, sinograms: npt.NDArray[Any], kernel: Filter = Filter.HANN, cutoff: float = 1.0) -> FloatArray:
        """Filtered backprojection, the inverse of :meth:`forward` up to the filter's blur.

        Parameters
        ----------
        sinograms
            Shape (views, detectors) or (slices, views, detectors).
        kernel
            Window on the ramp.
        cutoff
            Frequency at which the window ends, as a fraction of Nyquist (0.5 cycles per pixel).
        """
        batch, single = _as_batch(sinograms, (self.views, self.detectors))
        images = np.stack([self._reconstruct_one(view, kernel, cutoff) for view in batch])
        return images[0] if single else images

    def _forward_one(self, image: FloatArray) -> FloatArray:
        plan = _plan(self.pixels, self.views, self.detectors)
        grid = np.zeros((plan.grid, plan.grid), np.float32)
        grid[plan.window] = image * plan.deapodise
        spectrum = np.asarray(fft.fft2(fft.ifftshift(grid)), np.complex64)
        lines = _apply(plan.interpolate, spectrum.reshape(-1)) * plan.centre
        # after centring, detector 0 lies at the first sample of the periodic view
        views = fft.irfft(lines.reshape(self.views, -1), n=plan.length, axis=1)
        return np.asarray(views[:, : self.detectors] * self.pixel_mm, np.float32)

    def backproject(self, sinograms: npt.NDArray[Any]) -> FloatArray:
        """Sum over the views of their value at each pixel: no filter, no scaling.

        The variance of a reconstruction is this sum of the views' variances, times a constant.
        """
        batch, single = _as_batch(sinograms, (self.views, self.detectors))
        flat = np.ones(_plan(self.pixels, self.views, self.detectors).length // 2 + 1)
        images = np.stack([self._transpose(view, flat) for view in batch])
        return images[0] if single else images

    def filter_energy(self, kernel: Filter = Filter.HANN, cutoff: float = 1.0) -> float:
        """Sum of the squared taps of the filter that :meth:`reconstruct` applies, per mm squared."""
        length = fft.next_fast_len(2 * self.detectors, real=True)
        taps = fft.irfft(_ramp(length) * _window(kernel, length, cutoff), n=length)
        return float(np.sum(taps**2) / self.pixel_mm**2)

    def _reconstruct_one(self, sinogram: FloatArray, kernel: Filter, cutoff: float) -> FloatArray:
        length = _plan(self.pixels, self.views, self.detectors).length
        response = _ramp(length) * _window(kernel, length, cutoff)
        return self._transpose(sinogram, response * (np.pi / (self.views * self.pixel_mm)))

    def _transpose(self, sinogram: FloatArray, response: npt.NDArray[np.float64]) -> FloatArray:
        plan = _plan(self.pixels, self.views, self.detectors)
        # the half spectrum stands for both signs of frequency: every bin but 0 and Nyquist counts twice
        weight = np.full(response.size, 2.0 / plan.length)
        weight[0] = 1.0 / plan.length
        if plan.length % 2 == 0:
            weight[-1] = 1.0 / plan.length
        lines = fft.rfft(sinogram, n=plan.length, axis=1) * (response * weight)
        values = np.asarray(lines.reshape(-1) * np.conj(plan.centre), np.complex64)
        grid = _apply(plan.interpolate.T, values).reshape(plan.grid, plan.grid)
        # the inverse transform of the pair e^{+i} is the unnormalised one
        image = fft.fftshift(fft.ifft2(grid, norm="forward").real)[plan.window]
        return np.asarray(image * plan.deapodise, np.float32)


def attenuation_from_hu(hu: npt.NDArray[Any]) -> FloatArray:
    """Attenuation in 1/mm, ``mu_water (1 + HU / 1000)``, not below zero."""
    return np.asarray(MU_WATER_PER_MM * np.maximum(1.0 + np.asarray(hu, np.float32) / 1000.0, 0.0), np.float32)


def hu_from_attenuation(mu_per_mm: npt.NDArray[Any]) -> FloatArray:
    """HU of an attenuation in 1/mm, ``1000 (mu / mu_water - 1)``."""
    return np.asarray(1000.0 * (np.asarray(mu_per_mm, np.float32) / MU_WATER_PER_MM - 1.0), np.float32)


@dataclass(frozen=True)
class _Plan:
    """What depends on the geometry alone: the interpolation matrix and the kernel's correction."""

    grid: int
    length: int  # samples of a zero-padded view
    window: tuple[slice, slice]
    deapodise: FloatArray  # (pixels, pixels)
    interpolate: sparse.csr_array  # (views * half spectrum, grid * grid)
    centre: npt.NDArray[np.complex64]  # (views * half spectrum,)


@lru_cache(maxsize=3)
def _plan(pixels: int, views: int, detectors: int) -> _Plan:
    grid = fft.next_fast_len(_OVERSAMPLING * pixels)
    length = fft.next_fast_len(2 * detectors, real=True)
    radial = np.arange(length // 2 + 1) / length
    angle = np.arange(views) * np.pi / views
    freq_x = (radial[None, :] * np.cos(angle)[:, None]).reshape(-1)
    freq_y = (radial[None, :] * np.sin(angle)[:, None]).reshape(-1)
    beta = np.pi * np.sqrt((_KERNEL_WIDTH / _OVERSAMPLING) ** 2 * (_OVERSAMPLING - 0.5) ** 2 - 0.8)
    start = grid // 2 - pixels // 2
    span = slice(start, start + pixels)
    profile = 1.0 / _kernel_transform((np.arange(pixels) - pixels // 2) / grid, beta)
    # pixel centres sit at j - (pixels-1)/2, the grid's origin at pixels//2; the first detector at
    # -(detectors-1)/2
    half = pixels // 2 - (pixels - 1) / 2
    first = (detectors - 1) / 2
    phase = half * (freq_x + freq_y) + first * np.tile(radial, views)
    return _Plan(
        grid=grid,
        length=length,
        window=(span, span),
        deapodise=np.asarray(np.outer(profile, profile), np.float32),
        interpolate=_interpolation(freq_x, freq_y, grid, beta),
        centre=np.exp(-2j * np.pi * phase).astype(np.complex64),
    )


def _interpolation(
    freq_x: npt.NDArray[np.float64], freq_y: npt.NDArray[np.float64], grid: int, beta: float
) -> sparse.csr_array:
    """Rows: spectrum samples; columns: the ``_KERNEL_WIDTH`` squared neighbours on the oversampled grid."""
    columns, column_weight = _taps(freq_x * grid, grid, beta)
    rows, row_weight = _taps(freq_y * grid, grid, beta)
    index = rows[:, :, None] * np.int32(grid) + columns[:, None, :]
    weight = row_weight[:, :, None] * column_weight[:, None, :]
    pointer = np.arange(freq_x.size + 1, dtype=np.int32) * np.int32(_KERNEL_WIDTH**2)
    return sparse.csr_array((weight.reshape(-1), index.reshape(-1), pointer), shape=(freq_x.size, grid * grid))


def _taps(
    position: npt.NDArray[np.float64], grid: int, beta: float
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    first = np.floor(position - _KERNEL_WIDTH / 2).astype(np.int32) + 1
    index = first[:, None] + np.arange(_KERNEL_WIDTH, dtype=np.int32)
    distance = (position[:, None] - index) * (2.0 / _KERNEL_WIDTH)
    weight = i0(beta * np.sqrt(np.maximum(1.0 - distance**2, 0.0))) / _KERNEL_WIDTH
    return (index % grid).astype(np.int32), weight.astype(np.float32)


def _kernel_transform(x: npt.NDArray[np.float64], beta: float) -> npt.NDArray[np.float64]:
    """Fourier transform of the Kaiser-Bessel kernel at ``x`` (cycles per grid cell)."""
    root = np.sqrt((beta**2 - (np.pi * _KERNEL_WIDTH * x) ** 2).astype(np.complex128))
    return np.asarray((np.sinh(root) / root).real, np.float64)


def _apply(matrix: Any, values: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """Real sparse matrix times complex vector, as two real columns: no complex copy of the matrix."""
    pair = np.ascontiguousarray(values).view(np.float32).reshape(-1, 2)
    return np.ascontiguousarray(matrix @ pair).view(np.complex64).reshape(-1)


def _ramp(length: int) -> npt.NDArray[np.float64]:
    """Spectrum of the ramp sampled in space (Kak & Slaney 1988, eq. 61): keeps the mean right."""
    n = np.rint(fft.fftfreq(length) * length)
    taps = np.zeros(length)
    taps[0] = 0.25
    odd = np.abs(n) % 2 == 1
    taps[odd] = -1.0 / (np.pi * n[odd]) ** 2
    return np.asarray(fft.rfft(taps).real, np.float64)


def _window(kernel: Filter, length: int, cutoff: float) -> npt.NDArray[np.float64]:
    if not 0.0 < cutoff <= 1.0:
        raise ValueError(f"filter cutoff must be in (0, 1] of Nyquist, not {cutoff}")
    relative = fft.rfftfreq(length) / (0.5 * cutoff)
    return np.where(relative <= 1.0, kernel.response(np.minimum(relative, 1.0)), 0.0)


def _as_batch(array: npt.NDArray[Any], tail: tuple[int, int]) -> tuple[FloatArray, bool]:
    values = np.asarray(array, np.float32)
    if values.ndim not in (2, 3) or values.shape[-2:] != tail:
        raise ValueError(f"expected (..., {tail[0]}, {tail[1]}), got {values.shape}")
    return (values[None], True) if values.ndim == 2 else (values, False)
