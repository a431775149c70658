"""Runs side by side: the table names what was compared, and refuses what cannot be."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from pathlib import Path

import pytest

from training import compare
from training.config import RunConfig, Share
from training.evaluate import Prediction, write_predictions
from training.pool import Row

SHARES = (Share(pool="tiny", kind="petct", mode="rated", scenes=2),)


def _run(folder: Path, fold: int, slope: float, seed: int = 20) -> Path:
    """Write a run that held out one fold and scored ``slope`` times the readers' score."""
    folder.mkdir(parents=True)
    config = RunConfig(model="ms_iqa_small", shares=SHARES, steps=4, held_out=fold, seed=seed)
    (folder / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json"), "pools": {}}))
    predictions = []
    for reference, cell in itertools.product(range(2), itertools.product(range(3), repeat=3)):
        named = dict(zip(("jpeg", "gauss", "impulse"), map(float, cell), strict=True))
        score = 3.8 - 0.5 * sum(cell) - 0.1 * cell[0]
        row = Row(f"r/{fold}{reference}", f"r/{fold}{reference}", "petct", "rated", score, named)
        predictions.append(Prediction(row, 2 + slope * (score - 2), 0.5, 0.2, fold))
    write_predictions(folder / "predictions.csv", predictions)
    return folder


def test_table_has_a_row_for_each_figure_of_each_name(tmp_path, monkeypatch, capsys):
    right, wrong = [_run(tmp_path / f"right{k}", k, 0.5) for k in (0, 1)], _run(tmp_path / "wrong", 0, -1.0)
    words = [f"right={right[0]}", str(right[1]), f"wrong={wrong}"]
    table, plot = tmp_path / "networks.csv", tmp_path / "networks.png"
    monkeypatch.setattr(sys, "argv", ["compare", *words, "--csv", str(table), "--plot", str(plot)])
    compare.main()
    with table.open(newline="") as stream:
        rows = {(row["run"], row["figure"]): row for row in csv.DictReader(stream)}
    assert float(rows["right", "petct_plcc"]["value"]) == pytest.approx(1.0, abs=1e-3)
    assert float(rows["wrong", "petct_srocc"]["value"]) == pytest.approx(-1.0, abs=1e-3)
    assert rows["right", "petct_plcc"]["folds"] == "0 1"
    assert rows["right", "petct_plcc"]["n"] == "108"
    assert (rows["wrong", "petct_rmse"]["steps"], rows["wrong", "petct_rmse"]["seed"]) == ("4", "20")
    assert plot.stat().st_size > 5000
    assert "petct_plcc" in capsys.readouterr().out


def test_runs_that_cannot_be_pooled_are_refused(tmp_path):
    first, other, again = (_run(tmp_path / n, k, 1.0, s) for n, k, s in (("a", 0, 20), ("b", 1, 21), ("c", 0, 20)))
    with pytest.raises(ValueError, match="different network, steps or seed"):
        compare.read_contestant("x", [first, other])
    with pytest.raises(ValueError, match="a fold is there twice"):
        compare.read_contestant("x", [first, again])


def test_a_run_without_a_name_is_a_usage_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", "runs/fold0", "--csv", str(tmp_path / "x.csv")])
    with pytest.raises(SystemExit):
        compare.main()
    assert "needs a name" in capsys.readouterr().err
