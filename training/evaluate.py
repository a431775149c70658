"""Judge a model on pictures with scores, or on the fold that a run held out.

    python -m training.evaluate --images DIR --labels labels.csv --model NAME [--weights FILE] --json
    python -m training.evaluate --run RUN --pools POOLS          writes RUN/predictions.csv

``labels.csv`` has the columns ``file`` and ``score``; ``reference`` (or ``group``) names what belongs together,
and ``kind`` (ct, petct, pt) the modality class, where it is not told by ``--kind``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dicom_qa_node.api import open_model
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.grading import ScoringModel, card_for
from dicom_qa_node.score.inference import Scorer
from training.config import RunConfig
from training.dataset import held_out_groups
from training.encode import read_coded
from training.metrics import agreement
from training.pool import LEVEL_NAMES, Row
from training.prompts import prompt_of_row
from training.train import read_pools

__all__ = ["Prediction", "as_rgb", "judge_run", "read_predictions", "write_predictions"]

_AT_ONCE = 16


@dataclass(frozen=True)
class Prediction:
    """What the model said about one picture; ``fold`` is -1 where none was held out."""

    row: Row
    predicted: float
    weight: float
    spread: float
    fold: int


def judge_run(run: Path, pools_folder: Path, device: str = "auto") -> list[Prediction]:
    """Score every labelled picture of the groups that the run held out."""
    config = RunConfig.model_validate(json.loads((run / "run.json").read_text())["config"])
    pools = read_pools(pools_folder, config)
    held_out = held_out_groups(pools, config)
    scorer = Scorer.from_file(config.model, run / "weights.safetensors", device, config.options, read_coded(run))
    unjudged = {share.pool for share in config.shares if not share.judged}
    found: list[Prediction] = []
    for pool in pools:
        if pool.name in unjudged:
            continue
        chosen = [i for i, r in enumerate(pool.rows) if r.group in held_out and r.score is not None]
        for kind in sorted({pool.rows[i].kind for i in chosen}):
            same = [i for i in chosen if pool.rows[i].kind == kind]
            for start in range(0, len(same), _AT_ONCE):
                part = same[start : start + _AT_ONCE]
                images = np.stack([as_rgb(pool.images[i]) for i in part])
                predicted_values = scorer.score(images, kind, [prompt_of_row(pool.rows[i]) for i in part])
                fold = -1 if config.held_out is None else config.held_out
                found += [
                    Prediction(pool.rows[i], float(s), float(w), float(d), fold)
                    for i, s, w, d in zip(
                        part, predicted_values.score, predicted_values.weight, predicted_values.spread, strict=True
                    )
                ]
    return found


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write one row per picture."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["fold", "group", "slice", "kind", "role", "score", "predicted", "weight", "spread", *LEVEL_NAMES, "source"]
        )
        for p in predictions:
            levels = [f"{p.row.levels[name]:.4g}" if name in p.row.levels else "" for name in LEVEL_NAMES]
            numbers = [f"{v:.4f}" for v in (p.row.score or 0.0, p.predicted, p.weight, p.spread)]
            names = [p.fold, p.row.group, p.row.slice_id, p.row.kind, p.row.role]
            writer.writerow([*names, *numbers, *levels, p.row.source])


def read_predictions(path: Path) -> list[Prediction]:
    """Read back what `write_predictions` wrote."""
    with path.open(newline="") as stream:
        return [_prediction(record) for record in csv.DictReader(stream)]


def _prediction(record: dict[str, str]) -> Prediction:
    levels = {name: float(record[name]) for name in LEVEL_NAMES if record.get(name)}
    names = (record["group"], record["slice"], record["kind"], record["role"])
    row = Row(*names, float(record["score"]), levels, record["source"])
    numbers = (float(record["predicted"]), float(record["weight"]), float(record["spread"]))
    return Prediction(row, *numbers, int(record["fold"]))


def as_rgb(stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a stored picture, of one channel or three, as RGB."""
    return np.repeat(stored, 3, axis=-1) if stored.shape[-1] == 1 else np.asarray(stored)


def _judge_folder(scorer: ScoringModel, images: Path, labels: Path, kind: str) -> dict[str, Any]:
    """Score the files of a label table and compare."""
    predicted, truth, groups = [], [], []
    with labels.open(newline="") as stream:
        for record in csv.DictReader(stream):
            with Image.open(images / record["file"]) as image:
                picture = np.asarray(image.convert("RGB"))
            predicted_values = scorer.score(picture[None], record.get("kind") or kind)
            predicted.append(float(predicted_values.score[0]))
            truth.append(float(record["score"]))
            groups.append(record.get("reference") or record.get("group") or record["file"])
    raw = agreement(predicted, truth, groups)
    rounded = agreement(predicted, truth, groups, rounded=True)
    measures = ("plcc", "srocc", "krocc", "rmse")
    return {
        "model": card_for(scorer, SeriesKind(kind)).name,
        "n": raw.n,
        "groups": raw.groups,
        **{name: getattr(raw, name).value for name in measures},
        "raw": dataclasses.asdict(raw),
        "rounded": dataclasses.asdict(rounded),
        "predictions": predicted,
    }


def _without_nan(value: Any) -> Any:
    """Replace NaN by None: JSON has no NaN, and a correlation with a constant is not defined."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--model", default="ms_iqa_small")
    parser.add_argument("--weights", type=Path, help="a run's weights.safetensors; without it the shipped weights")
    parser.add_argument("--kind", default="petct", choices=["ct", "petct", "pt"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--pools", type=Path)
    arguments = parser.parse_args()
    if not ((arguments.run and arguments.pools) or (arguments.images and arguments.labels)):
        parser.error("give --images and --labels, or --run and --pools")
    return arguments


def main() -> None:
    """Evaluate as the command line says."""
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.run:
        predictions = judge_run(arguments.run, arguments.pools, arguments.device)
        write_predictions(arguments.run / "predictions.csv", predictions)
        return
    if arguments.weights:
        coded = read_coded(arguments.weights.parent)
        scorer: ScoringModel = Scorer.from_file(arguments.model, arguments.weights, arguments.device, coded=coded)
    else:
        scorer = open_model(arguments.model, device=arguments.device)
    result = _judge_folder(scorer, arguments.images, arguments.labels, arguments.kind)
    if arguments.json:
        print(json.dumps(_without_nan(result)))
        return
    for name in ("plcc", "srocc", "krocc", "rmse"):
        for how in ("raw", "rounded"):
            e = result[how][name]
            print(f"{name} {how:8} {e['value']:.4f} [{e['low']:.4f}, {e['high']:.4f}]")
    print(f"n {result['n']}")


if __name__ == "__main__":
    main()
