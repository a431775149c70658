"""Prepare natural photographs with mean opinion scores: what TFKT learns quality from before it sees a CT.

Reads the layout of BIQ2021 (``mos.csv`` with ``file`` and ``mos`` in 0-1, ``images/``). Scores are stretched to 0-4;
every photograph is a group of its own. Larger ones than `_SIDE` are cropped in their middle, not resized, so that noise
and compression stay what they were; smaller ones are continued by reflection.

    python -m training.data.prepare_natural --source ../shared/data/natural_iqa --out POOLS/natural_iqa
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.pool import Row, write_pool

_SIDE = 512
_SCALE = 4.0


def read_photograph(path: Path) -> npt.NDArray[np.uint8]:
    """Return the middle of a photograph, shape (512, 512, 3)."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    missing = [max(_SIDE - length, 0) for length in pixels.shape[:2]]
    if any(gap > length for gap, length in zip(missing, pixels.shape[:2], strict=True)):
        raise ValueError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels are too few")
    pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    top, left = ((length - _SIDE) // 2 for length in pixels.shape[:2])
    return pixels[top : top + _SIDE, left : left + _SIDE]


def main() -> None:
    """Write the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    images: list[npt.NDArray[np.uint8]] = []
    rows: list[Row] = []
    with (arguments.source / "mos.csv").open(newline="") as stream:
        for record in csv.DictReader(stream):
            mos = float(record["mos"])
            if not 0.0 <= mos <= 1.0:
                raise ValueError(f"{record['file']}: a mean opinion score of {mos} is not in 0 to 1")
            images.append(read_photograph(arguments.source / "images" / record["file"]))
            name = f"natural/{Path(record['file']).stem}"
            rows.append(Row(name, name, "natural", "rated", _SCALE * mos, {}, record["file"], {"dimension": "2d"}))
    write_pool(arguments.out, images, rows)


if __name__ == "__main__":
    main()
