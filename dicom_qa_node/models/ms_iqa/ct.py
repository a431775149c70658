"""MS-IQA in small form on the shared encoder: four scales, a convolution and a Swin block each, fused by AGCA (torch,
timm).

As in `net`: both branches of a scale are joined, halved and re-weighted by graph channel attention; all four make the
weight branch, Swin at the coarsest scale makes the score branch, and what is added is their product.
"""

from __future__ import annotations

from typing import Literal

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

from dicom_qa_node.models.ct_network import SCALES, CtNetwork, GridProjection
from dicom_qa_node.models.ct_ratings import RATINGS
from dicom_qa_node.models.image_features import STATISTICS
from dicom_qa_node.models.layers import AGCA

__all__ = ["MsIqaCt", "build"]

_SIDE = 4
_WINDOW = 2
_HEADS = 4


class _Scale(nn.Module):
    """One scale: a convolution branch and a Swin branch of the same tokens, at 4 x 4 places."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GroupNorm(8, width),
        )
        self.embed = nn.Conv2d(channels, width, 2, stride=2)
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(width, (_SIDE, _SIDE), _HEADS, window_size=_WINDOW, shift_size=shift)
                for shift in (0, _WINDOW // 2)
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches' maps (n, width, 4, 4)."""
        windowed = self.blocks(self.embed(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return functional.gelu(self.convolve(x)), windowed


class MsIqaCt(CtNetwork):
    """What is added = score branch x weight branch, for each rating.

    ``fusion`` "off" leaves the weight branch and the three finer scales out, as the published code does.
    """

    def __init__(self, width: int = 48, told: int = 48, fusion: Literal["product", "off"] = "product") -> None:
        super().__init__()
        if fusion not in ("product", "off"):
            raise ValueError(f"fusion must be product or off, not {fusion}")
        self.fusion = fusion
        self.places = [GridProjection.channels_of(scale) for scale in range(len(SCALES))]
        self.scales = nn.ModuleList(_Scale(len(channels), width) for channels in self.places)
        self.halve = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in SCALES)
        self.attend = nn.ModuleList(AGCA(width) for _ in SCALES)
        self.attend_swin = AGCA(width)
        self.tell = nn.Sequential(nn.Linear(STATISTICS, told), nn.GELU(), nn.Dropout(0.3))
        self.weigh = nn.Sequential(
            nn.Linear(2 * width * len(SCALES) + told, width), nn.GELU(), nn.Linear(width, len(RATINGS))
        )
        self.score = nn.Sequential(nn.Linear(2 * width + told, width), nn.GELU(), nn.Linear(width, len(RATINGS)))
        nn.init.zeros_(self.score[-1].weight)  # type: ignore[arg-type]

    def see(self, tokens: Tensor, statistics: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return score branch times weight branch."""
        maps, deepest = [], tokens
        for channels, scale, halve, attend in zip(self.places, self.scales, self.halve, self.attend, strict=True):
            convolved, windowed = scale(tokens[:, channels])
            maps.append(attend(halve(torch.cat([convolved, windowed], 1))))
            deepest = windowed
        told = self.tell(statistics)
        score = self.score(torch.cat([_mean_and_max(self.attend_swin(deepest)), told], 1))
        if self.fusion == "off":
            return score, None
        weight = torch.sigmoid(self.weigh(torch.cat([_mean_and_max(torch.cat(maps, 1)), told], 1)))
        return score * weight, None


def _mean_and_max(x: Tensor) -> Tensor:
    return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], 1)


def build(**options: int | str) -> MsIqaCt:
    """Return the untrained network; options are arguments of `MsIqaCt`."""
    return MsIqaCt(**options)  # type: ignore[arg-type]
