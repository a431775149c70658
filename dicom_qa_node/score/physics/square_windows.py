"""Square windows over slices: erosion and dilation of masks, and sliding means, by sums of shifted pictures.

A window of n pixels is put together from windows of 1, 2, 4, ... pixels, so that log2(n) passes of whole arrays do what
a filter does pixel by pixel; for masks the result is that of scipy's minimum and maximum filters.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["BoolArray", "grown", "shrunk", "sliding_mean"]

BoolArray = npt.NDArray[np.bool_]
_Cell = TypeVar("_Cell", np.bool_, np.float32, np.float64)
_Real = TypeVar("_Real", np.float32, np.float64)


def shrunk(mask: BoolArray, radius_px: float) -> BoolArray:
    """Erode by a square of half side ``radius_px``; outside the image counts as inside the mask."""
    return _windowed(np.asarray(mask, np.bool_), round(radius_px), np.logical_and, outside=True)


def grown(mask: BoolArray, radius_px: float) -> BoolArray:
    """Dilate by a square of half side ``radius_px``."""
    return _windowed(np.asarray(mask, np.bool_), round(radius_px), np.logical_or, outside=False)


def sliding_mean(image: npt.NDArray[_Real], size: int) -> npt.NDArray[_Real]:
    """Mean of a square of ``size`` pixels (odd) about each pixel; beyond the edge the edge's values go on.

    Parameters
    ----------
    image
        Shape (rows, columns); the sums are taken in its own precision.

    Returns
    -------
    numpy.ndarray
        Of the image's shape and precision.
    """
    reach = size // 2
    total = _sums(_sums(np.pad(image, reach, mode="edge"), size, 0), size, 1)
    total /= size * size
    return total


def _windowed(mask: BoolArray, reach: int, combine: np.ufunc, *, outside: bool) -> BoolArray:
    if reach <= 0:
        return mask
    found = np.full([length + 2 * reach for length in mask.shape], outside)
    found[(slice(reach, -reach),) * mask.ndim] = mask
    for axis in range(mask.ndim):
        found = _combined(found, 2 * reach + 1, axis, combine)
    return found


def _combined(found: BoolArray, length: int, axis: int, combine: np.ufunc) -> BoolArray:
    """Combine ``length`` neighbours along an axis, which gets shorter by ``length - 1``."""
    kept = found.shape[axis] - length + 1
    width = 1
    while 2 * width <= length:
        found = combine(_part(found, axis, 0, -width), _part(found, axis, width, None))
        width *= 2
    if width < length:
        start = length - width
        found = combine(_part(found, axis, 0, kept), _part(found, axis, start, start + kept))
    return found


def _part(found: npt.NDArray[_Cell], axis: int, start: int, stop: int | None) -> npt.NDArray[_Cell]:
    return found[(slice(None),) * axis + (slice(start, stop),)]


def _sums(image: npt.NDArray[_Real], size: int, axis: int) -> npt.NDArray[_Real]:
    """Sum ``size`` neighbours along an axis: windows whose widths are the binary digits of ``size``, one by one."""
    kept = image.shape[axis] - size + 1
    window, width, start = image, 1, 0
    total: npt.NDArray[_Real] | None = None
    while width <= size:
        if size & width:
            piece = _part(window, axis, start, start + kept)
            total = piece.copy() if total is None else np.add(total, piece, out=total)
            start += width
        if 2 * width <= size:
            window = _part(window, axis, 0, -width) + _part(window, axis, width, None)
        width *= 2
    assert total is not None
    return total
