"""Turn held-out predictions into figures and split-conformal intervals.

    python -m training.calibrate RUN/predictions.csv ... --out calibration.json [--csv training/results/NAME.csv]
        [--readers POOLS/ct_reader] [--plot docs/figures/NAME.png] [--by-fold FILE --name NAME]

The predictions are those of runs that each held out one fold, so no picture is judged by a network that saw its
group. The half width of a kind is the conformal quantile of the absolute error (Angelopoulos &
Bates 2021, arXiv 2107.07511); its coverage is measured fold by fold, with the width taken from the other folds only.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from dicom_qa_node.config import Grades
from dicom_qa_node.models.card import Calibration, Figure
from training.baselines import noise_figures
from training.dataset import CELL
from training.evaluate import Prediction, read_predictions
from training.metrics import agreement, within_slice_spearman
from training.plots import plot_predictions
from training.pool import read_pool

__all__ = [
    "by_fold",
    "calibrate",
    "cell_baseline",
    "conformal_half_width",
    "figures_of",
    "held_out_figures",
    "read_calibration",
]

NOMINAL = 0.9

_NOTES = {
    "petct": "readers' scores of PET-CT-IQA-DS (display-domain degradations)",
    "ct": "readers' composites and simulated dose, views and blur",
    "pt": "simulated count reduction only; no reader has scored these pictures",
}


_FILE: TypeAdapter[tuple[dict[str, Calibration], tuple[Figure, ...]]] = TypeAdapter(
    tuple[dict[str, Calibration], tuple[Figure, ...]]
)


def read_calibration(path: Path) -> tuple[dict[str, Calibration], tuple[Figure, ...]]:
    """Read what this command wrote: half widths by kind, and the figures of the card."""
    return _FILE.validate_json(path.read_bytes())


def conformal_half_width(errors: npt.ArrayLike, nominal: float = NOMINAL) -> float:
    """Return the split-conformal quantile of absolute errors: the ceil((n + 1) * nominal)-th smallest."""
    ordered = np.sort(np.abs(np.asarray(errors, np.float64)))
    rank = math.ceil((ordered.size + 1) * nominal)
    if rank > ordered.size:
        raise ValueError(f"{ordered.size} errors are too few for a {nominal:.0%} interval")
    return float(ordered[rank - 1])


def calibrate(predictions: Sequence[Prediction]) -> dict[str, Calibration]:
    """Return the calibration of every kind that was judged."""
    found = {}
    for kind in sorted({p.row.kind for p in predictions}):
        chosen = [p for p in predictions if p.row.kind == kind and _calibrates(p)]
        errors = np.array([p.predicted - (p.row.score or 0.0) for p in chosen])
        folds = np.array([p.fold for p in chosen])
        covered = np.zeros(len(chosen), bool)
        for fold in np.unique(folds):
            own = folds == fold
            covered[own] = np.abs(errors[own]) <= conformal_half_width(errors[~own])
        found[kind] = Calibration(
            half_width=round(conformal_half_width(errors), 3),
            nominal=NOMINAL,
            coverage=round(float(covered.mean()), 3),
            n=len(chosen),
            groups=len({p.row.group for p in chosen}),
            note=_NOTES[kind],
        )
    return found


def _calibrates(prediction: Prediction) -> bool:
    """Fused pictures are calibrated on readers' scores alone, the other kinds on all real ones; phantoms on nothing."""
    return prediction.row.role == "rated" or (prediction.row.kind != "petct" and not _is_phantom(prediction))


def _is_phantom(prediction: Prediction) -> bool:
    return prediction.row.group.startswith("phantom/")


def cell_baseline(predictions: Iterable[Prediction]) -> dict[int, float]:
    """Content-free baseline: each picture's cell mean over the references of the other folds, by position."""
    rated = list(predictions)
    table: dict[int, float] = {}
    for index, p in enumerate(rated):
        cell = [p.row.levels[name] for name in CELL]
        same = [q.row.score or 0.0 for q in rated if q.fold != p.fold and [q.row.levels[name] for name in CELL] == cell]
        table[index] = float(np.mean(same))
    return table


