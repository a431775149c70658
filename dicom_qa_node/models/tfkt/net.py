"""TFKT: an EfficientNetV2 describes the picture, a connector folds the description into a plane, a Swin V2 reads it.

Re-stated from Rifa et al., TFKT V2, J Med Imaging 12(5):051805, 2025, doi 10.1117/1.JMI.12.5.051805. The published code
replaces none of its Swin blocks by a KAN, so what was measured there is EfficientNetV2-L -> Linear(1280, 4096) ->
64 x 64 -> SwinV2-B, and that is built here. Licence: Apache-2.0; the backbones are timm's (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import timm
import torch
from timm.layers.norm_act import GroupNormAct
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from dicom_qa_node.models.layers import Evidence, Namer, Outputs, luma_of, positive

__all__ = ["Tfkt", "TfktConfig", "build"]


@dataclass(frozen=True)
class TfktConfig:
    """Sizes of one variant.

    ``encoder`` is a timm name, or "" for the small encoder of `_small_encoder`, whose input is the evidence stem
    (``evidence``) or the picture. ``plane`` is the side of the connector's plane, ``patch`` and ``window`` those
    of Swin V2 in pixels and tokens.
    """

    encoder: str
    plane: int
    patch: int
    window: int
    swin_dim: int
    swin_depths: tuple[int, int, int, int]
    swin_heads: tuple[int, int, int, int]
    evidence: bool = False
    told: int = 128


VARIANTS = {
    "paper": TfktConfig("tf_efficientnetv2_l", 64, 4, 8, 128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "small": TfktConfig("", 32, 2, 4, 32, (2, 2, 2, 2), (2, 4, 8, 16), evidence=True),
}

_STEM = 64
_FIRST_GAIN = 0.1
_PLANE_GAIN = 4.0
_FEATURES = 512
_TO_STRIDE_8 = [["cn_r1_k3_s2_e1_c32_skip"], ["er_r1_k3_s2_e4_c64"]]
_BLOCKS = [["er_r2_k3_s1_e4_c64"], ["ir_r2_k3_s2_e4_c128_se0.25"], ["ir_r2_k3_s1_e4_c160_se0.25"]]


class Tfkt(nn.Module):
    """Picture -> EfficientNetV2 (F) -> connector plane (C) -> Swin V2 -> score.

    The connector is told the named degradations as well, which are an auxiliary task of the encoder.
    """

    timm_backbones: ClassVar[dict[str, str]] = {
        "encoder": "tf_efficientnetv2_l.in21k_ft_in1k",
        "reader": "swinv2_base_window8_256.ms_in1k",
    }
    """Weights that a site with network access may start the paper's size from."""

    def __init__(self, config: TfktConfig) -> None:
        super().__init__()
        self.config = config
        self.evidence = Evidence(_STEM, config.told) if config.evidence else None
        self.encoder: Any = _encoder(config)
        described = self.encoder.num_features + (config.told if config.evidence else 0)
        self.namer = Namer(described, config.told)
        self.connector = nn.Linear(described + config.told, config.plane**2)
        self.reader: Any = SwinTransformerV2(
            img_size=config.plane,
            patch_size=config.patch,
            in_chans=1,
            embed_dim=config.swin_dim,
            depths=config.swin_depths,
            num_heads=config.swin_heads,
            window_size=config.window,
            drop_path_rate=0.0,
            num_classes=1,
        )
        self.spread_branch = nn.Linear(described, 1)
        # a plane of small values is blown up by the reader's first norm, and so is every step of the connector
        nn.init.normal_(self.connector.weight, std=_PLANE_GAIN * self.connector.in_features**-0.5)
        # a spread of one score unit for every picture: a small one at the start drowns the other losses
        nn.init.zeros_(self.spread_branch.weight)
        nn.init.constant_(self.spread_branch.bias, 0.5)
        nn.init.constant_(self.reader.head.fc.bias, 2.0)
        # timm starts these at zero, which hides the blocks behind them from the first steps
        for name, value in self.reader.named_parameters():
            if name.endswith(("norm1.weight", "norm2.weight")):
                nn.init.constant_(value, _FIRST_GAIN)

    def forward(self, rgb: Tensor) -> Outputs:
        """Judge pictures of display values in [0, 1], shape (n, 3, rows, columns), sides multiples of 32.

        The paper's size looks at their luma only, as published.
        """
        described = self._describe(rgb)
        levels, named = self.namer(described)
        plane = self.connector(torch.cat([described, named], 1)).reshape(-1, 1, self.config.plane, self.config.plane)
        score = self.reader(plane)[:, 0]
        spread = positive(self.spread_branch(described.detach()))[:, 0]
        return Outputs(score, torch.ones_like(score), spread, levels, described)

    def observe(self, pictures: Tensor) -> None:
        """Take the spread of the evidence from training pictures, once, before training."""
        if self.evidence is not None:
            self.evidence.observe(pictures)

    def _describe(self, rgb: Tensor) -> Tensor:
        """Return (n, described)."""
        if self.evidence is not None:
            x, told = self.evidence(rgb)
            return torch.cat([self.encoder(x), told], 1)
        described: Tensor = self.encoder((luma_of(rgb) if self.config.encoder else rgb) * 2 - 1)
        return described


def _encoder(config: TfktConfig) -> Any:
    if config.encoder:
        return timm.create_model(config.encoder, pretrained=False, in_chans=1, num_classes=0)
    return _small_encoder(config.evidence)


def _small_encoder(after_stem: bool) -> EfficientNet:
    """EfficientNetV2 blocks with group normalisation; behind the evidence stem (stride 8), or from the picture."""
    blocks = _BLOCKS if after_stem else _TO_STRIDE_8 + _BLOCKS
    return EfficientNet(
        block_args=decode_arch_def(blocks),  # type: ignore[no-untyped-call]
        num_classes=0,
        num_features=_FEATURES,
        in_chans=_STEM if after_stem else 3,
        stem_size=_STEM if after_stem else 24,
        act_layer=nn.SiLU,
        norm_layer=partial(GroupNormAct, num_groups=8),
    )


def build(variant: str, **options: Any) -> Tfkt:
    """Return the untrained network of a variant, ``paper`` or ``small``; options are fields of `TfktConfig`."""
    return Tfkt(replace(VARIANTS[variant], **options))
