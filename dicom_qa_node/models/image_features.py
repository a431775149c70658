"""What the heads read of a picture: the encoder's maps pooled over the body and over a grid, and measured statistics;
numpy only.

One pass of the encoder serves every head. The pooled features are the mean and the log SD of each channel of the stem
and of the seven stages over the body; the grid keeps both for 8 x 8 cells of the box around the body, for the networks
that look at places. Beside them lie the evidence statistics of `layers` and the noise of four octaves
(`band_statistics`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.models.efficientnet_lite0 import STAGE_CHANNELS

__all__ = [
    "BANDS",
    "GRID_CELLS",
    "GRID_CHANNELS",
    "STATISTICS",
    "PictureEncoder",
    "PictureFeatures",
    "PreparedPicture",
    "Seen",
    "body_of",
    "describe",
    "finish",
    "prepare",
]

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK = 8
GRID_CELLS = 8
BANDS = 4
_ALIGN = 32
_MARGIN = 16
_LEAST_SIDE = 128
_TISSUE = 20.0
_LEVEL = 1.0 / 255.0
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.95)
SD_STAGES = 6
"""Stages whose grid keeps a deviation beside the mean: those with several pixels per cell."""

EVIDENCE = 696
POOLED = 2 * sum(STAGE_CHANNELS)
GRID_CHANNELS = sum(STAGE_CHANNELS) + sum(STAGE_CHANNELS[:SD_STAGES])
STATISTICS = POOLED + EVIDENCE + 8 * BANDS
"""Values of a picture that the linear readout reads: pooled features, evidence and noise bands."""


class Seen(NamedTuple):
    """What an encoder returns of pictures, float32.

    ``pooled`` (n, 1632) means and log SDs of the channels over the body; ``grid`` (n, 1120, 8, 8) the means of all
    maps, then the log SDs of the first six, over 8 x 8 cells; ``evidence`` (n, 696).
    """

    pooled: FloatArray
    grid: FloatArray
    evidence: FloatArray


class PictureEncoder(Protocol):
    """The shared encoder on some engine; ``batch`` pictures of one size at most are passed to it at once."""

    batch: int

    def see(self, pictures: Bytes, body: FloatArray) -> Seen:
        """Describe pictures (n, rows, columns, 3) with their bodies (n, rows / 8, columns / 8)."""


@dataclass(frozen=True)
class PreparedPicture:
    """The box around the body: ``pixels`` (rows, columns, 3), sides multiples of 32; ``body`` (rows / 8,
    columns / 8)."""

    pixels: Bytes
    body: FloatArray


@dataclass(frozen=True)
class PictureFeatures:
    """The features of one picture.

    ``pooled`` (2 x 816,) means and log SDs of the channels over the body; ``grid_mean`` (816, 8, 8) and ``grid_sd``
    (304, 8, 8; log, of the first six maps) over the box around it; ``evidence`` (696,); ``bands`` (32,); ``body`` the
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


def describe(
    encoder: PictureEncoder, picture: Bytes, threshold: float = _TISSUE, filled: bool = False
) -> PictureFeatures:
    """Run the encoder once over the box around the body of one picture.

    Parameters
    ----------
    encoder
        See `engines.open_encoder`.
    picture
        Display values, shape (rows, columns) or (rows, columns, 3), padded with zeros to multiples of 32 here.
    threshold, filled
        See `body_of`.
    """
    prepared = prepare(picture, threshold, filled)
    return finish(prepared, encoder.see(prepared.pixels[None], prepared.body[None]), 0)


