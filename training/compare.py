"""Put runs of several networks or variants side by side, all judged by the same figures on what each held out.

    python -m training.compare equal=runs/equal/fold* tfkt=runs/tfkt_small/fold* --csv training/results/networks.csv
        [--plot docs/figures/networks.png]

A run is named by what stands before the first ``=``; the folders are the runs of its folds. Figures pool the folds that
a name has, and the table says which: compare rows of the same folds.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from dicom_qa_node.models.card import Figure
from training.calibrate import held_out_figures
from training.config import RunConfig
from training.evaluate import Prediction, read_predictions
from training.plots import plot_networks

__all__ = ["Contestant", "main", "read_contestant"]


class _Saved(BaseModel):
    """What of ``run.json`` is compared."""

    config: RunConfig


@dataclass(frozen=True, slots=True)
class Contestant:
    """A network or variant, and what it said about pictures that it had not seen."""

    name: str
    model: str
    steps: int
    seed: int
    folds: tuple[int, ...]
    predictions: tuple[Prediction, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Figures over all its folds."""
        return held_out_figures(self.predictions)


def read_contestant(name: str, runs: Sequence[Path]) -> Contestant:
    """Read the runs of one name, each of which held out another fold.

    Raises
    ------
    ValueError
        The runs differ in network, steps or seed, or two of them held out the same fold.
    """
    saved = [_Saved.model_validate_json((run / "run.json").read_bytes()).config for run in runs]
    kinds = {(config.model, config.steps, config.seed) for config in saved}
    if len(kinds) != 1:
        raise ValueError(f"{name}: runs of different network, steps or seed: {sorted(kinds)}")
    predictions = [read_predictions(run / "predictions.csv") for run in runs]
    folds = [fold for some in predictions for fold in {p.fold for p in some}]
    if len(folds) != len(set(folds)):
        raise ValueError(f"{name}: a fold is there twice: {sorted(folds)}")
    (kind,) = kinds
    return Contestant(name, *kind, tuple(sorted(folds)), tuple(p for some in predictions for p in some))


def _write_table(path: Path, contestants: Sequence[Contestant]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["run", "network", "steps", "seed", "folds", "figure", "value", "low", "high", "n"])
        for c in contestants:
            folds = " ".join(str(fold) for fold in c.folds)
            for f in c.figures:
                writer.writerow([c.name, c.model, c.steps, c.seed, folds, f.name, f.value, f.low, f.high, f.n])


def main() -> None:
    """Compare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=RUN, and further RUNs of the same name")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--plot", type=Path, help="also draw the agreement of each with the readers")
    arguments = parser.parse_args()
    folders: dict[str, list[Path]] = {}
    for word in arguments.runs:
        name, equals, first = word.partition("=")
        if not equals and not folders:
            parser.error(f"{word}: the first run needs a name, as in NAME={word}")
        folders.setdefault(name if equals else list(folders)[-1], []).append(Path(first if equals else word))
    contestants = [read_contestant(name, runs) for name, runs in folders.items()]
    _write_table(arguments.csv, contestants)
    if arguments.plot:
        plot_networks([(c.name, c.predictions) for c in contestants], arguments.plot)
    for c in contestants:
        for f in c.figures:
            print(f"{c.name:24} {f.name:28} {f.value:7.4f} [{f.low:.4f}, {f.high:.4f}] n={f.n}")


if __name__ == "__main__":
    main()
