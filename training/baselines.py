"""What a single number says about quality: the noise of the picture, as a yardstick beside the networks.

The global noise level is the mode of the SD in 9x9 windows of the middle greys (Christianson 2015, AJR 205:W93), here
in grey levels of the displayed picture; less noise counts as better.
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
    found = []
    for region in regions:
        rated = [i for i, row in enumerate(pool.rows) if _is_rated(row, region)]
        noise = {i: global_noise(np.asarray(pool.images[i][..., 0])) for i in rated}
        used = [i for i in rated if np.isfinite(noise[i])]
        if len(used) < 2:
            continue
        rows = [pool.rows[i] for i in used]
        said = agreement([-noise[i] for i in used], [row.score or 0.0 for row in rows], [row.group for row in rows])
        for key, e in (("srocc", said.srocc), ("krocc", said.krocc)):
            values = (round(v, 4) for v in (e.value, e.low, e.high))
            found.append(Figure(f"ct_{region}_noise_only_{key}", *values, said.n, "minus the global noise level"))
    return found


def _is_rated(row: Row, region: str) -> bool:
    return row.role == "rated" and row.score is not None and f"/{region}/" in row.group
