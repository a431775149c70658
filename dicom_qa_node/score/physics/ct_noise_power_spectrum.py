"""Noise power spectrum of a CT volume, from homogeneous squares of soft tissue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_noise import LocalNoise, level_of
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_sampling import CtSample
from dicom_qa_node.score.volume import FloatArray

__all__ = ["radial_spectrum", "spectrum_measurements"]

Profile = npt.NDArray[np.float64]

_SIDE_MM = 22.0
_FEWEST = 10
_MOST = 200
_NAMES = ("nps_peak_frequency", "nps_mean_frequency")


def spectrum_measurements(view: CtSample, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    """Measure where the noise has its power.

    * ``nps_peak_frequency`` and ``nps_mean_frequency`` (1/mm, context): maximum and first moment of the radially
      averaged noise power spectrum (ICRU Report 87; Solomon, Christianson & Samei 2012, Med Phys 39:6048) of
      squares of 22 mm, each freed of a second-order surface. Squares with more SD than the noise level hold
      structure and are left out.
    """
    squares = _squares(view, locals_)
    if len(squares) < _FEWEST:
        return CT_QUANTITIES.absent_all(
            _NAMES, f"only {len(squares)} homogeneous squares of soft tissue, {_FEWEST} are needed"
        )
    frequency, power = radial_spectrum(np.stack(squares), view.slices[0].mean_pixel_mm)
    peak = float(frequency[int(np.argmax(power))])
    mean = float(np.sum(frequency * power) / np.sum(power))
    detail = f"{len(squares)} squares"
    return CT_QUANTITIES.value(_NAMES[0], peak, detail), CT_QUANTITIES.value(_NAMES[1], mean, detail)


def radial_spectrum(squares: FloatArray, pixel_mm: float) -> tuple[Profile, Profile]:
    """Radially averaged noise power, HU2 mm2, of squares (n, side, side) by frequency in 1/mm up to Nyquist."""
    side = squares.shape[1]
    flat = _detrended(squares)
    # twice padded: the bins of 22 mm alone are too coarse to place a peak
    padded = 2 * side
    power = np.mean(np.abs(fft.fft2(flat, s=(padded, padded))) ** 2, axis=0) * pixel_mm**2 / side**2
    axis = fft.fftfreq(padded, pixel_mm)
    radius = np.hypot(axis[:, None], axis[None, :])
    width = 1.0 / (padded * pixel_mm)
    index = np.rint(radius / width).astype(np.intp)
    keep = (index >= 1) & (index <= padded // 2)
    count = np.bincount(index[keep], minlength=padded // 2 + 1)
    total = np.bincount(index[keep], power[keep], padded // 2 + 1)
    return np.arange(1, padded // 2 + 1) * width, total[1:] / count[1:]


def _squares(view: CtSample, locals_: tuple[LocalNoise, ...]) -> list[FloatArray]:
    side = round(_SIDE_MM / view.slices[0].mean_pixel_mm / 2) * 2 if view.slices else 0
    if side < 8 or not any(noise.soft.any() for noise in locals_):
        return []
    level = level_of(locals_)
    found: list[FloatArray] = []
    for part, noise in zip(view.slices, locals_, strict=True):
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


def _detrended(squares: FloatArray) -> npt.NDArray[np.float64]:
    """Subtract the best second-order surface from each square."""
    side = squares.shape[1]
    axis = np.linspace(-1.0, 1.0, side)
    y, x = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    basis, _ = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=1))
    rows = squares.reshape(len(squares), -1).astype(np.float64)
    return np.asarray((rows - rows @ basis @ basis.T).reshape(squares.shape))
