"""The coded score: cells, curves, and a start from another run's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dicom_qa_node.models.card import Figure
from dicom_qa_node.models.registry import build_network, card_of
from training import baselines, code
from training.config import RunConfig, Share
from training.display_noise import degrade_display
from training.pool import Row, read_pool, write_pool
from training.severity import ROUTINE_SCORE, simulated_score
from training.train import read_pools, train

pytestmark = pytest.mark.filterwarnings("ignore:.*tqdm.*")
CURVE_STEP, CURVE_POINTS = 0.25, 17


def test_a_level_between_two_belongs_to_both_cells() -> None:
    shares = code.cell_shares(torch.tensor([[2.0, 0.0, 1.0], [0.5, 1.0, 2.0], [float("nan"), 0.0, 0.0]]))
    assert shares.shape == (3, 27)
    assert shares[0, 2 * 9 + 0 * 3 + 1] == 1
    assert shares[1, 0 * 9 + 1 * 3 + 2] == pytest.approx(0.5)
    assert shares[1, 1 * 9 + 1 * 3 + 2] == pytest.approx(0.5)
    assert shares[2].sum() == 0


def test_the_cell_loss_falls_with_the_right_name_and_survives_unknown_levels() -> None:
    levels = torch.tensor([[0.0, 1.0, 2.0]])
    right, wrong = torch.zeros(1, 27), torch.zeros(1, 27)
    right[0, 5], wrong[0, 6] = 8.0, 8.0
    assert code.cell_loss(right, levels) < code.cell_loss(wrong, levels)
    logits = torch.zeros(2, 27, requires_grad=True)
    code.cell_loss(logits, torch.full((2, 3), float("nan"))).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 27))  # type: ignore[arg-type]


def test_curves_are_the_documented_mapping() -> None:
    curves = code.severity_curves(CURVE_POINTS, CURVE_STEP)
    assert curves[:, 0] == pytest.approx(np.ones(4))
    assert curves[0, 4] == pytest.approx(simulated_score(dose=0.25) / ROUTINE_SCORE)
    assert curves[1, 4] == pytest.approx(simulated_score(views=180) / ROUTINE_SCORE)
    assert (np.diff(curves[:, :8]) < 0).all()


@pytest.fixture(scope="module")
def coded() -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_network(card_of("ms_iqa_small"), {"coded": True})
    network.code.take(torch.arange(27.0), torch.from_numpy(code.severity_curves(CURVE_POINTS, CURVE_STEP)), 3.7)
    return network.eval()


def test_the_code_of_a_grey_picture_is_routine_times_the_shares(coded: torch.nn.Module) -> None:
    described = torch.zeros(3, coded.code.name_cell.in_features)
    levels = torch.zeros(3, 7)
    levels[1, 3], levels[2, 3] = 1.0, -0.25
    said = coded.code(described, levels, torch.tensor([False, False, False]))
    assert said[0].item() == pytest.approx(3.7)
    assert said[1].item() == pytest.approx(simulated_score(dose=0.25), abs=0.01)
    assert said[2] > said[0]
    fused = coded.code(described, levels, torch.tensor([True, True, True]))
    expected = torch.softmax(coded.code.name_cell(described[:1]), 1) @ torch.arange(27.0)
    assert fused[0].item() == pytest.approx(expected.item(), abs=1e-3)


def test_more_severe_is_worse_up_to_the_last_anchor(coded: torch.nn.Module) -> None:
    for index in (3, 4, 5, 6):
        levels = torch.zeros(60, 7)
        levels[:, index] = torch.linspace(-0.2, 2.2, 60)
        said = coded.code(torch.zeros(60, coded.code.name_cell.in_features), levels, torch.zeros(60, dtype=torch.bool))
        assert (said.diff() < 0).all()


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pools")
    images, rows = [], []
    for reference in range(2):
        for index in range(27):
            cell = (index // 9, index // 3 % 3, index % 3)
            levels = (float(cell[0]), float(cell[1]), float(cell[2]))
            picture = np.full((256, 256, 3), (140, 90, 80), np.uint8)
            images.append(degrade_display(picture, levels, np.random.default_rng(index)))
            named = dict(zip(("jpeg", "gauss", "impulse"), levels, strict=True))
            rows.append(Row(f"tiny/{reference}", f"tiny/{reference}", "petct", "rated", 4 - 0.6 * sum(cell), named))
    write_pool(folder / "tiny", images, rows)
    return folder


def _config(**changes: object) -> RunConfig:
    shares = (Share(pool="tiny", kind="petct", mode="rated", scenes=2),)
    settings = {
        "model": "ms_iqa_small",
        "shares": shares,
        "steps": 2,
        "folds": 2,
        "warmup_steps": 1,
        "observe_steps": 1,
    }
    return RunConfig(**(settings | changes))  # type: ignore[arg-type]


def test_a_second_stage_starts_from_the_first_and_records_its_checksum(pools: Path, tmp_path: Path) -> None:
    first = _config(options={"coded": False})
    train(first, read_pools(pools, first), tmp_path / "start_all", "cpu")
    second = _config(options={"coded": True}, init=tmp_path / "start_{fold}", steps=1, learning_rate=1e-9)
    train(second, read_pools(pools, second), tmp_path / "second", "cpu")
    before = load_file(tmp_path / "start_all" / "weights.safetensors")
    after = load_file(tmp_path / "second" / "weights.safetensors")
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-4)
    assert after["code.cells"].reshape(3, 3, 3)[1, 1, 1].item() == pytest.approx(4 - 1.8)
    facts = (tmp_path / "second" / "run.json").read_text()
    assert '"init": {' in facts
    other = _config(options={"coded": True}, init=tmp_path / "second", steps=1, learning_rate=1e-9)
    with pytest.raises(ValueError, match="another configuration"):
        train(other, read_pools(pools, other), tmp_path / "second", "cpu")


def test_a_start_that_does_not_fit_is_refused(pools: Path, tmp_path: Path) -> None:
    first = _config(options={"coded": True}, steps=1)
    train(first, read_pools(pools, first), tmp_path / "coded", "cpu")
    second = _config(options={"coded": False}, init=tmp_path / "coded")
    with pytest.raises(ValueError, match="does not fit"):
        train(second, read_pools(pools, second), tmp_path / "other", "cpu")


def test_the_noise_baseline_finds_the_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, rows = [], []
    for index, sd in enumerate((2, 4, 8, 12, 16, 20)):
        picture = np.clip(120 + rng.normal(0, sd, (128, 128)), 0, 255).astype(np.uint8)
        assert baselines.global_noise(picture) == pytest.approx(sd, rel=0.15)
        images.append(picture)
        rows.append(Row(f"reader/abdomen/{index // 2}", "s", "ct", "rated", 4 - 0.1 * sd))
    write_pool(tmp_path / "readers", images, rows)
    found = baselines.noise_figures(read_pool(tmp_path / "readers"))
    assert isinstance(found[0], Figure)
    assert {f.name: f.value for f in found}["ct_abdomen_noise_only_srocc"] == pytest.approx(1.0)
    assert np.isnan(baselines.global_noise(np.zeros((64, 64), np.uint8)))
