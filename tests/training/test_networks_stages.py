"""Stages of the training beside the loop: starts, frozen parts, distributions, prompts and teachers, on tiny data."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.registry import build_network, card_of
from dicom_qa_node.score.inference import Scorer
from training import losses, pseudo_labels, stages
from training.config import RunConfig, Share, read_config
from training.data.prepare_natural import main as prepare_natural
from training.dataset import Batches, held_out_groups, unseen_groups
from training.evaluate import judge_run
from training.pool import Pool, Row, read_pool, write_pool
from training.prompts import prompt_of_row
from training.pseudo_labels import agree, label_pool, teachers_of
from training.train import _step, read_pools, train

ROOT = Path(__file__).resolve().parents[2]
SIDE = 256
SMALL = ("tfkt_small", "md_iqa_small", "mediqa_small")
pytestmark = pytest.mark.filterwarnings("ignore:.*tqdm.*")


def _picture(seed: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.where((x - 128) ** 2 + (y - 128) ** 2 < 100**2, 120.0, 0.0)
    return np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.uint8)


def _row(group: int, index: int, noise: float, role: str = "simulated") -> Row:
    name = f"dicom/{group}"
    levels = {"dose": noise / 10, "thickness": 0.5}
    return Row(name, f"{name}/{index}", "ct", role, 3.7 - noise / 10, levels, "", {"dimension": "3d", "type": "soft"})


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pools")
    images, rows = [], []
    for group, (index, noise) in itertools.product(range(8), enumerate((0.0, 10.0, 30.0))):
        images.append(_picture(group, noise))
        rows.append(_row(group, index, noise))
    write_pool(folder / "scans", images, rows)
    return folder


def _config(model: str = "tfkt_small", **changes: object) -> RunConfig:
    share = Share(pool="scans", kind="ct", mode="simulated", scenes=2, versions=2)
    keys: dict[str, object] = {
        "model": model, "shares": (share,), "steps": 2, "folds": 4, "held_out": 0, "warmup_steps": 1,
        "observe_steps": 1, "learning_rate": 1e-3, "ema_decay": 0.5,
    }  # fmt: skip
    return RunConfig.model_validate(keys | changes)


def _train(config: RunConfig, pools: Path, out: Path, **changes: object) -> Path:
    train(config, read_pools(pools, config), out, "cpu", **changes)  # type: ignore[arg-type]
    return out


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


@pytest.mark.parametrize("model", SMALL)
def test_a_resumed_run_ends_where_a_whole_one_does(model: str, pools: Path, tmp_path: Path) -> None:
    config = _config(model, checkpoint_every=1)
    whole = _train(config, pools, tmp_path / "whole")
    _train(config, pools, tmp_path / "cut", stop_at=1)
    cut = _weights(_train(config, pools, tmp_path / "cut"))
    for name, value in _weights(whole).items():
        torch.testing.assert_close(cut[name], value, atol=1e-4, rtol=1e-3)
    assert len(judge_run(whole, pools, "cpu")) == 2 * 3


@pytest.mark.parametrize("model", SMALL)
def test_the_loss_of_one_batch_falls(model: str, pools: Path) -> None:
    config = _config(model)
    batch = Batches(read_pools(pools, config), config, SIDE)[0]
    torch.manual_seed(0)
    network = build_network(card_of(model)).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-4)
    terms = [_step(network, optimiser, batch, config, torch.device("cpu")) for _ in range(9)]
    told = [score + level + widths for _, score, level, _, _, _, widths in terms]
    assert np.mean(told[-3:]) < 0.8 * np.mean(told[:2])


def test_a_second_stage_starts_from_the_first_and_frozen_parts_stay(pools: Path, tmp_path: Path) -> None:
    first = _train(_config(), pools, tmp_path / "first")
    second = _train(
        _config(init=str(first), frozen=["encoder"], observe_again=True, seed=3), pools, tmp_path / "second"
    )
    before, after = _weights(first), _weights(second)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {"connector", "reader"} <= moved
    assert "encoder" not in moved
    assert json.loads((second / "run.json").read_text())["init"]["sha256"]


def test_freezing_a_part_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="'backbone'"):
        stages.freeze(build_network(card_of("tfkt_small")), ("backbone",))


def test_an_upstream_stage_learns_levels_and_no_score(pools: Path, tmp_path: Path) -> None:
    config = _config("mediqa_small", score_weight=0.0, level_weight=1.0, weight_decay=0.0, steps=1)
    run = _train(config, pools, tmp_path / "up")
    fresh = tmp_path / "fresh"
    _train(config.model_copy(update={"level_weight": 0.0}), pools, fresh)
    same = {name for name, value in _weights(run).items() if torch.equal(value, _weights(fresh)[name])}
    assert {"score_branch.3.weight", "weight_branch.3.weight"} <= same
    assert "namer.name.weight" not in same


def test_slice_thickness_reaches_the_network_that_names_it(pools: Path) -> None:
    batch = Batches(read_pools(pools, _config()), _config(), SIDE)[0]
    assert (batch.levels[:, 7] == 0.5).all()
    assert batch.prompt.tolist() == [[2, 1, 0, 1]] * 4


class _Backboned(nn.Module):
    timm_backbones: ClassVar[dict[str, str]] = {"part": "a_backbone"}

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(40, 40))


def test_init_timm_copies_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(40, 40))
    asked: list[tuple[str, bool]] = []

    def create(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        return source

    monkeypatch.setattr(timm, "create_model", create)
    network = _Backboned()
    stem = network.part[0].weight.clone()
    assert stages.start_from_timm(network)["part"] > 0.9
    assert asked == [("a_backbone", True)]
    torch.testing.assert_close(network.part[1].weight, source[1].weight)
    assert torch.equal(network.part[0].weight, stem)


def test_init_timm_is_refused_where_timm_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no weights"):
        stages.start_from_timm(nn.Linear(1, 1))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: nn.Linear(2, 2))
    with pytest.raises(ValueError, match="0%"):
        stages.start_from_timm(_Backboned())


@pytest.mark.parametrize("name", ["ms_iqa_paper", "tfkt_paper", "md_iqa_paper", "mediqa_paper"])
def test_timm_names_are_those_of_the_backbones(name: str) -> None:
    with torch.device("meta"):
        network = build_network(card_of(name))
    for part, source in network.timm_backbones.items():
        with torch.device("meta"):
            values = timm.create_model(source, pretrained=False).state_dict()
        own = network.get_submodule(part).state_dict()
        fitting = sum(v.numel() for k, v in values.items() if k in own and own[k].shape == v.shape)
        assert fitting > 0.9 * sum(v.numel() for v in own.values())


def test_no_network_downloads_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def watched(*args: object, **kwargs: object) -> nn.Module:
        asked.append(kwargs["pretrained"])
        with torch.device("meta"):
            return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", watched)
    for name in ("md_iqa_paper", "mediqa_paper"):
        build_network(card_of(name))
    assert asked
    assert not any(asked)


def test_an_option_replaces_what_the_card_says() -> None:
    card = replace(card_of("mediqa_small"), network_args={"variant": "small", "prompts": False})
    assert not build_network(card).config.prompts
    assert build_network(card, {"prompts": True}).config.prompts


def test_an_option_that_a_network_does_not_have_is_named() -> None:
    with pytest.raises(Misconfigured, match="prompts"):
        build_network(card_of("tfkt_small"), {"prompts": False})


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("ms_iqa_small", {"fusion": "patches"}),
        ("ms_iqa_small", {"fusion": "off"}),
        ("ms_iqa_small", {"evidence_stem": 0}),
        ("tfkt_small", {"evidence": False}),
        ("md_iqa_small", {"evidence": False}),
        ("md_iqa_small", {"bins": 41}),
        ("mediqa_small", {"evidence": False}),
    ],
)
def test_an_ablated_network_judges(model: str, options: dict[str, bool | int | float | str]) -> None:
    torch.manual_seed(0)
    network = build_network(card_of(model), options).eval()
    with torch.inference_mode():
        outputs = network(torch.rand(2, 3, SIDE, SIDE))
    assert outputs.score.shape == (2,)
    assert torch.isfinite(outputs.score).all()


def test_without_fusion_the_other_branch_gets_no_gradient() -> None:
    """What the published code computes; with fusion every parameter learns (tests/contracts/test_models.py)."""
    network = build_network(card_of("ms_iqa_small"), {"fusion": "off"}).train()
    network(torch.rand(2, 3, SIDE, SIDE)).score.sum().backward()
    idle = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is None}
    assert {"resnet", "halve", "attend"} <= idle


def test_prompts_change_the_answer_and_unknown_is_the_default() -> None:
    torch.manual_seed(0)
    network = build_network(card_of("mediqa_small")).eval()
    pictures = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        unknown = network(pictures, torch.zeros(2, 4, dtype=torch.long)).score
        told = network(pictures, torch.tensor([[2, 1, 3, 1]] * 2)).score
        assert torch.equal(network(pictures).score, unknown)
    assert not torch.allclose(told, unknown, atol=1e-5)


def test_with_prompts_off_nothing_is_told() -> None:
    torch.manual_seed(0)
    network = build_network(card_of("mediqa_small"), {"prompts": False}).eval()
    pictures = torch.rand(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert torch.equal(network(pictures, torch.tensor([[2, 1, 3, 1]])).score, network(pictures).score)


def test_the_scorer_hands_every_crop_its_picture_s_prompt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(build_network(card_of("mediqa_small")).state_dict(), tmp_path / "w.safetensors")
    scorer = Scorer.from_file("mediqa_small", tmp_path / "w.safetensors", "cpu")
    pictures = np.repeat(np.stack([_picture(0, 5.0), _picture(1, 20.0)])[..., None], 3, axis=-1)
    rows = [_row(0, 0, 5.0), Row("other", "other", "ct", "rated", 2.0, factors={"region": "head"})]
    prompts = [prompt_of_row(row) for row in rows]
    both = scorer.score(pictures, "ct", prompts).score
    alone = [scorer.score(pictures[i : i + 1], "ct", prompts[i : i + 1]).score[0] for i in range(2)]
    np.testing.assert_allclose(both, alone, atol=1e-4)
    assert abs(both[0] - scorer.score(pictures, "ct").score[0]) > 1e-6


def test_gaussian_targets_have_their_mean_and_width() -> None:
    target = losses.gaussian_targets(torch.tensor([2.0, 1.3]), (0.25, 0.5), 41)
    support = torch.linspace(0, 4, 41)
    mean = (target * support).sum(2)
    torch.testing.assert_close(target.sum(2), torch.ones(2, 2))
    torch.testing.assert_close(mean, torch.tensor([[2.0, 2.0], [1.3, 1.3]]), atol=0.01, rtol=0)
    sd = (target * (support - mean[..., None]).square()).sum(2).sqrt()
    torch.testing.assert_close(sd[0], torch.tensor([0.25, 0.5]), atol=0.01, rtol=0)


def test_widths_loss_is_zero_at_the_target_and_grows_with_distance() -> None:
    score, weight = torch.tensor([2.0]), torch.ones(1)
    at = [
        losses.widths_loss(losses.gaussian_targets(torch.tensor([s]), (0.25,), 21), score, weight, (0.25,)).item()
        for s in (2.0, 2.4, 3.0)
    ]
    assert at[0] == pytest.approx(0.0, abs=1e-6)
    assert at[0] < at[1] < at[2]


def test_the_earth_mover_s_part_does_not_depend_on_the_number_of_bins() -> None:
    score, weight = torch.tensor([2.0]), torch.ones(1)

    def moved(bins: int) -> float:
        wide, narrow = (losses.gaussian_targets(torch.tensor([s]), (0.5,), bins) for s in (2.0, 3.0))
        kl = (wide * (wide.log() - narrow.clamp_min(1e-8).log())).sum().item()
        return losses.widths_loss(narrow, score, weight, (0.5,)).item() - kl

    assert moved(21) == pytest.approx(moved(81), rel=0.05)


def test_teachers_agree_or_the_picture_is_left_out() -> None:
    agreed = agree([[2.0, 1.0], [2.2, 3.0], [2.1, 2.0]], [4, 7], tau=0.25)
    assert [(item.index, item.kept) for item in agreed] == [(4, True), (7, False)]
    assert agreed[0].mean == pytest.approx(2.1)
    assert agreed[0].sd == pytest.approx(0.1)


@pytest.fixture(scope="module")
def teachers(pools: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("teachers")
    config = _config("md_iqa_small", steps=1)
    return [_train(config.model_copy(update={"left_out": (k,)}), pools, folder / str(k)) for k in (1, 2)]


def test_teachers_see_neither_the_judged_fold_nor_their_own(pools: Path) -> None:
    config = _config(left_out=[2])
    opened = read_pools(pools, config)
    assert len(held_out_groups(opened, config)) == 2
    assert len(unseen_groups(opened, config)) == 4
    with pytest.raises(ValueError, match="outside the held-out fold"):
        Batches(opened, _config(left_out=[1, 2, 3]), SIDE)


def test_pseudo_labels_are_the_teachers_and_spare_the_judged_fold(
    pools: Path, teachers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = pools / "pseudo_fold0"
    options = ["--pools", pools, "--pool", "scans", "--kind", "ct", "--tau", "4", "--out", out, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["pseudo", "--runs", *map(str, teachers), *map(str, options)])
    pseudo_labels.main()
    labelled, scans = read_pool(out), read_pool(pools / "scans")
    held = held_out_groups([scans], _config())
    assert len(labelled.rows) == 24 - 6
    assert not held & {row.group for row in labelled.rows}
    assert {row.role for row in labelled.rows} == {"pseudo"}
    assert all(row.levels == {} for row in labelled.rows)
    assert json.loads((out / "teachers.json").read_text())["kept"] == 18
    student = _config(
        "md_iqa_small",
        steps=1,
        shares=[
            {"pool": "scans", "kind": "ct", "mode": "simulated", "scenes": 1},
            {"pool": "pseudo_fold{fold}", "kind": "ct", "mode": "pseudo", "scenes": 2, "weight": 0.5, "judged": False},
        ],
    ).for_fold()
    opened = read_pools(pools, student)
    assert held_out_groups(opened, student) == held
    assert Batches(opened, student, SIDE)[0].weight.tolist() == [1.0, 0.5, 0.5]


def test_one_teacher_is_no_ensemble(teachers: list[Path], pools: Path) -> None:
    with pytest.raises(ValueError, match="at least two"):
        teachers_of(teachers[:1])
    with pytest.raises(ValueError, match="one teacher"):
        teachers_of([teachers[0], teachers[0]])
    scans = read_pool(pools / "scans")
    none = Pool("empty", scans.images[:0], (), "")
    with pytest.raises(ValueError, match="no ct pictures"):
        label_pool(teachers, pools, none, "ct")


def test_photographs_are_cropped_not_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (600, 520, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    Image.fromarray(pixels[:400]).save(tmp_path / "images" / "b.png")
    (tmp_path / "mos.csv").write_text("file,mos\na.png,0.75\nb.png,0\n")
    monkeypatch.setattr(sys, "argv", ["x", "--source", str(tmp_path), "--out", str(tmp_path / "natural")])
    prepare_natural()
    pool = read_pool(tmp_path / "natural")
    assert [row.score for row in pool.rows] == [3.0, 0.0]
    assert np.array_equal(pool.images[0], pixels[44:556, 4:516])
    assert pool.images.shape == (2, 512, 512, 3)
    share = Share(pool="natural", kind="natural", mode="rated", scenes=2)
    config = _config(shares=[share], held_out=None, absent_levels=True)
    assert Batches([pool], config, SIDE)[0].pictures.shape == (2, 3, SIDE, SIDE)


def test_photographs_with_scores_off_the_scale_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mos.csv").write_text("file,mos\na.png,3.2\n")
    monkeypatch.setattr(sys, "argv", ["x", "--source", str(tmp_path), "--out", str(tmp_path / "natural")])
    with pytest.raises(ValueError, match=r"a\.png"):
        prepare_natural()


def test_a_configuration_takes_what_it_does_not_say_from_its_base(tmp_path: Path) -> None:
    share = "  - {pool: p, kind: ct, mode: rated, scenes: 1}\n"
    (tmp_path / "a.yaml").write_text(f"model: tfkt_small\nsteps: 7\nseed: 1\nshares:\n{share}")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nseed: 2\n")
    config = read_config(tmp_path / "b.yaml")
    assert (config.model, config.steps, config.seed) == ("tfkt_small", 7, 2)


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_build_their_networks(path: Path) -> None:
    config = read_config(path).model_copy(update={"held_out": 1}).for_fold()
    with torch.device("meta"):
        network = build_network(card_of(config.model), config.options)
    stages.freeze(network, config.frozen)
    assert not any("{" in share.pool for share in config.shares)
