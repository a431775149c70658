"""Re-make the display-domain degradations of PET-CT-IQA-DS at known levels from clean pictures.

Measured on the public files: Gaussian noise of 0 / 5 / 10 grey levels, independent per channel; then single-channel
impulses to full scale, likelier where it is bright; then JPEG 4:2:0 at quality 100 / 70 / 40. The levels are those of
``training.pool.LEVEL_NAMES``, and may lie between the published ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training import degrade

__all__ = ["GAUSS_SIGMA", "IMPULSE_RATE", "degrade_display", "jpeg_quality"]

GAUSS_SIGMA = 5.0
IMPULSE_RATE = 0.0047
"""Mean count at full white and level 1: matches the tails of the median residual of the public files."""

_QUALITIES = (100.0, 70.0, 40.0)

Picture = npt.NDArray[np.uint8]


def jpeg_quality(level: float) -> int:
    """JPEG quality of a level: 0 -> 100, 1 -> 70, 2 -> 40, linear between."""
    return round(float(np.interp(level, (0.0, 1.0, 2.0), _QUALITIES)))


def degrade_display(picture: Picture, levels: tuple[float, float, float], rng: np.random.Generator) -> Picture:
    """Apply (jpeg, gauss, impulse) levels in the order of the data set.

    Parameters
    ----------
    picture
        Clean RGB, uint8, shape (rows, columns, 3); its corner is the origin of the JPEG grid.
    rng
        Source of the noise; the same state gives the same picture.
    """
    jpeg, gauss, impulse = levels
    if gauss > 0:
        picture = degrade.display_noise(picture, GAUSS_SIGMA * gauss, rng)
    if impulse > 0:
        picture = degrade.display_impulses(picture, IMPULSE_RATE * impulse, rng)
    return degrade.jpeg(np.ascontiguousarray(picture), jpeg_quality(jpeg))
