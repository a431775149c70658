"""Artefacts of a CT volume: streaks, photon starvation, metal, truncation, motion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_noise import LocalNoise, level_of
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_sampling import BODY_HU, BoolArray, CtSample, CtSlice, is_axial
from dicom_qa_node.score.physics.square_windows import grown, shrunk, sliding_mean
from dicom_qa_node.score.volume import FloatArray, Volume

__all__ = ["angular_unevenness", "artefact_measurements", "contour_jump", "sided_energy"]

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


def artefact_measurements(view: CtSample, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    """Measure artefacts on the slices of a view.

    * ``streak_index`` (1, lower is better): `angular_unevenness` of fat and soft tissue, worst slice. Noise spreads its
      power smoothly over the directions, streaks gather it in a few; the dose hardly moves it.
    * ``photon_starvation_index`` (1, lower is better): `sided_energy`, mean of the worst quarter of the slices. Starved
      views cross shoulders and pelvis from side to side (Hsieh 1998, Med Phys 25:2139).
    * ``fov_truncation`` (%, lower is better): part of the body's outline that is cut by the edge of the
      reconstructed field (AAPM Report 220, section 3), worst slice.
    * ``metal_fraction`` (%, lower is better): share of the tissue voxels above 2500 HU, whole volume.
    """
    metal = CT_QUANTITIES.value("metal_fraction", 100.0 * view.metal_share)
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


def _streaks(view: CtSample, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    pairs = [pair for pair in zip(view.slices, locals_, strict=True) if np.count_nonzero(pair[1].soft) > _FEW_PIXELS]
    if not pairs:
        return CT_QUANTITIES.absent_all(_STREAK_NAMES, "too little soft tissue in the field")
    level = level_of([noise for _, noise in pairs])
    chosen = [part for part, _ in pairs[:: max(1, len(pairs) // _SLICES)]]
    residuals = [_residual(part, level) for part in chosen]
    pixel_mm = chosen[0].mean_pixel_mm
    uneven = [angular_unevenness(residual, pixel_mm) for residual, _ in residuals]
    streak = CT_QUANTITIES.value(_STREAK_NAMES[0], max(uneven), f"median over slices {np.median(uneven):.2f}")
    if not view.axial:
        return streak, CT_QUANTITIES.absent(_STREAK_NAMES[1], "the slices are not axial")
    sided = [sided_energy(residual, _inner(tissue), pixel_mm) for residual, tissue in residuals]
    worst = sorted(sided)[-max(1, len(sided) // 4) :]
    return streak, CT_QUANTITIES.value(
        _STREAK_NAMES[1], float(np.mean(worst)), f"median over slices {np.median(sided):.2f}"
    )


def _residual(part: CtSlice, level: float) -> tuple[FloatArray, BoolArray]:
    """Fat and soft tissue below the skin without its slow changes, 0 elsewhere; and where that is.

    It is chosen by averages over 13 mm, which streaks hardly move; what stands far above the noise (edges, vessels)
    is cut.
    """
    size = 2 * round(_COARSE_MM / part.mean_pixel_mm / 2) + 1
    coarse = sliding_mean(part.hu, size)
    tissue = np.asarray(part.deep & (coarse > _TISSUE_HU[0]) & (coarse < _TISSUE_HU[1]))
    image = np.where(tissue, part.hu, coarse)
    rough = image - ndimage.gaussian_filter(image, _ROUGH_MM / part.mean_pixel_mm, truncate=3.0)
    return np.where(tissue, np.clip(rough, -3 * level, 3 * level), np.float32(0.0)).astype(np.float32), tissue


def _inner(tissue: BoolArray) -> BoolArray:
    inner = shrunk(tissue, 4)
    return inner if np.count_nonzero(inner) > 500 else tissue


def _truncation(view: CtSample) -> Measurement:
    if not view.slices:
        return CT_QUANTITIES.absent("fov_truncation", "no body in the field")
    shares = [part.truncated for part in view.slices]
    return CT_QUANTITIES.value(
        "fov_truncation", 100.0 * max(shares), f"mean over slices {100.0 * np.mean(shares):.1f} %"
    )


_NAME = "contour_jump"

_CT_MOTION_COARSE_MM = 2.6

_NEAR_MM = 13.0
_WIDEST_STEP_MM = 6.0


def contour_jump(volume: Volume) -> Measurement:
    """Measure the largest step of the body's outline between neighbouring slices.

    ``contour_jump`` (mm, lower is better): the area between the outlines of neighbouring slices per length of
    outline, less the mean of the same for the pairs before and after; the largest value of the series. A steady
    change of shape cancels; breathing between rotations and a patient who moves do not. Area more than 13 mm away
    from either outline (an arm that enters the field) does not count.
    """
    if not is_axial(volume):
        return CT_QUANTITIES.absent(_NAME, "the slices are not axial")
    if len(volume.voxels) < 8:
        return CT_QUANTITIES.absent(_NAME, "fewer than eight slices")
    if volume.spacing_mm[0] > _WIDEST_STEP_MM:
        return CT_QUANTITIES.absent(_NAME, f"slices more than {_WIDEST_STEP_MM:.0f} mm apart")
    moves = _moves(volume)
    excess = moves[1:-1] - 0.5 * (moves[:-2] + moves[2:])
    if not np.isfinite(excess).any():
        return CT_QUANTITIES.absent(_NAME, "no neighbouring slices with a whole outline of the body")
    worst = int(np.nanargmax(excess))
    detail = f"between slices {worst + 2} and {worst + 3} of {len(volume.voxels)}"
    return CT_QUANTITIES.value(_NAME, max(float(excess[worst]), 0.0), detail)


def _moves(volume: Volume) -> npt.NDArray[np.float64]:
    """Mean distance in mm between the outlines of slice k and k + 1; NaN beside gaps and where there is no body."""
    step = max(1, int(_CT_MOTION_COARSE_MM / volume.spacing_mm[2]))
    pixel_mm = step * volume.spacing_mm[2]
    moves = np.full(len(volume.voxels) - 1, np.nan)
    before: tuple[BoolArray, float] | None = None
    for index in range(len(volume.voxels)):
        here = _outline(volume.voxels[index, step // 2 :: step, step // 2 :: step], pixel_mm)
        gap = index > 0 and volume.positions_mm[index] - volume.positions_mm[index - 1] > 1.5 * volume.spacing_mm[0]
        if before is not None and here is not None and not gap:
            moved = _thin(before[0] ^ here[0], _NEAR_MM / pixel_mm)
            moves[index - 1] = 2.0 * moved / (before[1] + here[1]) * pixel_mm
        before = here
    return moves


def _thin(moved: BoolArray, width_px: float) -> int:
    """Number of pixels in those parts of a mask that are narrower than ``width_px``."""
    count = int(np.count_nonzero(moved))
    if count <= width_px**2:
        return count
    radius = width_px / 2
    return count - int(np.count_nonzero(grown(shrunk(moved, radius), radius) & moved))


def _outline(coarse: npt.NDArray[np.float32], pixel_mm: float) -> tuple[BoolArray, float] | None:
    """Body of a slice with its holes filled, and the length of its outline in pixels; None if there is little of it."""
    tissue = np.asarray(coarse > BODY_HU)
    if np.count_nonzero(tissue) * pixel_mm**2 < 5000.0:
        return None
    tissue = grown(shrunk(tissue, 1), 1) & tissue
    empty, count = ndimage.label(~tissue)
    size = np.bincount(empty.ravel(), minlength=count + 1)
    size[0] = 0
    body = empty != int(np.argmax(size))
    # pixels on a border count its length along the axes, 4 / pi times the true one on average
    length = float(np.count_nonzero(body & ~shrunk(body, 1)) * np.pi / 4)
    return (body, length) if length else None
