"""Noise power spectrum of a CT volume, from homogeneous squares of soft tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_noise import LocalNoise, level_of
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_sampling import CtSample, CtSlice
from dicom_qa_node.score.volume import FloatArray

__all__ = [
    "NoisePower",
    "SquareBias",
    "noise_power_of",
    "noise_power_spectrum",
    "radial_spectrum",
    "spectrum_measurements",
    "spectrum_of",
]

Profile = npt.NDArray[np.float64]

_SIDE_MM = 22.0
_FEWEST = 10
_MOST = 200
_LEAST_LEFT = 0.08
_MOST_ROWS = 27
_NAMES = ("nps_peak_frequency", "nps_mean_frequency")


@dataclass(frozen=True, slots=True)
class NoisePower:
    """Noise power of homogeneous squares.

    ``frequency_per_mm`` and ``power`` (HU2 mm2) are the radial average up to the Nyquist frequency; ``plane`` is the
    power by frequency in both directions as `scipy.fft.fftfreq` orders them. ``shown`` is the radial average of what
    the squares show, without what their surfaces took.
    """

    frequency_per_mm: Profile
    power: Profile
    plane: Profile
    shown: Profile

    @property
    def peak_per_mm(self) -> float:
        """Frequency of the maximum of what the squares show: the rest of anatomy below it is not a peak of noise."""
        return float(self.frequency_per_mm[int(np.argmax(self.shown))])

    @property
    def mean_per_mm(self) -> float:
        """First moment ``sum(f NPS) / sum(NPS)`` of the radial average."""
        return float(np.sum(self.frequency_per_mm * self.power) / np.sum(self.power))

    def shown_by(self, size: int) -> SquareBias:
        """Return how the SD of a square of ``size`` pixels differs from that of the noise.

        A square frees the noise of its own mean, and so of what is longer than the square; and where few lengths of the
        noise's correlation fit into it, the median of the SDs lies below their root mean square. Both follow from the
        covariance K of the pixels of a square without its mean: ``tr K / (n^2 - 1)`` and ``tr(K)^2 / tr(K^2)``.
        """
        side = self.plane.shape[0]
        # a square of finite size holds fewer pairs of pixels the further they are apart
        pairs = 1.0 - np.abs(fft.fftfreq(side, 1.0 / side)) / (side / 2)
        pairs = np.maximum(pairs, 0.25)
        correlation = fft.ifft2(self.plane).real / (pairs[:, None] * pairs[None, :])
        correlation /= correlation[0, 0]
        step = -(-size // _MOST_ROWS)
        row, column = (part.ravel() for part in np.meshgrid(*(np.arange(0, size, step),) * 2, indexing="ij"))
        lags = (row[:, None] - row[None, :]) % side, (column[:, None] - column[None, :]) % side
        covariance = correlation[lags]
        covariance = covariance - covariance.mean(axis=0) - covariance.mean(axis=1)[:, None] + covariance.mean()
        trace = float(np.trace(covariance))
        return SquareBias(trace / (row.size - 1), trace**2 / float(np.sum(covariance**2)))


@dataclass(frozen=True, slots=True)
class SquareBias:
    """What the SD of a small square shows of noise with a certain spectrum.

    ``kept`` is the share (0-1) of the variance, 1 for white noise; ``freedoms`` how many independent values a square
    holds.
    """

    kept: float
    freedoms: float

    @property
    def of_median(self) -> float:
        """The median SD of many squares over the SD of the noise (Wilson and Hilferty 1931 for the median)."""
        return float(np.sqrt(max(self.kept, 0.0)) * max(1.0 - 2.0 / (9.0 * self.freedoms), 0.5) ** 1.5)


def noise_power_spectrum(squares: FloatArray, pixel_mm: float) -> NoisePower:
    """Return the noise power spectrum of homogeneous squares (ICRU Report 87, equations 11.1 and 11.2).

    ``NPS = pixel^2 / N^2 <|DFT(square - surface)|^2>``. The second-order surface that is subtracted takes the anatomy
    and, at the lowest frequencies, noise with it; what it takes of white noise is known and is given back, so that the
    mean frequency agrees with that of pylinac (which subtracts the mean alone) within 5 % from 0.1 to 0.5 / mm.

    Parameters
    ----------
    squares
        HU, shape (n, side, side).
    pixel_mm
        Side of a pixel in mm.

    Examples
    --------
    White noise of 10 HU has the same power at every frequency, variance x pixel area:

    >>> noise = np.random.default_rng(1).normal(0, 10, (200, 32, 32))
    >>> found = noise_power_spectrum(noise, 0.7)
    >>> bool(abs(found.power[5:].mean() / (100 * 0.7**2) - 1) < 0.02)
    True
    """
    side = squares.shape[1]
    shown = _plane_power(_detrended(squares), pixel_mm)
    plane = shown / np.maximum(_left_by_surface(side), _LEAST_LEFT)
    frequency, power = _radial(plane, pixel_mm)
    return NoisePower(frequency, power, plane, _radial(shown, pixel_mm)[1])


def noise_power_of(view: CtSample, locals_: tuple[LocalNoise, ...]) -> NoisePower | str:
    """Return the noise power spectrum of the soft tissue of a view, or why there is none."""
    return spectrum_of(view.slices, locals_)


def spectrum_of(slices: Sequence[CtSlice], locals_: Sequence[LocalNoise]) -> NoisePower | str:
    """Return the noise power spectrum of the soft tissue of some slices, or why there is none."""
    squares = _squares(slices, locals_)
    if len(squares) < _FEWEST:
        return f"only {len(squares)} homogeneous squares of soft tissue, {_FEWEST} are needed"
    return noise_power_spectrum(np.stack(squares), slices[0].mean_pixel_mm)


def spectrum_measurements(noise: NoisePower | str) -> tuple[Measurement, ...]:
    """Tell where the noise has its power.

    * ``nps_peak_frequency`` and ``nps_mean_frequency`` (1/mm, context): maximum and first moment of the radially
      averaged noise power spectrum (ICRU Report 87; Solomon, Christianson & Samei 2012, Med Phys 39:6048) of
      squares of 22 mm, see `noise_power_spectrum`. Squares with more SD than the noise level hold structure and are
      left out.
    """
    if isinstance(noise, str):
        return CT_QUANTITIES.absent_all(_NAMES, noise)
    return (
        CT_QUANTITIES.value(_NAMES[0], noise.peak_per_mm),
        CT_QUANTITIES.value(_NAMES[1], noise.mean_per_mm),
    )


def radial_spectrum(squares: FloatArray, pixel_mm: float) -> tuple[Profile, Profile]:
    """Radially averaged noise power, HU2 mm2, of squares (n, side, side) by frequency in 1/mm up to Nyquist.

    As the squares show it, without what their second-order surface took.
    """
    return _radial(_plane_power(_detrended(squares), pixel_mm), pixel_mm)


def _plane_power(flat: Profile, pixel_mm: float) -> Profile:
    """Mean power of squares (n, side, side), HU2 mm2, shape (2 side, 2 side): bins of 22 mm cannot place a peak."""
    side = flat.shape[1]
    transformed = fft.fft2(flat, s=(2 * side, 2 * side))
    return np.asarray(np.mean(np.abs(transformed) ** 2, axis=0) * pixel_mm**2 / side**2)


def _radial(plane: Profile, pixel_mm: float) -> tuple[Profile, Profile]:
    side = plane.shape[0]
    axis = fft.fftfreq(side, pixel_mm)
    radius = np.hypot(axis[:, None], axis[None, :])
    width = 1.0 / (side * pixel_mm)
    index = np.rint(radius / width).astype(np.intp)
    keep = (index >= 1) & (index <= side // 2)
    count = np.bincount(index[keep], minlength=side // 2 + 1)
    total = np.bincount(index[keep], plane[keep], side // 2 + 1)
    return np.arange(1, side // 2 + 1) * width, total[1:] / count[1:]


def _squares(slices: Sequence[CtSlice], locals_: Sequence[LocalNoise]) -> list[FloatArray]:
    side = round(_SIDE_MM / slices[0].mean_pixel_mm / 2) * 2 if slices else 0
    if side < 8 or not any(noise.soft.any() for noise in locals_):
        return []
    level = level_of(locals_)
    found: list[FloatArray] = []
    for part, noise in zip(slices, locals_, strict=True):
        good = noise.soft & (noise.sd_hu < 1.6 * level)
        inside = _window_sums(good, side)
        step = side // 2
        for row, column in zip(*np.nonzero(inside[::step, ::step] >= 0.97 * side * side), strict=True):
            found.append(part.hu[row * step : row * step + side, column * step : column * step + side])
    found = found[:: max(1, len(found) // (2 * _MOST))]
    order = np.argsort([square.std() for square in found])
    # the wildest third holds vessels and organ edges
    return [found[i] for i in order[: max(_FEWEST, 2 * len(found) // 3)]][:_MOST]


def _window_sums(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.int64]:
    """Number of True pixels in each square that starts at a pixel, shape (rows - side + 1, columns - side + 1)."""
    table = np.pad(mask.astype(np.int32), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    return np.asarray(sums, np.int64)


def _detrended(squares: FloatArray) -> Profile:
    """Subtract the best second-order surface from each square."""
    side = squares.shape[1]
    basis = _surfaces(side)
    rows = squares.reshape(len(squares), -1).astype(np.float64)
    return np.asarray((rows - rows @ basis @ basis.T).reshape(squares.shape))


@lru_cache(maxsize=8)
def _surfaces(side: int) -> Profile:
    """Orthonormal second-order surfaces of a square, shape (side * side, 6)."""
    axis = np.linspace(-1.0, 1.0, side)
    y, x = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    return np.asarray(np.linalg.qr(np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=1))[0])


@lru_cache(maxsize=8)
def _left_by_surface(side: int) -> Profile:
    """Share of the power of white noise that `_detrended` leaves at each frequency of `_plane_power`."""
    surfaces = _surfaces(side).T.reshape(-1, side, side)
    taken = np.sum(np.abs(fft.fft2(surfaces, s=(2 * side, 2 * side))) ** 2, axis=0) / side**2
    return np.asarray(1.0 - taken)
