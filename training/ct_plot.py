"""Draw what a CT model said of pictures that it had held out: dose by dose, and predicted against labelled score.

python -m training.ct_plot --cache CACHE --runs RUNS --plot docs/figures/ct_rating.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dicom_qa_node.models.ct_cards import CT_METHODS
from training.ct_judge import held_out, judged_rows, nested_scores
from training.ct_table import read_table

_DOSES = (1.0, 0.5, 0.25, 0.1, 0.05)


def main() -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", nargs="+", choices=CT_METHODS, default=["tfkt"], help="one, or several: their mean")
    arguments = parser.parse_args()
    table = read_table(arguments.cache)
    held = held_out(table, arguments.runs, "shown", [(method, "main", arguments.seed) for method in arguments.method])
    if held is None:
        raise SystemExit("runs are missing")
    score, rows = nested_scores(table, held), judged_rows(table)
    version, source = table.rows.column("version"), table.rows.column("source")
    dose = table.rows.column("dose", 1.0).astype(float)
    scanners = (source == "multiscanner") & rows
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    named = scanners & np.isin(version, ("routine", "dose"))
    left.boxplot([score[named & (np.abs(dose - one) < 1e-6)] for one in _DOSES], tick_labels=[f"{d:g}" for d in _DOSES])
    left.set(xlabel="share of the dose", ylabel="score", title="Scanner models left out", ylim=(0, 4))
    edges = np.arange(0, 4.01, 0.5)
    for axis, mask, title in (
        (middle, scanners, "Simulated, scanner models left out"),
        (right, table.known[:, 0] & rows, "Reader study, sets left out"),
    ):
        axis.plot(score[mask], table.score[mask], ".", markersize=2, alpha=0.3)
        bins = np.digitize(score[mask], edges)
        means = [(score[mask][bins == b].mean(), table.score[mask][bins == b].mean()) for b in np.unique(bins)]
        axis.plot(*np.array(means).T, "o-")
        axis.plot((0, 4), (0, 4), "k:", linewidth=1)
        axis.set(xlabel="predicted", ylabel="label", title=title, xlim=(0, 4), ylim=(0, 4))
    for limit in (1.5, 2.5):
        left.axhline(limit, color="grey", linewidth=0.7)
    figure.savefig(arguments.plot, dpi=80)


if __name__ == "__main__":
    main()
