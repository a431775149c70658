"""Losses of the training loop; every one takes tensors with the batch first and returns a scalar.

A loss over an empty selection is zero and still carries the graph, so that any mixture of rows can form a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "distribution_loss",
    "gaussian_targets",
    "level_loss",
    "rank_loss",
    "ranked_probability_score",
    "score_loss",
    "spread_loss",
    "widths_loss",
]

SCORE_MAX = 4.0


def score_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of the score, shapes (n,)."""
    return (weight * (predicted - target).square()).sum() / weight.sum().clamp_min(1e-6)


def level_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 over the degradation levels that are known (NaN = unknown), shapes (n, levels)."""
    known = ~torch.isnan(target)
    if not known.any():
        return predicted.sum() * 0.0
    return functional.smooth_l1_loss(predicted[known], target[known], beta=0.5)


def rank_loss(predicted: Tensor, target: Tensor, scene: Tensor, margin: float = 0.2) -> Tensor:
    """Logistic loss on every pair of one scene whose targets differ by more than ``margin``.

    Parameters
    ----------
    predicted, target
        Scores, shape (n,).
    scene
        Integer label of the anatomy, shape (n,); pairs are formed within a scene only.
    """
    gap = target[:, None] - target[None, :]
    pairs = (scene[:, None] == scene[None, :]) & (gap > margin)
    if not pairs.any():
        return predicted.sum() * 0.0
    difference = predicted[:, None] - predicted[None, :]
    return functional.softplus(-4.0 * difference[pairs]).mean()


def spread_loss(predicted: Tensor, target: Tensor, spread: Tensor) -> Tensor:
    """Gaussian negative log likelihood that teaches the spread alone; the score is taken as given."""
    error = (predicted.detach() - target).square()
    return (spread.log() + 0.5 * error / spread.square()).mean()


def ranked_probability_score(logits: Tensor, target: Tensor) -> Tensor:
    """Ranked probability score of ordinal classes (Epstein 1969, J Appl Meteorol 8:985).

    Parameters
    ----------
    logits
        Shape (n, classes).
    target
        Class index, shape (n,), int64.
    """
    reached = torch.softmax(logits, 1).cumsum(1)
    steps = torch.arange(logits.shape[1], device=logits.device)
    truth = (steps[None, :] >= target[:, None]).to(reached.dtype)
    return (reached - truth).square().sum(1).mean()


def distribution_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence plus squared earth mover's distance of score distributions, shapes (n, bins)."""
    log_probability = torch.log_softmax(logits, 1)
    divergence = functional.kl_div(log_probability, target, reduction="batchmean")
    moved = (log_probability.exp() - target).cumsum(1).square().sum(1).mean()
    return divergence + moved


def gaussian_targets(score: Tensor, widths: Sequence[float], bins: int) -> Tensor:
    """Return Gaussians about each score on ``bins`` points between 0 and 4, each summing to 1.

    Parameters
    ----------
    score
        Shape (n,).
    widths
        SD of each Gaussian on the 0-4 scale.

    Returns
    -------
    Tensor
        Shape (n, widths, bins).
    """
    support = torch.linspace(0.0, SCORE_MAX, bins, device=score.device)
    sigma = torch.tensor(widths, device=score.device)[None, :, None]
    log_density = -0.5 * ((support - score[:, None, None]) / sigma).square()
    return torch.softmax(log_density, dim=2)


def widths_loss(distributions: Tensor, score: Tensor, weight: Tensor, widths: Sequence[float]) -> Tensor:
    """Kullback-Leibler divergence plus squared earth mover's distance to Gaussians of several widths (MD-IQA).

    The earth mover's distance is the integral of the squared difference of the cumulative distributions over the
    score, so that it does not depend on the number of bins.

    Parameters
    ----------
    distributions
        Probabilities, shape (n, widths, bins).
    score, weight
        Shape (n,).
    """
    bins = distributions.shape[2]
    target = gaussian_targets(score, widths, bins)
    divergence = (target * (target.clamp_min(1e-8).log() - distributions.clamp_min(1e-8).log())).sum(2)
    moved = (distributions - target).cumsum(2).square().sum(2) * (SCORE_MAX / (bins - 1))
    return (weight * (divergence + moved).mean(1)).sum() / weight.sum().clamp_min(1e-6)
