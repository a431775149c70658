"""Artefacts of a CT volume: streaks, photon starvation, metal and a body larger than the field."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.physics.ct_noise import LocalNoise, mode
from dicom_qa_node.score.physics.ct_quantities import CT
from dicom_qa_node.score.physics.ct_slices import BoolArray, CtSlice, CtView, shrunk
from dicom_qa_node.score.volume import FloatArray

__all__ = ["artefact_measurements", "directional_energy", "truncated_share"]

_LINE_MM = 14.0
_ROUGH_MM = 4.5
_WINDOW_MM = 15.0
_DIRECTIONS = 8
_SLICES = 8
_STREAK_NAMES = ("streak_index", "photon_starvation_index")


def artefact_measurements(view: CtView, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    """Measure artefacts on the slices of a view.

    * ``streak_index`` (1, lower is better): averages along short lines of 14 mm keep streaks and cancel noise. The energy
      of such averages in the strongest of eight directions over the mean of the eight, in windows of 15 mm; median over
      soft tissue. About 1.5 for noise without direction.
    * ``photon_starvation_index`` (1, lower is better): energy of the averages along the patient's left-right line over
      that along the front-back line, whole slice, worst slice. Starved views cross shoulders and pelvis from side to
      side (Hsieh 1998, Med Phys 25:2139).
    * ``fov_truncation`` (%, lower is better): part of the body's outline that is cut by the edge of the reconstructed field
      (AAPM Report 220, section 3), worst slice.
    * ``metal_fraction`` (%, lower is better): share of the tissue voxels above 2500 HU, whole volume.
    """
    metal = CT.value("metal_fraction", 100.0 * view.metal_share)
    return (*_streaks(view, locals_), _truncation(view), metal)


def directional_energy(residual: FloatArray, length: int) -> FloatArray:
    """Squared averages along lines in eight directions (steps of 22.5 degrees, the first along the columns).

    Returns shape (directions, rows, columns).
    """
    half = length // 2
    padded = np.pad(residual, half)
    rows, columns = residual.shape
    energy = np.empty((_DIRECTIONS, rows, columns), np.float32)
    for direction in range(_DIRECTIONS):
        angle = direction * np.pi / _DIRECTIONS
        total = np.zeros_like(residual)
        for step in range(-half, half + 1):
            dy, dx = half + round(step * np.sin(angle)), half + round(step * np.cos(angle))
            total += padded[dy : dy + rows, dx : dx + columns]
        energy[direction] = (total / (2 * half + 1)) ** 2
    return energy


def truncated_share(part: CtSlice) -> float:
    """Share (0-1) of the body's outline that lies on the edge of the reconstructed field."""
    outline = part.body & ~shrunk_inside(part.body)
    if not outline.any():
        return 0.0
    rim = ~_inner_field(part.field)
    return float(np.count_nonzero(outline & rim) / np.count_nonzero(outline))


def shrunk_inside(mask: BoolArray) -> BoolArray:
    """Erode by one pixel; outside the image counts as outside the mask."""
    return np.asarray(ndimage.minimum_filter(mask.view(np.uint8), 3, mode="constant")).view(np.bool_)


def _inner_field(field: BoolArray) -> BoolArray:
    inner = shrunk(field, 3)
    inner[:3], inner[-3:], inner[:, :3], inner[:, -3:] = False, False, False, False
    return inner


def _streaks(view: CtView, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    pairs = [pair for pair in zip(view.slices, locals_, strict=True) if np.count_nonzero(pair[1].soft) > 500]
    if not pairs:
        return CT.absent_all(_STREAK_NAMES, "too little soft tissue in the field")
    level = mode(np.concatenate([noise.sd_hu[noise.soft] for _, noise in pairs]))
    ratios, sided = [], []
    for part, noise in pairs[:: max(1, len(pairs) // _SLICES)]:
        ratio, lateral = _slice_streaks(part, noise, level)
        ratios.append(ratio)
        sided.append(lateral)
    streak = CT.value(_STREAK_NAMES[0], float(np.median(np.concatenate(ratios))))
    if not view.axial:
        return streak, CT.absent(_STREAK_NAMES[1], "the slices are not axial")
    worst = int(np.argmax(sided))
    return streak, CT.value(_STREAK_NAMES[1], sided[worst], f"median over slices {np.median(sided):.2f}")


def _slice_streaks(part: CtSlice, noise: LocalNoise, level: float) -> tuple[npt.NDArray[np.float32], float]:
    """Direction ratios of the soft tissue, and left-right over front-back energy of the slice."""
    rows, columns = (slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(part.body))
    soft = noise.soft[rows, columns]
    image = np.where(soft, part.hu[rows, columns], noise.mean_hu[rows, columns])
    factor = max(1, round(1.3 / part.mean_pixel_mm))
    image, inside = _smaller(image, factor), _smaller(soft.astype(np.float32), factor) > 0.99
    step = factor * part.mean_pixel_mm
    rough = image - ndimage.gaussian_filter(image, _ROUGH_MM / step)
    # organ edges are straight lines too: cut what stands far above the noise
    residual = np.where(inside, np.clip(rough, -4 * level, 4 * level), 0.0).astype(np.float32)
    energy = directional_energy(residual, 2 * round(_LINE_MM / step / 2) + 1)
    size = 2 * round(_WINDOW_MM / step / 2) + 1
    local = np.stack([ndimage.uniform_filter(one, size) for one in energy])
    deep = shrunk(inside, size // 3)
    deep = deep if np.count_nonzero(deep) > 100 else inside
    if not deep.any():
        return np.zeros(0, np.float32), 1.0
    ratio = local[:, deep].max(axis=0) / np.maximum(local[:, deep].mean(axis=0), 1e-6)
    return ratio, _sided(energy, deep)


def _sided(energy: FloatArray, deep: BoolArray) -> float:
    """Energy of lines along the rows of the image (left to right) over that of lines down the columns."""
    lateral, front = float(np.median(energy[0][deep])), float(np.median(energy[_DIRECTIONS // 2][deep]))
    return lateral / max(front, 1e-6)


def _smaller(image: FloatArray, factor: int) -> FloatArray:
    rows, columns = (n // factor for n in image.shape)
    cut = image[: rows * factor, : columns * factor]
    return np.asarray(cut.reshape(rows, factor, columns, factor).mean(axis=(1, 3)), np.float32)


def _truncation(view: CtView) -> Measurement:
    if not view.slices:
        return CT.absent("fov_truncation", "no body in the field")
    shares = [truncated_share(part) for part in view.slices]
    return CT.value("fov_truncation", 100.0 * max(shares), f"mean over slices {100.0 * np.mean(shares):.1f} %")
