"""How the measured values of one result are kept in one cell, and how many cells are read at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCORE_ID", "Values", "pack", "unpack"]

#: The score is a quantity like the measured ones; its number is never that of a row of ``chart_quantities``.
SCORE_ID = 0
_CELL = np.dtype([("quantity_id", "<u2"), ("value", "<f8")])

Values = NDArray[np.float64]


def pack(values: Mapping[int, float]) -> bytes:
    """Return quantity numbers and values as ten bytes each: an unsigned 16-bit number and a double."""
    return np.array(sorted(values.items()), dtype=_CELL).tobytes()


def unpack(cells: Sequence[bytes], scores: Iterable[float | None]) -> dict[int, tuple[NDArray[np.intp], Values]]:
    """Return for each quantity the rows that have it and its values, rows in the order of ``cells``."""
    flat = np.frombuffer(b"".join(cells), dtype=_CELL)
    rows = np.repeat(np.arange(len(cells)), [len(cell) // _CELL.itemsize for cell in cells])
    found = {
        int(number): (rows[chosen], flat["value"][chosen].astype(np.float64))
        for number in np.unique(flat["quantity_id"])
        for chosen in [flat["quantity_id"] == number]
    }
    score = np.array([np.nan if value is None else value for value in scores], dtype=np.float64)
    present = np.flatnonzero(~np.isnan(score))
    return found | ({SCORE_ID: (present, score[present])} if present.size else {})
