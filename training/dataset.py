"""Batches of crops for training: drawn from prepared pools, the same for the same seed and step.

What one step sees depends on ``(seed, step)`` alone, so a resumed run sees exactly what an uninterrupted one does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor
from torch.utils.data import Dataset

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score import display_images
from training.config import RunConfig, Share
from training.display_noise import degrade_display
from training.pool import LEVEL_NAMES, Pool, fold_of
from training.prompts import prompt_of_row

__all__ = ["CELL", "Batch", "Batches", "cell_table", "held_out_groups", "unseen_groups"]

Picture = npt.NDArray[np.uint8]
CELL = ("jpeg", "gauss", "impulse")
_JITTER = 64
_CROPPED_AS = {"natural": SeriesKind.PETCT}
_PHYSICAL = {"ct": ("dose", "views", "blur"), "petct": ("counts",), "pt": ("counts",)}


@dataclass(frozen=True)
class Batch:
    """One step's pictures: uint8 (n, 3, size, size), and float32 targets with the batch first."""

    pictures: Tensor
    score: Tensor
    weight: Tensor
    levels: Tensor
    scene: Tensor
    prompt: Tensor


@dataclass(frozen=True)
class _Item:
    picture: Picture
    score: float
    weight: float
    levels: dict[str, float]
    scene: int
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class _Source:
    """Rows of one share that may be trained on, by slice."""

    share: Share
    pool: Pool
    slices: tuple[tuple[int, ...], ...]


def held_out_groups(pools: Sequence[Pool], config: RunConfig) -> set[str]:
    """Return the groups of the fold that this run must not see; each pool is split separately."""
    return set() if config.held_out is None else _groups_of(pools, config, {config.held_out})


def unseen_groups(pools: Sequence[Pool], config: RunConfig) -> set[str]:
    """Return the groups that this run must not see: the fold that is judged, and those that a teacher leaves out."""
    return held_out_groups(pools, config) | _groups_of(pools, config, set(config.left_out))


def _groups_of(pools: Sequence[Pool], config: RunConfig, wanted: set[int]) -> set[str]:
    """Return the groups of some folds; a pool of pseudo-labels holds groups of other pools and is not dealt itself."""
    dealt = {share.pool for share in config.shares if share.mode != "pseudo"}
    found: set[str] = set()
    for pool in (pool for pool in pools if pool.name in dealt):
        folds = fold_of((row.group for row in pool.rows), config.folds)
        found |= {group for group, fold in folds.items() if fold in wanted}
    return found


def cell_table(pools: Sequence[Pool], held_out: set[str]) -> npt.NDArray[np.float64] | None:
    """Mean rated score of each (jpeg, gauss, impulse) cell over the training references, shape (3, 3, 3)."""
    scores: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for pool in pools:
        for row in pool.rows:
            rated = row.role == "rated" and row.score is not None and row.group not in held_out
            if rated and all(name in row.levels for name in CELL):
                assert row.score is not None
                scores[tuple(round(row.levels[name]) for name in CELL)].append(row.score)
    if not scores:
        return None
    table = np.full((3, 3, 3), np.nan)
    for cell, values in scores.items():
        table[cell] = np.mean(values)
    if np.isnan(table).any():
        raise ValueError("the rated pictures do not cover all 27 cells of the display degradations")
    return table


