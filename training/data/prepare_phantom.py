"""Prepare pictures of the generated patients at known dose, views and counts; each patient is one group.

They teach the network the phantom that the demo sends; the demo's own patient is none of these.

    python -m training.data.prepare_phantom --out POOLS
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.phantom.ct_acquisition import CtQuality
from dicom_qa_node.phantom.projector import FloatArray
from dicom_qa_node.phantom.volumes import ct_volume, pet_volume
from dicom_qa_node.score import display_images
from training.pool import Row, write_pool
from training.severity import simulated_score

_SEEDS = range(9001, 9011)
_LEVELS_MM = np.array([-150.0, -62.0, 60.0])
_ROWS = 512
_CT = ((1.0, 720), (0.5, 720), (0.25, 720), (0.1, 720), (0.05, 720), (0.025, 720))
_VIEWS = ((1.0, 360), (1.0, 180), (1.0, 120), (1.0, 60), (1.0, 40), (0.25, 120))
_COUNTS = (1.0, 0.5, 0.25, 0.1, 0.05)
_FACTORS = {"dimension": "3d"}
_PET_ROWS, _PET_PIXEL_MM = 128, 4.0

Pair = tuple[npt.NDArray[np.uint8], Row]


def ct_pairs(seed: int) -> Iterator[Pair]:
    """Scan three slices of one patient at every quality; the noise at full dose differs between patients."""
    rng = np.random.default_rng(seed)
    noise_hu, fov_mm = float(rng.uniform(8.0, 14.0)), float(rng.uniform(380.0, 460.0))
    for dose, views in _CT + _VIEWS:
        quality = CtQuality(dose_fraction=dose, views=views, noise_hu=noise_hu)
        volume = ct_volume(seed, _LEVELS_MM, _ROWS, fov_mm, quality)
        levels = {"dose": float(-np.log2(dose) / 2), "views": float(np.log2(720 / views) / 2), "blur": 0.0}
        score = simulated_score(dose=dose, views=views)
        for level, hu in zip(_LEVELS_MM, volume.voxels, strict=True):
            row = Row(
                f"phantom/{seed}", f"phantom/{seed}/{level:.0f}", "ct", "simulated", score, levels, factors=_FACTORS
            )
            yield display_images.ct_display_image(hu)[..., :1], row


def petct_pairs(seed: int) -> Iterator[Pair]:
    """Fuse three slices of one patient with PET of fewer and fewer counts."""
    fov_mm = _PET_ROWS * _PET_PIXEL_MM
    ct = ct_volume(seed, _LEVELS_MM, _ROWS, fov_mm, CtQuality(noise_hu=14.0))
    for fraction in _COUNTS:
        score, levels = simulated_score(counts=fraction), {"counts": float(-np.log2(fraction) / 2)}
        for level, hu in zip(_LEVELS_MM, ct.voxels, strict=True):
            stack = pet_volume(seed, level + np.array([-4.0, 0.0, 4.0]), _PET_ROWS, _PET_PIXEL_MM, fraction)
            suv: FloatArray = ndimage.zoom(
                stack.voxels[1], _ROWS / _PET_ROWS, order=1, mode="nearest", grid_mode=True
            ).astype(np.float32)
            slice_id = f"phantom/{seed}/{level:.0f}"
            clean = {"jpeg": 0.0, "gauss": 0.0, "impulse": 0.0}
            fused = display_images.fused_display_image(hu, suv)
            yield (
                fused,
                Row(
                    f"phantom/{seed}",
                    f"{slice_id}/petct",
                    "petct",
                    "simulated",
                    score,
                    levels | clean,
                    factors=_FACTORS,
                ),
            )
            alone = display_images.pad_image(display_images.pet_display_image(suv), _ROWS, SeriesKind.PT)
            yield alone, Row(f"phantom/{seed}", f"{slice_id}/pt", "pt", "simulated", score, levels, factors=_FACTORS)


def main() -> None:
    """Write the pools ``phantom_ct`` and ``phantom_petct`` into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pools")
    arguments = parser.parse_args()
    for name, make in (("phantom_ct", ct_pairs), ("phantom_petct", petct_pairs)):
        pairs = [pair for seed in _SEEDS for pair in make(seed)]
        write_pool(arguments.out / name, [image for image, _ in pairs], [row for _, row in pairs])


if __name__ == "__main__":
    main()
