"""Turn HU and SUV into the display pictures that the networks judge, and cut them into crops.

The same code serves training and the node, and needs numpy only. A picture is uint8 RGB, shape (rows, columns, 3):

* ``ct``: HU through a window, grey on black;
* ``petct``: the fusion of the MS-IQA data, measured on its pictures: 0.6 x CT grey (soft-tissue window)
  + 0.4 x "hot" colour map of the SUV (0-6);
* ``pt``: SUV 0-6 in inverted grey (air is white), as readers view PET alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.convolution_kernels import Sharpness, sharpness_of_name

__all__ = [
    "BONE",
    "BRAIN",
    "LUNG",
    "SOFT_TISSUE",
    "SUV_RANGE",
    "Crop",
    "Window",
    "as_uint8",
    "body_fraction",
    "crop_plan",
    "ct_display_image",
    "cut",
    "fused_display_image",
    "hot",
    "pad_image",
    "pet_display_image",
    "window_for_kernel",
]

Picture = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

SUV_RANGE = (0.0, 6.0)
CT_SHARE = 0.6
"""Share of the CT in a fused picture: the table (full white in the CT window, no uptake) reads 153 of 255."""

GRID = 8
"""Crops start on multiples of this many pixels: the JPEG block, so that block artefacts stay visible as such."""

_MARGIN = 16
_MAX_PER_SIDE = 3
_TISSUE = 20


@dataclass(frozen=True)
class Window:
    """A display window in HU: ``centre`` and full ``width``."""

    name: str
    centre_hu: float
    width_hu: float


SOFT_TISSUE = Window("soft tissue", 40.0, 350.0)
LUNG = Window("lung", -600.0, 1500.0)
BRAIN = Window("brain", 40.0, 80.0)
BONE = Window("bone", 400.0, 1800.0)


@dataclass(frozen=True)
class Crop:
    """Top left corner of a crop in pixels of the padded picture, and the share of it that shows tissue."""

    row: int
    column: int
    weight: float


def window_for_kernel(convolution_kernel: str, manufacturer: str = "") -> Window:
    """Return the window of a slice of lung by the name of its reconstruction kernel (see `convolution_kernels`).

    Sharp kernels are read in the lung window; everything else, unknown names included, in the soft-tissue window. Of a
    volume `reading_windows.windows_of` gives the window of each slice.
    """
    sharp = sharpness_of_name(convolution_kernel.split("\\"), manufacturer) is Sharpness.SHARP
    return LUNG if sharp else SOFT_TISSUE


def ct_display_image(hu: npt.NDArray[Any], window: Window = SOFT_TISSUE) -> Picture:
    """Map HU, shape (rows, columns), to grey RGB."""
    return _grey(_ct_grey(hu, window))


def pet_display_image(suv: npt.NDArray[Any], suv_range: tuple[float, float] = SUV_RANGE) -> Picture:
    """Map SUV, shape (rows, columns), to inverted grey RGB: uptake is dark, air white."""
    return _grey(1.0 - _unit(suv, *suv_range))


def fused_display_image(
    hu: npt.NDArray[Any],
    suv: npt.NDArray[Any],
    window: Window = SOFT_TISSUE,
    suv_range: tuple[float, float] = SUV_RANGE,
) -> Picture:
    """Fuse CT in grey with PET in the "hot" colour map.

    Parameters
    ----------
    hu, suv
        Shape (rows, columns), on one grid.
    window, suv_range
        What is mapped to the full range of grey and of colour.
    """
    if np.shape(hu) != np.shape(suv):
        raise ValueError(f"CT {np.shape(hu)} and PET {np.shape(suv)} are not on one grid")
    grey = _ct_grey(hu, window)[..., None]
    colour = hot(_unit(suv, *suv_range))
    return _to_bytes(CT_SHARE * grey + (1.0 - CT_SHARE) * colour)


def hot(values: npt.NDArray[Any]) -> FloatArray:
    """Map [0, 1] to black - red - yellow - white: matplotlib's "hot" without its first 4 % of red."""
    v = np.asarray(values, np.float32)[..., None]
    low = np.array([0.0, 0.365079, 0.746032], np.float32)
    width = np.array([0.365079, 0.380953, 0.253968], np.float32)
    return np.asarray(np.clip((v - low) / width, 0.0, 1.0), np.float32)


