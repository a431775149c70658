"""Judge CT runs on the groups that each held out: every figure of the table, with bootstrap by group.

python -m training.ct_judge --cache CACHE --runs RUNS --csv FIGURES.csv --scanners SCANNERS.csv
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from dicom_qa_node.models.card import Figure
from dicom_qa_node.models.ct_cards import CT_METHODS
from dicom_qa_node.models.ct_ratings import WIDTH_KNOTS, compose
from training.ct_table import FOLDS, CtTable, read_table

__all__ = ["Held", "conformal_widths", "figures_of", "held_out", "offset_of"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DIAGNOSTIC = 2.5
LOW_DOSE_HU = 25.0
"""A soft-tissue series with more noise than this counts as low-dose or thin, apart from the others."""

_TENTH = 0.1
_NEAR = 1 / 1.04**2
_OFFSETS = np.arange(0.0, 0.41, 0.05)
_COVERED = 0.9
_RESAMPLED = 400
_SEED = 11
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Held:
    """Ratings (members, n, 7) of rows by runs that held them out."""

    name: str
    ratings: Array


def held_out(table: CtTable, runs: Path, name: str, members: Sequence[tuple[str, str, int]]) -> Held | None:
    """Read the held-out ratings of some runs (method, variant, seed); None while one is missing."""
    fold = table.fold
    result = np.zeros((len(members), *table.targets.shape))
    for index, (method, variant, seed) in enumerate(members):
        for k in range(FOLDS):
            path = runs / f"{method}_{variant}_{k}_{seed}.pt"
            if not path.exists():
                return None
            result[index, fold == k] = torch.load(path, weights_only=False)["ratings"]
    return Held(name, result)


def linear(table: CtTable, runs: Path) -> Held:
    """Return the linear readout alone: the yardstick of the networks."""
    fold = table.fold
    result = np.zeros(table.targets.shape)
    for k in range(FOLDS):
        with np.load(runs / f"readout_{k}.npz") as found:
            result[fold == k] = table.inputs[fold == k].astype(np.float64) @ found["weight"].T + found["bias"]
    return Held("linear", result[None])


def scored(held: Held, offset: float | Array) -> Array:
    """Return the scores of the mean ratings; ``offset`` for all rows or for each."""
    ratings = held.ratings.mean(0).copy()
    ratings[:, 3] += offset
    result: Array = compose(ratings).score
    return result


def offset_of(table: CtTable, held: Held, rows: Mask) -> float:
    """Choose the dose offset on some rows: routine above the limit and tenths below it, as many of both as can be."""
    routine, tenth = _routine(table) & rows, _tenth(table) & rows

    def right(offset: float) -> float:
        score = scored(held, offset)
        return float(np.mean(score[routine] >= DIAGNOSTIC) + np.mean(score[tenth] < DIAGNOSTIC))

    return float(max(_OFFSETS, key=lambda offset: (round(right(offset), 4), -offset)))


def nested_scores(table: CtTable, held: Held) -> Array:
    """Return scores whose offset was chosen without the row's fold."""
    fold = table.fold
    offsets = np.zeros(len(fold))
    for k in range(FOLDS):
        offsets[fold == k] = offset_of(table, held, fold != k)
    return scored(held, offsets)


def conformal_widths(score: Array, label: Array, rows: Mask) -> Array:
    """Return half widths at scores 0, 0.5 ... 4: the 90 % quantile of the error near that score."""
    knots = np.linspace(0, 4, WIDTH_KNOTS)
    error = np.abs(score - label)[rows]
    near = [np.abs(score[rows] - knot) <= 0.35 for knot in knots]
    widths = [float(np.quantile(error[mine], _COVERED)) if mine.sum() >= 20 else np.nan for mine in near]
    known = np.flatnonzero(np.isfinite(widths))
    return np.asarray(np.interp(knots, knots[known], np.array(widths)[known]), np.float64)


def judged_rows(table: CtTable) -> Mask:
    """Return the rows with a label that count: no extra views, no fixed anchors of the readers."""
    anchors = np.isin(table.rows.column("method"), ("LDCT", "NDCT"))
    return ~table.extra & ~anchors


