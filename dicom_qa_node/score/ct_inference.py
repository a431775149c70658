"""Rate CT slices by the shared encoder and the CT models: ratings, four dimensions, one score, and their domain.

The scorer process opens one `CombinedScorer`: CT slices go to the CT model, fused pictures and PET to the display
network of `inference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.models.card import ModelCard
from dicom_qa_node.models.ct_domain import CtDomain, read_ct_domain
from dicom_qa_node.models.ct_ratings import DIMENSIONS, WIDTH_KNOTS, compose
from dicom_qa_node.models.efficientnet_lite0 import ENCODER
from dicom_qa_node.models.engines import CtModelFiles, in_threads, open_ct_heads, open_encoder
from dicom_qa_node.models.image_features import (
    PictureEncoder,
    PictureFeatures,
    PreparedPicture,
    finish,
    prepare,
)
from dicom_qa_node.models.registry import card_of
from dicom_qa_node.models.site_calibration import SiteCalibration, read_site_calibration
from dicom_qa_node.models.text_prompt import Prompt
from dicom_qa_node.score.inference import Predictions, Scorer
from dicom_qa_node.score.threads import max_threads

__all__ = ["CombinedScorer", "CtPredictions", "CtScorer", "open_scorer"]

FloatArray = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]

_LUNG_AIR = (50, 70)
_LUNG_TISSUE, _TISSUE = 161.0, 20.0
_DOSE = 3
_KNOTS = np.linspace(0, 4, WIDTH_KNOTS)


@dataclass(frozen=True)
class CtPredictions(Predictions):
    """`Predictions` of CT slices, with ``dimensions`` (n, 4) in the order of `ct_ratings.DIMENSIONS`, 0-4.

    ``spread`` is the SD among the members of a panel, ``levels`` are the mean ratings (n, 7).
    """

    dimensions: FloatArray | None = None
    dimension_names: tuple[str, ...] = DIMENSIONS


class CtScorer:
    """A CT model behind the frozen encoder; slices are shared by as many threads as allowed."""

    def __init__(
        self,
        model: CtModelFiles,
        card: ModelCard,
        encoder: PictureEncoder,
        domain: CtDomain | None,
        site: SiteCalibration | None = None,
    ) -> None:
        if site is not None:
            card = replace(card, version=site.tuned_version)
        self._site = site
        self.card = card
        self._model = model
        self._encoder = encoder
        self._domain = domain

    @classmethod
    def open(
        cls, name: str, device: str = "auto", weights_dir: Path | None = None, site_file: Path | None = None
    ) -> CtScorer:
        """Open a CT model and the encoder with their verified weights.

        Raises
        ------
        Misconfigured
            Unknown model, or one that does not rate CT by the encoder; weights missing, or not those of the cards.
        """
        card = card_of(name)
        if card.kinds != (SeriesKind.CT.value,):
            raise Misconfigured(f"the model {name} is not one of the CT models; choose ct_panel or one ending in _ct")
        model = open_ct_heads(card, device, _own_folder(card, weights_dir))
        own = _own_folder(ENCODER, weights_dir)
        encoder = open_encoder(device, own)
        described = ENCODER.measured.domain if ENCODER.measured else None
        domain = read_ct_domain(described, own or ENCODER.folder) if described else None
        site = None if site_file is None else read_site_calibration(site_file)
        if site is not None and (site.model, site.version) != (card.name, card.version):
            raise Misconfigured(
                f"score.site_calibration: {site_file} belongs to {site.model} {site.version}, not to "
                f"{name} {card.version}; tune again"
            )
        return cls(model, card, encoder, domain, site)

    def score(self, images: npt.NDArray[Any], kind: str, prompts: Sequence[Prompt] | None = None) -> CtPredictions:
        """Rate CT slices.

        Parameters
        ----------
        images
            Display pictures, uint8, shape (n, rows, columns, 3), grey; the lung window is recognised by its air.
        kind
            "ct".
        prompts
            What the header tells of each slice, for MedIQA.
        """
        if kind != SeriesKind.CT.value:
            raise ValueError(f"a CT model does not rate {kind} pictures")
        pictures = _as_uint8(np.asarray(images))
        if len(pictures) == 0:
            raise ValueError("there is no picture to score")
        found = self._described(pictures)
        statistics = np.stack([np.concatenate([one.pooled, one.evidence, one.bands]) for one in found])
        grid = np.stack([np.concatenate([one.grid_mean, one.grid_sd]) for one in found])
        codes = np.array([prompt.codes() for prompt in (prompts or [Prompt(modality=kind)] * len(pictures))], np.int64)
        members = self._model.heads.rate(grid, statistics, codes)
        return self._predictions(np.asarray(members, np.float64), statistics)

    def _described(self, pictures: Grey) -> list[PictureFeatures]:
        """Describe pictures; boxes of one size go through the encoder together, as many as its engine takes."""
        threads = max_threads()
        prepared = in_threads(_prepared, list(pictures), threads)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, one in enumerate(prepared):
            by_size.setdefault(one.pixels.shape, []).append(index)
        step = self._encoder.batch
        batches = [same[i : i + step] for same in by_size.values() for i in range(0, len(same), step)]

        def see(batch: list[int]) -> list[PictureFeatures]:
            mine = [prepared[index] for index in batch]
            seen = self._encoder.see(np.stack([one.pixels for one in mine]), np.stack([one.body for one in mine]))
            return [finish(one, seen, position) for position, one in enumerate(mine)]

        described = in_threads(see, batches, threads if step == 1 else 1)
        found = dict(
            zip((i for batch in batches for i in batch), (one for part in described for one in part), strict=True)
        )
        return [found[index] for index in range(len(pictures))]

    def _predictions(self, members: npt.NDArray[np.float64], statistics: FloatArray) -> CtPredictions:
        offset = self._model.dose_offset
        composed = compose(members.mean(0), offset)
        alone = np.stack([compose(one, offset).score for one in members])
        widths = np.interp(composed.score, _KNOTS, self._model.half_widths)
        count = len(composed.score)
        strange = np.zeros(count, np.float32) if self._domain is None else self._domain.strangeness(statistics)
        score, width = composed.score, float(widths.mean())
        if self._site is not None:
            score, width = np.array([self._site.apply(float(value)) for value in score]), self._site.half_width
        levels = members.mean(0)
        levels[:, _DOSE] += offset
        return CtPredictions(
            score.astype(np.float32),
            np.ones(count, np.float32),
            alone.std(0).astype(np.float32),
            width,
            levels.astype(np.float32),
            statistics,
            strange,
            composed.dimensions.astype(np.float32),
        )


class CombinedScorer:
    """The display network and the CT model as one: each modality class goes to its own."""

    def __init__(self, display: Scorer, ct: CtScorer) -> None:
        self._display, self._ct = display, ct

    @property
    def card(self) -> ModelCard:
        """The card of the display network, which judges every modality class."""
        return self._display.card

    def card_for(self, kind: str) -> ModelCard:
        """Return the card of the model that rates one modality class."""
        return self._ct.card if kind == SeriesKind.CT.value else self._display.card

    def score(self, images: npt.NDArray[Any], kind: str, prompts: Sequence[Prompt] | None = None) -> Predictions:
        """Judge pictures of one kind."""
        if kind == SeriesKind.CT.value:
            return self._ct.score(images, kind, prompts)
        return self._display.score(images, kind, prompts)


def open_scorer(
    model: str, ct_model: str, device: str = "auto", weights_dir: Path | None = None, site_file: Path | None = None
) -> CombinedScorer | Scorer:
    """Open what the configuration names; one network for all where ``ct_model`` is the same as ``model``."""
    display = Scorer.open(model, device, weights_dir)
    return (
        display
        if ct_model == model
        else CombinedScorer(display, CtScorer.open(ct_model, device, weights_dir, site_file))
    )


def _own_folder(card: ModelCard, weights_dir: Path | None) -> Path | None:
    """Return the site's folder where it holds the weights of a card, else None: those shipped are used."""
    if weights_dir is None or card.measured is None or not (weights_dir / card.measured.file).is_file():
        return None
    return weights_dir


def _prepared(picture: Grey) -> PreparedPicture:
    colour = np.ptp(picture.reshape(-1, 3).astype(np.int16), axis=1).max() > 0
    lung = not colour and is_lung_window(picture[..., 0])
    return prepare(picture if colour else picture[..., 0], _LUNG_TISSUE if lung else _TISSUE, lung)


def is_lung_window(grey: Grey) -> bool:
    """Return whether air is grey, as in the lung window, and not black."""
    counted = np.bincount(grey.ravel(), minlength=256)
    return bool(counted[slice(*_LUNG_AIR)].sum() > counted[0])


def _as_uint8(images: npt.NDArray[Any]) -> Grey:
    from dicom_qa_node.score.display_images import as_uint8

    return as_uint8(images)
