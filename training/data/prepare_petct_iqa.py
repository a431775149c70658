"""Prepare PET-CT-IQA-DS: name the cell of its 3 x 3 x 3 factorial for every picture.

The set (Li et al., arXiv 2506.20200) publishes only file and score. What was done to a picture is measured
here: JPEG quality from the file's quantisation table, Gaussian level from the air background, impulse level from
the positive tail of the median residual in tissue. Within one reference the levels are told apart by rank.

    python -m training.data.prepare_petct_iqa --source ../shared/data/petct_iqa --out POOL
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from training.pool import Row, write_pool

_AIR = 24  # pixels: the corners are air in every reference
_VERSIONS = 27
_RISE = 15.0
_TISSUE = 30.0


@dataclass(frozen=True)
class Picture:
    """One file with what was measured on it; ``pixels`` is uint8 (512, 512, 3)."""

    file: str
    reference: str
    score: float
    pixels: npt.NDArray[np.uint8]
    table_sum: int
    air: float
    tail: float


def read_picture(path: Path, reference: str, score: float) -> Picture:
    """Open one JPEG and measure what betrays its cell."""
    with Image.open(path) as image:
        table_sum = sum(image.quantization[0])  # type: ignore[attr-defined]
        pixels = np.asarray(image.convert("RGB"))
    air = np.concatenate([pixels[:_AIR, :_AIR].ravel(), pixels[:_AIR, -_AIR:].ravel()])
    return Picture(path.name, reference, score, pixels, table_sum, float(air.mean()), _positive_tail(pixels))


def _positive_tail(pixels: npt.NDArray[np.uint8]) -> float:
    """Mean excess of luma over its 3x3 median beyond `_RISE` grey levels, in tissue."""
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    median = ndimage.median_filter(luma, 3)
    return float(np.maximum(luma - median - _RISE, 0.0)[median > _TISSUE].mean())


def name_cells(pictures: list[Picture]) -> dict[str, tuple[int, int, int]]:
    """Return file -> (jpeg, gauss, impulse) level, each 0-2, for the 27 versions of one reference."""
    if len(pictures) != _VERSIONS:
        raise ValueError(f"reference {pictures[0].reference}: {len(pictures)} versions, expected {_VERSIONS}")
    cells: dict[str, tuple[int, int, int]] = {}
    for jpeg, table_sum in enumerate(sorted({picture.table_sum for picture in pictures})):
        same = sorted((p for p in pictures if p.table_sum == table_sum), key=lambda p: p.air)
        for gauss in range(3):
            triple = sorted(same[3 * gauss : 3 * gauss + 3], key=lambda p: p.tail)
            for impulse, picture in enumerate(triple):
                cells[picture.file] = (jpeg, gauss, impulse)
    return cells


def main() -> None:
    """Write the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    references: dict[str, list[Picture]] = defaultdict(list)
    with (arguments.source / "labels.csv").open(newline="") as stream:
        for record in csv.DictReader(stream):
            path = arguments.source / "images" / record["file"]
            picture = read_picture(path, record["reference"], float(record["score"]))
            references[picture.reference].append(picture)
    images, rows = [], []
    for reference, pictures in sorted(references.items()):
        cells = name_cells(pictures)
        for picture in sorted(pictures, key=lambda p: p.file):
            jpeg, gauss, impulse = cells[picture.file]
            levels = {"jpeg": float(jpeg), "gauss": float(gauss), "impulse": float(impulse)}
            group = f"petct_iqa/{reference}"
            images.append(picture.pixels)
            rows.append(Row(group, group, "petct", "rated", picture.score, levels, picture.file, {"dimension": "2d"}))
    write_pool(arguments.out, images, rows)


if __name__ == "__main__":
    main()