def figures_of(table: CtTable, held: Held) -> list[Figure]:
    """Return every figure of one method with its 90 % bootstrap interval by group."""
    score = nested_scores(table, held)
    column = table.rows.column
    version, source, method = column("version"), column("source"), column("method")
    region = column("region")
    routine, tenth = _routine(table), _tenth(table)
    near = (version == "near") & (np.abs(_dose(table) - _NEAR) < 1e-3) & (source == "multiscanner") & ~table.extra
    base = _of_slice(table, score, routine | ((version == "routine") & ~table.extra))
    low_dose = routine & (column("gnl", 0.0).astype(float) > LOW_DOSE_HU) & (column("window") == "soft tissue")
    multi = (source == "multiscanner") & ~table.extra
    rated = table.known[:, 0]
    covered, width = _coverage(table, score)
    full, quarter = (
        (source == "reader") & (region == "abdomen") & (method == "NDCT"),
        (method == "LDCT") & (region == "abdomen"),
    )
    partner = dict(zip(table.patient[full], score[full], strict=True))
    step = np.array([partner.get(patient, np.nan) - value for patient, value in zip(table.patient, score, strict=True)])
    wanted: list[tuple[str, Mask, Callable[[Mask], float]]] = [
        ("ct_routine_below_diagnostic", routine, lambda m: float(np.mean(score[m] < DIAGNOSTIC))),
        (
            "ct_routine_below_diagnostic_without_low_dose",
            routine & ~low_dose,
            lambda m: float(np.mean(score[m] < DIAGNOSTIC)),
        ),
        ("ct_routine_non_diagnostic", routine, lambda m: float(np.mean(score[m] < 1.5))),
        ("ct_tenth_below_diagnostic", tenth, lambda m: float(np.mean(score[m] < DIAGNOSTIC))),
        ("ct_tenth_drop", tenth, lambda m: float(np.mean(base[m] - score[m]))),
        (
            "ct_noise_1.04_same_grade",
            near,
            lambda m: float(np.mean((score[m] >= DIAGNOSTIC) == (base[m] >= DIAGNOSTIC))),
        ),
        (
            "ct_dose_spearman",
            multi & np.isin(version, ("routine", "near", "dose", "starved")),
            lambda m: _rank(score[m], _dose(table)[m]),
        ),
        (
            "ct_views_spearman",
            multi & np.isin(version, ("routine", "views")),
            lambda m: _rank(score[m], column("views", 720).astype(float)[m]),
        ),
        (
            "ct_blur_spearman",
            multi & np.isin(version, ("routine", "blur")),
            lambda m: -_rank(score[m], column("blur_px", 0.0).astype(float)[m]),
        ),
        ("ct_simulated_rmse", multi, lambda m: _rmse(score[m], table.score[m])),
        ("ct_readers_srocc", rated, lambda m: _rank(score[m], table.score[m])),
        ("ct_readers_abdomen_srocc", rated & (region == "abdomen"), lambda m: _rank(score[m], table.score[m])),
        ("ct_readers_brain_srocc", rated & (region == "brain"), lambda m: _rank(score[m], table.score[m])),
        ("ct_readers_rmse", rated, lambda m: _rmse(score[m], table.score[m])),
        ("ct_pairs_ordered", quarter, lambda m: float(np.mean(step[m] > 0))),
        ("ct_pairs_smallest_step", quarter, lambda m: float(np.min(step[m]))),
        ("ct_pairs_full_dose_diagnostic", full, lambda m: float(np.mean(score[m] >= DIAGNOSTIC))),
        ("ct_interval_coverage", judged_rows(table), lambda m: float(np.mean(covered[m]))),
        ("ct_interval_half_width", judged_rows(table), lambda m: float(np.mean(width[m]))),
        ("ct_interval_half_width_routine", routine, lambda m: float(np.mean(width[m]))),
    ]
    rng = np.random.default_rng(_SEED)
    return [_figure(name, mask, value, table.group, rng) for name, mask, value in wanted]


def _coverage(table: CtTable, score: Array) -> tuple[Mask, Array]:
    """Return which rows their interval covers, and its half width, both by widths from other folds."""
    fold, rows = table.fold, judged_rows(table)
    width = np.zeros(len(score))
    knots = np.linspace(0, 4, WIDTH_KNOTS)
    for k in range(FOLDS):
        widths = conformal_widths(score, table.score, rows & (fold != k))
        width[fold == k] = np.interp(score[fold == k], knots, widths)
    return np.abs(score - table.score) <= width, width


