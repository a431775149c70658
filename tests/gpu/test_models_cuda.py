"""The GPU says what the CPU says; run with ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dicom_qa_node.models.registry import all_cards, build_network
from dicom_qa_node.score.inference import Scorer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
SHIPPED = [card.name for card in all_cards().values() if card.measured is not None]


def _pictures(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    pictures = np.zeros((count, 512, 512, 3), np.uint8)
    pictures[:, 60:450, 40:470] = rng.integers(80, 160, (count, 390, 430, 1), np.uint8)
    return pictures


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_score_alike_on_both_devices(name: str) -> None:
    pictures = _pictures(3)
    cpu = Scorer.open(name, "cpu").score(pictures, "ct")
    cuda = Scorer.open(name, "cuda").score(pictures, "ct")
    # bfloat16 keeps 8 bits; a fiftieth of the scale is what it may cost
    np.testing.assert_allclose(cuda.score, cpu.score, atol=0.08)


@pytest.mark.parametrize("name", sorted(all_cards()))
def test_networks_agree_in_single_precision(name: str) -> None:
    card = all_cards()[name]
    torch.manual_seed(0)
    network = build_network(card).eval()
    pictures = torch.rand(2, 3, card.input.side, card.input.side)
    with torch.inference_mode():
        on_cpu = network(pictures).score
        on_cuda = network.cuda()(pictures.cuda()).score.cpu()
    torch.testing.assert_close(on_cuda, on_cpu, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", sorted(all_cards()))
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


@pytest.mark.parametrize("name", SHIPPED)
def test_the_same_pictures_score_the_same_twice(name: str) -> None:
    scorer = Scorer.open(name, "cuda")
    pictures = _pictures(5)
    assert scorer.score(pictures, "ct").score.tolist() == scorer.score(pictures, "ct").score.tolist()
