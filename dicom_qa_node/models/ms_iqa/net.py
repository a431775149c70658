"""MS-IQA: multi-scale features of a ResNet and a Swin transformer, fused by graph channel attention (torch, timm).

Re-stated from the figure of Li et al., "MS-IQA", MICCAI 2025 (arXiv 2506.20200). The published code divides
sum(score * weight) by sum(weight) with one value each, which cancels the fusion branch; here the two branches
are really multiplied, so that every parameter learns. Licence: Apache-2.0; the backbones are timm's (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from timm.layers.norm import GroupNorm
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional

from dicom_qa_node.models.layers import AGCA, LEVELS, EvidenceStem, Outputs, Statistics, positive

__all__ = ["LEVELS", "MsIqa", "MsIqaConfig", "Outputs", "build"]

Fusion = Literal["product", "patches", "off"]
CELLS = 27
PHYSICAL = LEVELS[3:]
CURVE_STEP = 0.25
CURVE_POINTS = 17
_COLOUR = 0.02


@dataclass(frozen=True)
class MsIqaConfig:
    """Sizes of one variant.

    ``evidence_stem`` replaces both backbones' stems by one stride-8 stem with fixed evidence maps; without it
    the backbones keep their own stride-4 stems, as in the paper. ``window`` is Swin's window in tokens.
    ``fusion`` is the product of the two branches; ``patches`` weighs the score of every patch by its own weight
    (as MANIQA); ``off`` leaves the score branch alone with Swin stage 4, which is what the published code computes.
    """

    picture: int
    bottleneck: bool
    resnet_blocks: tuple[int, int, int, int]
    resnet_channels: tuple[int, int, int, int]
    swin_dim: int
    swin_depths: tuple[int, int, int, int]
    swin_heads: tuple[int, int, int, int]
    window: int
    evidence_stem: int = 0
    group_norm: bool = True
    dropout: float = 0.1
    fusion: Fusion = "product"
    coded: bool = False
    """Mix the branches' score with the worth of the degradations that the network names, see `CodedScore`."""


VARIANTS = {
    "paper": MsIqaConfig(
        picture=224,
        bottleneck=True,
        resnet_blocks=(3, 4, 6, 3),
        resnet_channels=(64, 128, 256, 512),
        swin_dim=96,
        swin_depths=(2, 2, 6, 2),
        swin_heads=(3, 6, 12, 24),
        window=7,
        group_norm=False,
        dropout=0.5,
    ),
    "small": MsIqaConfig(
        picture=256,
        bottleneck=False,
        resnet_blocks=(1, 1, 1, 1),
        resnet_channels=(32, 64, 128, 256),
        swin_dim=32,
        swin_depths=(2, 2, 2, 2),
        swin_heads=(2, 4, 8, 16),
        window=4,
        evidence_stem=64,
    ),
}


def _group_norm(channels: int, **kwargs: Any) -> nn.Module:
    norm: nn.Module = GroupNorm(channels, num_groups=8, **kwargs)
    return norm


class CodedScore(nn.Module):
    """The worth of what the network names: the display cell it sees, times the shares of the physical severities.

    A fused picture is worth the expected score over the 27 cells of (jpeg, gauss, impulse), a grey one the
    routine score; either is multiplied by one share per physical level (dose, views, blur, counts), read from a
    curve. Cells and curves are measured or set by the training, once, and travel with the weights.
    """

    cells: Tensor
    shares: Tensor
    step = CURVE_STEP

    def __init__(self, described: int) -> None:
        super().__init__()
        self.name_cell = nn.Linear(described, CELLS)
        self.register_buffer("cells", torch.full((CELLS,), 3.0))
        self.register_buffer("shares", torch.ones(len(PHYSICAL), CURVE_POINTS))
        self.register_buffer("routine", torch.tensor(3.7))

    @torch.no_grad()
    def take(self, cells: Tensor, shares: Tensor, routine: float) -> None:
        """Take cell means (27,), curves (4, `CURVE_POINTS`) over levels `CURVE_STEP` apart, and the routine score."""
        self.cells.copy_(cells.reshape(CELLS))
        self.shares.copy_(shares)
        self.get_buffer("routine").fill_(routine)

    def forward(self, described: Tensor, levels: Tensor, fused: Tensor) -> Tensor:
        """Return the coded score (n,) of features (n, f), levels (n, 7) and whether the picture is fused (n,)."""
        displayed = torch.softmax(self.name_cell(described), 1) @ self.cells
        start = torch.where(fused, displayed, self.get_buffer("routine"))
        return start * self._read(levels[:, -len(PHYSICAL) :]).prod(1)

    def _read(self, levels: Tensor) -> Tensor:
        """Read each level's share from its curve; below zero the first piece goes on, so that order is kept."""
        x = levels / CURVE_STEP
        left = x.detach().floor().clamp(0, CURVE_POINTS - 2).long()
        a, b = (torch.gather(self.shares.t(), 0, index) for index in (left, left + 1))
        return (a + (b - a) * (x - left)).clamp_min(0.02)


