"""From pools to a shipped file on tiny synthetic data: train, resume, judge, calibrate, export."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dicom_qa_node.models.card import read_measured
from training import evaluate
from training.calibrate import by_fold, calibrate, cell_baseline, conformal_half_width, figures_of
from training.config import RunConfig, Share, read_config
from training.data.prepare_petct_iqa import main as prepare_petct_iqa
from training.dataset import Batches, cell_table, held_out_groups
from training.display_noise import degrade_display
from training.evaluate import Prediction, judge_run, read_predictions, write_predictions
from training.export import differing, export
from training.metrics import agreement
from training.pool import Row, fold_of, read_pool, write_pool
from training.train import read_pools, train

ROOT = Path(__file__).resolve().parents[2]
SIDE = 256
pytestmark = pytest.mark.filterwarnings("ignore:.*tqdm.*")


def _slice(seed: int) -> np.ndarray:
    """A disc of tissue with two organs, in the colours of a fused picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.zeros((SIDE, SIDE, 3), np.float64)
    picture[(x - 128) ** 2 + (y - 128) ** 2 < 100**2] = (130, 80, 80)
    for _ in range(2):
        cx, cy = rng.integers(80, 176, 2)
        picture[(x - cx) ** 2 + (y - cy) ** 2 < rng.integers(10, 30) ** 2] = (200, 110, 90)
    return picture.astype(np.uint8)


def _score(cell: tuple[int, int, int]) -> float:
    return 3.8 - 0.6 * sum(cell)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pools")
    images, rows = [], []
    for reference in range(4):
        for cell in itertools.product(range(3), repeat=3):
            levels = (float(cell[0]), float(cell[1]), float(cell[2]))
            images.append(degrade_display(_slice(reference), levels, np.random.default_rng(sum(cell))))
            named = dict(zip(("jpeg", "gauss", "impulse"), levels, strict=True))
            rows.append(Row(f"tiny/{reference}", f"tiny/{reference}", "petct", "rated", _score(cell), named))
    write_pool(folder / "tiny", images, rows)
    return folder


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig(
        model="ms_iqa_small",
        shares=(
            Share(pool="tiny", kind="petct", mode="rated", scenes=2),
            Share(pool="tiny", kind="petct", mode="display", scenes=1, versions=2),
        ),
        steps=4,
        folds=2,
        held_out=0,
        warmup_steps=1,
        observe_steps=2,
        checkpoint_every=2,
    )


@pytest.fixture(scope="module")
def run(pools: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(config, read_pools(pools, config), out, "cpu")
    return out


def test_a_run_keeps_what_decides_it(run: Path, pools: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    assert facts["config"]["seed"] == 20
    assert facts["pools"]["tiny"]["sha256"] == read_pool(pools / "tiny").sha256
    assert (run / "curve.png").stat().st_size > 1000
    assert (run / "curve.csv").read_text().startswith("step,loss")


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    run: Path, pools: Path, config: RunConfig, tmp_path: Path
) -> None:
    opened = read_pools(pools, config)
    train(config, opened, tmp_path / "cut", "cpu", stop_at=2)
    assert torch.load(tmp_path / "cut" / "state.pt", weights_only=True)["step"] == 2
    with (tmp_path / "cut" / "curve.csv").open("a") as curve:
        curve.write("3,9,9,9,9,9,0.001,5\n")  # a step after the last checkpoint, lost with the interruption
    train(config, opened, tmp_path / "cut", "cpu")
    assert "3,9," not in (tmp_path / "cut" / "curve.csv").read_text()
    whole = load_file(run / "weights.safetensors")
    resumed = load_file(tmp_path / "cut" / "weights.safetensors")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=1e-4)


def test_a_folder_of_another_run_is_refused(run: Path, pools: Path, config: RunConfig) -> None:
    other = config.model_copy(update={"seed": 21})
    with pytest.raises(ValueError, match="another configuration"):
        train(other, read_pools(pools, other), run, "cpu")


