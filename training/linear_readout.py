"""The linear readout that every CT network starts from: ridge regression of the ratings on the statistics.

Closed form, a few seconds; `cross_fitted` gives what networks learn the rest from: predictions for training rows
by readouts that have not seen their group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from training.ct_table import FOLDS, CtTable

__all__ = ["Readout", "cross_fitted", "fit_readout"]

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

_READ, _SIMULATED = slice(0, 3), slice(3, 6)
PENALTY = 0.3
_LEAST_SPREAD = 1e-3
_GATE_WEIGHT, _GATE_PENALTY = 3.0, 0.1


@dataclass(frozen=True)
class Readout:
    """``weight`` (7, f) and ``bias`` (7,) read the statistics; the standardisation of the fit is folded into them."""

    weight: Array
    bias: Array

    def __call__(self, inputs: Floats) -> Array:
        """Return the ratings (n, 7) of statistics (n, f)."""
        return np.asarray(inputs.astype(np.float64) @ self.weight.T + self.bias)


def fit_readout(table: CtTable, rows: npt.NDArray[np.bool_], penalty: float = PENALTY) -> Readout:
    """Fit on some rows: the readers' ratings on rated pictures, severities on simulated ones, the kind on all.

    Each has its own standardisation: what varies among denoised pictures is drowned by what varies among doses.
    """
    weight = np.zeros((table.targets.shape[1], table.inputs.shape[1]))
    bias = np.zeros(table.targets.shape[1])
    for columns in (_READ, _SIMULATED, slice(6, 7)):
        mine = rows & table.known[:, columns].all(1)
        rated = table.known[mine, 0]
        importance = np.where(rated, _GATE_WEIGHT, 1.0) if columns.start == 6 else np.ones(int(mine.sum()))
        strength = _GATE_PENALTY if columns.start == 6 else penalty
        w, b = _ridge(table.inputs[mine], table.targets[mine, columns], importance, strength)
        weight[columns], bias[columns] = w, b
    return Readout(weight, bias)


def _ridge(x: Floats, y: Array, importance: Array, penalty: float) -> tuple[Array, Array]:
    mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    spread = spread + _LEAST_SPREAD * spread.max() + 1e-6
    z = ((x - mean) / spread).astype(np.float32)
    centre = np.average(y, axis=0, weights=importance)
    if len(z) < z.shape[1]:
        gram = (z @ z.T).astype(np.float64) / z.shape[1]
        gram[np.diag_indices(len(z))] += penalty / importance
        w = z.T.astype(np.float64) @ cho_solve(cho_factor(gram), y - centre) / z.shape[1]
    else:
        weighted = z * importance[:, None].astype(np.float32)
        gram = (z.T @ weighted).astype(np.float64)
        gram[np.diag_indices(len(gram))] += penalty * z.shape[1]
        w = cho_solve(cho_factor(gram), weighted.T.astype(np.float64) @ (y - centre))
    w = w.T / spread
    return w, centre - w @ mean


def cross_fitted(table: CtTable, rows: npt.NDArray[np.bool_], penalty: float = PENALTY) -> Array:
    """Return ratings (n, 7) for the chosen rows, each by a readout that was fitted without its fold; NaN elsewhere."""
    result = np.full(table.targets.shape, np.nan)
    fold = table.fold
    for k in range(FOLDS):
        held_out = rows & (fold == k)
        if held_out.any():
            result[held_out] = fit_readout(table, rows & table.trains(held_out), penalty)(table.inputs[held_out])
    return result
