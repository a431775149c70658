"""The engine of a GPU on the CPU: the same code, without graphs, pinned memory and streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dicom_qa_node.models.registry import build_network, card_of
from dicom_qa_node.models.torch_device import Replayed, TorchDevice, rounded_up
from dicom_qa_node.models.torch_engine import TorchDisplayNetwork, open_picture_encoder


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (28, 32), (97, 128), (128, 128), (200, 200)])
def test_batches_have_few_sizes(count: int, size: int) -> None:
    assert rounded_up(count) == size


def test_arrays_come_back_as_they_were_sent_and_filled_up_with_nothing() -> None:
    place = TorchDevice("cpu")
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    sent = place.send(array, 4)
    assert sent.shape == (4, 2)
    assert not sent[3].any()
    (back,) = place.fetch((sent,)).arrays(3)
    np.testing.assert_array_equal(back, array)


def test_on_the_cpu_a_call_is_called_every_time() -> None:
    shapes: list[torch.Size] = []
    replayed = Replayed(lambda x: (shapes.append(x.shape), (x + 1,))[1], TorchDevice("cpu"))
    for _ in range(3):
        assert replayed(torch.zeros(2))[0].tolist() == [1.0, 1.0]
    assert len(shapes) == 3


def test_half_precision_of_a_display_network_costs_little() -> None:
    torch.manual_seed(0)
    network = build_network(card_of("ms_iqa_small")).eval()
    crops = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    full, half = (TorchDisplayNetwork(network, "cpu", half=half).run(crops, None) for half in (False, True))
    assert not np.array_equal(full[0], half[0])
    np.testing.assert_allclose(full[0], half[0], atol=0.08)


def test_the_encoder_describes_a_batch_as_it_describes_each_picture() -> None:
    encoder = open_picture_encoder("cpu")
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (3, 160, 192, 3), np.uint8)
    body = (rng.random((3, 20, 24)) > 0.3).astype(np.float32)
    together = encoder.see(pictures, body)
    for index in range(3):
        alone = encoder.see(pictures[index : index + 1], body[index : index + 1])
        np.testing.assert_allclose(together.pooled[index], alone.pooled[0], atol=1e-3)
