"""Every loss against a value worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from training import losses


def test_score_loss_is_the_weighted_mean_square() -> None:
    loss = losses.score_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]), torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx((3 * 1 + 1 * 4) / 4)


def test_level_loss_looks_at_known_levels_only() -> None:
    predicted = torch.tensor([[0.0, 9.0], [1.0, 9.0]], requires_grad=True)
    loss = losses.level_loss(predicted, torch.tensor([[0.25, math.nan], [2.0, math.nan]]))
    # smooth L1 with beta 0.5: 0.5 * 0.25^2 / 0.5 and 1 - 0.25
    assert loss.item() == pytest.approx((0.0625 + 0.75) / 2)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad[:, 1].tolist() == [0.0, 0.0]


def test_level_loss_without_a_known_level_is_zero_with_a_graph() -> None:
    predicted = torch.ones(2, 2, requires_grad=True)
    loss = losses.level_loss(predicted, torch.full((2, 2), math.nan))
    loss.backward()
    assert loss.item() == 0.0


def test_rank_loss_pairs_within_a_scene_and_beyond_the_margin() -> None:
    predicted = torch.tensor([2.0, 1.0, 0.0, 5.0])
    target = torch.tensor([3.0, 1.0, 0.9, 0.0])
    loss = losses.rank_loss(predicted, target, torch.tensor([0, 0, 0, 1]))
    expected = (math.log1p(math.exp(-4.0)) + math.log1p(math.exp(-8.0))) / 2
    assert loss.item() == pytest.approx(expected)


def test_rank_loss_falls_when_the_order_is_right() -> None:
    target, scene = torch.tensor([1.0, 2.0]), torch.tensor([0, 0])
    right = losses.rank_loss(torch.tensor([0.0, 1.0]), target, scene)
    wrong = losses.rank_loss(torch.tensor([1.0, 0.0]), target, scene)
    assert right < wrong


def test_spread_loss_is_least_at_the_true_error_and_leaves_the_score_alone() -> None:
    predicted = torch.tensor([1.0], requires_grad=True)
    at = [losses.spread_loss(predicted, torch.tensor([1.5]), torch.tensor([s])).item() for s in (0.3, 0.5, 0.9)]
    assert at[1] == pytest.approx(math.log(0.5) + 0.5)
    assert min(at) == at[1]


def test_ranked_probability_score_of_a_uniform_guess() -> None:
    loss = losses.ranked_probability_score(torch.zeros(1, 4), torch.tensor([1]))
    # reached 0.25 0.5 0.75 1 against 0 1 1 1
    assert loss.item() == pytest.approx(0.25**2 + 0.5**2 + 0.25**2)


def test_distribution_loss_of_a_point_against_uniform() -> None:
    loss = losses.distribution_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(math.log(2.0) + 0.5**2)
    same = losses.distribution_loss(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))
    assert same.item() == pytest.approx(0.0, abs=1e-6)
