"""TFKT in small form on the shared encoder: photographs first, then a connector to a plane that a Swin reads (torch,
timm).

Phase 1 learns the scores of photographs through adapter, connector and Swin; phase 2 goes on with the ratings of CT.
The connector folds the encoder's maps into one plane, as published.
"""

from __future__ import annotations

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from dicom_qa_node.models.ct_network import TOKEN_CHANNELS, CtNetwork
from dicom_qa_node.models.ct_ratings import RATINGS
from dicom_qa_node.models.image_features import STATISTICS

__all__ = ["TfktCt", "build"]

_PLANE = 16
_PATCH = 4
_SIDE = _PLANE // _PATCH
_HEADS = 4


class TfktCt(CtNetwork):
    """Adapter of the encoder's grid -> connector -> plane of 16 x 16 -> Swin -> ratings."""

    def __init__(self, width: int = 48, told: int = 48) -> None:
        super().__init__()
        self.adapt = nn.Sequential(
            nn.Conv2d(TOKEN_CHANNELS, width, 1), nn.GELU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU()
        )
        self.connect = nn.Linear(width * (1 + _SIDE * _SIDE // 4), _PLANE * _PLANE)
        self.patches = nn.Conv2d(1, width, _PATCH, stride=_PATCH)
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(width, (_SIDE, _SIDE), _HEADS, window_size=2, shift_size=shift)
                for shift in (0, 1, 0, 1)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.photographs = nn.Linear(width, 1)
        self.tell = nn.Sequential(nn.Linear(STATISTICS, told), nn.GELU(), nn.Dropout(0.3))
        self.rate = nn.Sequential(nn.Linear(width + told, width), nn.GELU(), nn.Linear(width, len(RATINGS)))
        nn.init.zeros_(self.rate[-1].weight)  # type: ignore[arg-type]

    def plane(self, tokens: Tensor) -> Tensor:
        """Return what Swin makes of the connector's plane, (n, width)."""
        x = self.adapt(tokens)
        pooled = torch.cat([x.mean(dim=(2, 3))[:, :, None], nn.functional.avg_pool2d(x, 2).flatten(2)], 2)
        plane = self.connect(pooled.flatten(1)).reshape(-1, 1, _PLANE, _PLANE)
        tokens = self.blocks(self.patches(plane).permute(0, 2, 3, 1))
        result: Tensor = self.norm(tokens.mean(dim=(1, 2)))
        return result

    def photograph(self, tokens: Tensor) -> Tensor:
        """Return the score (n,) of photographs, standardised: the task of phase 1."""
        result: Tensor = self.photographs(self.plane(tokens))[:, 0]
        return result

    def see(self, tokens: Tensor, statistics: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the ratings read from the plane and the statistics."""
        return self.rate(torch.cat([self.plane(tokens), self.tell(statistics)], 1)), None


def build(**options: int) -> TfktCt:
    """Return the untrained network; options are arguments of `TfktCt`."""
    return TfktCt(**options)
