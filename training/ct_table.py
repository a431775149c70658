"""The cached CT pools as one table: inputs, ratings with what is known of them, groups and folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_qa_node.models.ct_ratings import RATINGS, composite
from training.feature_cache import Rows, read_cache

__all__ = ["FOLDS", "CtTable", "read_table"]

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

FOLDS = 6
_TILT, _MOST_TILT = 0.35, 0.6
"""How much of a scanner's own noise (in doublings against the median of its window) counts, and at most."""

_VIEWS = 720.0
_SHARPENED = 0.5
_ROUTINE = 3.7
STATISTICS = ("pooled", "evidence", "bands")


@dataclass(frozen=True)
class CtTable:
    """Rows of the pools ``reader``, ``reader_sim``, ``multiscanner``, ``series`` and ``varied``.

    ``inputs`` (n, 2360) statistics; ``targets`` and ``known`` (n, 7): ratings, and which of them a row has. ``group``
    is the scanner model or the reader set that is left out as a whole; ``patient``, ``slice`` as they are called;
    ``extra`` rows (other fields of view and kernels) train and never judge; ``score`` (n,) the label on the scale 0-4.
    """

    inputs: Floats
    targets: Array
    known: npt.NDArray[np.bool_]
    score: Array
    group: npt.NDArray[Any]
    patient: npt.NDArray[Any]
    slices: npt.NDArray[Any]
    extra: npt.NDArray[np.bool_]
    rows: Rows

    @property
    def fold(self) -> npt.NDArray[np.int64]:
        """The fold of each row: groups dealt by size, largest first, reader sets and scanners apart."""
        result = np.zeros(len(self.group), np.int64)
        for readers in (True, False):
            names = [name for name in sorted(set(self.group)) if str(name).startswith("set ") == readers]
            names.sort(key=lambda name: -int((self.group == name).sum()))
            load = np.zeros(FOLDS)
            for name in names:
                lightest = int(load.argmin())
                mine = self.group == name
                load[lightest] += mine.sum()
                result[mine] = lightest
        return result

    def trains(self, held_out: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which rows may train when some are held out: those of other groups and other patients."""
        patients = set(self.patient[held_out])
        return ~held_out & ~np.isin(self.patient, list(patients))


def read_table(cache: Path, varied: Sequence[str] = ("varied1",)) -> CtTable:
    """Read the cache (see `feature_cache`) and give every row its targets."""
    prefixes = ("reader_", "multiscanner_", "series_", *(f"{name}_" for name in varied))
    rows = read_cache(cache, prefixes, STATISTICS)
    source = rows.column("source")
    rated = (source == "reader") & ~np.isin(rows.column("method"), ("LDCT", "NDCT"))
    usable = rows.column("inside").astype(bool) & (~rated | rows.column("usable", True).astype(bool))
    rows = rows.where(usable)
    source, patient = rows.column("source"), rows.column("patient")
    reader = source == "reader"
    rated = reader & ~np.isin(rows.column("method"), ("LDCT", "NDCT"))
    acquired = ~reader
    numbers = {name: rows.column(name, default).astype(float) for name, default in _DEFAULTS.items()}
    dose = -np.log2(numbers["dose"]) + _tilt(numbers["gnl"], rows.column("window"))
    views = np.log2(_VIEWS / numbers["views"])
    blur = np.where(numbers["sharpen"] > 0, -_SHARPENED * numbers["sharpen"], numbers["blur_px"])
    rating = [numbers[name] for name in ("noise", "contrast", "structure")]
    targets = np.stack([*rating, dose, views, blur, rated.astype(float)], 1)
    known = np.stack([rated, rated, rated, acquired, acquired, acquired, np.ones(len(source), bool)], 1)
    from dicom_qa_node.models.ct_ratings import compose

    exact = targets.copy()
    exact[:, 6] = np.where(rated, 9.0, -9.0)
    score = np.where(rated, composite(*rating), compose(exact).score)
    score = np.where(reader & ~rated, np.where(rows.column("method") == "NDCT", _ROUTINE, 0.0), score)
    in_sets = np.isin(source, ("reader", "reader_sim"))
    group = np.where(in_sets, [f"set {name.rsplit('_', 1)[-1]}" for name in patient], rows.column("model"))
    extra = np.array([str(name).startswith("varied") for name in rows.column("slice")])
    assert targets.shape[1] == len(RATINGS)
    inputs = np.concatenate([rows.arrays[name] for name in STATISTICS], 1)
    return CtTable(inputs, targets, known, score, group, patient, rows.column("slice"), extra, rows)


_DEFAULTS = {
    "noise": 7.0,
    "contrast": 5.0,
    "structure": 5.0,
    "dose": 1.0,
    "views": _VIEWS,
    "blur_px": 0.0,
    "sharpen": 0.0,
    "gnl": 12.0,
}


def _tilt(gnl: Array, window: npt.NDArray[Any]) -> Array:
    """Return what a scanner's own noise adds to the halvings of the dose: the anchor does not depend on the scanner."""
    result = np.zeros(len(gnl))
    for name in set(window):
        mine = window == name
        result[mine] = 2 * _TILT * np.log2(gnl[mine] / np.median(gnl[mine]))
    return np.clip(result, -_MOST_TILT, _MOST_TILT)
