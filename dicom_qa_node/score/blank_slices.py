"""Slices without an image: one value throughout, or padding only. They are named and kept out of everything else."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_BLANK", "BlankShare", "blank_reason", "is_blank", "too_many_blank"]

MOST_BLANK = 1.0 / 3.0
"""A series of which this share or more is blank gets no score."""

_STRIDE = 8
_VARIES = 0.01
_STRAY = 1e-4
_FEWEST = 16


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
