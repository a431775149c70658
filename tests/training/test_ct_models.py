"""The encoder's import, what the CT networks read and compose, their domain and their intervals."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models import weights
from dicom_qa_node.models.card import DomainFile
from dicom_qa_node.models.ct_cards import CT_METHODS
from dicom_qa_node.models.ct_domain import fit_ct_domain, pack, read_ct_domain
from dicom_qa_node.models.ct_network import TOKEN_CHANNELS, GridProjection, build_model
from dicom_qa_node.models.ct_ratings import DIMENSIONS, compose, composite
from dicom_qa_node.models.efficientnet_lite0 import ENCODER
from dicom_qa_node.models.efficientnet_lite0.net import Encoder
from dicom_qa_node.models.engines import open_encoder
from dicom_qa_node.models.image_features import GRID_CHANNELS, STATISTICS, describe
from dicom_qa_node.models.registry import all_cards, build_network
from training.ct_judge import conformal_widths
from training.ct_simulation import nearest_filter, versions
from training.import_encoder import by_order

ROUTINE = [7.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0]


def _reference(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Tensors as another implementation would hold them: its names, a head and a classifier at the end."""
    own = {name: value for name, value in encoder.state_dict().items() if "num_batches_tracked" not in name}
    renamed = {f"layer{index}": value.clone() for index, value in enumerate(own.values())}
    head = {f"head{index}": torch.zeros(1280) for index in range(5)}
    return renamed | head | {"fc.weight": torch.zeros(1000, 1280), "fc.bias": torch.zeros(1000)}


def test_encoder_takes_tensors_by_order_and_sees_the_same() -> None:
    torch.manual_seed(1)
    source, target = Encoder().eval(), Encoder().eval()
    taken = by_order(_reference(source), target)
    target.load_state_dict(taken, strict=False)
    picture = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(target(picture), source(picture), strict=True):
        assert torch.equal(ours, theirs)


def test_encoder_refuses_tensors_of_another_shape_or_number() -> None:
    encoder = Encoder()
    swapped = _reference(encoder)
    swapped["layer0"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="layer0 has shape"):
        by_order(swapped, encoder)
    fewer = _reference(encoder)
    del fewer["layer0"]
    with pytest.raises(ValueError, match="not those of the encoder"):
        by_order(fewer, encoder)


def test_every_ct_model_ships_weights_and_all_stay_small() -> None:
    cards = [card for card in all_cards().values() if card.kinds == ("ct",)]
    assert {card.name for card in cards} == {"ct_panel", *(f"{name}_ct" for name in CT_METHODS)}
    total = weights.verify(ENCODER).stat().st_size
    for card in cards:
        network = build_network(card)
        weights.load(network, card)
        total += weights.verify(card).stat().st_size
        assert card.measured is not None
        assert 0.85 <= card.measured.calibration["ct"].coverage <= 0.95
    assert total < 60e6


def test_features_of_a_picture_have_their_shapes_and_see_its_noise() -> None:
    encoder = open_encoder("cpu")
    rng = np.random.default_rng(0)
    clean = np.zeros((256, 256), np.uint8)
    clean[48:208, 48:208] = 120
    noisy = clean.copy()
    noisy[48:208, 48:208] = np.clip(120 + 20 * rng.standard_normal((160, 160)), 1, 254)
    quiet, loud = describe(encoder, clean), describe(encoder, noisy)
    assert quiet.pooled.size + quiet.evidence.size + quiet.bands.size == STATISTICS
    assert (len(quiet.grid_mean) + len(quiet.grid_sd), *quiet.grid_mean.shape[1:]) == (GRID_CHANNELS, 8, 8)
    assert loud.bands[3] > quiet.bands[3] + 3
    assert all(
        np.isfinite(getattr(loud, name)).all() for name in ("pooled", "grid_mean", "grid_sd", "evidence", "bands")
    )


@pytest.mark.parametrize("shape", [(64, 64), (200, 333), (512, 40)])
def test_features_of_any_size(shape: tuple[int, int]) -> None:
    found = describe(open_encoder("cpu"), np.full(shape, 100, np.uint8))
    assert np.isfinite(found.pooled).all()


@pytest.mark.parametrize("method", CT_METHODS)
def test_untrained_network_adds_little_to_its_readout_and_learns_everywhere(method: str) -> None:
    torch.manual_seed(0)
    model = build_model(method)
    member = model.members[0].train()
    tokens, statistics = torch.randn(4, TOKEN_CHANNELS, 8, 8), torch.randn(4, STATISTICS)
    base = torch.zeros(4, 7)
    before = member(tokens, statistics, base)
    assert before.ratings.abs().max() < 0.5
    optimiser = torch.optim.SGD([value for value in member.parameters() if value.requires_grad], 0.1)
    for _ in range(2):  # last layers start at zero: what lies before them learns from the second step on
        optimiser.zero_grad()
        (member(tokens, statistics, base, torch.ones(4, 4, dtype=torch.long)).added - 1).square().mean().backward()
        optimiser.step()
    unused = {"photographs"}
    for name, value in member.named_parameters():
        if value.requires_grad and not unused & set(name.split(".")):
            assert value.grad is not None, name


