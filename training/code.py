"""What the coded score of a network is given: cell means of the training references, and the severity curves.

See ``models/ms_iqa/net.py:CodedScore``. The cells are those of PET-CT-IQA-DS, three levels each of JPEG, Gaussian
noise and impulses; a level between two of them belongs to both in part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.severity import ROUTINE_SCORE, simulated_score

__all__ = ["cell_loss", "cell_shares", "severity_curves"]

_PER_AXIS = 3


def cell_shares(levels: Tensor) -> Tensor:
    """Return how much a picture belongs to each cell, shape (n, 27), for its levels (n, 3) in 0 to 2.

    A row with an unknown level (NaN) belongs to none.
    """
    centres = torch.arange(_PER_AXIS, device=levels.device, dtype=levels.dtype)
    near = (1 - (levels[:, :, None] - centres).abs()).clamp_min(0)
    shares = torch.einsum("na,nb,nc->nabc", near[:, 0], near[:, 1], near[:, 2]).flatten(1)
    return torch.nan_to_num(shares)


def cell_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Cross entropy of the cell over the pictures that have one; logits (n, 27), levels (n, 3)."""
    shares = cell_shares(levels)
    known = shares.sum(1) > 0
    if not known.any():
        return logits.sum() * 0.0
    return functional.cross_entropy(logits[known], shares[known], label_smoothing=0.02)


def severity_curves(points: int, step: float) -> npt.NDArray[np.float32]:
    """Share of the routine score at levels 0, step, 2 step ... of dose, views, blur and counts, shape (4, points)."""
    levels = step * np.arange(points)
    scores = [
        [simulated_score(dose=2 ** (-2 * x)) for x in levels],
        [simulated_score(views=720 / 2 ** (2 * x)) for x in levels],
        [simulated_score(blur_px=x) for x in levels],
        [simulated_score(counts=2 ** (-2 * x)) for x in levels],
    ]
    return np.asarray(np.array(scores) / ROUTINE_SCORE, np.float32)
