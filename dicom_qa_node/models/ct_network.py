"""What the four small CT networks share: places as tokens, statistics, a linear readout and what a network adds to it
(torch).

The frozen encoder's grid (`picture_features`) is projected per scale onto its principal components, `TOKEN_CHANNELS`
for each of 8 x 8 cells. Ratings are the linear readout of the statistics (ridge regression, closed form) plus what the
network finds in the places, bounded, so that a network can never be worse than the readout by more than it has learnt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dicom_qa_node.models.ct_ratings import RATINGS, WIDTH_KNOTS
from dicom_qa_node.models.image_features import GRID_CHANNELS, SD_STAGES, STATISTICS

__all__ = ["SCALES", "TOKEN_CHANNELS", "CtModel", "CtNetwork", "GridProjection", "Judged", "build_model"]

COMPONENTS = (12, 8, 12, 16, 16, 24, 24, 24)
"""Principal components kept of the mean of each stage; of each deviation as many, for the first six."""

SCALES: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3), (4, 5), (6, 7))
"""Stages that make up the four scales: strides 2, 4 to 8, 16 and 32."""

TOKEN_CHANNELS = sum(COMPONENTS) + sum(COMPONENTS[:SD_STAGES])
TOKEN_LIMIT = 30.0
_ADDED = 2.0


class Judged(NamedTuple):
    """``ratings`` (n, 7); ``added`` (n, 7) what the network added, in SDs; ``distributions`` (n, widths, 7, bins) if
    any."""

    ratings: Tensor
    added: Tensor
    distributions: Tensor | None = None


class GridProjection(nn.Module):
    """Principal components of each stage's grid, standardised; fixed, fitted on photographs and phantoms."""

    centre: Tensor
    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(GRID_CHANNELS))
        self.register_buffer("basis", torch.zeros(TOKEN_CHANNELS, GRID_CHANNELS))

    def forward(self, grid: Tensor) -> Tensor:
        """Project (n, 1120, 8, 8) to (n, `TOKEN_CHANNELS`, 8, 8)."""
        return torch.einsum("tc,ncij->ntij", self.basis, grid - self.centre[:, None, None])

    @staticmethod
    def channels_of(scale: int) -> list[int]:
        """Return which token channels belong to one of the four `SCALES`."""
        starts, total = [], 0
        for count in (*COMPONENTS, *COMPONENTS[:SD_STAGES]):
            starts.append((total, total + count))
            total += count
        chosen: list[int] = []
        for stage in SCALES[scale]:
            chosen += range(*starts[stage])
            if stage < SD_STAGES:
                chosen += range(*starts[len(COMPONENTS) + stage])
        return chosen


class CtNetwork(nn.Module):
    """A network of the CT family; a method writes `see`.

    ``spread`` (7,) are the SDs of the targets: what the network adds is in these units.
    """

    readout: nn.Linear
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(STATISTICS, len(RATINGS))
        self.readout.requires_grad_(False)
        self.projection = GridProjection()
        self.register_buffer("spread", torch.ones(len(RATINGS)))
        self.register_buffer("standard", torch.stack([torch.zeros(STATISTICS), torch.ones(STATISTICS)]))

    @abstractmethod
    def see(self, tokens: Tensor, statistics: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what to add to the readout (n, 7), in SDs, and distributions if the method has them.

        Parameters
        ----------
        tokens
            Shape (n, `TOKEN_CHANNELS`, 8, 8), of order one.
        statistics
            Standardised, shape (n, `STATISTICS`).
        prompts
            Codes (n, 4) of dimension, modality, region and type, for a method that is told.
        """

    def forward(
        self, tokens: Tensor, statistics: Tensor, base: Tensor | None = None, prompts: Tensor | None = None
    ) -> Judged:
        """Rate pictures; ``base`` (n, 7) takes the place of the readout in training, where it is cross-fitted."""
        mean, sd = self.get_buffer("standard")
        told = ((statistics - mean) / sd).clamp(-6, 6)
        added, distributions = self.see(tokens, told, prompts)
        added = _ADDED * torch.tanh(added / _ADDED)
        ratings = (self.readout(statistics) if base is None else base) + added * self.spread
        return Judged(ratings, added, distributions)


class CtModel(nn.Module):
    """What ships of one method, or of the panel: networks whose mean rating counts, and how the rating is read.

    ``dose_offset`` (1,) is added to the dose rating; ``half_widths`` (9,) are the conformal half widths at scores 0,
    0.5 ... 4.
    All members share the first one's projection, which is that of the training.
    """

    dose_offset: Tensor
    half_widths: Tensor

    def __init__(self, members: Sequence[CtNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        for member in members[1:]:
            del member.projection
        self.register_buffer("dose_offset", torch.zeros(1))
        self.register_buffer("half_widths", torch.full((WIDTH_KNOTS,), 4.0))

    def forward(self, grid: Tensor, statistics: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Return every member's ratings (members, n, 7) of grids (n, 1120, 8, 8) and statistics (n, `STATISTICS`)."""
        tokens = self.members[0].projection(grid).clamp(-TOKEN_LIMIT, TOKEN_LIMIT)  # type: ignore[operator]
        return torch.stack([member(tokens, statistics, None, prompts).ratings for member in self.members])


def build_model(methods: str, **options: Any) -> CtModel:
    """Return the untrained model of one method, or of several joined by commas."""
    return CtModel([import_module(f"dicom_qa_node.models.{name}.ct").build(**options) for name in methods.split(",")])