def test_token_channels_are_dealt_to_the_scales_once() -> None:
    dealt = [channel for scale in range(4) for channel in GridProjection.channels_of(scale)]
    assert sorted(dealt) == list(range(TOKEN_CHANNELS))


def test_composite_is_that_of_the_readers() -> None:
    assert composite(7, 5, 5) == pytest.approx(4)
    assert composite(1, 1, 1) == pytest.approx(0)
    assert composite(14, 5, 5) == pytest.approx(8 / 3)
    assert composite(4, 3, 3) == pytest.approx(2)


def test_worse_acquisitions_score_lower_and_in_their_own_dimension() -> None:
    ratings = np.array([ROUTINE] * 4)
    ratings[1, 3], ratings[2, 4], ratings[3, 5] = 3.32, 2.0, 2.0
    found = compose(ratings)
    assert found.score[0] == pytest.approx(3.7, abs=0.05)
    assert found.score[1] == pytest.approx(1.7, abs=0.05)
    assert (found.score[1:] < found.score[0] - 1).all()
    lowest = [DIMENSIONS[index] for index in found.dimensions[1:].argmin(1)]
    assert lowest == ["noise", "artefact", "structure"]


def test_score_follows_the_readers_where_a_picture_is_like_a_denoised_one() -> None:
    smoothed = np.array([[13.0, 3.0, 2.0, 0.0, 0.0, 0.0, 1.0]])
    found = compose(smoothed)
    assert found.denoised[0] > 0.99
    assert found.score[0] == pytest.approx(float(composite(13, 3, 2)), abs=0.02)
    assert found.dimensions[0, 2] < 1.1


def test_score_is_monotone_in_dose_whatever_the_offset() -> None:
    ratings = np.array([ROUTINE] * 30)
    ratings[:, 3] = np.linspace(-1, 6, 30)
    for offset in (0.0, 0.3):
        assert (np.diff(compose(ratings, offset).score) <= 1e-9).all()


def test_widths_cover_what_they_promise() -> None:
    rng = np.random.default_rng(3)
    label = rng.uniform(0.5, 4, 4000)
    score = label + rng.normal(0, np.where(label > 3, 0.1, 0.5))
    widths = conformal_widths(score, label, np.ones(4000, bool))
    covered = np.abs(score - label) <= np.interp(score, np.linspace(0, 4, 9), widths)
    assert 0.87 <= covered.mean() <= 0.94
    assert widths[-1] < 0.4 * widths[3]


def test_domain_tells_strangers_apart_and_reads_only_its_own_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inside = rng.normal(size=(300, STATISTICS)).astype(np.float32)
    outside = (rng.normal(size=(80, STATISTICS)) + 2).astype(np.float32)
    domain = fit_ct_domain(inside[:250], outside[:60])
    content = pack(domain)
    (tmp_path / "d").write_bytes(content)
    described = DomainFile("d", hashlib.sha256(content).hexdigest(), {})
    again = read_ct_domain(described, tmp_path)
    assert (again.strangeness(inside[250:]) <= 1).mean() > 0.9
    assert (again.strangeness(outside[60:]) > 1).all()
    with pytest.raises(Misconfigured, match="not the card's"):
        read_ct_domain(replace(described, sha256="0" * 64), tmp_path)
    with pytest.raises(Misconfigured, match="missing"):
        read_ct_domain(replace(described, file="x"), tmp_path)


def test_simulated_versions_grow_worse_and_start_with_the_slice_itself() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128] - 64
    hu = np.where(x * x + y * y < 50 * 50, 40.0, -1000.0).astype(np.float32)
    hu += 10 * rng.standard_normal(hu.shape).astype(np.float32)
    made = list(versions(hu, 2.0, np.random.default_rng(1)))
    assert made[0].name == "routine"
    assert np.array_equal(made[0].hu, np.maximum(hu, -1024))
    inside = x * x + y * y < 30 * 30
    noise = {version.dose: float(version.hu[inside].std()) for version in made if version.name == "dose"}
    ordered = [noise[dose] for dose in sorted(noise, reverse=True)]
    assert ordered == sorted(ordered)
    assert noise[0.1] == pytest.approx(made[0].hu[inside].std() * 10**0.5, rel=0.35)
    assert nearest_filter(hu)[0] is not None
