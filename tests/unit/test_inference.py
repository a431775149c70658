"""The scorer: crops to pictures, devices, memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models import devices
from dicom_qa_node.models.devices import choose_device, device_problem
from dicom_qa_node.models.registry import card_of
from dicom_qa_node.models.torch_engine import TorchDisplayNetwork
from dicom_qa_node.score.inference import Scorer


class _Said(NamedTuple):
    score: torch.Tensor
    weight: torch.Tensor
    spread: torch.Tensor
    levels: torch.Tensor
    features: torch.Tensor


class _MeanBrightness(torch.nn.Module):
    """Scores the mean of a crop, times ten; remembers batch sizes; runs out of memory above a limit."""

    def __init__(self, limit: int = 1000) -> None:
        super().__init__()
        self.limit = limit
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> _Said:
        self.batches.append(len(x))
        if len(x) > self.limit:
            raise torch.cuda.OutOfMemoryError("too much")
        mean = x.mean(dim=(1, 2, 3))
        one = torch.ones_like(mean)
        return _Said(mean * 10, one / 2, one / 4, torch.ones(len(x), 7), torch.ones(len(x), 3))


def _scorer(network: _MeanBrightness, workers: int = 1) -> Scorer:
    batch = 7 if workers > 1 else 16
    return Scorer(TorchDisplayNetwork(network, "cpu", workers, batch), card_of("ms_iqa_small"))


def _pictures(count: int, side: int = 512) -> np.ndarray:
    pictures = np.zeros((count, side, side, 3), np.uint8)
    pictures[:, 40 : side - 40, 40 : side - 40] = np.linspace(30, 90, count).astype(np.uint8)[:, None, None, None]
    return pictures


def test_brighter_pictures_score_higher_and_one_answer_comes_per_picture() -> None:
    network = _MeanBrightness()
    said = _scorer(network).score(_pictures(7), "ct")
    assert said.score.shape == (7,)
    assert said.levels.shape == (7, 7)
    assert np.all(np.diff(said.score) > 0)
    assert sum(network.batches) == 7 * 4


def test_scores_are_clipped_to_the_scale() -> None:
    said = _scorer(_MeanBrightness()).score(np.full((1, 256, 256, 3), 250, np.uint8), "ct")
    assert said.score.tolist() == [4.0]


def test_the_answer_does_not_depend_on_what_else_is_in_the_batch() -> None:
    scorer = _scorer(_MeanBrightness())
    pictures = _pictures(3)
    together = scorer.score(pictures, "ct").score
    alone = [float(scorer.score(picture[None], "ct").score[0]) for picture in pictures]
    assert together.tolist() == pytest.approx(alone)


def test_float_and_byte_pictures_score_alike() -> None:
    scorer = _scorer(_MeanBrightness())
    pictures = _pictures(2)
    as_float = scorer.score((pictures / 255.0).astype(np.float32), "ct").score
    assert as_float.tolist() == pytest.approx(scorer.score(pictures, "ct").score.tolist())


def test_small_pictures_are_padded() -> None:
    assert _scorer(_MeanBrightness()).score(_pictures(1, 100), "petct").score.shape == (1,)


def test_several_threads_say_what_one_says_in_the_same_order() -> None:
    pictures = _pictures(7)
    one = _scorer(_MeanBrightness()).score(pictures, "ct").score
    many = _scorer(_MeanBrightness(), workers=3).score(pictures, "ct").score
    assert many.tolist() == pytest.approx(one.tolist(), abs=1e-6)


def test_out_of_memory_halves_the_batch_and_loses_nothing() -> None:
    network = _MeanBrightness(limit=3)
    said = _scorer(network).score(_pictures(4), "ct")
    assert said.score.tolist() == pytest.approx(_scorer(_MeanBrightness()).score(_pictures(4), "ct").score.tolist())
    assert network.batches[:4] == [16, 8, 4, 2]
    assert set(network.batches[3:]) == {2}


def test_out_of_memory_for_one_crop_is_an_error() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        _scorer(_MeanBrightness(limit=0)).score(_pictures(1), "ct")


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="no picture"):
        _scorer(_MeanBrightness()).score(np.zeros((0, 8, 8, 3), np.uint8), "ct")


@pytest.mark.parametrize("device", ["gpu0", "cuda:99"])
def test_an_impossible_device_is_a_configuration_error(device: str) -> None:
    with pytest.raises(Misconfigured, match=r"score\.device"):
        choose_device(device)


def test_auto_takes_what_there_is() -> None:
    assert choose_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("wanted", "torch_there", "driver", "seen", "expected"),
    [
        ("auto", True, 2, 2, "cuda:0"),
        ("auto", True, 0, 0, "cpu"),
        ("auto", False, 2, 2, "cpu"),
        ("auto", True, 1, 0, "cpu"),
        ("cpu", True, 2, 2, "cpu"),
        ("cuda", True, 1, 1, "cuda:0"),
        ("cuda:1", True, 2, 2, "cuda:1"),
        ("cuda:2", True, 2, 2, "torch sees 2 GPUs"),
        ("cuda", False, 1, 1, "needs torch, which is not installed"),
        ("cuda", True, 0, 0, "no GPU or no driver"),
    ],
)
def test_the_device_is_what_is_asked_for_or_the_reason_why_not(
    monkeypatch: pytest.MonkeyPatch, wanted: str, torch_there: bool, driver: int, seen: int, expected: str
) -> None:
    monkeypatch.setattr(devices, "torch_installed", lambda: torch_there)
    monkeypatch.setattr(devices, "driver_devices", lambda: driver)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    if expected.startswith(("cpu", "cuda")):
        assert choose_device(wanted) == expected
        assert device_problem(wanted) == ""
    else:
        with pytest.raises(Misconfigured, match=expected):
            choose_device(wanted)
