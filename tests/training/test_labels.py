"""The labels behind the training: the readers' composite, the severity mapping, the pools of generated patients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from training.data.prepare_reader_study import composite, score_of
from training.data.prepare_severity import noise_level
from training.severity import ROUTINE_SCORE, simulated_score


def test_composite_of_perfect_worst_and_oversmoothed() -> None:
    assert composite(7, 5, 5) == pytest.approx(4.0)
    assert composite(1, 1, 1) == pytest.approx(0.0)
    assert composite(14, 5, 5) == pytest.approx(4 * 2 / 3)
    assert composite(4, 3, 3) == pytest.approx(2.0)


def _record(**changes: str) -> dict[str, str]:
    ratings = {"noise": "7", "contrast": "4", "structure": "3"}
    record = {f"r{r}_{what}": value for r in (1, 2, 3) for what, value in ratings.items()}
    return record | changes


def test_a_rating_off_its_scale_leaves_the_row_out() -> None:
    assert score_of(_record()) == pytest.approx(composite(7, 4, 3))
    assert score_of(_record(r2_structure="33")) is None
    assert score_of(_record(r1_noise="15")) is None


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("dose", [1.0, 0.7, 0.5, 0.25, 0.1, 0.05, 0.02]),
        ("views", [720, 500, 360, 180, 90, 60, 40]),
        ("counts", [1.0, 0.6, 0.2, 0.1, 0.03]),
        ("blur_px", [0.0, 0.4, 1.0, 1.5, 3.0]),
    ],
)
def test_severity_is_monotone_and_starts_at_routine(name: str, worse: list[float]) -> None:
    scores = [simulated_score(**{name: value}) for value in worse]
    assert scores[0] == pytest.approx(ROUTINE_SCORE)
    assert all(a > b for a, b in itertools.pairwise(scores))
    assert min(scores) > 0


def test_two_severities_are_worse_than_either() -> None:
    both = simulated_score(dose=0.25, views=120)
    assert both < min(simulated_score(dose=0.25), simulated_score(views=120))


def test_noise_level_finds_the_noise_of_soft_tissue() -> None:
    rng = np.random.default_rng(0)
    hu = np.full((256, 256), -1000.0, np.float32)
    hu[40:216, 40:216] = 60.0
    hu += rng.normal(0, 20, hu.shape).astype(np.float32)
    assert noise_level(hu) == pytest.approx(20, abs=2)
