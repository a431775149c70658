"""The out-of-domain gate: its distance, its limits, its file, and what the shipped one says about outsiders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.card import DomainFile
from dicom_qa_node.models.ood import fit, pack, read_ood_models, unpack
from dicom_qa_node.models.registry import DEFAULT_MODEL, card_of
from dicom_qa_node.phantom.ct_acquisition import NAMED
from dicom_qa_node.phantom.volumes import ct_volume
from dicom_qa_node.score import display_images
from dicom_qa_node.score.inference import Scorer
from training.domain import Distances, limits_of, outsiders, trustworthy


def _cloud(count: int, seed: int = 0) -> np.ndarray:
    """Features that move along five directions of sixty, with a little noise in all of them."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(5, 60))
    return rng.normal(size=(count, 5)) @ directions + 0.1 * rng.normal(size=(count, 60)) + 3.0


def test_a_picture_like_the_training_lies_near_one() -> None:
    distances = fit(_cloud(400), 8).distance(_cloud(200, 1))
    assert np.median(distances) == pytest.approx(1.0, abs=0.1)
    assert distances.max() < 1.6


def test_a_step_off_the_subspace_is_far_and_one_within_is_not() -> None:
    domain = fit(_cloud(400), 8)
    inside = _cloud(1, 2)
    off = np.random.default_rng(5).normal(size=(1, 60))
    along = np.random.default_rng(99).normal(size=(5, 60))[:1]
    assert domain.distance(inside + off) > 3 * domain.distance(inside + 0.5 * along)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        fit(_cloud(8), 8)


def test_the_file_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    domains = {"ct": fit(_cloud(100), 8), "pt": fit(_cloud(100, 3), 8)}
    content = pack(domains)
    assert content == pack(dict(reversed(domains.items())))
    back = unpack(content)
    np.testing.assert_array_equal(back["pt"].basis, domains["pt"].basis)
    np.testing.assert_array_equal(back["ct"].distance(_cloud(3)), domains["ct"].distance(_cloud(3)))


def test_a_missing_or_other_file_is_named(tmp_path: Path) -> None:
    described = DomainFile("d.safetensors", "0" * 64, {})
    with pytest.raises(Misconfigured, match="missing"):
        read_ood_models(described, tmp_path)
    (tmp_path / "d.safetensors").write_bytes(pack({"ct": fit(_cloud(100), 8)}))
    with pytest.raises(Misconfigured, match="SHA-256"):
        read_ood_models(described, tmp_path)


def test_limits_are_quantiles_and_outsiders_are_counted_with_the_limit_of_other_folds() -> None:
    even = np.linspace(0.5, 1.5, 101, dtype=np.float32)
    alike = limits_of([Distances("ct", fold, even) for fold in range(3)], 0.98)["ct"]
    assert alike.limit == pytest.approx(1.48, abs=0.01)
    assert alike.held_out_outside == pytest.approx(2 / 101, abs=0.011)
    assert alike.n == 303
    strange = limits_of([Distances("ct", 0, even), Distances("ct", 1, even + 5)], 0.98)["ct"]
    assert strange.held_out_outside == pytest.approx(0.5)
    assert set(trustworthy({"ct": strange, "pt": alike})) == {"pt"}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    card = card_of(DEFAULT_MODEL)
    if card.measured is None or card.measured.domain is None:
        pytest.skip("the shipped weights have no domain")
    return Scorer.open(DEFAULT_MODEL, "cpu")


def _gated(scorer: Scorer) -> set[str]:
    assert scorer.card.measured is not None
    assert scorer.card.measured.domain is not None
    return set(scorer.card.measured.domain.limits)


def test_generated_scans_lie_inside_and_noise_outside_where_there_is_a_gate(scorer: Scorer) -> None:
    volume = ct_volume(5, np.array([-120.0, -20.0, 80.0]), 512, 420.0, NAMED["routine"])
    pictures = np.stack([display_images.ct_display_image(hu) for hu in volume.voxels])
    assert (scorer.score(pictures, "ct").ood_distance < 1).all()
    gated = _gated(scorer)
    assert gated
    for _, kind, noise in outsiders((), None):
        if noise and kind in gated:
            assert (scorer.score(np.stack(noise[:2]), kind).ood_distance > 1).all()


def test_weights_without_a_domain_call_nothing_strange(scorer: Scorer) -> None:
    assert scorer.card.measured is not None
    bare = replace(scorer.card, measured=replace(scorer.card.measured, domain=None))
    quiet = Scorer(scorer.network, bare)
    assert quiet.score(np.zeros((1, 256, 256, 3), np.uint8), "ct").ood_distance.tolist() == [0.0]
