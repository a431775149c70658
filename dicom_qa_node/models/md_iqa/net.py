"""MD-IQA: ViT and ConvNeXt, aligned by deformable convolution, predict score distributions per patch (torch, timm).

Song et al., MD-IQA, ISBI 2024 (arXiv 2311.08024) publish an abstract and no code; layers, scales and widths here are
our reconstruction: offsets from the ViT map steer a deformable convolution of each ConvNeXt stage (as AHIQ, CVPRW
2022), a patch-weighted head (as MANIQA, CVPRW 2022) predicts the distribution of the score at several Gaussian widths.
Licence: Apache-2.0; the backbones are timm's (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import DeformConv2d

from dicom_qa_node.models.layers import Evidence, Namer, Outputs

__all__ = ["MdIqa", "MdIqaConfig", "build"]

_KERNEL = 3
_STEM = 64
_SMALL_CONVNEXT = (32, 64, 128)


@dataclass(frozen=True)
class MdIqaConfig:
    """Sizes of one variant.

    ``taps`` are the ViT blocks used. ``vit`` and ``convnext`` are timm names, or "" for small ones that look at the
    evidence stem (``evidence``) or at the picture. ``bins`` support points between 0 and 4; 21 are the 0.2 steps of a
    mean of five readers. ``widths`` are the SD of the Gaussian targets, one distribution each; 0.25 is the spread
    within a cell of PET-CT-IQA-DS.
    """

    vit: str
    taps: tuple[int, ...]
    convnext: str
    width: int
    evidence: bool = False
    told: int = 64
    bins: int = 21
    widths: tuple[float, ...] = (0.1, 0.25, 0.5)


VARIANTS = {
    "paper": MdIqaConfig("vit_base_patch8_224", (6, 7, 8, 9), "convnext_tiny", 256),
    "small": MdIqaConfig("", (0, 1, 2, 3), "", 96, evidence=True),
}


class Align(nn.Module):
    """Deformable convolution (Dai et al. 2017) of a ConvNeXt stage, its offsets read from the ViT map."""

    def __init__(self, guide: int, channels: int, width: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(guide, 2 * _KERNEL**2, 3, padding=1)
        self.convolve = DeformConv2d(channels, width, _KERNEL, padding=1)
        nn.init.normal_(self.offset.weight, std=1e-3)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, guide: Tensor, stage: Tensor) -> Tensor:
        """Return the aligned stage at the guide's resolution, (n, width, rows, columns)."""
        near = functional.interpolate(guide, size=stage.shape[-2:], mode="bilinear", align_corners=False)
        aligned: Tensor = self.convolve(stage, self.offset(near))
        size = (guide.shape[2], guide.shape[3])
        if stage.shape[2] >= guide.shape[2]:
            return functional.adaptive_avg_pool2d(functional.relu(aligned), size)
        return functional.interpolate(functional.relu(aligned), size=size, mode="bilinear", align_corners=False)


