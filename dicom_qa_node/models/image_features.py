"""What the heads read of a picture: the encoder's maps pooled over the body and over a grid, and measured statistics
(torch).

One pass of the encoder serves every head. The pooled features are the mean and the log SD of each channel of the stem
and of the seven stages over the body; the grid keeps both for 8 x 8 cells of the box around the body, for the networks
that look at places. Beside them lie the evidence statistics of `layers` and the noise of four octaves
(`band_statistics`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from dicom_qa_node.models.efficientnet_lite0.net import STAGE_CHANNELS, STAGE_STRIDES
from dicom_qa_node.models.layers import evidence_maps, evidence_statistics, luma_of

__all__ = ["BANDS", "GRID_CELLS", "PictureFeatures", "body_of", "describe"]

FloatArray = npt.NDArray[np.float32]

BLOCK = 8
GRID_CELLS = 8
BANDS = 4
_ALIGN = 32
_MARGIN = 16
_LEAST_SIDE = 128
_TISSUE = 20.0
_LEVEL = 1.0 / 255.0
_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.95)
_SD_STAGES = 6
"""Stages whose grid keeps a deviation beside the mean: those with several pixels per cell."""


@dataclass(frozen=True)
class PictureFeatures:
    """The features of one picture.

    ``pooled`` (2 x 816,) means and log SDs of the channels over the body; ``grid_mean`` (816, 8, 8) and ``grid_sd``
    (304, 8, 8; log, of the first six maps) over the box around it; ``evidence`` (688,); ``bands`` (32,); ``body`` the
    share of each cell that shows tissue, (8, 8).
    """

    pooled: FloatArray
    grid_mean: FloatArray
    grid_sd: FloatArray
    evidence: FloatArray
    bands: FloatArray
    body: FloatArray


def body_of(grey: npt.NDArray[np.uint8], threshold: float = _TISSUE, filled: bool = False) -> npt.NDArray[np.bool_]:
    """Return the 8 x 8 blocks that show tissue, shape (rows / 8, columns / 8).

    Parameters
    ----------
    grey
        Shape (rows, columns), sides multiples of 8.
    threshold
        Grey level above which a block is tissue.
    filled
        Fill holes: in a lung window air-filled lung belongs to the body.
    """
    rows, columns = (side // BLOCK for side in grey.shape)
    blocks = grey.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3)) > threshold
    if filled:
        blocks = ndimage.binary_fill_holes(blocks)
    labels, count = ndimage.label(blocks)
    if count > 1:
        sizes = np.bincount(labels.ravel())[1:]
        blocks = np.isin(labels, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max()))
    return np.asarray(blocks, np.bool_)


def box_of(body: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the box around the body in pixels (top, left, rows, columns), sides multiples of 32 where there is
    room."""
    if not body.any():
        body = np.ones_like(body)
    corner, sides = [], []
    for axis in (0, 1):
        filled = np.flatnonzero(body.any(axis=1 - axis))
        length = body.shape[axis] * BLOCK
        low = max(int(filled[0]) * BLOCK - _MARGIN, 0)
        high = min((int(filled[-1]) + 1) * BLOCK + _MARGIN, length)
        side = min(max(-(-(high - low) // _ALIGN) * _ALIGN, _LEAST_SIDE), length)
        low = min(max((low + high - side) // 2 // BLOCK * BLOCK, 0), length - side)
        corner.append(low)
        sides.append(side)
    return corner[0], corner[1], sides[0], sides[1]


@torch.inference_mode()
def describe(
    encoder: nn.Module, picture: npt.NDArray[np.uint8], threshold: float = _TISSUE, filled: bool = False
) -> PictureFeatures:
    """Run the encoder once over the box around the body of one picture.

    Parameters
    ----------
    encoder
        See `efficientnet_lite0.net.open_encoder`.
    picture
        Display values, shape (rows, columns) or (rows, columns, 3), padded with zeros to multiples of 32 here.
    threshold, filled
        See `body_of`.
    """
    grey = picture if picture.ndim == 2 else picture.mean(axis=2).astype(np.uint8)
    padding = [(0, -side % _ALIGN + max(_LEAST_SIDE - side - (-side % _ALIGN), 0)) for side in grey.shape]
    grey = np.pad(grey, padding)
    body = body_of(grey, threshold, filled)
    top, left, rows, columns = box_of(body)
    inside = body[top // BLOCK : (top + rows) // BLOCK, left // BLOCK : (left + columns) // BLOCK]
    if not inside.any():
        inside = np.ones_like(inside)
    if picture.ndim == 2:
        plane = torch.from_numpy(grey[top : top + rows, left : left + columns].astype(np.float32) * _LEVEL)
        rgb = plane[None, None].expand(1, 3, rows, columns).contiguous(memory_format=torch.channels_last)
    else:
        padded = np.pad(picture, [*padding, (0, 0)])[top : top + rows, left : left + columns]
        colour = torch.from_numpy(padded.astype(np.float32) * _LEVEL)
        rgb = colour.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    mask = torch.from_numpy(inside.astype(np.float32))[None, None]
    maps = encoder(rgb)
    means, deviations, grid_means, grid_deviations = [], [], [], []
    for index, x in enumerate(maps):
        share = (
            functional.adaptive_avg_pool2d(mask, (x.shape[2], x.shape[3]))
            if x.shape[2] < mask.shape[2]
            else functional.interpolate(mask, size=(x.shape[2], x.shape[3]), mode="nearest")
        )
        share = share / share.sum().clamp_min(1e-6)
        flat, weight = x[0].flatten(1), share.flatten()
        mean = flat @ weight
        variance = (flat.square() @ weight - mean.square()).clamp_min(0)
        means.append(mean)
        deviations.append(torch.log(variance.sqrt() + 1e-2))
        local = functional.adaptive_avg_pool2d(x, GRID_CELLS)
        grid_means.append(local[0])
        if index < _SD_STAGES:
            square = functional.adaptive_avg_pool2d(x.square(), GRID_CELLS)
            grid_deviations.append(torch.log((square - local.square()).clamp_min(0).sqrt() + 1e-2)[0])
    planar = rgb.contiguous(memory_format=torch.contiguous_format)
    evidence = evidence_statistics(evidence_maps(planar, _basis()))[0]
    cells = functional.adaptive_avg_pool2d(mask, GRID_CELLS)[0, 0]
    return PictureFeatures(
        torch.cat([*means, *deviations]).numpy(),
        torch.cat(grid_means).numpy(),
        torch.cat(grid_deviations).numpy(),
        evidence.numpy(),
        band_statistics(luma_of(planar), mask).numpy(),
        cells.numpy(),
    )


def band_statistics(luma: Tensor, mask: Tensor) -> Tensor:
    """Log local SD of four octaves over the body: its quantiles, and its anisotropy.

    In each octave the 3 x 3 mean is subtracted and the SD is taken over 8 x 8 windows. Windows that clip, black or
    white, are left out: there the noise cannot be seen.

    Parameters
    ----------
    luma
        Shape (1, 1, rows, columns), in [0, 1].
    mask
        Body, shape (1, 1, rows / 8, columns / 8).

    Returns
    -------
    Tensor
        Shape (4 x 8,): for each octave six quantiles of the log SD in grey levels, the log ratio of the steps along
        columns to those along rows, and the share of windows used.
    """
    values = []
    x = luma
    for _ in range(BANDS):
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        high = x - functional.avg_pool2d(padded, 3, 1)
        local = functional.avg_pool2d(high.square(), BLOCK)
        clipped = functional.avg_pool2d(((x < 1.5 * _LEVEL) | (x > 1 - 1.5 * _LEVEL)).float(), BLOCK)
        share = functional.adaptive_avg_pool2d(mask, (local.shape[2], local.shape[3]))
        used = (share > 0.9) & (clipped < 0.05)
        chosen = local[used]
        if chosen.numel() < 4:
            chosen = local.flatten()
        logs = 0.5 * torch.log2(chosen / _LEVEL**2 + 0.01)
        down = (x[..., 1:, :] - x[..., :-1, :]).square().mean()
        across = (x[..., 1:] - x[..., :-1]).square().mean()
        ratio = torch.log2((down + 1e-7) / (across + 1e-7))
        values += [torch.quantile(logs, torch.tensor(_QUANTILES)), ratio[None], used.float().mean()[None]]
        x = functional.avg_pool2d(x, 2)
    return torch.cat(values)


_BASIS: list[Tensor] = []


def _basis() -> Tensor:
    """Return the cosine basis, made once."""
    from dicom_qa_node.models.layers import _dct_basis

    if not _BASIS:
        _BASIS.append(_dct_basis())
    return _BASIS[0]


POOLED = 2 * sum(STAGE_CHANNELS)
GRID_CHANNELS = sum(STAGE_CHANNELS) + sum(STAGE_CHANNELS[:_SD_STAGES])
assert len(STAGE_STRIDES) == len(STAGE_CHANNELS)
STATISTICS = POOLED + 696 + 8 * BANDS
"""Values of a picture that the linear readout reads: pooled features, evidence and noise bands."""
