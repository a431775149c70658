"""Noise of a CT volume: global noise level, noise in air, signal and contrast to noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_sampling import CtSample, CtSlice
from dicom_qa_node.score.physics.square_windows import sliding_mean
from dicom_qa_node.score.volume import FloatArray

__all__ = [
    "LocalNoise",
    "corrected_level",
    "level_of",
    "local_noise",
    "mode",
    "noise_measurements",
    "noise_of",
    "roi_pixels",
]

_ROI_MM = 6.5
_SOFT_HU = (0.0, 100.0)
_SOFT_CONTRAST_HU = (0.0, 170.0)
_FAT_HU = (-140.0, -60.0)
_ENOUGH_CM2 = 15.0
_CLIPPED_SHARE = 0.02
_LEAST_SHOWN = 0.7
"""Where the squares show less of the SD than this, structure rather than noise is longer than them."""

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LocalNoise:
    """Mean and SD of a sliding square of 6 to 7 mm in one slice, shape (rows, columns), and where it is soft tissue."""

    mean_hu: FloatArray
    sd_hu: FloatArray
    soft: npt.NDArray[np.bool_]


def local_noise(part: CtSlice, contrast: bool) -> LocalNoise:
    """Local mean and SD, and the soft tissue at least 12 mm below the skin.

    Soft tissue is chosen by the local mean, not by the pixel: a choice by pixel would cut the noise it measures.
    """
    mean, sd = noise_of(part.hu, roi_pixels(part))
    low, high = _SOFT_CONTRAST_HU if contrast else _SOFT_HU
    return LocalNoise(mean, sd, part.deep & (mean >= low) & (mean <= high))


def roi_pixels(part: CtSlice) -> int:
    """Side of the squares in which the SD is taken, in pixels: odd, 6 to 7 mm and at least 7."""
    return max(7, round(_ROI_MM / part.mean_pixel_mm) // 2 * 2 + 1)


def corrected_level(level: float, of_median: float | None) -> float:
    """Return a noise level without the low-pass bias of its squares, which show the share ``of_median`` of the SD."""
    return level if of_median is None else level / float(np.clip(of_median, _LEAST_SHOWN, 1.0))


def noise_of(image: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Mean and unbiased SD of a sliding square of ``size`` pixels, each of the image's shape."""
    # Centred on the image's own level and in doubles: squares of 1000 HU in float32 would lose the noise of 0.3 HU.
    level = float(np.median(image[::16, ::16]))
    centred = np.subtract(image, level, dtype=np.float64)
    mean = sliding_mean(centred, size)
    square = sliding_mean(np.multiply(centred, centred, out=centred), size)
    square -= mean * mean
    variance = np.maximum(square, 0.0, out=square)
    variance *= size * size / (size * size - 1.0)
    return (mean + level).astype(np.float32), np.sqrt(variance, out=variance).astype(np.float32)


def mode(values: Values) -> float:
    """Most frequent value: peak of the histogram, smoothed by 4 % of the median, up to four medians."""
    middle = float(np.median(values))
    if middle <= 0:
        return middle
    bins = 400
    width = 4.0 * middle / bins
    index = np.clip(values / np.float32(width), 0, bins).astype(np.intp)
    counts = np.bincount(index, minlength=bins + 1)[:bins]
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 0.04 * bins / 4.0, mode="constant")
    return (int(np.argmax(smooth)) + 0.5) * width


