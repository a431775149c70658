"""Draw held-out predictions: against the readers, and along the simulated severities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluate import Prediction

__all__ = ["plot_networks", "plot_predictions"]

_PANELS = (
    ("PET/CT, held-out references", "petct", ""),
    ("abdomen, held-out reader sets", "ct", "/abdomen/"),
    ("brain, held-out reader sets", "ct", "/brain/"),
)
_LADDERS = (("dose", "dose as a share of routine"), ("views", "views of 720"))


def plot_predictions(predictions: Sequence[Prediction], path: Path, title: str) -> None:
    """Write one PNG: three scatter plots against the readers, two ladders of simulated severity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.4), layout="constrained")
    axes = figure.subplots(1, 5)
    _against_readers(axes[:3], predictions)
    for panel, (level, label) in zip(axes[3:], _LADDERS, strict=True):
        _ladder(panel, predictions, level)
        panel.set(ylim=(0, 4), xlabel=label, ylabel="network", title=f"CT {level}, held-out series")
    for panel in axes:
        panel.title.set_fontsize(9)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def plot_networks(networks: Sequence[tuple[str, Sequence[Prediction]]], path: Path) -> None:
    """Write one PNG: a row for each network, its scores against the readers', and along the simulated dose."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.7 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), 4, squeeze=False)
    for row, (network, predictions) in zip(grid, networks, strict=True):
        _against_readers(row[:3], predictions)
        _ladder(row[3], predictions, "dose")
        row[3].set(ylim=(0, 4), xlabel="dose as a share of routine", title="CT dose, held-out series")
        for panel in row:
            panel.title.set_fontsize(8)
            panel.set_ylabel("")
        row[0].set_ylabel(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _against_readers(panels: Sequence[Any], predictions: Sequence[Prediction]) -> None:
    """Scatter plots of what the network says over what the readers said."""
    for panel, (name, kind, part) in zip(panels, _PANELS, strict=True):
        rated = [p for p in predictions if p.row.role == "rated" and p.row.kind == kind and part in p.row.group]
        panel.scatter([p.row.score for p in rated], [p.predicted for p in rated], s=7, alpha=0.5, lw=0)
        panel.plot([0, 4], [0, 4], color="grey", lw=0.8)
        panel.set(xlim=(0, 4), ylim=(0, 4), xlabel="readers", ylabel="network", title=f"{name} (n={len(rated)})")


def _ladder(panel: Any, predictions: Sequence[Prediction], level: str) -> None:
    """Mean score of each series at each severity that varies alone."""
    means: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for p in predictions:
        others = [p.row.levels.get(name, 0.0) for name in ("dose", "views", "blur", "counts") if name != level]
        if p.row.kind == "ct" and p.row.role == "simulated" and level in p.row.levels and not any(others):
            series = "reader study" if p.row.group.startswith("reader") else p.row.group.split("/")[0]
            name = p.row.group if series == "dicom" else series
            means[name][p.row.levels[level]].append(p.predicted)
    for name in sorted(means):
        levels = sorted(means[name])
        panel.plot([4.0**-x for x in levels], [np.mean(means[name][x]) for x in levels], marker=".", lw=1, label=name)
    panel.set_xscale("log")
    if means:
        panel.legend(fontsize=5, loc="upper left")
