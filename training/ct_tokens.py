"""Project the cached grids once: the principal components of each stage, fitted on photographs, phantoms and limbs
only.

No picture that any head is judged on takes part in the fit.

    python -m training.ct_tokens --cache CACHE --out TOKENS
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_qa_node.models.ct_network import COMPONENTS, TOKEN_CHANNELS
from dicom_qa_node.models.efficientnet_lite0 import STAGE_CHANNELS
from training.feature_cache import read_cache

__all__ = ["fit_projection", "tokens_of"]

Floats = npt.NDArray[np.float32]

_FITTED_ON = ("natural_", "phantom_", "limb_")
_SD_STAGES = 6
_SAMPLE = 40_000
_LEAST = 1e-3


def fit_projection(grid: Floats) -> tuple[Floats, Floats]:
    """Return centre (1120,) and basis (`TOKEN_CHANNELS`, 1120) of grids (n, 1120, 8, 8), components of unit
    variance."""
    flat = grid.transpose(0, 2, 3, 1).reshape(-1, grid.shape[1])
    flat = flat[np.random.default_rng(0).permutation(len(flat))[:_SAMPLE]].astype(np.float64)
    centre = flat.mean(0)
    basis = np.zeros((TOKEN_CHANNELS, grid.shape[1]))
    row = start = 0
    widths = (*STAGE_CHANNELS, *STAGE_CHANNELS[:_SD_STAGES])
    for channels, count in zip(widths, (*COMPONENTS, *COMPONENTS[:_SD_STAGES]), strict=True):
        part = flat[:, start : start + channels] - centre[start : start + channels]
        values, vectors = np.linalg.eigh(part.T @ part / len(part))
        order = np.argsort(values)[::-1][:count]
        basis[row : row + count, start : start + channels] = (vectors[:, order] / np.sqrt(values[order] + _LEAST)).T
        row, start = row + count, start + channels
    return centre.astype(np.float32), basis.astype(np.float32)


def tokens_of(grid: Floats, centre: Floats, basis: Floats) -> npt.NDArray[np.float16]:
    """Project grids (n, 1120, 8, 8) to half floats (n, `TOKEN_CHANNELS`, 8, 8)."""
    flat = grid.reshape(*grid.shape[:2], -1) - centre[:, None]
    return np.asarray(np.clip(basis @ flat, -30, 30).reshape(len(grid), len(basis), *grid.shape[2:]), np.float16)


def main() -> None:
    """Write ``projection.npz`` and one ``.npy`` of tokens per slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stored = arguments.out / "projection.npz"
    if not stored.exists():
        rows = read_cache(arguments.cache, _FITTED_ON, ("grid_mean", "grid_sd"))
        centre, basis = fit_projection(np.concatenate([rows.arrays["grid_mean"], rows.arrays["grid_sd"]], 1))
        np.savez(stored, centre=centre, basis=basis)
    with np.load(stored) as file:
        centre, basis = file["centre"], file["basis"]
    for path in sorted(arguments.cache.glob("*.npz")):
        target = arguments.out / f"{path.stem}.npy"
        if not target.exists():
            with np.load(path) as found:
                grid = np.concatenate([found["grid_mean"], found["grid_sd"]], 1).astype(np.float32)
            np.save(target, tokens_of(grid, centre, basis))


if __name__ == "__main__":
    main()
