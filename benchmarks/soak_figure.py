"""Draws the samples of the soak benchmark over the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["draw"]


def draw(rows: Sequence[dict[str, float]], processes: Sequence[str], path: Path) -> None:
    """Write a figure of four panels: resident memory, threads and files, latency, and the size of the database."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    images = [row["images"] / 1000 for row in rows]
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 6.4), sharex=True, layout="constrained")
    memory, counts, latency, disk = panels.flat
    for name in processes:
        memory.plot(images, [row[f"{name} rss_mb"] or float("nan") for row in rows], label=name)
    memory.set_title("resident memory, MB")
    for number, name in enumerate(name for name in processes if name.startswith("receiver")):
        colour = f"C{number + 2}"
        counts.plot(images, [row[f"{name} threads"] for row in rows], color=colour, label=f"threads of {name}")
        counts.plot(images, [row[f"{name} files"] for row in rows], color=colour, ls=":", label=f"files of {name}")
    counts.set_title("threads and open files")
    sent = [row for row in rows if row["median_ms"]]
    for key, label in (("median_ms", "median"), ("p95_ms", "95th percentile")):
        latency.plot([row["images"] / 1000 for row in sent], [row[key] for row in sent], label=label)
    latency.set_title("answer to a C-STORE, ms")
    latency.set_yscale("log")
    for which in (latency.yaxis.set_major_formatter, latency.yaxis.set_minor_formatter):
        which("{x:g}")
    disk.plot(images, [row["database_mb"] for row in rows], label="database")
    disk.plot(images, [row["wal_mb"] for row in rows], label="write-ahead log")
    disk.set_title("database, MB")
    for panel in panels.flat:
        panel.set_ylim(bottom=1 if panel is latency else 0)
        panel.legend(fontsize=7, framealpha=0.6)
        panel.grid(alpha=0.3)
    for panel in panels[1]:
        panel.set_xlabel("thousand images acknowledged")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
