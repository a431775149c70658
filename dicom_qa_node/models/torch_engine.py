"""Networks on torch: the engine of a GPU, of training, and of networks without an ONNX file (torch).

The same code runs on every device (`torch_device`). On a GPU display networks compute in bfloat16, encoder and heads
in single precision, and batches have a few fixed sizes. On the CPU everything is in single precision, and threads share
the batches: torch is kept to one thread per operation, because its own threads wait for each other at each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dicom_qa_node.models import weights
from dicom_qa_node.models.card import ModelCard
from dicom_qa_node.models.ct_network import CtModel
from dicom_qa_node.models.devices import choose_device
from dicom_qa_node.models.efficientnet_lite0 import ENCODER
from dicom_qa_node.models.efficientnet_lite0.net import PooledEncoder
from dicom_qa_node.models.efficientnet_lite0.net import open_encoder as open_maps
from dicom_qa_node.models.engines import Codes, FloatArray, in_threads
from dicom_qa_node.models.image_features import Seen
from dicom_qa_node.models.registry import NetworkOption, build_network
from dicom_qa_node.models.torch_device import Fetched, Replayed, TorchDevice, rounded_up

__all__ = [
    "DisplayModule",
    "TorchCtHeads",
    "TorchDisplayNetwork",
    "TorchPictureEncoder",
    "open_ct_heads",
    "open_display_network",
    "open_file",
    "open_picture_encoder",
    "pick_device",
]

_log = logging.getLogger(__name__)

_GPU_BATCH, _CPU_BATCH = 128, 7
_GPU_PICTURES = 32


class DisplayModule(nn.Module):
    """A display network that takes crops in bytes and returns `engines.OUTPUTS`: what runs, and what is exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor, codes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Judge crops, uint8, shape (n, side, side, 3)."""
        rgb = pictures.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        found = self.network(rgb) if codes is None else self.network(rgb, codes)
        return found.score, found.weight, found.spread, found.levels, found.features


class TorchDisplayNetwork:
    """See `engines.DisplayNetwork`.

    On a GPU a batch is halved as often as memory asks for; on the CPU ``threads`` share the batches. ``half`` computes
    in bfloat16: by default on a GPU.
    """

    def __init__(
        self, network: nn.Module, device: str, threads: int = 1, batch: int | None = None, half: bool | None = None
    ) -> None:
        self.device = device
        self._place = TorchDevice(device)
        self._half = self._place.is_gpu if half is None else half
        self._module = DisplayModule(network).to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._forward = Replayed(self._module, self._place)
        self._threads = 1 if self._place.is_gpu else threads
        self._batch = batch or (_GPU_BATCH if self._place.is_gpu else _CPU_BATCH)
        torch.set_num_threads(threads if self._place.is_gpu else 1)

    def run(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[FloatArray]:
        """Run all crops and return each output for all of them."""
        parts = self._in_turn(crops, codes) if self._threads == 1 else self._shared(crops, codes)
        return [np.concatenate([part[index] for part in parts]) for index in range(len(parts[0]))]

    def _shared(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[list[FloatArray]]:
        spans = [slice(start, start + self._batch) for start in range(0, len(crops), self._batch)]
        return in_threads(lambda span: self._begin(crops, codes, span).arrays(self._batch), spans, self._threads)

    def _in_turn(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[list[FloatArray]]:
        """One batch after the other, in halves as small as memory asks for; the next begins before one is read."""
        start, begun = 0, []
        while start < len(crops):
            count = min(self._batch, len(crops) - start)
            try:
                begun.append((self._begin(crops, codes, slice(start, start + count)), count))
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch = max(1, count // 2)
                torch.cuda.empty_cache()
                _log.warning("event=cuda_out_of_memory batch=%d", self._batch)
                continue
            start += count
        return [fetched.arrays(count) for fetched, count in begun]

    def _begin(self, crops: npt.NDArray[np.uint8], codes: Codes | None, span: slice) -> Fetched:
        count = len(crops[span])
        batch = min(rounded_up(count), max(self._batch, count)) if self._place.is_gpu else count
        sent = [self._place.send(crops[span], batch)]
        if codes is not None:
            sent.append(self._place.send(codes[span], batch))
        with torch.inference_mode(), self._place.precision(self._half):
            return self._place.fetch(self._forward(*sent))


class TorchPictureEncoder:
    """See `image_features.PictureEncoder`; ``half`` computes the maps in bfloat16, their sums never."""

    def __init__(self, encoder: nn.Module, device: str, half: bool = False) -> None:
        self._place = TorchDevice(device)
        self._half = half
        self._module = PooledEncoder(encoder).to(device=device).eval()
        self._forward = Replayed(self._module, self._place)
        self.batch = _GPU_PICTURES if self._place.is_gpu else 1
        if not self._place.is_gpu:
            torch.set_num_threads(1)

    def see(self, pictures: npt.NDArray[np.uint8], body: FloatArray) -> Seen:
        """Describe pictures of one size."""
        count = len(pictures)
        batch = rounded_up(count) if self._place.is_gpu else count
        sent = self._place.send(pictures, batch), self._place.send(body, batch)
        with torch.inference_mode(), self._place.precision(self._half):
            return Seen(*self._place.fetch(self._forward(*sent)).arrays(count))


class TorchCtHeads:
    """See `engines.CtHeads`: small, and in single precision on every device."""

    def __init__(self, model: CtModel, device: str) -> None:
        self._place = TorchDevice(device)
        self._model = model.to(device=device).eval()

    def rate(self, grid: FloatArray, statistics: FloatArray, codes: Codes) -> FloatArray:
        """Rate pictures."""
        sent = (self._place.send(x) for x in (grid, statistics, codes))
        with torch.inference_mode():
            members = self._model(*sent)
        return self._place.fetch((members,)).arrays(len(members))[0]


def open_display_network(card: ModelCard, device: str, weights_dir: Path | None, threads: int) -> TorchDisplayNetwork:
    """Open a network with the verified weights of its card; errors as in `engines.open_display_network`."""
    network = build_network(card)
    weights.load(network, card, weights_dir)
    return TorchDisplayNetwork(network, device, threads)


def open_file(
    card: ModelCard, path: Path, device: str, threads: int, options: Mapping[str, NetworkOption] | None = None
) -> TorchDisplayNetwork:
    """Open a network with weights that no card knows."""
    network = build_network(card, options)
    weights.load_file(network, path, card.name)
    return TorchDisplayNetwork(network, device, threads)


def open_picture_encoder(device: str, weights_dir: Path | None = None) -> TorchPictureEncoder:
    """Open the shared encoder with its verified weights."""
    return TorchPictureEncoder(open_maps(ENCODER, weights_dir), device)


def open_ct_heads(card: ModelCard, device: str, weights_dir: Path | None = None) -> TorchCtHeads:
    """Open the heads of a CT model with their verified weights."""
    return TorchCtHeads(open_ct_model(card, weights_dir), device)


def open_ct_model(card: ModelCard, weights_dir: Path | None = None) -> CtModel:
    """Return the module of a CT model with its verified weights."""
    model = build_network(card)
    weights.load(model, card, weights_dir)
    assert isinstance(model, CtModel)
    return model


def pick_device(wanted: str) -> torch.device:
    """Return torch's device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; errors as in `devices.choose_device`."""
    return torch.device(choose_device(wanted))
