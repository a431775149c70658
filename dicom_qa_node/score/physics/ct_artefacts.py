"""Artefacts of a CT volume: streaks, photon starvation, metal and a body larger than the field."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.physics.ct_noise import LocalNoise, level_of
from dicom_qa_node.score.physics.ct_quantities import CT
from dicom_qa_node.score.physics.ct_slices import BoolArray, CtSlice, CtView, shrunk
from dicom_qa_node.score.volume import FloatArray

__all__ = ["angular_unevenness", "artefact_measurements", "sided_energy"]

_LINE_MM = 14.0
_ROUGH_MM = 4.5
_COARSE_MM = 13.0
_TISSUE_HU = (-200.0, 300.0)
_SLICES = 8
_FEW_PIXELS = 3000
_BAND_PER_MM = (0.15, 0.40)
_ANGLES = 240
_SMOOTH_DEG = 8.0
_STREAK_NAMES = ("streak_index", "photon_starvation_index")


def artefact_measurements(view: CtView, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    """Measure artefacts on the slices of a view.

    * ``streak_index`` (1, lower is better): `angular_unevenness` of fat and soft tissue, worst slice. Noise spreads its
      power smoothly over the directions, streaks gather it in a few; the dose hardly moves it.
    * ``photon_starvation_index`` (1, lower is better): `sided_energy`, mean of the worst quarter of the slices. Starved
      views cross shoulders and pelvis from side to side (Hsieh 1998, Med Phys 25:2139).
    * ``fov_truncation`` (%, lower is better): part of the body's outline that is cut by the edge of the
      reconstructed field (AAPM Report 220, section 3), worst slice.
    * ``metal_fraction`` (%, lower is better): share of the tissue voxels above 2500 HU, whole volume.
    """
    metal = CT.value("metal_fraction", 100.0 * view.metal_share)
    return (*_streaks(view, locals_), _truncation(view), metal)


def angular_unevenness(residual: FloatArray, pixel_mm: float) -> float:
    """How unevenly the power of an image is spread over the directions.

    The power spectrum between 0.15 and 0.40 / mm is freed of its radial course and averaged in sectors of 0.75 degrees;
    the result is the SD of the sectors relative to their neighbourhood of 8 degrees.
    """
    grid = _polar(max(residual.shape), pixel_mm)
    power = np.abs(fft.rfft2(residual, s=(grid.side, grid.side))).ravel()[grid.chosen] ** 2
    ring = np.bincount(grid.ring, power) / np.maximum(np.bincount(grid.ring), 1)
    white = power / np.maximum(ring[grid.ring], 1e-12)
    sector = np.bincount(grid.sector, white, _ANGLES) / np.maximum(np.bincount(grid.sector, minlength=_ANGLES), 1)
    smooth = ndimage.gaussian_filter1d(sector, _SMOOTH_DEG * _ANGLES / 180.0, mode="wrap")
    return float(np.std(sector / np.maximum(smooth, 1e-12) - 1.0))


def sided_energy(residual: FloatArray, inside: BoolArray, pixel_mm: float) -> float:
    """Median energy of averages over 14 mm along the rows of the image, over that of averages down the columns."""
    length = 2 * round(_LINE_MM / pixel_mm / 2) + 1
    lateral = ndimage.uniform_filter1d(residual, length, axis=1)[inside] ** 2
    front = ndimage.uniform_filter1d(residual, length, axis=0)[inside] ** 2
    return float(np.median(lateral) / max(float(np.median(front)), 1e-6))


@dataclass(frozen=True, slots=True)
class _Polar:
    """Polar index of the chosen samples of a half spectrum of ``side`` x ``side`` pixels."""

    side: int
    chosen: npt.NDArray[np.intp]
    ring: npt.NDArray[np.intp]
    sector: npt.NDArray[np.intp]


@lru_cache(maxsize=4)
def _polar(size: int, pixel_mm: float) -> _Polar:
    side = fft.next_fast_len(max(size, 256), real=True)
    y, x = fft.fftfreq(side, pixel_mm)[:, None], fft.rfftfreq(side, pixel_mm)[None, :]
    radius = np.hypot(y, x)
    high = min(_BAND_PER_MM[1], 0.45 / pixel_mm)
    chosen = np.flatnonzero((radius > _BAND_PER_MM[0]) & (radius < high) & (x > 0))
    ring = (radius.ravel()[chosen] * side * pixel_mm).astype(np.intp)
    turn = np.arctan2(y, x).ravel()[chosen] / np.pi + 0.5
    return _Polar(side, chosen, ring, (turn * _ANGLES).astype(np.intp) % _ANGLES)


def _streaks(view: CtView, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    pairs = [pair for pair in zip(view.slices, locals_, strict=True) if np.count_nonzero(pair[1].soft) > _FEW_PIXELS]
    if not pairs:
        return CT.absent_all(_STREAK_NAMES, "too little soft tissue in the field")
    level = level_of([noise for _, noise in pairs])
    chosen = [part for part, _ in pairs[:: max(1, len(pairs) // _SLICES)]]
    residuals = [_residual(part, level) for part in chosen]
    pixel_mm = chosen[0].mean_pixel_mm
    uneven = [angular_unevenness(residual, pixel_mm) for residual, _ in residuals]
    streak = CT.value(_STREAK_NAMES[0], max(uneven), f"median over slices {np.median(uneven):.2f}")
    if not view.axial:
        return streak, CT.absent(_STREAK_NAMES[1], "the slices are not axial")
    sided = [sided_energy(residual, _inner(tissue), pixel_mm) for residual, tissue in residuals]
    worst = sorted(sided)[-max(1, len(sided) // 4) :]
    return streak, CT.value(_STREAK_NAMES[1], float(np.mean(worst)), f"median over slices {np.median(sided):.2f}")


def _residual(part: CtSlice, level: float) -> tuple[FloatArray, BoolArray]:
    """Fat and soft tissue below the skin without its slow changes, 0 elsewhere; and where that is.

    It is chosen by averages over 13 mm, which streaks hardly move; what stands far above the noise (edges, vessels)
    is cut.
    """
    size = 2 * round(_COARSE_MM / part.mean_pixel_mm / 2) + 1
    coarse = ndimage.uniform_filter(part.hu, size, mode="nearest")
    tissue = np.asarray(part.deep & (coarse > _TISSUE_HU[0]) & (coarse < _TISSUE_HU[1]))
    image = np.where(tissue, part.hu, coarse)
    rough = image - ndimage.gaussian_filter(image, _ROUGH_MM / part.mean_pixel_mm, truncate=3.0)
    return np.where(tissue, np.clip(rough, -3 * level, 3 * level), np.float32(0.0)).astype(np.float32), tissue


def _inner(tissue: BoolArray) -> BoolArray:
    inner = shrunk(tissue, 4)
    return inner if np.count_nonzero(inner) > 500 else tissue


def _truncation(view: CtView) -> Measurement:
    if not view.slices:
        return CT.absent("fov_truncation", "no body in the field")
    shares = [part.truncated for part in view.slices]
    return CT.value("fov_truncation", 100.0 * max(shares), f"mean over slices {100.0 * np.mean(shares):.1f} %")
