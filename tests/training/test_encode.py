"""The worth of what a network names: cells, shares, and what a run's training references make of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from dicom_qa_node.models.card import DegradationPrior
from training.code import severity_curves
from training.config import RunConfig, Share
from training.dataset import held_out_groups
from training.encode import encode, read_coded
from training.pool import Row, read_pool, write_pool
from training.severity import ROUTINE_SCORE, simulated_score

CELLS = tuple(4.0 - 0.5 * sum(cell) for cell in itertools.product(range(3), repeat=3))
SHARES = ((),) * 3 + tuple(tuple(map(float, curve)) for curve in severity_curves(17, 0.25))


def _coded(**trust: float) -> DegradationPrior:
    return DegradationPrior(CELLS, 0.3, SHARES, 0.25, ROUTINE_SCORE, trust)


def _named(**levels: float) -> np.ndarray:
    names = ("jpeg", "gauss", "impulse", "dose", "views", "blur", "counts")
    return np.array([[levels.get(name, 0.0) for name in names]], np.float32)


def test_a_named_cell_is_worth_its_mean_and_a_doubtful_one_lies_between() -> None:
    coded = _coded(petct=1.0)
    assert coded.worth(_named(jpeg=2, gauss=1, impulse=1), "petct")[0] == pytest.approx(2.0, abs=0.02)
    assert coded.worth(_named(jpeg=0.5), "petct")[0] == pytest.approx(3.75, abs=0.02)
    assert coded.worth(_named(jpeg=9, gauss=9, impulse=9), "petct")[0] == pytest.approx(1.0, abs=0.02)


def test_severities_of_a_ct_multiply_and_those_of_other_kinds_do_not_count() -> None:
    coded = _coded(ct=1.0)
    both = coded.worth(_named(dose=1.0, views=1.0, counts=2.0, jpeg=2.0), "ct")[0]
    assert both == pytest.approx(simulated_score(dose=0.25, views=180), abs=0.02)
    assert coded.worth(_named(counts=1.0, dose=2.0), "pt")[0] == pytest.approx(simulated_score(counts=0.25), abs=0.02)


@pytest.mark.parametrize("name", ["dose", "views", "blur"])
def test_more_is_worse_also_below_zero(name: str) -> None:
    levels = np.concatenate([_named(**{name: x}) for x in np.linspace(-0.3, 2.2, 40)])
    assert (np.diff(_coded(ct=1.0).worth(levels, "ct")) < 0).all()


def test_trust_mixes_and_none_leaves_the_score_alone() -> None:
    named = _named(dose=2.0)
    assert _coded(ct=0.0).mix([3.0], named, "ct")[0] == 3.0
    assert _coded(petct=0.7).mix([3.0], named, "ct")[0] == 3.0
    worth = _coded(ct=0.5).worth(named, "ct")[0]
    assert _coded(ct=0.5).mix([3.0], named, "ct")[0] == pytest.approx((3.0 + worth) / 2)


def test_the_cells_are_those_of_the_training_references_alone(tmp_path: Path) -> None:
    rows, images = [], []
    for reference in range(4):
        for cell in itertools.product(range(3), repeat=3):
            levels = dict(zip(("jpeg", "gauss", "impulse"), map(float, cell), strict=True))
            rows.append(Row(f"r/{reference}", f"r/{reference}", "petct", "rated", float(reference), levels))
            images.append(np.zeros((8, 8, 3), np.uint8))
    write_pool(tmp_path / "tiny", images, rows)
    shares = (Share(pool="tiny", kind="petct", mode="rated", scenes=1),)
    config = RunConfig(model="ms_iqa_small", shares=shares, steps=1, folds=2, held_out=1)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    assert read_coded(run) is None
    coded = encode(run, tmp_path)
    held = held_out_groups([read_pool(tmp_path / "tiny")], config)
    kept = [float(name.split("/")[1]) for name in ("r/0", "r/1", "r/2", "r/3") if name not in held]
    assert coded.cells == pytest.approx([np.mean(kept)] * 27)
    assert read_coded(run) == coded
