"""EfficientNet-Lite0 as a shared encoder: the maps of its stem and seven stages, and what is read of them (torch,
timm).

The network is timm's ``tf_efficientnet_lite0`` without its classifier; the weights are those of ImageNet, see the card.
It is frozen: the heads of the four methods read what it sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from dicom_qa_node.models import weights
from dicom_qa_node.models.efficientnet_lite0 import STAGE_STRIDES
from dicom_qa_node.models.image_features import BLOCK, GRID_CELLS, SD_STAGES
from dicom_qa_node.models.layers import dct_basis, evidence_maps, evidence_statistics

__all__ = ["Encoder", "PooledEncoder", "build", "open_encoder"]


class _SameConv(nn.Conv2d):
    """TensorFlow's "same" padding of a convolution with stride 2, for even sides: fixed, whatever the size."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad by one pixel more behind than before, and convolve."""
        total = self.kernel_size[0] - self.stride[0]
        before = total // 2
        padded: Tensor = functional.pad(x, (before, total - before) * 2)
        return functional.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class Encoder(nn.Module):
    """Stem and seven stages of EfficientNet-Lite0; in evaluation mode its batch norms are constants."""

    def __init__(self) -> None:
        super().__init__()
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                    setattr(module, name, _same(child))

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Return the eight maps of pictures (n, 3, rows, columns) of display values in [0, 1], sides multiples of
        32."""
        x = self.bn1(self.conv_stem(rgb * 2 - 1))
        maps = [x]
        for stage in self.blocks:
            x = stage(x)
            maps.append(x)
        return maps


def _same(conv: nn.Conv2d) -> _SameConv:
    replaced = _SameConv(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], 2, groups=conv.groups, bias=conv.bias is not None
    )
    replaced.weight, replaced.bias = conv.weight, conv.bias
    return replaced


class PooledEncoder(nn.Module):
    """The encoder, and of its maps what `image_features.Seen` holds: one graph, for torch as for an export."""

    basis: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("basis", dct_basis(), persistent=False)

    def forward(self, pictures: Tensor, body: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Describe pictures.

        Parameters
        ----------
        pictures
            Display values, uint8, shape (n, rows, columns, 3), sides multiples of 32.
        body
            1 where a block of 8 x 8 pixels shows tissue, float32, shape (n, rows / 8, columns / 8).

        Returns
        -------
        tuple[Tensor, Tensor, Tensor]
            As in `Seen`: pooled (n, 1632), grid (n, 1120, 8, 8) and evidence (n, 696).
        """
        rgb = pictures.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        with torch.autocast(pictures.device.type, enabled=False):
            evidence = evidence_statistics(evidence_maps(rgb, self.basis))
        means, deviations, grid_means, grid_deviations = [], [], [], []
        for index, (stride, seen) in enumerate(zip(STAGE_STRIDES, self.encoder(rgb), strict=True)):
            x = seen.float()
            share = _at_stride(body[:, None], stride)
            share = share / share.sum((2, 3), keepdim=True).clamp_min(1e-6)
            mean = (x * share).sum((2, 3))
            variance = ((x - mean[:, :, None, None]).square() * share).sum((2, 3))
            means.append(mean)
            deviations.append(torch.log(variance.sqrt() + 1e-2))
            local = _cells(x)
            grid_means.append(local)
            if index < SD_STAGES:
                # The picture's mean comes off first: in flat cells the difference is then one of small numbers.
                level = x.mean((2, 3), keepdim=True)
                apart, shift = x - level, local - level
                local_variance = (_cells(apart * apart) - shift * shift).clamp_min(0)
                grid_deviations.append(torch.log(local_variance.sqrt() + 1e-2))
        return torch.cat([*means, *deviations], 1), torch.cat([*grid_means, *grid_deviations], 1), evidence


def _at_stride(body: Tensor, stride: int) -> Tensor:
    """Bring the body (n, 1, rows, columns) of 8 x 8 blocks to the places of a map."""
    if stride > BLOCK:
        return functional.avg_pool2d(body, stride // BLOCK)
    if stride < BLOCK:
        return functional.interpolate(body, scale_factor=float(BLOCK // stride), mode="nearest")
    return body


def _cells(x: Tensor) -> Tensor:
    """Average a map (n, channels, rows, columns) over 8 x 8 cells of any size: adaptive pooling as two products."""
    rows = _shares(x.shape[2], x.device)
    columns = _shares(x.shape[3], x.device)
    return rows @ (x @ columns.t())


def _shares(length: int, device: torch.device) -> Tensor:
    """Return the share of each of ``length`` places in each cell, shape (8, length)."""
    place = torch.arange(length, device=device, dtype=torch.float32)[None]
    cell = torch.arange(GRID_CELLS, device=device, dtype=torch.float32)[:, None]
    first = torch.floor(cell * length / GRID_CELLS)
    last = torch.ceil((cell + 1) * length / GRID_CELLS)
    return ((place >= first) & (place < last)).float() / (last - first)


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
