"""MedIQA: MANIQA told by prompts what it looks at (torch, timm).

Re-stated from Xun et al., MedIQA, arXiv 2507.19004, whose backbone is MANIQA (Yang et al., CVPRW 2022, arXiv
2204.08958, Apache-2.0). The published prompt is one number out of 64; here each factor of the DICOM header has its own
table (`models.text_prompt`) with an entry for "unknown", which prompt dropout trains. Licence: Apache-2.0; the backbone
is timm's (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from dicom_qa_node.models.layers import LEVELS, Evidence, Namer, Outputs, positive
from dicom_qa_node.models.text_prompt import FACTORS

__all__ = ["PHYSICAL", "MedIqa", "MedIqaConfig", "build"]

PHYSICAL = (*LEVELS, "thickness")
"""What the upstream stage regresses; see ``training/pool.py`` for the units."""

_STEM = 64
_EMBEDDING = 128


@dataclass(frozen=True)
class MedIqaConfig:
    """Sizes of one variant.

    ``taps`` are the transformer blocks whose tokens are used, ``tokens`` the side of their grid, ``widths`` the
    channels of the two Swin stages. ``backbone`` is a timm name, or "" for a small ViT that looks at the evidence stem
    (``evidence``) or at the picture. ``prompts`` off gives every picture the unknown prompt.
    """

    backbone: str
    tokens: int
    taps: tuple[int, ...]
    widths: tuple[int, int]
    mlp: tuple[int, int]
    evidence: bool = False
    heads: int = 4
    prompts: bool = True
    prompt_dropout: float = 0.3


VARIANTS = {
    "paper": MedIqaConfig("vit_base_patch8_224", 28, (6, 7, 8, 9), (768, 384), (768, 768)),
    "small": MedIqaConfig("", 16, (0, 1, 2, 3), (128, 64), (128, 128), evidence=True),
}


class ChannelAttention(nn.Module):
    """Transposed attention block (TAB) of MANIQA: channels attend to channels, along the tokens.

    MANIQA scrambles the layout of the result by a reshape after a transpose, which all its forks keep; here the
    channels stay where they were.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(tokens, tokens) for _ in range(3))
        self.scale = tokens**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Add to ``x`` (n, channels, tokens) what its channels say about each other."""
        attention = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) * self.scale, dim=-1)
        return functional.dropout(attention @ self.value(x), 0.1, self.training) + x


class PromptedSwin(nn.Module):
    """MANIQA's scale Swin block (SSTB) with MedIQA's prompt: ``x <- 0.8 layer(x) + x + prompt``, twice."""

    def __init__(self, width: int, tokens: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(*(_swin_block(width, tokens, heads, mlp, shift) for shift in (0, 2))) for _ in range(2)
        )
        self.mix = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Map (n, width, rows, columns); ``prompt`` is (n, width)."""
        for layer, mix in zip(self.layers, self.mix, strict=True):
            seen = functional.relu(mix(layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
            x = 0.8 * seen + x + prompt[:, :, None, None]
        return x


class MedIqa(nn.Module):
    """ViT tokens -> channel attention -> prompted Swin, twice -> patch scores weighted by patch weights."""

    timm_backbones: ClassVar[dict[str, str]] = {"backbone": "vit_base_patch8_224.augreg2_in21k_ft_in1k"}

    def __init__(self, config: MedIqaConfig) -> None:
        super().__init__()
        self.config = config
        self.evidence = Evidence(_STEM, _EMBEDDING) if config.evidence else None
        self.backbone: Any = _backbone(config)
        tokens = config.tokens**2
        wide, narrow = config.widths
        taken = self.backbone.embed_dim * len(config.taps)
        self.attend = nn.ModuleList(nn.Sequential(*(ChannelAttention(tokens) for _ in range(2))) for _ in range(2))
        self.squeeze = nn.ModuleList([nn.Conv2d(taken, wide, 1), nn.Conv2d(wide, narrow, 1)])
        self.swin = nn.ModuleList(
            PromptedSwin(width, config.tokens, config.heads, mlp)
            for width, mlp in zip(config.widths, config.mlp, strict=True)
        )
        self.prompts = nn.ModuleList(nn.Embedding(len(names) + 1, _EMBEDDING) for names in FACTORS.values())
        self.tell = nn.ModuleList(nn.Linear(_EMBEDDING, width) for width in config.widths)
        described = narrow + (_EMBEDDING if config.evidence else 0)
        self.namer = Namer(described, narrow, len(PHYSICAL))
        self.score_branch = _patch_head(2 * narrow, narrow)
        self.weight_branch = _patch_head(2 * narrow, narrow)
        self.spread_branch = nn.Linear(described, 1)
        nn.init.constant_(self.score_branch[-1].bias, 2.0)  # type: ignore[arg-type]
        # a spread of one score unit for every picture: a small one at the start drowns the other losses
        nn.init.zeros_(self.spread_branch.weight)
        nn.init.constant_(self.spread_branch.bias, 0.5)

    def forward(self, rgb: Tensor, prompt: Tensor | None = None) -> Outputs:
        """Judge pictures of display values in [0, 1], shape (n, 3, side, side).

        Parameters
        ----------
        prompt
            Index of each of `FACTORS`, shape (n, factors), int64, 0 for unknown; without it everything is unknown.
        """
        told = self._prompt(prompt, rgb)
        x, said = rgb * 2 - 1, []
        if self.evidence is not None:
            x, statistics = self.evidence(rgb)
            said.append(statistics)
            told = told + statistics
        patches = self._patches(x, told)
        pooled = torch.cat([patches.mean(1), *said], 1)
        levels, named = self.namer(pooled)
        context = torch.cat([patches, named[:, None].expand(-1, patches.shape[1], -1)], 2)
        values, weights = self.score_branch(context)[..., 0], torch.sigmoid(self.weight_branch(context)[..., 0])
        score = (values * weights).sum(1) / weights.sum(1)
        spread = positive(self.spread_branch(pooled.detach()))[:, 0]
        return Outputs(score, weights.mean(1), spread, levels, pooled)

    def observe(self, pictures: Tensor) -> None:
        """Take the spread of the evidence from training pictures, once, before training."""
        if self.evidence is not None:
            self.evidence.observe(pictures)

    def _patches(self, x: Tensor, told: Tensor) -> Tensor:
        """Return the features of the patches, shape (n, patches, narrow)."""
        taps = list(self.config.taps)
        x = torch.cat(self.backbone.forward_intermediates(x, indices=taps, norm=False, intermediates_only=True), 1)
        for attend, squeeze, swin, tell in zip(self.attend, self.squeeze, self.swin, self.tell, strict=True):
            x = attend(x.flatten(2)).reshape(x.shape)
            x = swin(squeeze(x), tell(told))
        return x.flatten(2).transpose(1, 2)

    def _prompt(self, prompt: Tensor | None, rgb: Tensor) -> Tensor:
        """Return the sum of the factors' entries, (n, embedding); while training some are forgotten at random."""
        if prompt is None or not self.config.prompts:
            prompt = torch.zeros(len(rgb), len(FACTORS), dtype=torch.long, device=rgb.device)
        if self.training:
            prompt = prompt * (torch.rand(prompt.shape, device=prompt.device) >= self.config.prompt_dropout)
        return torch.stack([table(prompt[:, index]) for index, table in enumerate(self.prompts)]).sum(0)


def _swin_block(width: int, tokens: int, heads: int, mlp: int, shift: int) -> SwinTransformerBlock:
    return SwinTransformerBlock(width, (tokens, tokens), heads, window_size=4, shift_size=shift, mlp_ratio=mlp / width)


def _patch_head(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 1))


def _backbone(config: MedIqaConfig) -> Any:
    if config.backbone:
        vit: Any = timm.create_model(config.backbone, pretrained=False, num_classes=0)
    else:
        vit = VisionTransformer(
            img_size=32 if config.evidence else 16 * config.tokens,
            patch_size=2 if config.evidence else 16,
            in_chans=_STEM if config.evidence else 3,
            embed_dim=128,
            depth=max(config.taps) + 1,
            num_heads=4,
            num_classes=0,
        )
    # what lies behind the last tap would never learn
    del vit.blocks[max(config.taps) + 1 :]
    vit.norm = nn.Identity()
    return vit


def build(variant: str, **options: Any) -> MedIqa:
    """Return the untrained network of a variant, ``paper`` or ``small``; options are fields of `MedIqaConfig`."""
    return MedIqa(replace(VARIANTS[variant], **options))
