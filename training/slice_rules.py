"""Compare the slices that the node chooses by content with MedIQA's fixed positions, on real CT at known dose.

    python -m training.slice_rules --source DATA/dicom/ct --run RUN --out slices.csv
    python -m training.slice_rules --source DATA/dicom/ct --model ms_iqa_small --out slices.csv

A run judges only the series that it held out. For every series, rule and dose the chosen slices are degraded in the
projections, scored, and weighed into one score, as the node does. Two figures tell the rules apart: whether the score
falls with the dose (Spearman), and how far the score at routine dose is from that of the whole scan (every slice that
shows a body, up to `_WHOLE` of them, evenly spaced).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.models.text_prompt import Prompt
from dicom_qa_node.score import display_images
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.grading import prompt_of
from dicom_qa_node.score.inference import Scorer
from dicom_qa_node.score.slice_selection import ChosenSlice, positional_slices, salient_slices
from dicom_qa_node.score.volume import Volume
from dicom_qa_node.score.volume_builder import build_volume, scan_headers
from training import degrade
from training.config import RunConfig
from training.data.prepare_severity import noise_level
from training.pool import fold_of

__all__ = ["SeriesScore", "compare", "summary"]

_DOSES = (1.0, 0.5, 0.25, 0.1, 0.05)
_WHOLE = 40


@dataclass(frozen=True)
class SeriesScore:
    """The score of one series by one rule at one dose; ``whole`` is that of the whole scan at routine dose."""

    series: str
    rule: str
    dose: float
    score: float
    whole: float
    slices: tuple[int, ...]


def compare(name: str, volume: Volume, scorer: Scorer, seed: int = 0) -> list[SeriesScore]:
    """Score one series by both rules at every dose."""
    prompt = prompt_of(volume, SeriesKind.CT)
    window = display_images.window_for_kernel(str(volume.header.get("ConvolutionKernel", "")))
    whole = _whole(volume, scorer, window, prompt)
    found = []
    for rule, chosen in _rules(volume).items():
        for dose in _DOSES:
            pictures = [_picture(volume, item.index, dose, window, seed) for item in chosen]
            score = _weighed(scorer, pictures, chosen, prompt)
            found.append(SeriesScore(name, rule, dose, score, whole, tuple(item.index for item in chosen)))
    return found


def summary(scores: Iterable[SeriesScore]) -> list[tuple[str, str, float, float]]:
    """Return (series, rule, Spearman of score and dose, error against the whole scan at routine dose)."""
    rows = list(scores)
    found = []
    for series, rule in sorted({(row.series, row.rule) for row in rows}):
        own = [row for row in rows if (row.series, row.rule) == (series, rule)]
        order = stats.spearmanr([row.dose for row in own], [row.score for row in own])
        routine = max(own, key=lambda row: row.dose)
        found.append((series, rule, float(order.statistic), routine.score - routine.whole))
    return found


def _rules(volume: Volume) -> dict[str, tuple[ChosenSlice, ...]]:
    return {"salient": salient_slices(volume), "positional": positional_slices(len(volume.positions_mm))}


def _whole(volume: Volume, scorer: Scorer, window: display_images.Window, prompt: Prompt) -> float:
    """Plain mean over the slices that show a body, each standing for the same length of the scan."""
    body = salient_slices(volume, count=_WHOLE)
    pictures = [_picture(volume, item.index, 1.0, window, 0) for item in body]
    return _weighed(scorer, pictures, body, prompt)


def _picture(
    volume: Volume, index: int, dose: float, window: display_images.Window, seed: int
) -> npt.NDArray[np.uint8]:
    """Show one slice at a share of its dose; the noise of a slice is the same for both rules."""
    hu = np.asarray(volume.voxels[index], np.float32)
    if dose < 1:
        scan = degrade.scan_of(hu, volume.spacing_mm[1], noise_level(hu))
        hu = degrade.low_dose(hu, scan, dose, np.random.default_rng((seed, index)))
    return display_images.ct_display_image(hu, window)


def _weighed(
    scorer: Scorer, pictures: Sequence[npt.NDArray[np.uint8]], chosen: Sequence[ChosenSlice], prompt: Prompt
) -> float:
    predicted = scorer.score(np.stack(pictures), "ct", [prompt] * len(pictures))
    return float(np.dot(predicted.score, [item.weight for item in chosen]))


def _held_out(config: RunConfig, names: Sequence[str]) -> set[str]:
    """Return the series of the fold that a run held out, dealt as the pool ``ct_severity`` deals them."""
    folds = fold_of((f"dicom/{name}" for name in names), config.folds)
    return {name for name in names if config.held_out is None or folds[f"dicom/{name}"] == config.held_out}


def _write(path: Path, scores: Sequence[SeriesScore]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["series", "rule", "dose", "score", "whole", "slices"])
        for row in scores:
            slices = " ".join(map(str, row.slices))
            writer.writerow([row.series, row.rule, row.dose, f"{row.score:.4f}", f"{row.whole:.4f}", slices])


def main() -> None:
    """Compare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="one folder for each CT series")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path)
    which.add_argument("--model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    names = sorted(path.name for path in arguments.source.iterdir() if path.is_dir())
    if arguments.run:
        config = RunConfig.model_validate(json.loads((arguments.run / "run.json").read_text())["config"])
        weights = arguments.run / "weights.safetensors"
        scorer = Scorer.from_file(config.model, weights, arguments.device, config.options)
        names = sorted(_held_out(config, names))
    else:
        scorer = Scorer.open(arguments.model, arguments.device)
    scores: list[SeriesScore] = []
    with DecoderPool() as decoders:
        for name in names:
            parts = scan_headers(sorted((arguments.source / name).iterdir())).stacks
            scores += compare(name, build_volume(max(parts, key=lambda part: len(part.slices)), decoders), scorer)
    _write(arguments.out, scores)
    for series, rule, order, error in summary(scores):
        print(f"{series:40} {rule:10} Spearman {order:+.3f}  routine - whole {error:+.3f}")


if __name__ == "__main__":
    main()