def figures_of(predictions: Sequence[Prediction]) -> tuple[Figure, ...]:
    """Return the card's figures, each with a 95 % bootstrap interval over groups."""
    figures: list[Figure] = []
    petct = [p for p in predictions if p.row.kind == "petct" and p.row.role == "rated"]
    if petct:
        folds = f"PET-CT-IQA-DS, {len({p.fold for p in petct})} held-out folds by reference"
        figures += _agreement_figures("petct", petct, [p.predicted for p in petct], folds)
        baseline = list(cell_baseline(petct).values())
        figures += _agreement_figures("petct_cell_table", petct, baseline, f"{folds}; content-free table of 27 cells")
    readers = [p for p in predictions if p.row.kind == "ct" and p.row.role == "rated"]
    for region in ("abdomen", "brain"):
        some = [p for p in readers if f"/{region}/" in p.row.group]
        if some:
            figures += _agreement_figures(
                f"ct_{region}", some, [p.predicted for p in some], "reader study composite, held-out folds by set"
            )
    figures += _severity_figures(predictions)
    figures += _grade_figures(predictions)
    return tuple(figures)


def _agreement_figures(
    name: str, predictions: Sequence[Prediction], values: Sequence[float], protocol: str
) -> list[Figure]:
    truth = [p.row.score or 0.0 for p in predictions]
    groups = [p.row.group for p in predictions]
    found = agreement(values, truth, groups)
    rounded = agreement(values, truth, groups, rounded=True)
    pairs = {"plcc": found.plcc, "srocc": found.srocc, "krocc": found.krocc, "rmse": found.rmse}
    pairs["krocc_rounded"] = rounded.krocc
    return [Figure(f"{name}_{key}", _r(e.value), _r(e.low), _r(e.high), found.n, protocol) for key, e in pairs.items()]


def by_fold(predictions: Sequence[Prediction]) -> list[tuple[str, Figure]]:
    """Return the figures of every fold, and of all but the first, by which choices may have been made."""
    folds = sorted({p.fold for p in predictions})
    parts = [(str(fold), {fold}) for fold in folds]
    if len(folds) > 1:
        parts.append(("all but " + str(folds[0]), set(folds[1:])))
    found = []
    for name, kept in parts:
        some = [p for p in predictions if p.fold in kept]
        found += [(name, figure) for figure in held_out_figures(some)]
    return found


def held_out_figures(predictions: Sequence[Prediction]) -> tuple[Figure, ...]:
    """Return the figures that need no other fold: agreement with the readers, and the order of simulated severities."""
    return (*_reader_figures(predictions), *_severity_figures(predictions))


def _reader_figures(predictions: Sequence[Prediction]) -> list[Figure]:
    """Agreement with the readers, without the baselines, which need the other folds."""
    figures: list[Figure] = []
    for name, kind, part in (("petct", "petct", ""), ("ct_abdomen", "ct", "/abdomen/"), ("ct_brain", "ct", "/brain/")):
        rated = [p for p in predictions if p.row.role == "rated" and p.row.kind == kind and part in p.row.group]
        if len(rated) > 1:
            figures += _agreement_figures(name, rated, [p.predicted for p in rated], "held out")
    return figures


def _severity_figures(predictions: Sequence[Prediction]) -> list[Figure]:
    """Mean Spearman correlation of score and -severity within a slice, where one severity alone varies."""
    figures = []
    for kind, level in (("ct", "dose"), ("ct", "views"), ("ct", "blur"), ("petct", "counts"), ("pt", "counts")):
        for phantom in (False, True):
            some = [p for p in predictions if p.row.kind == kind and _varies_alone(p, level)]
            some = [p for p in some if _is_phantom(p) is phantom]
            within = within_slice_spearman(
                [p.predicted for p in some], [-p.row.levels[level] for p in some], [p.row.slice_id for p in some]
            )
            if within.size:
                what = "generated patients" if phantom else "series or patient"
                name = f"{'phantom_' if phantom else ''}{kind}_{level}_spearman"
                figures.append(_mean_figure(name, within, f"mean Spearman within a slice, {what} held out; n slices"))
    return figures


