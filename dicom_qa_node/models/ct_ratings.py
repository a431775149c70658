"""From the ratings of a CT picture to four dimensions and one score; numpy only.

Heads predict seven ratings of each picture (`RATINGS`). Three are those of the reader study of denoised CT: noise 1-14
(7 is routine dose, 1 a quarter of it, more than 7 over-smoothed), contrast 1-5 and structure 1-5. Three are severities
of simulated acquisitions on an absolute scale: halvings of the dose, of the views, and blur in pixels. The last one
tells which of the two a picture is like: a denoised one, or one as it was acquired. Score and dimensions are those of
the two scales, mixed by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DIMENSIONS", "RATINGS", "WIDTH_KNOTS", "Composed", "compose", "composite"]

Array = npt.NDArray[np.float64]

RATINGS = ("noise", "contrast", "structure", "dose", "views", "blur", "denoised")
DIMENSIONS = ("noise", "contrast", "structure", "artefact")
WIDTH_KNOTS = 9
"""Scores 0, 0.5 ... 4 at which a CT model has a half width of its interval."""

ROUTINE_SCORE = 3.7
ROUTINE_NOISE = 7.0
LOW_NOISE, HIGH_NOISE = 1.0, 14.0

# Worth of an acquisition, 0-4, at halvings of dose and views and at the SD of a point spread in pixels; the anchors are
# those of training/severity.py.
_DOSE = ((0.0, 3.7), (1.0, 3.3), (2.0, 2.7), (3.3219, 1.7), (4.3219, 1.0), (5.3219, 0.5), (6.6439, 0.2))
_VIEWS = ((0.0, 3.7), (1.0, 3.4), (2.0, 2.5), (2.585, 1.9), (3.4919, 1.0), (4.4919, 0.4))
_BLUR = ((0.0, 3.7), (0.5, 3.6), (1.0, 3.0), (2.0, 2.0), (4.0, 0.8))
_BETTER = 0.06
_CONTRAST_OF_NOISE = 0.75
_GATE_MIDDLE, _GATE_STEEPNESS = 0.46, 25.0


@dataclass(frozen=True)
class Composed:
    """``score`` (n,) and ``dimensions`` (n, 4; `DIMENSIONS`), 0-4, higher is better; ``denoised`` (n,) 0-1."""

    score: Array
    dimensions: Array
    denoised: Array


def composite(noise: npt.ArrayLike, contrast: npt.ArrayLike, structure: npt.ArrayLike) -> Array:
    """Return the reader study's composite, 0-4: the mean of three shares, noise being best at routine dose."""
    n = np.clip(np.asarray(noise, np.float64), LOW_NOISE, HIGH_NOISE)
    reach = np.where(n < ROUTINE_NOISE, ROUTINE_NOISE - LOW_NOISE, HIGH_NOISE - ROUTINE_NOISE)
    shares = (
        1 - np.abs(n - ROUTINE_NOISE) / reach,
        _share_of_five(contrast),
        _share_of_five(structure),
    )
    return np.asarray(4 * sum(shares) / len(shares), np.float64)


def compose(ratings: npt.ArrayLike, dose_offset: float = 0.0) -> Composed:
    """Compose dimensions and score of ratings (n, 7).

    Parameters
    ----------
    ratings
        Columns as in `RATINGS`.
    dose_offset
        Halvings added to the dose rating; chosen on held-out scanners so that a limit lies between routine and a tenth.
    """
    noise, contrast, structure, dose, views, blur, like_denoised = np.asarray(ratings, np.float64).T
    denoised = 1 / (1 + np.exp(-_GATE_STEEPNESS * (like_denoised - _GATE_MIDDLE)))
    of_dose = _worth(_DOSE, dose + dose_offset) * np.where(
        dose + dose_offset < 0, 1 - _BETTER * (dose + dose_offset), 1
    )
    of_views, of_blur = _worth(_VIEWS, views), _worth(_BLUR, blur)
    acquired = np.clip(ROUTINE_SCORE * of_dose * of_views * of_blur, 0, 4)
    score = denoised * composite(noise, contrast, structure) + (1 - denoised) * acquired
    smoothed = 4 * np.clip(1 - (noise - ROUTINE_NOISE) / (HIGH_NOISE - ROUTINE_NOISE), 0, 1)
    read = (
        4 * np.clip((noise - LOW_NOISE) / (ROUTINE_NOISE - LOW_NOISE), 0, 1),
        4 * _share_of_five(contrast),
        np.minimum(4 * _share_of_five(structure), smoothed),
        np.full(len(noise), 4.0),
    )
    simulated = (
        ROUTINE_SCORE * of_dose,
        ROUTINE_SCORE * (of_dose * of_views) ** _CONTRAST_OF_NOISE,
        ROUTINE_SCORE * of_blur,
        ROUTINE_SCORE * of_views,
    )
    dimensions = [denoised * a + (1 - denoised) * b for a, b in zip(read, simulated, strict=True)]
    return Composed(np.clip(score, 0, 4), np.clip(np.stack(dimensions, 1), 0, 4), denoised)


def _share_of_five(rating: npt.ArrayLike) -> Array:
    return np.asarray(np.clip((np.asarray(rating, np.float64) - 1) / 4, 0, 1))


def _worth(anchors: tuple[tuple[float, float], ...], severity: Array) -> Array:
    """Return the share of the routine score that is left at a severity."""
    at, worth = np.array(anchors).T
    return np.asarray(np.interp(severity, at, worth) / ROUTINE_SCORE, np.float64)