class MsIqa(nn.Module):
    """Score = score branch (Swin stage 4) x weight branch (all eight stages), both told the named degradations."""

    timm_backbones: ClassVar[dict[str, str]] = {
        "resnet": "resnet50.a1_in1k",
        "swin": "swin_tiny_patch4_window7_224.ms_in1k",
    }
    """Weights that a site with network access may start the paper's size from."""

    def __init__(self, config: MsIqaConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = EvidenceStem(config.evidence_stem) if config.evidence_stem else None
        self.resnet: Any = _resnet(config)
        self.swin: Any = _swin(config)
        swin_channels = [config.swin_dim * 2**i for i in range(4)]
        expansion = 4 if config.bottleneck else 1
        both = [c * expansion + s for c, s in zip(config.resnet_channels, swin_channels, strict=True)]
        self.halve = nn.ModuleList(nn.Conv2d(c, c // 2, 1) for c in both)
        self.attend = nn.ModuleList(AGCA(c // 2) for c in both)
        self.attend_swin = AGCA(swin_channels[3])
        fused, deep = sum(c // 2 for c in both), swin_channels[3]
        hidden = deep // 2
        self.statistics = Statistics(hidden, config.dropout) if config.evidence_stem else None
        told = 2 * fused + (hidden if config.evidence_stem else 0)
        self.describe = nn.Sequential(nn.Linear(told, hidden), nn.LeakyReLU(0.01))
        self.name_levels = nn.Linear(hidden, len(LEVELS))
        fuses, patchwise = config.fusion != "off", config.fusion == "patches"
        named = hidden // 2 if fuses else 0
        if fuses:
            self.embed_levels = nn.Sequential(nn.Linear(len(LEVELS), named), nn.GELU())
        self.score_branch = _branch((1 if patchwise else 2) * deep + named, hidden, config.dropout)
        if fuses:
            self.weight_branch = _branch((fused if patchwise else hidden) + named, hidden, config.dropout)
        self.code = CodedScore(hidden) if config.coded else None
        self.rely = nn.Linear(hidden, 1) if config.coded else None
        self.spread_branch = nn.Linear(hidden + 2 * deep, 1)
        nn.init.constant_(self.score_branch[-1].bias, 3.0)  # type: ignore[arg-type]
        nn.init.constant_(self.spread_branch.bias, -1.0)

    def forward(self, rgb: Tensor) -> Outputs:
        """Judge pictures of display values in [0, 1], shape (n, 3, picture, picture)."""
        residual, windowed, statistics = self._stages(rgb)
        size = (windowed[3].shape[2], windowed[3].shape[3])
        maps = []
        for halve, attend, a, b in zip(self.halve, self.attend, residual, windowed, strict=True):
            maps.append(attend(functional.adaptive_avg_pool2d(halve(torch.cat([a, b], 1)), size)))
        fused = torch.cat(maps, 1)
        told = _mean_and_max(fused)
        if self.statistics is not None and statistics is not None:
            told = torch.cat([told, self.statistics(statistics)], 1)
        described = self.describe(told)
        levels = self.name_levels(described)
        deep = self.attend_swin(windowed[3])
        pooled = _mean_and_max(deep)
        if self.config.fusion == "product":
            score, weight = self._product(pooled, described, self.embed_levels(levels))
        elif self.config.fusion == "patches":
            score, weight = self._patches(deep, fused, self.embed_levels(levels))
        else:
            score = functional.leaky_relu(self.score_branch(pooled), 0.01)[:, 0]
            weight = torch.ones_like(score)
        if self.code is not None and self.rely is not None:
            trust = torch.sigmoid(self.rely(described))[:, 0]
            score = score + trust * (self.code(described, levels, _is_fused(rgb)) - score)
        features = torch.cat([described, pooled], 1)
        spread = positive(self.spread_branch(features.detach()))[:, 0]
        return Outputs(score, weight, spread, levels, features)

    def cell_logits(self, features: Tensor) -> Tensor | None:
        """Return the logits (n, 27) of the display cell for the features (n, f) of an output, None without a code."""
        return None if self.code is None else self.code.name_cell(features[:, : self.code.name_cell.in_features])

    def _product(self, pooled: Tensor, described: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
        """One score times one weight for the whole picture, shapes (n,)."""
        score = functional.leaky_relu(self.score_branch(torch.cat([pooled, named], 1)), 0.01)[:, 0]
        weight = torch.sigmoid(self.weight_branch(torch.cat([described, named], 1)))[:, 0]
        return score * weight, weight

    def _patches(self, deep: Tensor, fused: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the patches' scores, weighted by the patches' weights, and the mean weight, shapes (n,)."""
        tokens = [x.flatten(2).transpose(1, 2) for x in (deep, fused)]
        told = named[:, None].expand(-1, tokens[0].shape[1], -1)
        score = functional.leaky_relu(self.score_branch(torch.cat([tokens[0], told], 2)), 0.01)[..., 0]
        weight = torch.sigmoid(self.weight_branch(torch.cat([tokens[1], told], 2)))[..., 0]
        return (score * weight).sum(1) / weight.sum(1), weight.mean(1)

    @torch.no_grad()
    def observe(self, pictures: Tensor) -> None:
        """Take the spread of the evidence from training pictures, once, before training."""
        if self.stem is not None and self.statistics is not None:
            self.statistics.observe(self.stem(pictures)[1])

    def _stages(self, rgb: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
        statistics = None
        if self.stem is not None:
            x, statistics = self.stem(rgb)
            windows = x
        else:
            windows = rgb * 2 - 1
            x = self.resnet.maxpool(self.resnet.act1(self.resnet.bn1(self.resnet.conv1(windows))))
        residual = []
        for stage in (self.resnet.layer1, self.resnet.layer2, self.resnet.layer3, self.resnet.layer4):
            x = stage(x)
            residual.append(x)
        tokens = self.swin.patch_embed(windows)
        windowed = []
        for stage in self.swin.layers:
            tokens = stage(tokens)
            windowed.append(tokens.permute(0, 3, 1, 2))
        return residual, windowed, statistics


def _is_fused(rgb: Tensor) -> Tensor:
    """Whether a picture has colour, shape (n,): the smooth part of red and blue differs where there is uptake."""
    smooth = functional.avg_pool2d(rgb[:, 0] - rgb[:, 2], 16).abs()
    return smooth.amax(dim=(1, 2)) > _COLOUR


def _mean_and_max(x: Tensor) -> Tensor:
    return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], 1)


def _branch(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.01), nn.Dropout(dropout), nn.Linear(hidden, 1))


def _resnet(config: MsIqaConfig) -> Any:
    net = ResNet(
        block=Bottleneck if config.bottleneck else BasicBlock,  # type: ignore[arg-type]
        layers=config.resnet_blocks,
        channels=config.resnet_channels,
        stem_width=config.evidence_stem or 64,
        norm_layer=_group_norm if config.group_norm else nn.BatchNorm2d,
        num_classes=0,
        zero_init_last=False,
    )
    del net.fc, net.global_pool
    if config.evidence_stem:
        del net.conv1, net.bn1, net.act1, net.maxpool
    return net


def _swin(config: MsIqaConfig) -> Any:
    stem = config.evidence_stem
    net = SwinTransformer(
        img_size=config.picture // 8 if stem else config.picture,
        patch_size=1 if stem else 4,
        in_chans=stem or 3,
        embed_dim=config.swin_dim,
        depths=config.swin_depths,
        num_heads=config.swin_heads,
        window_size=config.window,
        drop_path_rate=0.1,
        num_classes=0,
    )
    del net.norm, net.head
    return net


def build(variant: str, **options: Any) -> MsIqa:
    """Return the untrained network of a variant, ``paper`` or ``small``; options are fields of `MsIqaConfig`."""
    config = replace(VARIANTS[variant], **options)
    if config.fusion not in get_args(Fusion):
        raise ValueError(f"fusion must be one of {', '.join(get_args(Fusion))}")
    return MsIqa(config)
