"""EfficientNet-Lite0 as a shared encoder: the maps of its stem and seven stages (torch, timm).

The network is timm's ``tf_efficientnet_lite0`` without its classifier; the weights are those of ImageNet, see the card.
It is frozen: the heads of the four methods read what it sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dicom_qa_node.models import weights

__all__ = ["STAGE_CHANNELS", "STAGE_STRIDES", "Encoder", "build", "open_encoder"]

STAGE_CHANNELS = (32, 16, 24, 40, 80, 112, 192, 320)
"""Channels of the stem and of the seven stages."""

STAGE_STRIDES = (2, 2, 4, 8, 16, 16, 32, 32)
"""Pixels of the input per pixel of each map."""


class Encoder(nn.Module):
    """Stem and seven stages of EfficientNet-Lite0; in evaluation mode its batch norms are constants."""

    def __init__(self) -> None:
        super().__init__()
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Return the eight maps of pictures (n, 3, rows, columns) of display values in [0, 1]."""
        x = self.bn1(self.conv_stem(rgb * 2 - 1))
        maps = [x]
        for stage in self.blocks:
            x = stage(x)
            maps.append(x)
        return maps


def build(variant: str = "lite0", **_: Any) -> Encoder:
    """Return the encoder with untrained weights."""
    if variant != "lite0":
        raise ValueError(f"the encoder has no variant {variant!r}")
    return Encoder().eval()


def open_encoder(card: Any, weights_dir: Path | None = None) -> Encoder:
    """Return the frozen encoder with its verified weights, channels last.

    Raises
    ------
    Misconfigured
        The weights are missing, or are not those of the card.
    """
    encoder = Encoder()
    weights.load(encoder, card, weights_dir)
    return encoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)
