"""What the CPU engine computes is what torch computes, for every shipped network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dicom_qa_node.models import weights
from dicom_qa_node.models.card import ModelCard
from dicom_qa_node.models.engines import CtModelFiles, open_ct_heads, open_display_network, open_encoder
from dicom_qa_node.models.onnx_engine import OnnxDisplayNetwork, OnnxNetwork, OnnxPictureEncoder
from dicom_qa_node.models.ood import read_ood_models
from dicom_qa_node.models.registry import all_cards
from dicom_qa_node.models.text_prompt import Prompt
from dicom_qa_node.models.torch_engine import TorchDisplayNetwork, TorchPictureEncoder
from dicom_qa_node.models.torch_engine import open_ct_heads as open_torch_heads
from dicom_qa_node.models.torch_engine import open_display_network as open_torch_network
from dicom_qa_node.models.torch_engine import open_picture_encoder as open_torch_encoder
from dicom_qa_node.phantom.ct_acquisition import NAMED
from dicom_qa_node.phantom.volumes import ct_volume
from dicom_qa_node.score import display_images
from dicom_qa_node.score.ct_inference import CtScorer
from dicom_qa_node.score.inference import Scorer

SHIPPED = [card for card in all_cards().values() if card.measured is not None]
DISPLAY = [card for card in SHIPPED if "petct" in card.kinds]
CT = [card for card in SHIPPED if card.kinds == ("ct",)]
PER_CROP, PER_SERIES, ODD = 3e-3, 2e-4, 1e-2
SERIES = ("routine", "tenth")
"""Pictures that are slices of a series."""

IMPOSSIBLE = ("noise", "black", "flat")
"""Pictures such as no scanner makes: what is measured of them is a small difference of large sums, and may lie `ODD`
apart."""

GROWTH_LIMIT = 40e6

Bytes = npt.NDArray[np.uint8]


def pictures_of(quality: str, seed: int) -> Bytes:
    """Return three CT slices of a generated patient."""
    volume = ct_volume(seed, np.array([-100.0, 0.0, 90.0]), 512, 420.0, NAMED[quality])
    return np.stack([display_images.ct_display_image(hu) for hu in volume.voxels])


@pytest.fixture(scope="module")
def generated() -> dict[str, Bytes]:
    rng = np.random.default_rng(4)
    fused = pictures_of("routine", 4)[:2].copy()
    fused[:, 150:260, 180:300, 0] = rng.integers(120, 250, (2, 110, 120))
    return {
        "routine": pictures_of("routine", 2),
        "tenth": pictures_of("tenth_dose", 3),
        "noise": rng.integers(0, 256, (2, 300, 400, 3), np.uint8),
        "fused": fused,
        "black": np.zeros((1, 512, 512, 3), np.uint8),
        "flat": np.full((1, 100, 40, 3), 128, np.uint8),
    }


@pytest.fixture(scope="module", params=DISPLAY, ids=lambda card: card.name)
def both(request: pytest.FixtureRequest) -> tuple[Scorer, Scorer]:
    """Return the scorer of a display network on ONNX Runtime and on torch."""
    card: ModelCard = request.param
    fast, slow = open_display_network(card, "cpu", None, 1), open_torch_network(card, "cpu", None, 1)
    assert isinstance(fast, OnnxDisplayNetwork)
    assert isinstance(slow, TorchDisplayNetwork)
    assert card.measured is not None
    assert card.measured.domain is not None
    domains = read_ood_models(card.measured.domain, card.folder)
    return Scorer(fast, card, domains, card.measured.coded), Scorer(slow, card, domains, card.measured.coded)


@pytest.mark.parametrize("name", ["routine", "tenth", "noise", "fused", "black", "flat"])
def test_a_display_network_scores_alike(both: tuple[Scorer, Scorer], generated: dict[str, Bytes], name: str) -> None:
    kind = "petct" if name in ("fused", "noise") else "ct"
    ours, theirs = (scorer.score(generated[name], kind) for scorer in both)
    np.testing.assert_allclose(ours.score, theirs.score, atol=ODD if name in IMPOSSIBLE else PER_CROP)
    np.testing.assert_allclose(ours.features, theirs.features, atol=0.1 if name in IMPOSSIBLE else 0.02)
    np.testing.assert_allclose(ours.ood_distance, theirs.ood_distance, atol=5e-3, rtol=2e-2)
    if name in SERIES:
        assert abs(ours.score.mean() - theirs.score.mean()) <= PER_SERIES


def test_every_crop_of_a_display_network_is_within_its_limit(both: tuple[Scorer, Scorer]) -> None:
    side = both[0].card.input.side
    pictures = np.concatenate([pictures_of("routine", 5), pictures_of("sparse_views", 6)])
    crops = np.concatenate([pictures[:, :side, :side], pictures[:, -side:, -side:]])
    ours, theirs = (scorer.network.run(np.ascontiguousarray(crops), None) for scorer in both)
    for here, there in zip(ours, theirs, strict=True):
        assert here.shape == there.shape
    np.testing.assert_allclose(ours[0], theirs[0], atol=PER_CROP)


@pytest.fixture(scope="module")
def encoders() -> tuple[OnnxPictureEncoder, TorchPictureEncoder]:
    fast, slow = open_encoder("cpu"), open_torch_encoder("cpu")
    assert isinstance(fast, OnnxPictureEncoder)
    return fast, slow


@pytest.mark.parametrize("card", CT, ids=lambda card: card.name)
def test_a_ct_model_scores_alike(
    encoders: tuple[OnnxPictureEncoder, TorchPictureEncoder], generated: dict[str, Bytes], card: ModelCard
) -> None:
    files = open_ct_heads(card, "cpu")
    slow_files = CtModelFiles(open_torch_heads(card, "cpu"), files.dose_offset, files.half_widths)
    fast, slow = CtScorer(files, card, encoders[0], None), CtScorer(slow_files, card, encoders[1], None)
    prompts = [Prompt("3d", "ct", "chest", "soft"), Prompt("3d", "ct", "", "sharp"), Prompt("", "ct")]
    for name in ("routine", "tenth", "noise", "flat", "black"):
        pictures = generated[name]
        ours, theirs = (scorer.score(pictures, "ct", prompts[: len(pictures)]) for scorer in (fast, slow))
        limit = ODD if name in IMPOSSIBLE else PER_CROP
        np.testing.assert_allclose(ours.score, theirs.score, atol=limit, err_msg=name)
        if name in SERIES:
            assert abs(ours.score.mean() - theirs.score.mean()) <= PER_SERIES, name
        assert ours.dimensions is not None
        assert theirs.dimensions is not None
        np.testing.assert_allclose(ours.dimensions, theirs.dimensions, atol=limit, err_msg=name)


def test_the_encoder_takes_pictures_of_one_size_together(
    encoders: tuple[OnnxPictureEncoder, TorchPictureEncoder],
) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 160, 224, 3), np.uint8)
    body = (rng.random((3, 20, 28)) > 0.4).astype(np.float32)
    together = encoders[0].see(pictures, body)
    for index in range(3):
        alone = encoders[0].see(pictures[index : index + 1], body[index : index + 1])
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(many[index], one[0], atol=1e-3)
    for ours, theirs in zip(together[:2], encoders[1].see(pictures, body)[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_the_same_pictures_give_the_same_bytes(both: tuple[Scorer, Scorer], generated: dict[str, Bytes]) -> None:
    first, second = (both[0].score(generated["tenth"], "ct") for _ in range(2))
    assert first.score.tobytes() == second.score.tobytes()
    assert first.features.tobytes() == second.features.tobytes()


def test_a_file_is_opened_once_in_a_process() -> None:
    path = weights.verify_onnx(CT[0])
    assert OnnxNetwork(path)._session is OnnxNetwork(path)._session


@pytest.mark.parametrize("card", SHIPPED, ids=lambda card: card.name)
def test_every_shipped_network_has_a_verified_file_that_names_no_machine(card: ModelCard) -> None:
    content = weights.verify_onnx(card).read_bytes()
    assert card.measured is not None
    assert card.measured.onnx is not None
    assert card.measured.onnx.opset == 18
    machine = (str(Path.home()), str(Path(__file__).parents[2]), "site-packages", "stack_trace")
    assert [word for word in machine if word.encode() in content] == []


def test_the_files_stay_small() -> None:
    assert sum(weights.verify_onnx(card).stat().st_size for card in SHIPPED) < GROWTH_LIMIT
