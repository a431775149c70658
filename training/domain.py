"""Fit the out-of-domain gate of a run, and set its limits from what other runs held out.

    python -m training.domain --run RUNS/all --folds RUNS/fold0 ... --pools POOLS --out RUNS/domain
        [--photographs DIR] [--csv FILE]

The gate (``dicom_qa_node/models/ood.py``) is fitted to the features of the training pictures of ``--run``. Its
limit for a modality class is a quantile of the distances of held-out pictures, each measured with the gate of the
run that held its group out. The table says which share of held-out pictures and of outsiders lies beyond the
limit: noise, inverted and saturated windows, scans with the greys of another modality, and photographs if a folder
is given.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import TypeAdapter

from dicom_qa_node.models.card import DomainFile, DomainLimit
from dicom_qa_node.models.ood import OodModel, fit, pack
from dicom_qa_node.score.inference import Scorer
from training.config import RunConfig
from training.dataset import held_out_groups
from training.pool import Pool
from training.train import read_pools

__all__ = ["Distances", "limits_of", "main", "outsiders", "read_domain_file", "trustworthy"]

QUANTILE = 0.99
FILE = "domain.safetensors"
_AT_ONCE = 16
_FITTED, _JUDGED = 6, 4
"""One in six training pictures is fitted, one in four held-out ones is judged: the versions of a slice are many."""
_PHOTOGRAPHS = 30
_MOST_OUTSIDE = 0.05
_SIDE = 512

FloatArray = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

_FILE: TypeAdapter[DomainFile] = TypeAdapter(DomainFile)


@dataclass(frozen=True)
class Distances:
    """Distances of the held-out pictures of one kind in one fold."""

    kind: str
    fold: int
    values: FloatArray


def read_domain_file(folder: Path) -> tuple[DomainFile, bytes]:
    """Read what this command wrote: the description and the tensors that go with the weights."""
    return _FILE.validate_json((folder / "domain.json").read_bytes()), (folder / FILE).read_bytes()


def limits_of(distances: Sequence[Distances], quantile: float = QUANTILE) -> dict[str, DomainLimit]:
    """Return the limit of each kind: the quantile over all folds.

    The share of pictures outside is counted fold by fold, with the limit taken from the other folds only.
    """
    found = {}
    for kind in sorted({d.kind for d in distances}):
        own = [d for d in distances if d.kind == kind]
        outside = 0
        for judged in own:
            others = np.concatenate([d.values for d in own if d.fold != judged.fold] or [judged.values])
            outside += int((judged.values > np.quantile(others, quantile)).sum())
        together = np.concatenate([d.values for d in own])
        share = outside / together.size
        limit = round(float(np.quantile(together, quantile)), 4)
        found[kind] = DomainLimit(limit, round(share, 4), int(together.size))
    return found


def trustworthy(limits: Mapping[str, DomainLimit]) -> dict[str, DomainLimit]:
    """Keep the kinds whose gate calls at most one in twenty unseen pictures strange; the others get no gate."""
    return {kind: limit for kind, limit in limits.items() if limit.held_out_outside <= _MOST_OUTSIDE}


def held_out_distances(run: Path, pools_folder: Path, device: str) -> list[Distances]:
    """Fit the gate of a run that held a fold out, and measure that fold."""
    config, pools, scorer = _open(run, pools_folder, device)
    held = held_out_groups(pools, config)
    if config.held_out is None or not held:
        raise ValueError(f"{run} held no fold out")
    domains = _fit(_features(scorer, pools, lambda pool, i: pool.rows[i].group not in held, _FITTED))
    unjudged = {share.pool for share in config.shares if not share.judged}
    seen = _features(scorer, pools, lambda pool, i: pool.name not in unjudged and pool.rows[i].group in held, _JUDGED)
    return [Distances(kind, config.held_out, domains[kind].distance(seen[kind])) for kind in sorted(seen)]


def _open(run: Path, pools_folder: Path, device: str) -> tuple[RunConfig, list[Pool], Scorer]:
    config = RunConfig.model_validate(json.loads((run / "run.json").read_text())["config"])
    scorer = Scorer.from_file(config.model, run / "weights.safetensors", device, config.options)
    return config, read_pools(pools_folder, config), scorer


def _features(
    scorer: Scorer, pools: Sequence[Pool], wanted: Callable[[Pool, int], bool], every: int
) -> dict[str, FloatArray]:
    """Return the features of the wanted pictures, of one in ``every``, by kind."""
    found: dict[str, list[FloatArray]] = defaultdict(list)
    for pool in pools:
        chosen = [i for i in range(len(pool.rows)) if wanted(pool, i)]
        for kind in sorted({pool.rows[i].kind for i in chosen}):
            same = [i for i in chosen if pool.rows[i].kind == kind][::every]
            for start in range(0, len(same), _AT_ONCE):
                pictures = np.stack([_rgb(pool.images[i]) for i in same[start : start + _AT_ONCE]])
                found[kind].append(scorer.score(pictures, kind).features)
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def _fit(features: Mapping[str, FloatArray]) -> dict[str, OodModel]:
    return {kind: fit(values) for kind, values in features.items()}


def _rgb(stored: npt.NDArray[np.uint8]) -> Picture:
    return np.repeat(stored, 3, axis=-1) if stored.shape[-1] == 1 else np.asarray(stored)


def outsiders(pools: Sequence[Pool], photographs: Path | None) -> Iterator[tuple[str, str, list[Picture]]]:
    """Yield (name, kind, pictures) of what no network here was trained on."""
    rng = np.random.default_rng(20)
    shape = (8, _SIDE, _SIDE, 1)
    uniform = np.repeat(rng.integers(0, 256, shape, np.uint8), 3, -1)
    normal = np.repeat(np.clip(rng.normal(128, 40, shape), 0, 255).astype(np.uint8), 3, -1)
    for kind in ("ct", "petct", "pt"):
        yield "uniform noise", kind, list(uniform)
        yield "normal noise", kind, list(normal)
    clean = [
        _rgb(pool.images[i])
        for pool in pools
        for i, row in enumerate(pool.rows)
        if row.kind == "ct" and row.group.startswith("dicom/") and not any(row.levels.values())
    ][::3]
    yield "inverted window", "ct", [np.asarray(255 - picture, np.uint8) for picture in clean]
    yield "saturated window", "ct", [np.where(picture > 128, 255, 0).astype(np.uint8) for picture in clean]
    yield "greys of another modality", "ct", [_other_greys(picture) for picture in clean]
    if photographs is not None:
        files = sorted(photographs.iterdir())
        taken = [_photograph(file) for file in files[:: max(len(files) // _PHOTOGRAPHS, 1)]]
        yield "photographs, grey", "ct", [_grey(picture) for picture in taken]
        yield "photographs, colour", "petct", taken
        yield "photographs, grey", "pt", [_grey(picture) for picture in taken]


def _other_greys(picture: Picture) -> Picture:
    """Give the tissues a non-monotone order of greys, as another modality would: fat brightest, bone dark."""
    knots = np.interp(np.arange(256), [0, 40, 110, 140, 170, 255], [0, 230, 60, 120, 180, 20])
    return np.asarray(knots[picture], np.uint8)


def _photograph(file: Path) -> Picture:
    with Image.open(file) as image:
        square = image.convert("RGB")
        square.thumbnail((_SIDE, _SIDE))
        found = np.zeros((_SIDE, _SIDE, 3), np.uint8)
        found[: square.height, : square.width] = np.asarray(square)
        return found


def _grey(picture: Picture) -> Picture:
    luma = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(np.rint(luma)[..., None].astype(np.uint8), 3, -1)


def main() -> None:
    """Fit, set limits, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the run that ships")
    parser.add_argument("--folds", type=Path, nargs="+", required=True, help="runs that each held a fold out")
    parser.add_argument("--pools", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, help="folder of natural photographs, to be recognised as outsiders")
    parser.add_argument("--csv", type=Path, help="table of the shares outside, instead of OUT/domain.csv")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    distances = [d for run in arguments.folds for d in held_out_distances(run, arguments.pools, arguments.device)]
    limits = limits_of(distances)
    _, pools, scorer = _open(arguments.run, arguments.pools, arguments.device)
    domains = _fit(_features(scorer, pools, lambda pool, i: True, _FITTED))
    gated = trustworthy(limits)
    content = pack({kind: domains[kind] for kind in gated})
    described = DomainFile(FILE, hashlib.sha256(content).hexdigest(), gated)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / FILE).write_bytes(content)
    (arguments.out / "domain.json").write_bytes(_FILE.dump_json(described, indent=1))
    with (arguments.csv or arguments.out / "domain.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["pictures", "kind", "outside", "n", "limit", "gated"])
        for kind, limit in limits.items():
            writer.writerow(["held out", kind, limit.held_out_outside, limit.n, limit.limit, kind in gated])
        for name, kind, pictures in outsiders(pools, arguments.photographs):
            features = np.concatenate([scorer.score(picture[None], kind).features for picture in pictures])
            outside = float((domains[kind].distance(features) > limits[kind].limit).mean())
            writer.writerow([name, kind, round(outside, 4), len(pictures), limits[kind].limit, kind in gated])
            print(f"{name:28} {kind:6} {outside:7.1%} outside of {len(pictures)}")
    for kind, limit in limits.items():
        print(f"held out {kind:6} {limit.held_out_outside:7.1%} outside of {limit.n}")


if __name__ == "__main__":
    main()
