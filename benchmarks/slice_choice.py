"""Compare the salient slices with MedIQA's positional rule: air chosen, and agreement with the score of all slices.

    python benchmarks/slice_choice.py --model ms_iqa_small FOLDER...  [--every 2] [--generated 6]

Each FOLDER holds one CT or PET series; a PET finds its CT in a neighbouring folder ``CT``. Prints a Markdown table. The
score of all slices is the mean over every ``--every``-th slice that shows body, each judged by the same network.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.phantom import ct_series, write
from dicom_qa_node.score.fusion import pair
from dicom_qa_node.score.inference import Scorer
from dicom_qa_node.score.slice_features import features_of
from dicom_qa_node.score.slice_rendering import render_display_images
from dicom_qa_node.score.slice_selection import ChosenSlice, positional_slices, salient_slices
from dicom_qa_node.score.volume import Volume
from dicom_qa_node.score.volume_builder import build_volumes

RULES = ("salient", "positional")


@dataclass(frozen=True)
class Row:
    """One series: how many slices of each rule show no body, and how far each score lies from that of all slices."""

    name: str
    slices: int
    all_score: float
    air: tuple[int, int]
    away: tuple[float, float]


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--model", default="ms_iqa_small")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument(
        "--generated", type=int, default=0, help="generated whole-body CT series with air at their ends"
    )
    chosen = parser.parse_args(arguments)
    scorer = Scorer.open(chosen.model, "cpu")
    rows = [_row(name, volume, ct, scorer, chosen.every) for name, volume, ct in _series(chosen)]
    print("| series | slices | all slices | air salient | air positional | salient − all | positional − all |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.name} | {row.slices} | {row.all_score:.2f} | {row.air[0]} | {row.air[1]} "
            f"| {row.away[0]:+.2f} | {row.away[1]:+.2f} |"
        )
    means = [np.mean([abs(row.away[rule]) for row in rows]) for rule in (0, 1)]
    air = [sum(row.air[rule] for row in rows) for rule in (0, 1)]
    print(f"| **mean absolute, total** | | | {air[0]} | {air[1]} | {means[0]:.3f} | {means[1]:.3f} |")


def _series(chosen: argparse.Namespace) -> Iterator[tuple[str, Volume, Volume | None]]:
    for folder in chosen.folders:
        volume = build_volumes(sorted(folder.glob("*.dcm")))[0]
        ct = None
        if volume.kind is SeriesKind.PT and (folder.parent / "CT").is_dir():
            ct = pair(volume, build_volumes(sorted((folder.parent / "CT").glob("*.dcm")))).ct
        yield f"{folder.parent.name}/{folder.name}", volume, ct
    qualities = ("routine", "tenth_dose", "sparse_views")
    for seed in range(chosen.generated):
        with tempfile.TemporaryDirectory() as folder:
            images = ct_series(100 + seed, 48, 256, qualities[seed % 3], spacing_mm=24.0, centre_mm=60.0)
            yield f"generated {seed + 1}, {qualities[seed % 3]}", build_volumes(write(images, Path(folder)))[0], None


def _row(name: str, volume: Volume, ct: Volume | None, scorer: Scorer, every: int) -> Row:
    kind = volume.kind.value if ct is None else SeriesKind.PETCT.value
    rules = (salient_slices(volume, 7, ct), positional_slices(len(volume.positions_mm)))
    body = features_of(volume).body_mm2
    shows_body = body >= 0.1 * np.percentile(body, 95)
    if ct is not None:
        shows_body &= np.isin(np.arange(len(body)), [item.index for item in salient_slices(volume, 10_000, ct)])
    wanted = np.flatnonzero(shows_body)[::every]
    judged = sorted({*wanted.tolist(), *(item.index for rule in rules for item in rule)})
    scores = dict(zip(judged, _scores(volume, judged, ct, scorer, kind), strict=True))
    everything = float(np.mean([scores[index] for index in wanted]))
    away = [_weighted(rule, scores) - everything for rule in rules]
    air = [sum(not shows_body[item.index] for item in rule) for rule in rules]
    print(f"{name} done", file=sys.stderr)
    return Row(name, len(body), everything, (air[0], air[1]), (away[0], away[1]))


def _scores(volume: Volume, indices: Sequence[int], ct: Volume | None, scorer: Scorer, kind: str) -> Iterator[float]:
    for start in range(0, len(indices), 7):
        predicted = scorer.score(render_display_images(volume, indices[start : start + 7], ct), kind)
        yield from map(float, predicted.score)


def _weighted(rule: Sequence[ChosenSlice], scores: dict[int, float]) -> float:
    return sum(item.weight * scores[item.index] for item in rule)


if __name__ == "__main__":
    main(sys.argv[1:])