def _grade_figures(predictions: Sequence[Prediction]) -> list[Figure]:
    """Share of real CT series and reader sets whose mean score grades as diagnostic, by simulated dose."""
    at_dose: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for p in predictions:
        if p.row.kind == "ct" and not _is_phantom(p) and _varies_alone(p, "dose"):
            at_dose[round(4.0 ** -p.row.levels["dose"], 3)][p.row.group].append(p.predicted)
    figures = []
    for name, dose in (("routine", 1.0), ("twentieth", 0.05)):
        means = np.array([np.mean(values) for values in at_dose[dose].values()])
        if means.size:
            protocol = f"share of held-out series and reader sets graded diagnostic at {dose:g} of their dose; n groups"
            shares = (means >= Grades().diagnostic).astype(np.float64)
            figures.append(_mean_figure(f"ct_{name}_diagnostic", shares, protocol))
    return figures


def _mean_figure(name: str, values: npt.NDArray[np.float64], protocol: str) -> Figure:
    rng = np.random.default_rng(0)
    draws = [float(values[rng.integers(values.size, size=values.size)].mean()) for _ in range(1000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Figure(name, _r(float(values.mean())), _r(low), _r(high), values.size, protocol)


def _varies_alone(prediction: Prediction, level: str) -> bool:
    levels = prediction.row.levels
    others = [levels.get(name, 0.0) for name in ("dose", "views", "blur", "counts") if name != level]
    return prediction.row.role == "simulated" and level in levels and not any(others)


def _r(value: float) -> float:
    return round(float(value), 4)


def main() -> None:
    """Calibrate as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--csv", type=Path, help="also write figures and intervals as a table")
    parser.add_argument("--readers", type=Path, help="pool of the reader study, for the noise-only baseline")
    parser.add_argument("--by-fold", type=Path, help="also write the figures of every fold, appended to this table")
    parser.add_argument("--name", default="", help="what the rows of --by-fold are called")
    parser.add_argument("--plot", type=Path, help="also draw the predictions")
    arguments = parser.parse_args()
    predictions = [p for path in arguments.predictions for p in read_predictions(path)]
    calibration, figures = calibrate(predictions), figures_of(predictions)
    if arguments.readers:
        figures = (*figures, *noise_figures(read_pool(arguments.readers)))
    if arguments.plot:
        plot_predictions(predictions, arguments.plot, f"{len({p.fold for p in predictions})} held-out folds")
    arguments.out.write_bytes(_FILE.dump_json((calibration, figures), indent=1))
    for figure in figures:
        print(f"{figure.name:28} {figure.value:7.4f} [{figure.low:.4f}, {figure.high:.4f}] n={figure.n}")
    for kind, c in calibration.items():
        print(f"{kind}: +-{c.half_width} covers {c.coverage:.1%} of {c.n} pictures in {c.groups} groups")
    if arguments.by_fold:
        _append_folds(arguments.by_fold, arguments.name, by_fold(predictions))
    if arguments.csv:
        _write_table(arguments.csv, calibration, figures)


def _append_folds(path: Path, name: str, rows: Sequence[tuple[str, Figure]]) -> None:
    fresh = not path.is_file()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if fresh:
            writer.writerow(["run", "fold", "figure", "value", "low", "high", "n"])
        writer.writerows([name, fold, f.name, f.value, f.low, f.high, f.n] for fold, f in rows)


def _write_table(path: Path, calibration: dict[str, Calibration], figures: Sequence[Figure]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["figure", "value", "low", "high", "n", "protocol"])
        for f in figures:
            writer.writerow([f.name, f.value, f.low, f.high, f.n, f.protocol])
        for kind, c in calibration.items():
            writer.writerow([f"{kind}_half_width", c.half_width, "", "", c.n, c.note])
            writer.writerow([f"{kind}_coverage", c.coverage, "", "", c.n, f"nominal {c.nominal}"])


if __name__ == "__main__":
    main()
