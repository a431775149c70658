"""Prepare LDCTIQAC2023 from its official layout (Lee et al. 2025, Med Image Anal 99:103343; Zenodo 7833096).

    python -m training.data.prepare_ldctiqac --source DIR --out POOL

``DIR/train.json`` maps file names to scores (0-4), ``DIR/image/NAME.tif`` are float32 pictures in [0, 1], shown through
the soft-tissue window. The public files are renamed, so that one slice at ten qualities looks like ten pictures:
what belongs together is found again by content. Pictures whose low frequencies correlate beyond `ALIKE` are one
slice; pictures that correlate beyond `NEAR` are one group, which is never split. Distant slices of one patient are not
recognised as such: their groups may lie on both sides of a split, which the official test does not suffer from. With
``--test DIR`` the official test images (``test.json`` beside ``image``) become a second pool, kept apart
from every fold: its groups have no picture in the first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from training.pool import Row, write_pool

__all__ = ["clusters", "main", "read_scores"]

ALIKE = 0.97
"""On 48 slices of four CT series at 14 doses and view numbers, this never splits a slice; neighbours may join it."""

NEAR = 0.93
"""On the same slices this never splits a slice nor joins two patients, and joins neighbouring slices."""

_BLOCK = 16
_SCORE_MAX = 4.0

FloatArray = npt.NDArray[np.float64]


def read_scores(path: Path) -> dict[str, float]:
    """Read ``train.json``: {"0000.tif": 2.6, ...}, names with or without their extension."""
    try:
        scores = {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not map file names to scores: {error}") from error
    wrong = [name for name, value in scores.items() if not 0.0 <= value <= _SCORE_MAX]
    if wrong:
        raise ValueError(f"{path}: the score of {wrong[0]} is {scores[wrong[0]]}, not within 0 to 4")
    if not scores:
        raise ValueError(f"{path} holds no score")
    return scores


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Read one float TIFF in [0, 1] as grey levels, shape (rows, columns)."""
    with Image.open(path) as image:
        values = np.asarray(image, np.float32)
    if values.ndim != 2 or not np.isfinite(values).all() or values.min() < -0.01 or values.max() > 1.01:
        raise ValueError(f"{path} is not a grey image of values in 0 to 1")
    return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * 255.0), np.uint8)


def low_frequencies(picture: npt.NDArray[np.uint8]) -> FloatArray:
    """Return a standardised thumbnail as a vector: noise and streaks are averaged out, anatomy stays."""
    smooth = ndimage.uniform_filter(picture.astype(np.float64), _BLOCK)[_BLOCK // 2 :: _BLOCK, _BLOCK // 2 :: _BLOCK]
    vector = smooth.ravel() - smooth.mean()
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))


def clusters(thumbnails: FloatArray, threshold: float) -> npt.NDArray[np.int32]:
    """Number the connected sets of pictures that correlate beyond ``threshold``, thumbnails (n, values)."""
    linked = csr_array((thumbnails @ thumbnails.T) > threshold)
    return np.asarray(connected_components(linked, directed=False)[1], np.int32)


def prepare(source: Path, labels: str, name: str, out: Path) -> None:
    """Write one pool of the pictures that one label file names."""
    scores = read_scores(source / labels)
    names = sorted(scores)
    pictures = [read_picture(_file(source / "image", entry)) for entry in names]
    thumbnails = np.stack([low_frequencies(picture) for picture in pictures])
    slices, groups = clusters(thumbnails, ALIKE), clusters(thumbnails, NEAR)
    rows = [
        Row(f"{name}/{group}", f"{name}/{group}/{index}", "ct", "rated", scores[entry], {}, entry)
        for entry, group, index in zip(names, groups, slices, strict=True)
    ]
    write_pool(out, pictures, rows)
    print(f"{len(rows)} pictures of {slices.max() + 1} slices in {groups.max() + 1} groups: {out}")


def _file(folder: Path, name: str) -> Path:
    return folder / (name if name.endswith(".tif") else f"{name}.tif")


def main() -> None:
    """Write the pool, and that of the official test beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with train.json and image/")
    parser.add_argument("--test", type=Path, help="folder with test.json and image/: the official test, kept apart")
    parser.add_argument("--out", type=Path, required=True, help="pool; the test becomes OUT_test")
    arguments = parser.parse_args()
    prepare(arguments.source, "train.json", "ldctiqac", arguments.out)
    if arguments.test:
        out = arguments.out.with_name(arguments.out.name + "_test")
        prepare(arguments.test, "test.json", "ldctiqac_test", out)


if __name__ == "__main__":
    main()