def as_uint8(images: npt.NDArray[Any]) -> Picture:
    """Accept pictures as uint8 or as float in [0, 1], shape (n, rows, columns, 3)."""
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"pictures must have shape (n, rows, columns, 3), not {images.shape}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"pictures must be uint8 or float in [0, 1], not {images.dtype}")
    if not np.isfinite(images).all() or images.min() < 0.0 or images.max() > 1.0:
        raise ValueError("float pictures must be finite and lie in [0, 1]")
    return _to_bytes(images)


def pad_image(picture: Picture, size: int, kind: SeriesKind) -> Picture:
    """Pad below and to the right with air to at least ``size`` pixels and to multiples of `GRID`."""
    rows, columns = (max(size, -(-n // GRID) * GRID) for n in picture.shape[:2])
    if (rows, columns) == picture.shape[:2]:
        return picture
    air = 255 if kind is SeriesKind.PT else 0
    padded = np.full((rows, columns, 3), air, np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return padded


def crop_plan(picture: Picture, size: int, kind: SeriesKind) -> tuple[Crop, ...]:
    """Place native-resolution crops over the body so that together they show all of it and some air.

    The box around the body, widened by 16 pixels, is covered by one to three crops per side, evenly spaced, on the
    8-pixel grid. A picture without a body gives one crop of weight 1 in its middle.

    Parameters
    ----------
    picture
        Padded picture (see `pad_image`).
    size
        Side of a crop in pixels.
    """
    tissue = _tissue_blocks(picture, kind)
    if not tissue.any():
        row, column = (_on_grid((n - size) / 2, n, size) for n in picture.shape[:2])
        return (Crop(row, column, 1.0),)
    starts = [_starts(np.flatnonzero(tissue.any(axis=1 - axis)), picture.shape[axis], size) for axis in (0, 1)]
    crops = []
    for row in starts[0]:
        for column in starts[1]:
            window = tissue[row // GRID : (row + size) // GRID, column // GRID : (column + size) // GRID]
            crops.append(Crop(row, column, float(window.mean())))
    seen = tuple(crop for crop in crops if crop.weight > 0.02)
    return seen or tuple(crops[:1])


def cut(picture: Picture, crops: Sequence[Crop], size: int) -> Picture:
    """Return the crops as one array, shape (crops, size, size, 3)."""
    return np.stack([picture[c.row : c.row + size, c.column : c.column + size] for c in crops])


def body_fraction(picture: Picture, kind: SeriesKind) -> float:
    """Share of the picture that shows tissue, 0-1."""
    return float(_tissue_blocks(pad_image(picture, GRID, kind), kind).mean())


def _tissue_blocks(picture: Picture, kind: SeriesKind) -> npt.NDArray[np.bool_]:
    """Blocks of 8x8 pixels whose mean is not air, shape (rows / 8, columns / 8)."""
    rows, columns = (n // GRID for n in picture.shape[:2])
    blocks = picture[: rows * GRID, : columns * GRID].reshape(rows, GRID, columns, GRID, 3)
    mean = blocks.mean(axis=(1, 3, 4))
    return np.asarray(mean < 255 - _TISSUE if kind is SeriesKind.PT else mean > _TISSUE)


def _starts(filled: npt.NDArray[np.intp], length: int, size: int) -> list[int]:
    low = max(int(filled[0]) * GRID - _MARGIN, 0)
    high = min((int(filled[-1]) + 1) * GRID + _MARGIN, length)
    count = min(max(-(-(high - low) // size), 1), _MAX_PER_SIDE)
    if count == 1:
        return [_on_grid((low + high - size) / 2, length, size)]
    return [_on_grid(low + i * (high - size - low) / (count - 1), length, size) for i in range(count)]


def _on_grid(start: float, length: int, size: int) -> int:
    inside = min(max(round(start), 0), length - size)
    return inside // GRID * GRID


def _ct_grey(hu: npt.NDArray[Any], window: Window) -> FloatArray:
    half = window.width_hu / 2
    return _unit(hu, window.centre_hu - half, window.centre_hu + half)


def _unit(values: npt.NDArray[Any], low: float, high: float) -> FloatArray:
    return np.asarray(np.clip((np.asarray(values, np.float32) - low) / (high - low), 0.0, 1.0), np.float32)


def _grey(values: FloatArray) -> Picture:
    return np.repeat(_to_bytes(values)[..., None], 3, axis=-1)


def _to_bytes(values: npt.NDArray[Any]) -> Picture:
    return np.rint(values * 255.0).astype(np.uint8)
