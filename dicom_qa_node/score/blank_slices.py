"""Slices without an image: one value throughout, padding only, or cut off in the middle of the body.

They are named and kept out of measurements, slice choice and network.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_BLANK", "BlankShare", "blank_reason", "is_blank", "is_cut_short", "too_many_blank"]

MOST_BLANK = 1.0 / 3.0
"""A series of which this share or more is blank gets no score."""

_STRIDE = 8
_VARIES = 0.01
_STRAY = 1e-4
_FEWEST = 16
_CUT_ROWS = 0.05
_CUT_COLUMNS = 0.25
_STANDS_OUT = 0.25


class BlankShare(Protocol):
    """What is asked of a stack; see `stack.Stack`."""

    kept: list[int]
    blank: list[int]


def is_blank(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None) -> bool:
    """Return whether one slice of any modality shows nothing.

    Parameters
    ----------
    values
        Shape (rows, columns).
    valid
        Where the slice is not padding; None: everywhere.

    Returns
    -------
    bool
        True where fewer than 16 pixels are valid, or all but one in 10,000 have one value.
    """
    sparse = (
        values[::_STRIDE, ::_STRIDE] if valid is None else values[::_STRIDE, ::_STRIDE][valid[::_STRIDE, ::_STRIDE]]
    )
    if sparse.size >= _FEWEST and np.mean(sparse != np.median(sparse)) > _VARIES:
        return False
    inside = values.ravel() if valid is None else values[valid]
    if inside.size < min(_FEWEST, values.size):
        return True
    most = np.partition(inside, inside.size // 2)[inside.size // 2]
    return bool(np.count_nonzero(inside != most) <= _STRAY * inside.size)


def is_cut_short(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None) -> bool:
    """Return whether a slice ends in rows of one value that begin in the middle of the body, as a broken transfer does.

    Parameters
    ----------
    values
        Shape (rows, columns).
    valid
        Where the slice is not padding; None: everywhere. Rows of padding cut nothing.

    Returns
    -------
    bool
        True where at least 5 % of the rows at the top or bottom hold one value and a quarter of the row beside them
        stands out from it, or where their value is not that of air.
    """
    low, high = np.percentile(values[::_STRIDE, ::_STRIDE], [1, 99])
    for image, edge in ((values, 0), (values[::-1], -1)):
        fill = image[0, 0]
        if (image[0] != fill).any() or (valid is not None and not valid[edge].all()):
            continue
        rows = np.flatnonzero((image != fill).any(axis=1))
        if rows.size == 0 or rows[0] < _CUT_ROWS * len(image):
            continue
        least = _STANDS_OUT * max(float(high - low), 1.0)
        beside = np.abs(image[rows[0]].astype(np.float64) - float(fill)) > least
        # rows of air are usual beside air; of any other value they are not
        if np.mean(beside) >= _CUT_COLUMNS or float(fill) > low + least:
            return True
    return False


def too_many_blank(blank: int, total: int) -> bool:
    """Return whether so many of a series' slices are blank that the rest does not stand for it."""
    return blank > 0 and blank >= MOST_BLANK * total


def blank_reason(stack: BlankShare) -> str:
    """Return why a stack with blank slices can be neither measured nor judged, "" if the others can."""
    total = len({*stack.kept, *stack.blank})
    if len(stack.blank) == total:
        return "the images are empty: every pixel of a slice has one value"
    if too_many_blank(len(stack.blank), total):
        return f"{len(stack.blank)} of {total} slices are empty"
    return ""
