"""Score pictures with one network: verified weights, one batch, the same answer every time.

The scorer process opens one `Scorer` and keeps it; on which engine the network runs is `models.engines`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.models.card import DegradationPrior, ModelCard
from dicom_qa_node.models.engines import DisplayNetwork, open_display_network, open_file
from dicom_qa_node.models.ood import OodModel, read_ood_models
from dicom_qa_node.models.registry import NetworkOption, card_of
from dicom_qa_node.models.text_prompt import Prompt
from dicom_qa_node.score import display_images
from dicom_qa_node.score.threads import max_threads

__all__ = ["Predictions", "Scorer"]

FloatArray = npt.NDArray[np.float32]


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


class Scorer:
    """A network on one device, with what is read from its numbers: domain, worth of what it names, interval."""

    def __init__(
        self,
        network: DisplayNetwork,
        card: ModelCard,
        domains: Mapping[str, OodModel] | None = None,
        coded: DegradationPrior | None = None,
    ) -> None:
        self.card = card
        self.network = network
        self._domains = domains or {}
        self._coded = coded

    @property
    def device(self) -> str:
        """Where the network runs: ``cpu`` or ``cuda:N``."""
        return self.network.device

    @classmethod
    def open(cls, model_name: str, device: str = "auto", weights_dir: Path | None = None) -> Scorer:
        """Open a model by name with its verified weights.

        Raises
        ------
        Misconfigured
            Unknown model or device; weights missing, with a wrong checksum, or not of this network.
        """
        card = card_of(model_name)
        network = open_display_network(card, device, weights_dir, max_threads())
        described = card.measured.domain if card.measured else None
        domains = read_ood_models(described, weights_dir or card.folder) if described else None
        return cls(network, card, domains=domains, coded=card.measured.coded if card.measured else None)

    @classmethod
    def from_file(
        cls,
        model_name: str,
        path: Path,
        device: str = "auto",
        options: Mapping[str, NetworkOption] | None = None,
        coded: DegradationPrior | None = None,
    ) -> Scorer:
        """Open a model with weights that no card knows, for training and evaluation only; it runs on torch."""
        card = replace(card_of(model_name), measured=None)
        return cls(open_file(card, path, device, max_threads(), options), card, coded=coded)

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
        outputs = self.network.run(np.concatenate(crops), codes)
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
