"""What the four small CT networks share: places as tokens, statistics, a linear readout and what a network adds to it
(torch).

The frozen encoder's grid (`picture_features`) is projected per scale onto its principal components, `TOKEN_CHANNELS`
for each of 8 x 8 cells. Ratings are the linear readout of the statistics (ridge regression, closed form) plus what the
network finds in the places, bounded, so that a network can never be worse than the readout by more than it has learnt.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dicom_qa_node.models.ct_ratings import RATINGS
from dicom_qa_node.models.image_features import GRID_CELLS, GRID_CHANNELS, STATISTICS

__all__ = ["SCALES", "TOKEN_CHANNELS", "CtNetwork", "GridProjection", "Judged"]

_SD_STAGES = 6
COMPONENTS = (12, 8, 12, 16, 16, 24, 24, 24)
"""Principal components kept of the mean of each stage; of each deviation as many, for the first six."""

SCALES: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3), (4, 5), (6, 7))
"""Stages that make up the four scales: strides 2, 4 to 8, 16 and 32."""

TOKEN_CHANNELS = sum(COMPONENTS) + sum(COMPONENTS[:_SD_STAGES])
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
        for count in (*COMPONENTS, *COMPONENTS[:_SD_STAGES]):
            starts.append((total, total + count))
            total += count
        chosen: list[int] = []
        for stage in SCALES[scale]:
            chosen += range(*starts[stage])
            if stage < _SD_STAGES:
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


def cells() -> int:
    """Cells per side of the token grid."""
    return GRID_CELLS