class Batches(Dataset[Batch]):
    """Item ``step`` is the batch of that step."""

    def __init__(self, pools: Sequence[Pool], config: RunConfig, size: int) -> None:
        self._config = config
        self._size = size
        held_out = unseen_groups(pools, config)
        named = {pool.name: pool for pool in pools}
        self._sources = [_source(named[share.pool], share, held_out) for share in config.shares]
        table = cell_table(pools, held_out)
        axis = (0.0, 1.0, 2.0)
        self.cells = table
        """Mean score of every display cell over the training references, shape (3, 3, 3), or None."""
        self._table = None if table is None else RegularGridInterpolator((axis,) * 3, table)
        self._plans: dict[tuple[str, int], tuple[display_images.Crop, ...]] = {}

    def __len__(self) -> int:
        return self._config.steps

    def __getitem__(self, step: int) -> Batch:
        """Draw the batch of one step."""
        rng = np.random.default_rng((self._config.seed, step))
        items: list[_Item] = []
        scenes = 0
        for source in self._sources:
            for _ in range(source.share.scenes):
                items += self._scene(source, scenes, rng)
                scenes += 1
        levels = [[item.levels.get(name, np.nan) for name in LEVEL_NAMES] for item in items]
        pictures = np.stack([item.picture for item in items]).transpose(0, 3, 1, 2)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(pictures)),
            torch.tensor([item.score for item in items], dtype=torch.float32),
            torch.tensor([item.weight for item in items], dtype=torch.float32),
            torch.tensor(levels, dtype=torch.float32),
            torch.tensor([item.scene for item in items]),
            torch.tensor([item.prompt for item in items]),
        )

    def _scene(self, source: _Source, scene: int, rng: np.random.Generator) -> list[_Item]:
        """Draw several versions of one slice."""
        rows = source.slices[int(rng.integers(len(source.slices)))]
        share = source.share
        if share.mode == "display":
            clean = rows[int(rng.integers(len(rows)))]
            return [self._displayed(source, clean, scene, rng) for _ in range(share.versions)]
        chosen = rng.choice(rows, size=share.versions, replace=len(rows) < share.versions)
        return [self._stored(source, int(index), scene, rng) for index in chosen]

    def _stored(self, source: _Source, index: int, scene: int, rng: np.random.Generator) -> _Item:
        row = source.pool.rows[index]
        assert row.score is not None
        picture = self._crop(source, index, rng)
        levels = self._known(source, row.levels)
        return _Item(picture, row.score, source.share.weight, levels, scene, prompt_of_row(row).codes())

    def _known(self, source: _Source, levels: dict[str, float]) -> dict[str, float]:
        """Add the physical degradations that this modality class cannot have, as zero, where the run asks for it."""
        if not self._config.absent_levels or source.share.kind not in _PHYSICAL:
            return levels
        own = _PHYSICAL[source.share.kind]
        return {name: 0.0 for names in _PHYSICAL.values() for name in names if name not in own} | levels

    def _displayed(self, source: _Source, index: int, scene: int, rng: np.random.Generator) -> _Item:
        if self._table is None:
            raise ValueError("display degradations need rated pictures that name their cells")
        whole = rng.random() < 0.5
        drawn = rng.integers(3, size=3) if whole else rng.uniform(0.0, 2.0, size=3)
        levels = (float(drawn[0]), float(drawn[1]), float(drawn[2]))
        picture = degrade_display(self._crop(source, index, rng), levels, rng)
        score = float(self._table(np.array([levels]))[0])
        named = self._known(source, dict(zip(CELL, levels, strict=True)))
        prompt = prompt_of_row(source.pool.rows[index]).codes()
        return _Item(picture, score, source.share.weight, named, scene, prompt)

    def _crop(self, source: _Source, index: int, rng: np.random.Generator) -> Picture:
        """Take one crop of the plan, moved a little on the grid, mirrored and turned at random."""
        kind, size = _CROPPED_AS.get(source.share.kind) or SeriesKind(source.share.kind), self._size
        stored = source.pool.images[index]
        picture = np.repeat(stored, 3, axis=-1) if stored.shape[-1] == 1 else np.asarray(stored)
        picture = display_images.pad_image(picture, size, kind)
        key = (source.pool.name, index)
        if key not in self._plans:
            self._plans[key] = display_images.crop_plan(picture, size, kind)
        plan = self._plans[key]
        crop = plan[int(rng.integers(len(plan)))]
        corner = [
            int(np.clip(start + rng.integers(-_JITTER, _JITTER + 1), 0, length - size))
            // display_images.GRID
            * display_images.GRID
            for start, length in zip((crop.row, crop.column), picture.shape[:2], strict=True)
        ]
        piece = picture[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
        turned = np.rot90(piece, int(rng.integers(4)))
        return np.ascontiguousarray(turned[:, ::-1] if rng.random() < 0.5 else turned)


def _source(pool: Pool, share: Share, held_out: set[str]) -> _Source:
    slices: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(pool.rows):
        if row.kind != share.kind or row.group in held_out:
            continue
        clean = all(row.levels.get(name) == 0.0 for name in CELL) and not row.levels.get("counts")
        wanted = clean if share.mode == "display" else row.role == share.mode and row.score is not None
        if wanted:
            slices[row.slice_id].append(index)
    if not slices:
        raise ValueError(f"pool {pool.name} has no {share.mode} {share.kind} pictures outside the held-out fold")
    return _Source(share, pool, tuple(tuple(slices[key]) for key in sorted(slices)))
