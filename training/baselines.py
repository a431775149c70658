"""What a single number says about quality: the noise of the picture, as a yardstick beside the networks.

The global noise level is the mode of the SD in 9x9 windows of the middle greys (Christianson 2015, AJR 205:W93), here
in grey levels of the displayed picture. Two readings: less noise is better, and noise is best as in the routine-dose
anchors of the region (which is what the readers' noise rating asks for).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.models.card import Figure
from training.metrics import agreement
from training.pool import Pool, Row

__all__ = ["global_noise", "noise_figures"]

_WINDOW = 9
_MIDDLE = (50.0, 205.0)
_BINS = 160
_FEWEST = 500


def global_noise(grey: npt.NDArray[np.uint8]) -> float:
    """Return the global noise level of a picture in grey levels; NaN where too little of it is of middle grey."""
    values = grey.astype(np.float32)
    mean = ndimage.uniform_filter(values, _WINDOW)
    sd = np.sqrt(np.maximum(ndimage.uniform_filter(values * values, _WINDOW) - mean * mean, 0.0))
    chosen = sd[(mean > _MIDDLE[0]) & (mean < _MIDDLE[1])]
    if chosen.size < _FEWEST:
        return float("nan")
    histogram, edges = np.histogram(chosen, _BINS, (0, 40))
    place = int(ndimage.uniform_filter1d(histogram, 5).argmax())
    return float((edges[place] + edges[place + 1]) / 2)


def noise_figures(pool: Pool, regions: Sequence[str] = ("abdomen", "brain")) -> list[Figure]:
    """Correlate minus the noise with the readers' composite, by region, bootstrap intervals by set."""
    found: list[Figure] = []
    for region in regions:
        rated = [i for i, row in enumerate(pool.rows) if _is_rated(row, region)]
        noise = {i: global_noise(np.asarray(pool.images[i][..., 0])) for i in rated}
        used = [i for i in rated if np.isfinite(noise[i])]
        if len(used) < 2:
            continue
        rows = [pool.rows[i] for i in used]
        found += _figures(f"ct_{region}_noise_only", [-noise[i] for i in used], rows, "minus the global noise level")
        anchors = [i for i, row in enumerate(pool.rows) if _is_anchor(row, region)]
        if anchors:
            routine = float(np.nanmedian([global_noise(np.asarray(pool.images[i][..., 0])) for i in anchors]))
            near = [-abs(float(np.log(noise[i] / routine))) for i in used]
            text = f"nearness of the global noise level to that of routine anchors, {routine:.1f} grey levels"
            found += _figures(f"ct_{region}_noise_near_routine", near, rows, text)
    return found


def _figures(name: str, values: Sequence[float], rows: Sequence[Row], protocol: str) -> list[Figure]:
    found = agreement(values, [row.score or 0.0 for row in rows], [row.group for row in rows])
    return [
        Figure(f"{name}_{key}", round(e.value, 4), round(e.low, 4), round(e.high, 4), found.n, protocol)
        for key, e in (("srocc", found.srocc), ("krocc", found.krocc))
    ]


def _is_anchor(row: Row, region: str) -> bool:
    """Whether a picture is the routine-dose anchor of its set: unrated, undegraded."""
    return row.role == "simulated" and not any(row.levels.values()) and f"/{region}/" in row.group


def _is_rated(row: Row, region: str) -> bool:
    return row.role == "rated" and row.score is not None and f"/{region}/" in row.group