class MdIqa(nn.Module):
    """Two branches, aligned -> per patch a weight and a distribution for every width -> their weighted mean."""

    timm_backbones: ClassVar[dict[str, str]] = {
        "vit": "vit_base_patch8_224.augreg2_in21k_ft_in1k",
        "convnext": "convnext_tiny.fb_in1k",
    }
    support: Tensor

    def __init__(self, config: MdIqaConfig) -> None:
        super().__init__()
        self.config = config
        self.evidence = Evidence(_STEM, config.told) if config.evidence else None
        self.vit: Any = _vit(config)
        self.convnext: Any = _convnext(config)
        channels = [info["num_chs"] for info in self.convnext.feature_info]
        width = config.width
        self.squeeze = nn.Conv2d(self.vit.embed_dim * len(config.taps), width, 1)
        self.align = nn.ModuleList(Align(width, c, width) for c in channels)
        self.mix = nn.Sequential(nn.Conv2d((1 + len(channels)) * width, width, 1), nn.GELU())
        described = width + (config.told if config.evidence else 0)
        self.namer = Namer(described, config.told)
        headed = described + config.told
        self.distribution_branch = _head(headed, width, len(config.widths) * config.bins)
        self.weight_branch = _head(headed, width, 1)
        self.register_buffer("support", torch.linspace(0.0, 4.0, config.bins), persistent=False)

    @property
    def widths(self) -> tuple[float, ...]:
        """SD of the Gaussian target of every distribution, on the 0-4 scale."""
        return self.config.widths

    def forward(self, rgb: Tensor) -> Outputs:
        """Judge pictures of display values in [0, 1], shape (n, 3, side, side).

        The score is the mean of the distributions' means, the spread the root of the mean of their variances.
        """
        mixed, told = self._mixed(rgb)
        pooled = torch.cat([mixed.mean((2, 3)), *told], 1)
        levels, named = self.namer(pooled)
        context = torch.cat([*told, named], 1)[:, :, None, None].expand(-1, -1, *mixed.shape[2:])
        patches = torch.cat([mixed, context], 1)
        weights = torch.sigmoid(self.weight_branch(patches)).flatten(2)
        logits = self.distribution_branch(patches).flatten(2).unflatten(1, (len(self.widths), self.config.bins))
        each = torch.softmax(logits, dim=2)
        distributions = (each * weights[:, None]).sum(-1) / weights.sum(-1, keepdim=True)
        means = (distributions * self.support).sum(-1)
        variance = (distributions * (self.support - means[..., None]).square()).sum(-1)
        spread = variance.mean(1).clamp_min(1e-6).sqrt()
        return Outputs(means.mean(1), weights.mean((1, 2)), spread, levels, pooled, distributions)

    def observe(self, pictures: Tensor) -> None:
        """Take the spread of the evidence from training pictures, once, before training."""
        if self.evidence is not None:
            self.evidence.observe(pictures)

    def _mixed(self, rgb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the aligned branches, (n, width, rows, columns), and what the evidence says, [(n, told)] or []."""
        x, told = rgb * 2 - 1, []
        if self.evidence is not None:
            x, said = self.evidence(rgb)
            told.append(said)
        taken = self.vit.forward_intermediates(x, indices=list(self.config.taps), norm=False, intermediates_only=True)
        guide = self.squeeze(torch.cat(taken, 1))
        stages = self.convnext.forward_intermediates(x, intermediates_only=True)
        aligned = [align(guide, stage) for align, stage in zip(self.align, stages, strict=True)]
        return self.mix(torch.cat([guide, *aligned], 1)), told


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, outputs, 1))


def _vit(config: MdIqaConfig) -> Any:
    if config.vit:
        vit: Any = timm.create_model(config.vit, pretrained=False, num_classes=0)
    else:
        vit = VisionTransformer(
            img_size=32 if config.evidence else 256,
            patch_size=2 if config.evidence else 16,
            in_chans=_STEM if config.evidence else 3,
            embed_dim=192,
            depth=max(config.taps) + 1,
            num_heads=6,
            num_classes=0,
        )
    # what lies behind the last tap would never learn
    del vit.blocks[max(config.taps) + 1 :]
    vit.norm = nn.Identity()
    return vit


def _convnext(config: MdIqaConfig) -> Any:
    if config.convnext:
        net: Any = timm.create_model(config.convnext, pretrained=False, num_classes=0)
    else:
        net = ConvNeXt(
            in_chans=_STEM if config.evidence else 3,
            num_classes=0,
            patch_size=1 if config.evidence else 4,
            depths=(1, 2, 2, 1),
            dims=(*_SMALL_CONVNEXT, 8),
        )
    # the deepest stage is coarser than the patches that are judged
    del net.stages[3:], net.feature_info[3:], net.head, net.norm_pre
    return net


def build(variant: str, **options: Any) -> MdIqa:
    """Return the untrained network of a variant, ``paper`` or ``small``; options are fields of `MdIqaConfig`."""
    return MdIqa(replace(VARIANTS[variant], **options))
