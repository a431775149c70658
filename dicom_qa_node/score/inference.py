"""Score pictures with one network: verified weights, one batch, the same answer every time.

The scorer process opens one `Scorer` and keeps it; nothing else in the node imports torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.models import weights
from dicom_qa_node.models.card import DegradationPrior, ModelCard
from dicom_qa_node.models.ood import OodModel, read_ood_models
from dicom_qa_node.models.registry import NetworkOption, build_network, card_of
from dicom_qa_node.models.text_prompt import Prompt
from dicom_qa_node.score import display_images
from dicom_qa_node.score.threads import max_threads

__all__ = ["Predictions", "Scorer", "pick_device"]

_log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

_FIRST_BATCH = 128
_CPU_BATCH = 7


@dataclass(frozen=True)
class Predictions:
    """What the network says about each picture; every array has shape (n,) but ``levels`` and ``features``.

    ``score`` lies in 0-4 (higher is better). ``weight`` is the fusion weight in (0, 1). ``spread`` is the predicted
    SD of the score, not calibrated. ``interval_half_width`` is the calibrated 90 % half width for this kind.
    ``levels`` (n, levels) names the degradations, ``features`` (n, f) are the pooled features. ``ood_distance`` is the
    distance from the training pictures as a share of its limit: above 1 a picture lies outside the model's domain.
    It is 0 for weights without a domain.
    """

    score: FloatArray
    weight: FloatArray
    spread: FloatArray
    interval_half_width: float
    levels: FloatArray
    features: FloatArray
    ood_distance: FloatArray


def pick_device(wanted: str) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; a CUDA that is not there is `Misconfigured`."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise Misconfigured(f"score.device: {wanted!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise Misconfigured(f"score.device: {wanted!r} is not available on this machine")
    return device


class Scorer:
    """A network in evaluation mode on one device.

    ``workers`` threads share the crops; by default one on a GPU and as many as are allowed on the CPU. There
    torch is told to use one thread per operation, for the whole process: its own threads wait for each other
    at every operation, and on a busy machine that costs seconds.
    """

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        device: torch.device,
        workers: int | None = None,
        domains: Mapping[str, OodModel] | None = None,
        coded: DegradationPrior | None = None,
    ) -> None:
        self.card = card
        self._domains = domains or {}
        self._coded = coded
        self.device = device
        self._network = network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._batch = _FIRST_BATCH
        self._workers = workers or (1 if device.type == "cuda" else max_threads())
        torch.set_num_threads(max_threads() if device.type == "cuda" else 1)

    @classmethod
    def open(cls, model_name: str, device: str = "auto", weights_dir: Path | None = None) -> Scorer:
        """Open a model by name with its verified weights.

        Raises
        ------
        Misconfigured
            Unknown model or device; weights missing, with a wrong checksum, or not of this network.
        """
        card = card_of(model_name)
        where = pick_device(device)
        path = weights.verify(card, weights_dir)
        network = build_network(card)
        weights.load_file(network, path, card.name)
        described = card.measured.domain if card.measured else None
        domains = read_ood_models(described, path.parent) if described else None
        return cls(network, card, where, domains=domains, coded=card.measured.coded if card.measured else None)

    @classmethod
    def from_file(
        cls,
        model_name: str,
        path: Path,
        device: str = "auto",
        options: Mapping[str, NetworkOption] | None = None,
        coded: DegradationPrior | None = None,
    ) -> Scorer:
        """Open a model with weights that no card knows, for training and evaluation only."""
        card = replace(card_of(model_name), measured=None)
        network = build_network(card, options)
        weights.load_file(network, path, card.name)
        return cls(network, card, pick_device(device), coded=coded)

    def score(self, images: npt.NDArray[Any], kind: str, prompts: Sequence[Prompt] | None = None) -> Predictions:
        """Judge pictures of one kind.

        Parameters
        ----------
        images
            Display pictures made by ``score.display_images``: uint8, or float in [0, 1], shape (n, rows, columns, 3).
        kind
            "ct", "petct" or "pt".
        prompts
            What is known of each picture, for a network whose card asks for it; without them nothing but the kind.

        Returns
        -------
        Predictions
            Each picture's numbers are the mean over its crops, weighted by the tissue they show; the score is mixed
            with the worth of the named degradations where the card has one (``models/card.py``).
        """
        series_kind = SeriesKind(kind)
        pictures = display_images.as_uint8(np.asarray(images))
        if len(pictures) == 0:
            raise ValueError("there is no picture to score")
        side = self.card.input.side
        crops, share, owner = [], [], []
        for index, picture in enumerate(pictures):
            padded = display_images.pad_image(picture, side, series_kind)
            plan = display_images.crop_plan(padded, side, series_kind)
            crops.append(display_images.cut(padded, plan, side))
            share += [max(crop.weight, 1e-3) for crop in plan]
            owner += [index] * len(plan)
        prompt_args = prompts or [Prompt(modality=series_kind.value)] * len(pictures)
        codes = np.array([prompt_args[index].codes() for index in owner]) if self.card.needs_prompt else None
        outputs = self._run(np.concatenate(crops), codes)
        mixing = np.zeros((len(pictures), len(owner)), np.float32)
        mixing[owner, np.arange(len(owner))] = share
        mixing /= mixing.sum(axis=1, keepdims=True)
        score, weight, spread, levels, features = (mixing @ output.reshape(len(owner), -1) for output in outputs)
        low, high = self.card.score_range
        own = np.clip(score[:, 0], low, high)
        return Predictions(
            np.clip(self._coded.mix(own, levels, series_kind.value) if self._coded else own, low, high),
            weight[:, 0],
            spread[:, 0],
            self.card.half_width(series_kind.value),
            levels,
            features,
            self._ood_distance(features, series_kind.value),
        )

    def _ood_distance(self, features: FloatArray, kind: str) -> FloatArray:
        described = self.card.measured.domain if self.card.measured else None
        if described is None or kind not in self._domains:
            return np.zeros(len(features), np.float32)
        return self._domains[kind].distance(features) / np.float32(described.limits[kind].limit)

    def _run(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[FloatArray]:
        """Run all crops and return each output for all of them."""
        parts = self._in_one_thread(crops, codes) if self._workers == 1 else self._in_threads(crops, codes)
        return [np.concatenate([part[i] for part in parts]) for i in range(len(parts[0]))]

    def _in_threads(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[list[FloatArray]]:
        spans = [slice(start, start + _CPU_BATCH) for start in range(0, len(crops), _CPU_BATCH)]
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(lambda span: self._forward(crops, codes, span), spans))

    def _in_one_thread(self, crops: npt.NDArray[np.uint8], codes: Codes | None) -> list[list[FloatArray]]:
        """One batch after the other, in halves as small as memory asks for."""
        start, parts = 0, []
        while start < len(crops):
            try:
                parts.append(self._forward(crops, codes, slice(start, start + self._batch)))
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch = max(1, min(self._batch, len(crops) - start) // 2)
                torch.cuda.empty_cache()
                _log.warning("event=cuda_out_of_memory batch=%d", self._batch)
                continue
            start += self._batch
        return parts

    def _forward(self, crops: npt.NDArray[np.uint8], codes: Codes | None, span: slice) -> list[FloatArray]:
        batch = torch.from_numpy(np.ascontiguousarray(crops[span])).to(self.device).permute(0, 3, 1, 2)
        pictures = (batch.float() / 255.0).contiguous(memory_format=torch.channels_last)
        prompt_args = () if codes is None else (torch.from_numpy(codes[span]).to(self.device),)
        with torch.inference_mode(), _precision(self.device):
            outputs = self._network(pictures, *prompt_args)
        tensors = (outputs.score, outputs.weight, outputs.spread, outputs.levels, outputs.features)
        return [np.asarray(value.float().cpu().numpy(), np.float32) for value in tensors]


@contextmanager
def _precision(device: torch.device) -> Iterator[None]:
    """bfloat16 on CUDA, float32 elsewhere."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        yield
