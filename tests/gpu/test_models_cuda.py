"""The GPU computes what the CPU computes; run with ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dicom_qa_node.api import open_model
from dicom_qa_node.models.registry import all_cards, build_network
from dicom_qa_node.models.torch_device import Replayed, TorchDevice
from dicom_qa_node.models.torch_engine import TorchDisplayNetwork, open_picture_encoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
SCORING = [card.name for card in all_cards().values() if card.measured is not None and card.kinds]
LOOKING = sorted(card.name for card in all_cards().values() if "petct" in card.kinds)


def _pictures(count: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    pictures = np.zeros((count, 512, 512, 3), np.uint8)
    pictures[:, 60:450, 40:470] = rng.integers(80, 160, (count, 390, 430, 1), np.uint8)
    return pictures


@pytest.mark.parametrize("name", SCORING)
def test_shipped_weights_score_alike_on_both_devices(name: str) -> None:
    pictures = _pictures(3)
    cpu = open_model(name, device="cpu").score(pictures, "ct")
    scorer = open_model(name, device="cuda")
    for _ in range(3):  # called, captured, replayed
        # bfloat16 keeps 8 bits; a fiftieth of the scale is what it may cost
        np.testing.assert_allclose(scorer.score(pictures, "ct").score, cpu.score, atol=0.08)


@pytest.mark.parametrize("name", LOOKING)
def test_networks_agree_in_single_precision(name: str) -> None:
    card = all_cards()[name]
    torch.manual_seed(0)
    network = build_network(card).eval()
    pictures = torch.rand(2, 3, card.input.side, card.input.side)
    with torch.inference_mode():
        on_cpu = network(pictures).score
        on_cuda = network.cuda()(pictures.cuda()).score.cpu()
    torch.testing.assert_close(on_cuda, on_cpu, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", LOOKING)
def test_networks_of_every_size_learn_in_mixed_precision(name: str) -> None:
    card = all_cards()[name]
    torch.manual_seed(0)
    network = build_network(card).cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        outputs = network(torch.rand(4, 3, card.input.side, card.input.side).cuda())
    assert all(torch.isfinite(value).all() for value in outputs if value is not None)
    (outputs.score.float().sum() + outputs.spread.float().sum()).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert idle == []


@pytest.mark.parametrize("name", SCORING)
def test_the_same_pictures_score_the_same_twice(name: str) -> None:
    scorer = open_model(name, device="cuda")
    pictures = _pictures(5)
    for _ in range(2):
        scorer.score(pictures, "ct")
    assert scorer.score(pictures, "ct").score.tolist() == scorer.score(pictures, "ct").score.tolist()


def test_a_replay_computes_what_the_call_computes() -> None:
    place = TorchDevice("cuda:0")
    layer = torch.nn.Linear(8, 8).cuda()
    replayed = Replayed(lambda x: (layer(x),), place)
    with torch.inference_mode():
        for seed in range(4):
            x = np.random.default_rng(seed).random((4, 8), np.float32)
            (found,) = place.fetch(replayed(place.send(x))).arrays(4)
            np.testing.assert_allclose(found, layer(torch.from_numpy(x).cuda()).cpu().numpy(), atol=1e-5)


def test_batches_that_are_filled_up_change_no_answer() -> None:
    encoder = open_picture_encoder("cuda:0")
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (7, 160, 192, 3), np.uint8)
    body = np.ones((7, 20, 24), np.float32)
    together = encoder.see(pictures, body)
    for index in (0, 6):
        alone = encoder.see(pictures[index : index + 1], body[index : index + 1])
        np.testing.assert_allclose(together.pooled[index], alone.pooled[0], atol=2e-2)


def test_more_crops_than_fit_are_scored_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    card = all_cards()["ms_iqa_small"]
    network = TorchDisplayNetwork(build_network(card), "cuda:0", batch=64)
    begin, seen = network._begin, []

    def short_of_memory(crops, codes, span):  # type: ignore[no-untyped-def]
        seen.append(span.stop - span.start)
        if seen[-1] > 16:
            raise torch.cuda.OutOfMemoryError("too much")
        return begin(crops, codes, span)

    monkeypatch.setattr(network, "_begin", short_of_memory)
    outputs = network.run(np.zeros((40, 256, 256, 3), np.uint8), None)
    assert outputs[0].shape == (40,)
    assert seen[:3] == [40, 20, 10]
