"""MD-IQA in small form on the shared encoder: two branches, aligned, that predict distributions per place (torch,
timm).

A convolution branch reads the fine scales, a ViT branch the coarse ones; offsets from the ViT steer a deformable
convolution of the fine maps (bounded to two cells). Every place has a weight and, for each rating, distributions at
three Gaussian widths over -2 to 2 SD around the linear readout; what is added is their mean.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from dicom_qa_node.models.ct_network import CtNetwork, GridProjection
from dicom_qa_node.models.ct_ratings import RATINGS
from dicom_qa_node.models.image_features import STATISTICS

__all__ = ["BINS", "WIDTHS", "MdIqaCt", "build"]

BINS = 17
WIDTHS = (0.15, 0.3, 0.6)
"""SD of the Gaussian targets, in SDs of a rating."""

_SIDE = 4
_REACH = 2.0
_TAPS = 9


class MdIqaCt(CtNetwork):
    """Dual branch with alignment; ``align`` off joins the branches without offsets."""

    support: Tensor

    def __init__(self, width: int = 48, told: int = 48, align: bool = True) -> None:
        super().__init__()
        self.align = align
        self.fine = [i for scale in (0, 1) for i in GridProjection.channels_of(scale)]
        self.coarse = [i for scale in (2, 3) for i in GridProjection.channels_of(scale)]
        self.convolve = nn.Sequential(
            nn.Conv2d(len(self.fine), width, 1), nn.GELU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU()
        )
        self.embed = nn.Conv2d(len(self.coarse), width, 2, stride=2)
        self.position = nn.Parameter(torch.zeros(1, _SIDE * _SIDE, width))
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.offsets = nn.Conv2d(width, 2 * _TAPS, 3, padding=1)
        self.deform = DeformConv2d(width, width, 3, padding=1)
        self.tell = nn.Sequential(nn.Linear(STATISTICS, told), nn.GELU(), nn.Dropout(0.3))
        self.join = nn.Sequential(nn.Linear(2 * width + told, 2 * width), nn.GELU(), nn.Dropout(0.1))
        self.logits = nn.Linear(2 * width, len(WIDTHS) * len(RATINGS) * BINS)
        self.weigh = nn.Linear(2 * width, 1)
        self.register_buffer("support", torch.linspace(-2, 2, BINS))
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.logits.weight)

    def see(self, tokens: Tensor, statistics: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the mean of the distributions, and them: (n, widths, 7, bins)."""
        local = self.convolve(tokens[:, self.fine])
        x = self.embed(tokens[:, self.coarse])
        x = self.blocks(x.flatten(2).transpose(1, 2) + self.position)
        guide = x.transpose(1, 2).reshape(local.shape)
        offsets = _REACH * torch.tanh(self.offsets(guide)) if self.align else torch.zeros_like(self.offsets(guide))
        aligned = self.deform(local, offsets)
        told = self.tell(statistics)[:, None].expand(-1, _SIDE * _SIDE, -1)
        joined = self.join(torch.cat([x, aligned.flatten(2).transpose(1, 2), told], 2))
        weight = torch.sigmoid(self.weigh(joined))[..., None, None]
        shares = self.logits(joined).reshape(*joined.shape[:2], len(WIDTHS), len(RATINGS), BINS).softmax(-1)
        distributions = (shares * weight).sum(1) / weight.sum(1)
        return (distributions * self.support).sum(-1).mean(1), distributions


def build(**options: int | bool) -> MdIqaCt:
    """Return the untrained network; options are arguments of `MdIqaCt`."""
    return MdIqaCt(**options)  # type: ignore[arg-type]
