"""Label pictures that nobody rated by an ensemble of teachers (MD-IQA): the mean where they agree, nothing where not.

    python -m training.pseudo_labels --runs RUN RUN ... --pools POOLS --pool NAME --kind petct --out POOLS/OTHER

The teachers are runs of one configuration that judge the same fold and leave different folds out besides
(``--left-out``). Nothing of the judged fold is labelled, and known scores and levels are forgotten. The pool that comes
out is used with the mode ``pseudo``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_qa_node.score.inference import Scorer
from training.config import RunConfig
from training.dataset import held_out_groups
from training.evaluate import as_rgb
from training.pool import Pool, Row, fold_of, read_pool, write_pool
from training.prompts import prompt_of_row
from training.train import read_pools

__all__ = ["Agreed", "agree", "label_pool", "teachers_of"]

_AT_ONCE = 16
_TAU = 0.25


@dataclass(frozen=True)
class Agreed:
    """What the teachers said of one picture: mean and SD of their scores, and whether it is kept."""

    index: int
    mean: float
    sd: float
    kept: bool


def agree(scores: npt.ArrayLike, indices: Sequence[int], tau: float) -> list[Agreed]:
    """Keep the pictures on which the teachers' SD is below ``tau``.

    Parameters
    ----------
    scores
        Shape (teachers, pictures).
    indices
        The pictures' rows in their pool.
    tau
        On the 0-4 scale.
    """
    values = np.asarray(scores, np.float64)
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
    return [Agreed(int(i), float(m), float(s), bool(s < tau)) for i, m, s in zip(indices, mean, sd, strict=True)]


def teachers_of(runs: Sequence[Path]) -> list[RunConfig]:
    """Read the configurations of the runs.

    Raises
    ------
    ValueError
        Fewer than two, of different networks, or not of the same judged fold.
    """
    configs = [RunConfig.model_validate(json.loads((run / "run.json").read_text())["config"]) for run in runs]
    if len(configs) < 2:
        raise ValueError("an ensemble has at least two teachers")
    if len({(config.model, config.held_out, config.folds) for config in configs}) > 1:
        raise ValueError("the teachers must be of one model and judge the same fold")
    if len({(config.left_out, config.seed) for config in configs}) < len(configs):
        raise ValueError("two teachers left out the same folds with the same seed: they are one teacher")
    return configs


def label_pool(
    runs: Sequence[Path], pools: Path, pool: Pool, kind: str, tau: float = _TAU, device: str = "auto"
) -> list[Agreed]:
    """Let every teacher judge the pictures of one kind that do not belong to the judged fold."""
    configs = teachers_of(runs)
    forbidden = held_out_groups(read_pools(pools, configs[0]), configs[0]) | _own_fold(pool, configs[0])
    indices = [i for i, row in enumerate(pool.rows) if row.kind == kind and row.group not in forbidden]
    if not indices:
        raise ValueError(f"pool {pool.name} has no {kind} pictures outside the judged fold")
    scores = []
    for run, config in zip(runs, configs, strict=True):
        scorer = Scorer.from_file(config.model, run / "weights.safetensors", device, config.options)
        scores.append(_scores(scorer, pool, indices, kind))
    return agree(np.array(scores), indices, tau)


def _own_fold(pool: Pool, config: RunConfig) -> set[str]:
    """Groups of the judged fold of a pool that the teachers did not train on: the student may be judged on it."""
    folds = fold_of((row.group for row in pool.rows), config.folds)
    return {group for group, fold in folds.items() if fold == config.held_out}


def _scores(scorer: Scorer, pool: Pool, indices: Sequence[int], kind: str) -> npt.NDArray[np.float32]:
    parts = []
    for start in range(0, len(indices), _AT_ONCE):
        part = indices[start : start + _AT_ONCE]
        images = np.stack([as_rgb(pool.images[i]) for i in part])
        parts.append(scorer.score(images, kind, [prompt_of_row(pool.rows[i]) for i in part]).score)
    return np.concatenate(parts)


def _rows(pool: Pool, agreed: Sequence[Agreed]) -> list[Row]:
    rows = []
    for item in agreed:
        row = pool.rows[item.index]
        source = f"{pool.name}:{item.index}"
        rows.append(Row(row.group, row.slice_id, row.kind, "pseudo", item.mean, {}, source, row.factors))
    return rows


def _facts(runs: Sequence[Path], agreed: Sequence[Agreed], tau: float) -> str:
    teachers = [hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest() for run in runs]
    kept = sum(item.kept for item in agreed)
    median_sd = float(np.median([item.sd for item in agreed]))
    facts = {"teachers": teachers, "tau": tau, "kept": kept, "of": len(agreed), "median_sd": round(median_sd, 4)}
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the pool of pseudo-labels and ``teachers.json`` beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--pools", type=Path, required=True)
    parser.add_argument("--pool", required=True, help="the pool to label")
    parser.add_argument("--kind", required=True, choices=["ct", "petct", "pt"])
    parser.add_argument("--tau", type=float, default=_TAU, help="largest SD of the teachers, on the 0-4 scale")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    pool = read_pool(arguments.pools / arguments.pool)
    agreed = label_pool(arguments.runs, arguments.pools, pool, arguments.kind, arguments.tau, arguments.device)
    kept = [item for item in agreed if item.kept]
    if not kept:
        raise ValueError(f"the teachers agree on none of {len(agreed)} pictures within {arguments.tau}")
    write_pool(arguments.out, [np.asarray(pool.images[item.index]) for item in kept], _rows(pool, kept))
    (arguments.out / "teachers.json").write_text(_facts(arguments.runs, agreed, arguments.tau))
    print(f"kept {len(kept)} of {len(agreed)} pictures")


if __name__ == "__main__":
    main()