def prepare(picture: Bytes, threshold: float = _TISSUE, filled: bool = False) -> PreparedPicture:
    """Pad a picture and cut the box around its body; see `describe`."""
    colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    grey = picture if picture.ndim == 2 else picture.mean(axis=2).astype(np.uint8)
    padding = [(0, -side % _ALIGN + max(_LEAST_SIDE - side - (-side % _ALIGN), 0)) for side in grey.shape]
    body = body_of(np.pad(grey, padding), threshold, filled)
    top, left, rows, columns = box_of(body)
    inside = body[top // BLOCK : (top + rows) // BLOCK, left // BLOCK : (left + columns) // BLOCK]
    if not inside.any():
        inside = np.ones_like(inside)
    pixels = np.pad(colour, [*padding, (0, 0)])[top : top + rows, left : left + columns]
    return PreparedPicture(np.ascontiguousarray(pixels), inside.astype(np.float32))


def finish(prepared: PreparedPicture, seen: Seen, index: int) -> PictureFeatures:
    """Join what the encoder saw of one picture of a batch and what is measured of it."""
    means = sum(STAGE_CHANNELS)
    scaled = prepared.pixels.astype(np.float32) * np.float32(_LEVEL)
    luma = scaled[..., 0] * _LUMA[0] + scaled[..., 1] * _LUMA[1] + scaled[..., 2] * _LUMA[2]
    return PictureFeatures(
        seen.pooled[index],
        seen.grid[index, :means],
        seen.grid[index, means:],
        seen.evidence[index],
        band_statistics(luma.astype(np.float32), prepared.body),
        _body_cells(prepared.body),
    )


def band_statistics(luma: FloatArray, body: FloatArray) -> FloatArray:
    """Log local SD of four octaves over the body: its quantiles, and its anisotropy.

    In each octave the 3 x 3 mean is subtracted and the SD is taken over 8 x 8 windows. Windows that clip, black or
    white, are left out: there the noise cannot be seen.

    Parameters
    ----------
    luma
        Shape (rows, columns), sides multiples of 32, in [0, 1].
    body
        Shape (rows / 8, columns / 8).

    Returns
    -------
    FloatArray
        Shape (4 x 8,): for each octave six quantiles of the log SD in grey levels, the log ratio of the steps along
        columns to those along rows, and the share of windows used.
    """
    values: list[npt.ArrayLike] = []
    x = luma
    for _ in range(BANDS):
        windows = (x.shape[0] // BLOCK, x.shape[1] // BLOCK)
        local = _blocks(np.square(_high_pass(x)), windows, BLOCK)
        clipped = _blocks(((x < 1.5 * _LEVEL) | (x > 1 - 1.5 * _LEVEL)).astype(np.float32), windows, BLOCK)
        used = (_resized(body, windows) > 0.9) & (clipped < 0.05)
        chosen = local[used] if np.count_nonzero(used) >= 4 else local.ravel()
        logs = 0.5 * np.log2(chosen / _LEVEL**2 + 0.01)
        down, across = np.square(np.diff(x, axis=0)).mean(), np.square(np.diff(x, axis=1)).mean()
        values += [np.quantile(logs, _QUANTILES), [np.log2((down + 1e-7) / (across + 1e-7))], [used.mean()]]
        x = _blocks(x, (x.shape[0] // 2, x.shape[1] // 2), 2)
    return np.concatenate(values).astype(np.float32)


def _high_pass(x: FloatArray) -> FloatArray:
    """Subtract the 3 x 3 mean with replicated edges."""
    padded = np.pad(x, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(x - (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9), np.float32)


def _blocks(x: FloatArray, count: tuple[int, int], side: int) -> FloatArray:
    """Average blocks of ``side`` pixels; what is left over at the ends is cut off."""
    cut = x[: count[0] * side, : count[1] * side]
    bands = cut.reshape(count[0], side, -1).sum(axis=1)
    return np.asarray(bands.reshape(count[0], count[1], side).sum(axis=2) / np.float32(side**2), np.float32)


def _resized(body: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Average the body over windows of any size (adaptive pooling)."""
    return np.asarray(_shares(body.shape[0], shape[0]) @ body @ _shares(body.shape[1], shape[1]).T, np.float32)


def _body_cells(body: FloatArray) -> FloatArray:
    return _resized(body, (GRID_CELLS, GRID_CELLS))


def _shares(length: int, cells: int) -> FloatArray:
    """Return the share of each of ``length`` places in each cell, shape (cells, length)."""
    place, cell = np.arange(length)[None], np.arange(cells)[:, None]
    first, last = cell * length // cells, -(-(cell + 1) * length // cells)
    return (((place >= first) & (place < last)) / (last - first)).astype(np.float32)