def test_judge_calibrate_and_export(run: Path, pools: Path, tmp_path: Path) -> None:
    predictions = judge_run(run, pools, "cpu")
    assert len(predictions) == 2 * 27
    assert {p.fold for p in predictions} == {0}
    write_predictions(tmp_path / "p.csv", predictions)
    back = read_predictions(tmp_path / "p.csv")
    assert [p.row.levels for p in back] == [p.row.levels for p in predictions]
    assert [p.predicted for p in back] == pytest.approx([p.predicted for p in predictions], abs=1e-4)
    first, second = export(run, None, tmp_path / "a"), export(run, None, tmp_path / "b")
    assert first == second == read_measured(tmp_path / "a" / "ms_iqa_small.json")
    assert (tmp_path / "a" / first.file).read_bytes() == (tmp_path / "b" / first.file).read_bytes()
    assert "fold 0 of 2" in first.trained_on
    assert differing(run, None, tmp_path / "a") == []
    (tmp_path / "a" / first.file).write_bytes(b"other")
    assert differing(run, None, tmp_path / "a") == [first.file]


def test_evaluate_prints_what_it_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["file,reference,score"]
    for index in range(4):
        Image.fromarray(_slice(index)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{index // 2},{index}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    options = ["--images", tmp_path, "--labels", tmp_path / "labels.csv", "--weights", run / "weights.safetensors"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, options), "--device", "cpu", "--json"])
    evaluate.main()
    said = json.loads(capsys.readouterr().out)
    assert said["n"] == 4
    assert said["raw"]["groups"] == 2
    assert {"plcc", "srocc", "krocc", "rmse"} <= said.keys()
    assert said["rounded"]["rmse"]["low"] <= said["rounded"]["rmse"]["value"] <= said["rounded"]["rmse"]["high"]
    assert len(said["predictions"]) == 4


def test_agreement_with_a_constant_is_undefined_not_an_error() -> None:
    found = agreement([1.0, 1.0, 1.0], [0.0, 1.0, 2.0], ["a", "b", "c"])
    assert np.isnan(found.srocc.value)
    assert found.rmse.value == pytest.approx(np.sqrt(2 / 3))


def test_half_width_is_the_conformal_quantile() -> None:
    assert conformal_half_width([-0.1 * k for k in range(1, 20)]) == pytest.approx(1.8)
    with pytest.raises(ValueError, match="too few"):
        conformal_half_width([0.1] * 8)


def _prediction(fold: int, cell: tuple[int, int, int], error: float) -> Prediction:
    named = dict(zip(("jpeg", "gauss", "impulse"), map(float, cell), strict=True))
    row = Row(f"r/{fold}", f"r/{fold}", "petct", "rated", _score(cell), named)
    return Prediction(row, _score(cell) + error, 0.5, 0.2, fold)


def test_calibration_and_figures_of_known_errors() -> None:
    rng = np.random.default_rng(3)
    predictions = [
        _prediction(fold, cell, float(rng.normal(0, 0.2)))
        for fold in range(5)
        for cell in itertools.product(range(3), repeat=3)
    ]
    found = calibrate(predictions)["petct"]
    assert found.half_width == pytest.approx(1.645 * 0.2, abs=0.06)
    assert found.coverage == pytest.approx(0.9, abs=0.05)
    figures = {figure.name: figure for figure in figures_of(predictions)}
    assert figures["petct_rmse"].value == pytest.approx(0.2, abs=0.03)
    assert figures["petct_cell_table_rmse"].value == pytest.approx(0.0, abs=1e-9)
    assert figures["petct_srocc"].low < figures["petct_srocc"].value < figures["petct_srocc"].high
    assert cell_baseline(predictions)[0] == pytest.approx(3.8)
    folds = by_fold(predictions)
    assert {name for name, _ in folds} == {"0", "1", "2", "3", "4", "all but 0"}
    assert {figure.n for name, figure in folds if name == "2"} == {27}


def test_phantoms_are_reported_but_calibrate_nothing() -> None:
    def simulated(group: str, slice_id: str, dose: float, error: float) -> Prediction:
        row = Row(group, slice_id, "ct", "simulated", 3.0 - dose, {"dose": dose, "views": 0.0, "blur": 0.0})
        return Prediction(row, 3.0 - dose + error, 0.5, 0.2, len(group) % 2)

    doses = (0.0, 0.5, 1.0, 1.5)
    real = [simulated(g, f"{g}/{i}", d, 0.1) for g in ("a", "bb") for i in range(5) for d in doses]
    phantoms = [simulated("phantom/1", f"phantom/1/{i}", d, 0.1 - 2 * d) for i in range(5) for d in doses]
    found = calibrate(real + phantoms)["ct"]
    assert found.half_width == pytest.approx(0.1)
    assert found.n == len(real)
    figures = {figure.name: figure.value for figure in figures_of(real + phantoms)}
    assert figures["ct_dose_spearman"] == pytest.approx(1.0)
    assert figures["phantom_ct_dose_spearman"] == pytest.approx(1.0)


def test_a_batch_depends_on_seed_and_step_alone(pools: Path, config: RunConfig) -> None:
    opened = read_pools(pools, config)
    one, two = Batches(opened, config, SIDE), Batches(opened, config, SIDE)
    two[0], two[1]
    assert torch.equal(one[3].pictures, two[3].pictures)
    assert not torch.equal(one[3].pictures, one[2].pictures)


def test_the_held_out_fold_is_never_drawn(pools: Path, config: RunConfig) -> None:
    """Scores of the held-out groups are poisoned; no batch and no cell mean may show the poison."""
    pool = read_pool(pools / "tiny")
    held = held_out_groups([pool], config)
    assert 0 < len(held) < 4
    poisoned = tuple(
        row if row.group not in held else Row(row.group, row.slice_id, row.kind, row.role, 99.0, row.levels)
        for row in pool.rows
    )
    bad = type(pool)(pool.name, pool.images, poisoned, pool.sha256)
    table = cell_table([bad], held)
    assert table is not None
    assert table.max() < 4
    batches = Batches([bad], config, SIDE)
    assert max(float(batches[step].score.max()) for step in range(4)) < 4


def test_folds_are_balanced_and_fixed() -> None:
    folds = fold_of([f"g{i}" for i in range(14)], 5)
    assert sorted(np.bincount(list(folds.values())).tolist()) == [2, 3, 3, 3, 3]
    assert folds == fold_of([f"g{i}" for i in reversed(range(14))], 5)


def test_cells_are_named_from_the_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    lines, truth = ["file,reference,score"], {}
    rng = np.random.default_rng(1)
    for index, cell in enumerate(itertools.product(range(3), repeat=3)):
        picture = np.pad(_slice(0), ((60, 60), (60, 60), (0, 0)))
        noisy = degrade_display(picture, (0.0, float(cell[1]), float(cell[2])), rng)
        Image.fromarray(noisy).save(tmp_path / "images" / f"{index}.jpg", quality=(100, 70, 40)[cell[0]])
        lines.append(f"{index}.jpg,7,{_score(cell)}")
        truth[f"{index}.jpg"] = cell
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    options = ["--source", str(tmp_path), "--out", str(tmp_path / "pool")]
    monkeypatch.setattr(sys, "argv", ["prepare", *options])
    prepare_petct_iqa()
    for row in read_pool(tmp_path / "pool").rows:
        assert tuple(row.levels[name] for name in ("jpeg", "gauss", "impulse")) == truth[row.source]


def test_a_wrong_key_in_a_configuration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: ms_iqa_small\nstep: 3\nshares: []\n")
    with pytest.raises(ValueError, match="step"):
        read_config(path)


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert read_config(path).steps > 100


@pytest.mark.parametrize("name", ["train", "evaluate", "calibrate", "export"])
def test_the_commands_answer_to_help(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"training.{name}").main()
    assert left.value.code == 0
