"""MedIQA in small form on the shared encoder: MANIQA with prompts from the header (torch, timm).

Attention over channels, then two Swin blocks per stage, each told the prompt (``x = 0.8 layer(x) + x + prompt``), then
a score and a weight for every place. Upstream it learns the physical parameters (dose, views, blur), downstream all
ratings.
"""

from __future__ import annotations

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from dicom_qa_node.models.ct_network import TOKEN_CHANNELS, CtNetwork
from dicom_qa_node.models.ct_ratings import RATINGS
from dicom_qa_node.models.image_features import STATISTICS
from dicom_qa_node.models.text_prompt import FACTORS

__all__ = ["MedIqaCt", "build"]

_SIDE = 4
_DAMPED = 0.8


class _ChannelAttention(nn.Module):
    """Transposed attention: channels attend to channels over all places (MANIQA's TAB)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within (n, places, width)."""
        query, key, value = self.query_key_value(self.norm(x)).chunk(3, 2)
        attention = (query.transpose(1, 2) @ key / query.shape[1] ** 0.5).softmax(-1)
        result: Tensor = x + self.project((attention @ value.transpose(1, 2)).transpose(1, 2))
        return result


class MedIqaCt(CtNetwork):
    """MANIQA with prompts; ``prompts`` off tells it nothing of the header."""

    def __init__(self, width: int = 48, told: int = 48, prompts: bool = True) -> None:
        super().__init__()
        self.prompted = prompts
        self.embed = nn.Conv2d(TOKEN_CHANNELS, width, 2, stride=2)
        self.channels = nn.Sequential(_ChannelAttention(width), _ChannelAttention(width))
        self.tables = nn.ModuleList(nn.Embedding(len(names) + 1, width) for names in FACTORS.values())
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(width, (_SIDE, _SIDE), 4, window_size=2, shift_size=shift) for shift in (0, 1, 0, 1)
        )
        self.tell = nn.Sequential(nn.Linear(STATISTICS, told), nn.GELU(), nn.Dropout(0.3))
        self.score = nn.Sequential(nn.Linear(width + told, width), nn.GELU(), nn.Linear(width, len(RATINGS)))
        self.weigh = nn.Sequential(
            nn.Linear(width + told, width), nn.GELU(), nn.Linear(width, len(RATINGS)), nn.Sigmoid()
        )
        nn.init.zeros_(self.score[-1].weight)  # type: ignore[arg-type]
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.02)  # type: ignore[arg-type]

    def see(self, tokens: Tensor, statistics: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the places' scores, weighted by the places' weights."""
        x = self.channels(self.embed(tokens).flatten(2).transpose(1, 2))
        codes = (
            torch.zeros(x.shape[0], len(FACTORS), dtype=torch.long) if prompts is None or not self.prompted else prompts
        )
        info = torch.stack([table(codes[:, i]) for i, table in enumerate(self.tables)]).sum(0)[:, None, None]
        x = x.reshape(x.shape[0], _SIDE, _SIDE, -1)
        for block in self.blocks:
            x = _DAMPED * block(x) + x + info
        x = x.flatten(1, 2)
        x = torch.cat(
            [
                x / (x.pow(2).mean(2, keepdim=True).sqrt() + 1e-3),
                self.tell(statistics)[:, None].expand(-1, x.shape[1], -1),
            ],
            2,
        )
        score, weight = self.score(x), self.weigh(x)
        return (score * weight).sum(1) / weight.sum(1), None


def build(**options: int | bool) -> MedIqaCt:
    """Return the untrained network; options are arguments of `MedIqaCt`."""
    return MedIqaCt(**options)  # type: ignore[arg-type]