def level_of(locals_: Iterable[LocalNoise]) -> float:
    """Global noise level in HU: median of the SDs between half and one and a half of their mode.

    The mode alone follows the quiet rim of the body; tissue borders, far above the mode, stay out.
    """
    values = np.concatenate([noise.sd_hu[noise.soft] for noise in locals_])
    values = values[:: max(1, values.size // 200_000)]
    peak = mode(values)
    near = values[(values >= 0.5 * peak) & (values <= 1.5 * peak)]
    return float(np.median(near)) if near.size else peak


def noise_measurements(
    view: CtSample, locals_: tuple[LocalNoise, ...], of_median: float | None = None
) -> tuple[Measurement, ...]:
    """Measure the noise of all slices of a view; ``locals_`` belongs to ``view.slices``.

    The SD of a small square misses noise that is longer than the square. ``of_median`` is what it shows of the SD, by
    the noise power spectrum (`SquareBias`); the level is divided by it. None: unknown, not corrected.

    * ``global_noise_level`` (HU, lower is better): main peak of the histogram of the SD map over soft tissue
      (Christianson, Winslow, Frush & Samei 2015, AJR 205:W93): local means of 0 to 100 HU, to 170 HU after contrast
      medium.
    * ``noise_in_air`` (HU, lower is better): mode of the SD map over air outside the patient (Malkus &
      Szczykutowicz 2017, mp.12240); not where the stored values are cut at the scale's end.
    * ``snr`` (1, higher is better): (median local mean + 1000 HU) / global noise level: water over air counts as
      signal.
    * ``cnr_soft_tissue_fat`` (1, higher is better): (mean of soft tissue - mean of fat) / global noise level.
    """
    area = sum(
        np.count_nonzero(n.soft) * s.pixel_mm[0] * s.pixel_mm[1] for n, s in zip(locals_, view.slices, strict=True)
    )
    air = _noise_in_air(view, locals_)
    if area < _ENOUGH_CM2 * 100.0:
        reason = f"only {area / 100.0:.0f} cm2 of soft tissue in the field"
        return (*CT_QUANTITIES.absent_all(("global_noise_level", "snr", "cnr_soft_tissue_fat"), reason), air)
    level = level_of(locals_)
    if level <= 0:
        return (
            *CT_QUANTITIES.absent_all(("global_noise_level", "snr", "cnr_soft_tissue_fat"), "the tissue has no noise"),
            air,
        )
    soft = float(np.median(np.concatenate([n.mean_hu[n.soft] for n in locals_])))
    shown = level
    level = corrected_level(level, of_median)
    if of_median is None:
        bias = "not corrected for noise longer than its squares"
    else:
        side_mm = roi_pixels(view.slices[0]) * view.slices[0].mean_pixel_mm
        bias = f"{shown:.1f} HU in squares of {side_mm:.1f} mm, which show {100 * shown / level:.0f} % of it"
    note = "sharp kernel: not comparable with limits for soft-tissue kernels" if view.sharp_kernel else ""
    usual = not view.sharp_kernel
    return (
        CT_QUANTITIES.value("global_noise_level", level, "; ".join(text for text in (note, bias) if text), usual=usual),
        CT_QUANTITIES.value("snr", (soft + 1000.0) / level, note),
        _contrast(view, locals_, soft, level, note),
        air,
    )


def _contrast(view: CtSample, locals_: tuple[LocalNoise, ...], soft: float, level: float, note: str) -> Measurement:
    chosen = []
    for part, noise in zip(view.slices, locals_, strict=True):
        fat = part.body & (noise.mean_hu > _FAT_HU[0]) & (noise.mean_hu < _FAT_HU[1]) & (noise.sd_hu < 2.0 * level)
        chosen.append(noise.mean_hu[fat])
    fat_hu = np.concatenate(chosen)
    if fat_hu.size < 200:
        return CT_QUANTITIES.absent("cnr_soft_tissue_fat", "no fat in the field")
    return CT_QUANTITIES.value("cnr_soft_tissue_fat", (soft - float(np.median(fat_hu))) / level, note)


def _noise_in_air(view: CtSample, locals_: tuple[LocalNoise, ...]) -> Measurement:
    found, clipped, pixels = [], 0, 0
    for part, noise in zip(view.slices, locals_, strict=True):
        # the margin of the air mask is wider than the square: no edge reaches into it
        values = part.hu[part.air]
        pixels += values.size
        clipped += int(np.count_nonzero(values <= _floor(part)))
        found.append(noise.sd_hu[part.air][::3])
    if pixels < 2000:
        return CT_QUANTITIES.absent("noise_in_air", "no air outside the patient in the field")
    if clipped > _CLIPPED_SHARE * pixels:
        share = 100.0 * clipped / pixels
        return CT_QUANTITIES.absent("noise_in_air", f"{share:.0f} % of the air is cut at the lowest stored value")
    return CT_QUANTITIES.value("noise_in_air", mode(np.concatenate(found)))


def _floor(part: CtSlice) -> float:
    """Lowest stored value inside the field: where it holds many pixels, the scanner cut there."""
    return float(part.hu[part.field].min()) if part.field.any() else -np.inf
