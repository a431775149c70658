"""Does the HU scale hold? Air, fat and the table, whose HU are known."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.physics.ct_noise import LocalNoise, level_of
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_sampling import CtSample
from dicom_qa_node.score.physics.square_windows import grown

__all__ = ["scale_measurements"]

_FEW_AIR = 1000
_FEW_FAT_SHARE = 0.01
_TOO_NOISY_HU = 60.0
_BORDER = 3.0
_LEAST_SD_HU = 5.0
_APART_HU = 115.0


def scale_measurements(view: CtSample, locals_: tuple[LocalNoise, ...]) -> tuple[Measurement, ...]:
    """Measure known materials.

    * ``hu_air`` (HU, target -1000): median of the air outside the patient (PS3.3 C.11.1.1.2: air is -1000 HU).
    * ``hu_fat`` (HU, target -100): mode of the local means between -160 and -40 HU in homogeneous parts of the
      body, at least 115 HU below soft tissue.
    * ``hu_table`` (HU, context): mean of what is neither patient nor air and below the patient's back: changes with the
      table or cushions in use.
    """
    return _air(view), _fat(view, locals_), _table(view)


def _air(view: CtSample) -> Measurement:
    values = [part.hu[part.air][::7] for part in view.slices]
    air = np.concatenate(values) if values else np.zeros(0)
    if air.size < _FEW_AIR:
        return CT_QUANTITIES.absent("hu_air", "no air outside the patient in the field")
    return CT_QUANTITIES.value("hu_air", float(np.median(air)))


def _fat(view: CtSample, locals_: tuple[LocalNoise, ...]) -> Measurement:
    pairs = list(zip(view.slices, locals_, strict=True))
    soft = [noise for _, noise in pairs if noise.soft.any()]
    # at a border the mean is that of neither side, and the SD is high
    most = _BORDER * max(level_of(soft), _LEAST_SD_HU) if soft else np.inf
    means = [noise.mean_hu[part.body & (noise.sd_hu < most)][::3] for part, noise in pairs]
    body = np.concatenate(means) if means else np.zeros(0, np.float32)
    # the noise of a sharp kernel is fine and averages out
    if soft and not view.sharp_kernel and level_of(soft) > _TOO_NOISY_HU:
        return CT_QUANTITIES.absent("hu_fat", "the noise is too strong to tell fat from what lies beside it")
    counts, edges = np.histogram(body, bins=60, range=(-160.0, -40.0))
    if counts.sum() < max(500.0, _FEW_FAT_SHARE * body.size):
        return CT_QUANTITIES.absent("hu_fat", "no fat in the field")
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 2.0)
    peak = int(np.argmax(smooth))
    if peak in (0, smooth.size - 1):
        return CT_QUANTITIES.absent("hu_fat", "no peak of fat between -160 and -40 HU")
    fat = 0.5 * (edges[peak] + edges[peak + 1])
    if not soft or float(np.median(np.concatenate([noise.mean_hu[noise.soft] for noise in soft]))) - fat < _APART_HU:
        return CT_QUANTITIES.absent("hu_fat", "no soft tissue as far from it as from fat: borders, or another material")
    return CT_QUANTITIES.value("hu_fat", fat)


def _table(view: CtSample) -> Measurement:
    values = []
    for part in view.slices:
        rows = np.flatnonzero(part.body.any(axis=1))
        if rows.size == 0:
            continue
        apart = ~grown(part.body, 6.0 / part.mean_pixel_mm) & part.field & (part.hu > -700.0)
        apart[: int(rows.mean())] = False
        values.append(part.hu[apart])
    table = np.concatenate(values) if values else np.zeros(0)
    if table.size < 500:
        return CT_QUANTITIES.absent("hu_table", "no table in the field")
    return CT_QUANTITIES.value("hu_table", float(table.mean()))