def _figure(
    name: str, mask: Mask, value: Callable[[Mask], float], group: npt.NDArray[np.str_], rng: np.random.Generator
) -> Figure:
    names = sorted(set(group[mask]))
    members = {one: np.flatnonzero(mask & (group == one)) for one in names}
    drawn = []
    for _ in range(_RESAMPLED):
        rows = np.concatenate([members[one] for one in rng.choice(names, len(names))])
        drawn.append(value(rows))
    low, high = np.nanquantile(drawn, [0.05, 0.95])
    protocol = (
        f"scanner models and reader sets left out in {FOLDS} folds, patients apart; bootstrap over {len(names)} groups"
    )
    return Figure(name, round(value(mask), 4), round(float(low), 4), round(float(high), 4), int(mask.sum()), protocol)


def _routine(table: CtTable) -> Mask:
    of_scanners = table.rows.column("source") == "multiscanner"
    return np.asarray((table.rows.column("version") == "routine") & of_scanners & ~table.extra, np.bool_)


def _tenth(table: CtTable) -> Mask:
    version = np.isin(table.rows.column("version"), ("dose", "dose_other", "starved"))
    of_scanners = table.rows.column("source") == "multiscanner"
    return np.asarray(version & (np.abs(_dose(table) - _TENTH) < 1e-6) & of_scanners & ~table.extra, np.bool_)


def _dose(table: CtTable) -> Array:
    return table.rows.column("dose", 1.0).astype(np.float64)


def _of_slice(table: CtTable, score: Array, routine: Mask) -> Array:
    known = dict(zip(table.slices[routine], score[routine], strict=True))
    return np.array([known.get(name, np.nan) for name in table.slices])


def _rank(a: Array, b: Array) -> float:
    return float(spearmanr(a, b).statistic)


def _rmse(a: Array, b: Array) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def rows_of_table(table: CtTable, runs: Path) -> list[Held]:
    """Return everything that has been run: the readout, each method and seed, ablations, and the panel."""
    from training.ct_train import METHODS

    found: list[Held | None] = [linear(table, runs)]
    for method, variants in METHODS.items():
        for variant in variants:
            found += [held_out(table, runs, f"{method}_{variant}_{seed}", [(method, variant, seed)]) for seed in _SEEDS]
    found += [
        held_out(table, runs, f"panel_{seed}", [(method, "main", seed) for method in CT_METHODS]) for seed in _SEEDS
    ]
    return [one for one in found if one is not None]


def write_scanners(table: CtTable, held: Held, path: Path) -> None:
    """Write what each scanner model and kernel scored while it was held out."""
    score = nested_scores(table, held)
    routine, tenth = _routine(table), _tenth(table)
    kernel = table.rows.column("kernel")
    lines: list[Mapping[str, object]] = []
    for model, name in sorted({(str(a), str(b)) for a, b in zip(table.group[routine], kernel[routine], strict=True)}):
        mine = (table.group == model) & (kernel == name)
        lines.append(
            {
                "model": model,
                "kernel": name,
                "slices": int((mine & routine).sum()),
                "routine": round(float(score[mine & routine].mean()), 2),
                "lowest": round(float(score[mine & routine].min()), 2),
                "tenth": round(float(score[mine & tenth].mean()), 2),
                "tenth_below": round(float((score[mine & tenth] < DIAGNOSTIC).mean()), 2),
            }
        )
    _write(path, lines)


def _write(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--scanners", type=Path, required=True)
    arguments = parser.parse_args()
    table = read_table(arguments.cache)
    every = rows_of_table(table, arguments.runs)
    lines = [
        {"run": one.name, "figure": f.name, "value": f.value, "low": f.low, "high": f.high, "n": f.n}
        for one in every
        for f in figures_of(table, one)
    ]
    _write(arguments.csv, lines)
    default = [one for one in every if one.name.startswith("tfkt_main")]
    write_scanners(table, (default or every)[0], arguments.scanners)
    for one in every:
        mine = [line for line in lines if line["run"] == one.name]
        print(one.name, " ".join(f"{line['figure'].removeprefix('ct_')}={line['value']}" for line in mine))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
