"""A prepared data set on disk: pictures in one memory-mapped array, what is known of each in one table.

Every ``training/data/prepare_*.py`` writes this layout, every other step reads it:

``images.npy``  uint8, shape (n, rows, columns, channels), channels 1 (grey) or 3 (RGB)
``table.csv``   one row per picture: group, slice, kind, score and the known degradation levels ("" = unknown)
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["FACTOR_NAMES", "LEVEL_NAMES", "Pool", "Row", "fold_of", "read_pool", "write_pool"]

LEVEL_NAMES = ("jpeg", "gauss", "impulse", "dose", "views", "blur", "counts", "thickness")
"""Units: JPEG quality 100/70/40 -> 0/1/2; Gaussian sigma / 5 grey levels; impulse rate / 0.0045 at full
intensity; log2 of dose reduction / 2; log2(720 / views) / 2; blur sigma in pixels; log2 of count reduction / 2;
log2 of the slice thickness in mm / 2."""

FACTOR_NAMES = ("dimension", "region", "type")
"""What a network that takes prompts is told besides the kind; values as in ``models/text_prompt.py``."""


@dataclass(frozen=True)
class Row:
    """What is known of one picture.

    ``group`` is what must never be split between training and judging (reference, patient, set); pictures of
    one ``slice_id`` show the same anatomy at different quality; ``kind`` is ct, petct or pt; ``role`` says
    how the loader may use it: ``rated`` (a human score), ``simulated`` (a documented severity mapping), ``clean``,
    ``pseudo`` (the mean of several teachers). ``factors`` are those of `FACTOR_NAMES` that the header told.
    """

    group: str
    slice_id: str
    kind: str
    role: str
    score: float | None
    levels: dict[str, float] = field(default_factory=dict)
    source: str = ""
    factors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """One prepared set, read back."""

    name: str
    images: npt.NDArray[np.uint8]
    rows: tuple[Row, ...]
    sha256: str


def write_pool(folder: Path, images: Sequence[npt.NDArray[np.uint8]], rows: Sequence[Row]) -> None:
    """Write pictures of one size and their rows; an existing pool is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    stack = np.stack([image if image.ndim == 3 else image[..., None] for image in images])
    np.save(folder / "images.npy", stack)
    with (folder / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["group", "slice", "kind", "role", "score", *LEVEL_NAMES, "source", *FACTOR_NAMES])
        for row in rows:
            levels = [f"{row.levels[name]:.6g}" if name in row.levels else "" for name in LEVEL_NAMES]
            score = "" if row.score is None else f"{row.score:.6g}"
            factors = [row.factors.get(name, "") for name in FACTOR_NAMES]
            writer.writerow([row.group, row.slice_id, row.kind, row.role, score, *levels, row.source, *factors])


def read_pool(folder: Path) -> Pool:
    """Open a pool; the pictures stay on disk until they are used."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    with (folder / "table.csv").open(newline="") as stream:
        rows = tuple(_row(record) for record in csv.DictReader(stream))
    if len(rows) != len(images):
        raise ValueError(f"{folder}: {len(images)} pictures but {len(rows)} rows")
    return Pool(folder.name, images, rows, _digest(folder))


def fold_of(groups: Iterable[str], folds: int) -> dict[str, int]:
    """Deal groups to folds in turn, in the order of a hash of their names: fixed, and blind to the scores."""
    ordered = sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return {name: index % folds for index, name in enumerate(ordered)}


def _row(record: dict[str, str]) -> Row:
    return Row(
        group=record["group"],
        slice_id=record["slice"],
        kind=record["kind"],
        role=record["role"],
        score=float(record["score"]) if record["score"] else None,
        levels={name: float(record[name]) for name in LEVEL_NAMES if record.get(name)},
        source=record["source"],
        factors={name: record[name] for name in FACTOR_NAMES if record.get(name)},
    )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((folder / "table.csv").read_bytes())
    with (folder / "images.npy").open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
