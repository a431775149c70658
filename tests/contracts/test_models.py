"""What every network in the registry must keep; a new one is tested without writing a test for it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dicom_qa_node.api import open_model
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models import weights
from dicom_qa_node.models.card import ModelCard, read_measured
from dicom_qa_node.models.registry import DEFAULT_MODEL, all_cards, build_network, card_of
from dicom_qa_node.score.inference import Scorer
from training.document import replace_generated

CARDS = list(all_cards().values())
SHIPPED = [card for card in CARDS if card.measured is not None]
HEAVY = {"tfkt_paper": 128, "md_iqa_paper": 224, "mediqa_paper": 224}
"""Networks too large for every test on a CPU, and the side of the pictures they are tested with; see tests/gpu."""
SMALL_LIMIT = 20_000_000
FILE_LIMIT = 40_000_000


def _pictures(card: ModelCard, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = HEAVY.get(card.name, card.input.side)
    coarse = torch.rand(count, 3, side // 16, side // 16, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth + 0.05 * torch.rand(count, 3, side, side, generator=generator)).clamp(0, 1)


LOOKING = [card for card in CARDS if "petct" in card.kinds and card.name not in HEAVY]
"""Networks that look at pictures themselves; the CT models read an encoder, see tests/training/test_ct_models.py."""


@pytest.fixture(params=LOOKING, ids=lambda card: card.name)
def card(request: pytest.FixtureRequest) -> ModelCard:
    return request.param


@pytest.fixture(params=SHIPPED, ids=lambda card: card.name)
def shipped(request: pytest.FixtureRequest) -> ModelCard:
    return request.param


@pytest.fixture
def network(card: ModelCard) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(card)


def test_the_default_model_is_shipped() -> None:
    assert DEFAULT_MODEL in {card.name for card in SHIPPED}


def _assert_sound(outputs: Any, count: int) -> None:
    assert outputs.score.shape == outputs.weight.shape == outputs.spread.shape == (count,)
    assert outputs.levels.shape[0] == outputs.features.shape[0] == count
    assert all(torch.isfinite(value).all() for value in outputs if value is not None)
    assert ((outputs.weight > 0) & (outputs.weight <= 1)).all()
    assert (outputs.spread > 0).all()


def _idle(network: torch.nn.Module) -> list[str]:
    return [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]


def test_outputs_have_their_shapes_and_are_finite(card: ModelCard, network: torch.nn.Module) -> None:
    with torch.inference_mode():
        _assert_sound(network.eval()(_pictures(card, 2)), 2)


@pytest.mark.parametrize("name", HEAVY)
def test_a_large_network_is_sound_and_every_parameter_learns(name: str) -> None:
    card = card_of(name)
    torch.manual_seed(0)
    outputs = (network := build_network(card).train())(_pictures(card, 1))
    _assert_sound(outputs, 1)
    (outputs.score.sum() + outputs.spread.sum()).backward()
    assert _idle(network) == []


def test_same_pictures_same_answer_whatever_the_batch(card: ModelCard, network: torch.nn.Module) -> None:
    pictures = _pictures(card, 3)
    network.eval()
    with torch.inference_mode():
        together = network(pictures)
        again = network(pictures)
        alone = [network(picture[None]) for picture in pictures]
    assert torch.equal(together.score, again.score)
    torch.testing.assert_close(together.score, torch.cat([o.score for o in alone]), atol=1e-4, rtol=1e-4)


def test_every_parameter_learns(card: ModelCard, network: torch.nn.Module) -> None:
    """The published MS-IQA fails this: its weight branch cancels out."""
    network.train()
    outputs = network(_pictures(card, 2))
    (outputs.score.sum() + outputs.spread.sum()).backward()
    assert _idle(network) == []


def test_score_alone_reaches_both_branches(card: ModelCard, network: torch.nn.Module) -> None:
    network.train()
    network(_pictures(card, 2)).score.sum().backward()
    idle = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is None}
    assert idle <= {"spread_branch"}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_says_what_it_must(card: ModelCard) -> None:
    assert card.paper
    assert card.code_licence
    assert card.not_validated_for
    assert card.score_range == (0.0, 4.0)
    if card.measured:
        assert card.weights_licence
        assert card.data_licence
        assert card.measured.trained_on


def test_shipped_weights_are_small_and_verified(shipped: ModelCard) -> None:
    path = weights.verify(shipped)
    assert shipped.measured is not None
    assert path.suffix == ".safetensors"
    assert path.stat().st_size < FILE_LIMIT
    assert shipped.measured.parameters < SMALL_LIMIT


def test_shipped_weights_score_and_are_calibrated_for_every_kind(shipped: ModelCard) -> None:
    if not shipped.kinds:
        pytest.skip("the encoder scores nothing")
    scorer = open_model(shipped.name, device="cpu")
    pictures = (_pictures(shipped, 2).permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    for kind in shipped.kinds:
        said = scorer.score(pictures, kind)
        assert said.score.shape == (2,)
        assert ((said.score >= 0) & (said.score <= 4)).all()
        assert 0 < said.interval_half_width < 4


def test_a_missing_file_is_named(shipped: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="missing"):
        weights.load(build_network(shipped), shipped, tmp_path)


def test_a_wrong_checksum_is_named(shipped: ModelCard, tmp_path: Path) -> None:
    content = bytearray(weights.weights_path(shipped).read_bytes())
    content[-1] ^= 1
    weights.weights_path(shipped, tmp_path).write_bytes(content)
    with pytest.raises(Misconfigured, match="SHA-256"):
        weights.verify(shipped, tmp_path)


def _with_file(card: ModelCard, path: Path) -> ModelCard:
    """The card, were this file its own."""
    import hashlib

    assert card.measured is not None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(card, folder=path.parent, measured=replace(card.measured, file=path.name, sha256=digest))


def test_a_file_with_other_tensors_does_not_fit(shipped: ModelCard, tmp_path: Path) -> None:
    tensors = load_file(weights.weights_path(shipped))
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors["renamed"] = tensors.pop(name)
    save_file(tensors, tmp_path / "other.safetensors")
    other = _with_file(shipped, tmp_path / "other.safetensors")
    weights.verify(other)
    with pytest.raises(Misconfigured, match="do not fit"):
        weights.load(build_network(shipped), other)


def test_a_card_of_another_size_is_refused_before_torch_is_needed(shipped: ModelCard, tmp_path: Path) -> None:
    save_file({"one": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(Misconfigured, match="parameters"):
        weights.verify(_with_file(shipped, tmp_path / "other.safetensors"))


@pytest.mark.parametrize("content", [b"", b"pickle", b"\x10\0\0\0\0\0\0\0{]              "])
def test_a_file_that_is_no_safetensors_is_refused(shipped: ModelCard, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(Misconfigured, match="not a safetensors file"):
        weights.verify(_with_file(shipped, tmp_path / "x.safetensors"))


def test_a_model_without_weights_is_never_opened() -> None:
    for card in CARDS:
        if card.measured is None:
            with pytest.raises(Misconfigured, match="without weights"):
                Scorer.open(card.name, "cpu")


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(Misconfigured, match=DEFAULT_MODEL):
        card_of("resnet")


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_measured(tmp_path / "card.json")


def test_the_models_page_shows_the_cards_of_today() -> None:
    """Rewrite it with ``python -m training.document docs/models.md``."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    assert page == replace_generated(page)


def test_cards_and_verification_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from dicom_qa_node.models import registry, weights\n"
        "weights.verify(registry.card_of(registry.DEFAULT_MODEL))\n"
        "assert not {'torch', 'timm', 'SimpleITK'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
