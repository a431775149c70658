"""Train the four small CT networks on cached features, fold by fold; resumable: a run whose file exists is left alone.

    python -m training.ct_train --cache CACHE --tokens TOKENS --out RUNS --method ms_iqa --seeds 0 1 2
    python -m training.ct_train ... --method ms_iqa --variant fusion_off          # an ablation

Every fold leaves scanner models and reader sets out, patients apart. The linear readout is fitted without the fold;
what a network learns from are readouts that were also fitted without the row's own fold. ``--fold all`` trains what
ships.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dicom_qa_node.models.ct_network import CtNetwork, Judged
from dicom_qa_node.models.text_prompt import Prompt
from training.ct_table import FOLDS, CtTable, read_table
from training.linear_readout import Readout, fit_readout

__all__ = ["METHODS", "Variant", "main"]

Array = npt.NDArray[np.float64]

_BATCH = 64
_RATED = 20
"""Rated pictures of every batch; the rest are whole slices with some of their versions."""

_VERSIONS = 4
_STEPS, _PHASE_ONE_STEPS, _UPSTREAM_STEPS = 90, 40, 40
_RATE, _DECAY = 1e-3, 5e-2
_PROMPT_DROPOUT = 0.3
_AGREED = 0.35
_ORDER = 0.5


@dataclass(frozen=True)
class Variant:
    """How one row of the table is trained: options of the network and which stages run."""

    options: Mapping[str, Any] = field(default_factory=dict)
    photographs: bool = False
    upstream: bool = False
    pseudo: bool = False
    distributions: bool = False


METHODS: Mapping[str, Mapping[str, Variant]] = {
    "ms_iqa": {"main": Variant(), "fusion_off": Variant({"fusion": "off"})},
    "tfkt": {"main": Variant(photographs=True), "scratch": Variant()},
    "md_iqa": {
        "main": Variant(pseudo=True, distributions=True),
        "supervised": Variant(distributions=True),
        "not_aligned": Variant({"align": False}, distributions=True),
    },
    "mediqa": {
        "main": Variant(upstream=True),
        "no_upstream": Variant(),
        "no_prompts": Variant({"prompts": False}, upstream=True),
    },
}


@dataclass
class Pool:
    """Everything on which a fold is trained, as tensors; ``base`` (n, 7) cross-fitted readouts."""

    table: CtTable
    tokens: npt.NDArray[np.float16]
    statistics: Tensor
    targets: Tensor
    known: Tensor
    prompts: Tensor

    @classmethod
    def read(cls, cache: Path, tokens: Path) -> Pool:
        """Read table and tokens."""
        table = read_table(cache)
        whole = {name: np.load(tokens / f"{name}.npy") for name in sorted(set(table.slices))}
        stacked = np.stack([whole[row["slice"]][row["_index"]] for row in table.rows.table])
        return cls(
            table,
            stacked,
            torch.from_numpy(table.inputs),
            torch.from_numpy(table.targets.astype(np.float32)),
            torch.from_numpy(table.known),
            torch.tensor([prompt_of_row(row).codes() for row in table.rows.table]),
        )


def prompt_of_row(row: Mapping[str, Any]) -> Prompt:
    """Return what a header would tell of a row."""
    region = {"abdomen": "abdomen", "brain": "head", "LUNG": "chest", "CHEST": "chest"}.get(
        str(row.get("region") or row.get("body_part") or ""), ""
    )
    flat = str(row["source"]).startswith("reader")
    return Prompt("2d" if flat else "3d", "ct", region, "sharp" if row.get("window") == "lung" else "soft")


def readouts(pool: Pool, folder: Path) -> dict[tuple[int, ...], Readout]:
    """Fit, or read back, the readout without each fold, without each two, and with all."""
    table, fold = pool.table, pool.table.fold
    wanted = [(), *((k,) for k in range(FOLDS)), *((j, k) for k in range(FOLDS) for j in range(k))]
    result = {}
    folder.mkdir(parents=True, exist_ok=True)
    for left_out in wanted:
        path = folder / f"readout_{'_'.join(map(str, left_out)) or 'all'}.npz"
        if not path.exists():
            rows = table.trains(np.isin(fold, left_out)) if left_out else np.ones(len(fold), bool)
            found = fit_readout(table, rows)
            np.savez(path, weight=found.weight, bias=found.bias)
            print(path.name, flush=True)
        with np.load(path) as stored:
            result[left_out] = Readout(stored["weight"], stored["bias"])
    return result


def cross_fitted_base(pool: Pool, found: Mapping[tuple[int, ...], Readout], held_out: int | None) -> Array:
    """Return the readout of every row by one that saw neither the row's fold nor the held-out one."""
    fold = pool.table.fold
    base = np.zeros(pool.table.targets.shape)
    for k in range(FOLDS):
        left_out = (k,) if held_out is None or held_out == k else (min(k, held_out), max(k, held_out))
        base[fold == k] = found[left_out](pool.table.inputs[fold == k])
    return base


def train(
    pool: Pool, method: str, variant: Variant, held_out: int | None, seed: int, found: Any, photos: Any
) -> CtNetwork:
    """Train one network without one fold (None: with all) and return it with that fold's readout."""
    torch.manual_seed(1000 * seed + 17)
    rng = np.random.default_rng([seed, FOLDS if held_out is None else held_out])
    table = pool.table
    rows = np.ones(len(table.group), bool) if held_out is None else table.trains(table.fold == held_out)
    network: CtNetwork = importlib.import_module(f"dicom_qa_node.models.{method}.ct").build(**variant.options)
    base = cross_fitted_base(pool, found, held_out)
    spread = np.array([pool.targets[torch.from_numpy(rows) & pool.known[:, i], i].std().item() for i in range(7)])
    readout = found[() if held_out is None else (held_out,)]
    with torch.no_grad():
        network.readout.weight.copy_(torch.from_numpy(readout.weight))
        network.readout.bias.copy_(torch.from_numpy(readout.bias))
        network.spread.copy_(torch.from_numpy(spread))
        mine = pool.statistics[torch.from_numpy(rows)]
        network.get_buffer("standard").copy_(torch.stack([mine.mean(0), mine.std(0) + 1e-2]))
    if variant.photographs:
        _phase_one(network, photos, rng)
    known = pool.known.clone()
    targets = pool.targets.clone()
    base_tensor = torch.from_numpy(base.astype(np.float32))
    if variant.upstream:
        physical = known.clone()
        physical[:, :3] = physical[:, 6:] = False
        _fit(pool, network, rows, base_tensor, targets, physical, variant, _UPSTREAM_STEPS, rng)
    if variant.pseudo:
        targets, known = _pseudo_labels(pool, method, variant, rows, base_tensor, targets, known, rng)
    _fit(pool, network, rows, base_tensor, targets, known, variant, _STEPS, rng)
    return network.eval()


def _pseudo_labels(
    pool: Pool, method: str, variant: Variant, rows: Any, base: Tensor, targets: Tensor, known: Tensor, rng: Any
) -> tuple[Tensor, Tensor]:
    """Label what is unknown by readouts that differ in their folds, where they agree (SD below `_AGREED`)."""
    folds = sorted(set(pool.table.fold[rows]))
    inputs = pool.table.inputs
    teachers = []
    for k in folds[:3]:
        mine = rows & (pool.table.fold != k)
        teachers.append(fit_cached(pool, mine)(inputs))
    mean, sd = np.mean(teachers, 0), np.std(teachers, 0)
    scale = np.array([max(float(targets[known[:, i], i].std()), 1e-3) for i in range(targets.shape[1])])
    agreed = torch.from_numpy(sd / scale < _AGREED) & ~known
    return torch.where(agreed, torch.from_numpy(mean.astype(np.float32)), targets), known | agreed


_TEACHERS: dict[bytes, Readout] = {}


def fit_cached(pool: Pool, rows: npt.NDArray[np.bool_]) -> Readout:
    """Fit a readout once per choice of rows."""
    key = np.packbits(rows).tobytes()
    if key not in _TEACHERS:
        _TEACHERS[key] = fit_readout(pool.table, rows)
    return _TEACHERS[key]


def _phase_one(network: Any, photos: tuple[npt.NDArray[np.float16], Tensor], rng: np.random.Generator) -> None:
    tokens, scores = photos
    standard = (scores - scores.mean()) / scores.std()

    def loss() -> Tensor:
        picked = rng.integers(len(standard), size=_BATCH)
        seen = torch.from_numpy(tokens[picked].astype(np.float32))
        return functional.mse_loss(network.photograph(seen), standard[torch.from_numpy(picked)])

    _descend(network, loss, _PHASE_ONE_STEPS)


def _fit(
    pool: Pool,
    network: CtNetwork,
    rows: npt.NDArray[np.bool_],
    base: Tensor,
    targets: Tensor,
    known: Tensor,
    variant: Variant,
    steps: int,
    rng: np.random.Generator,
) -> None:
    rated = np.flatnonzero(rows & pool.table.known[:, 0])
    simulated = np.flatnonzero(rows & ~pool.table.known[:, 0])
    names = pool.table.slices[simulated]
    of_slice = [simulated[names == name] for name in sorted(set(names))]

    def loss() -> Tensor:
        chosen = [rng.choice(rated, _RATED)]
        slices = rng.choice(len(of_slice), (_BATCH - _RATED) // _VERSIONS)
        chosen += [rng.choice(of_slice[i], _VERSIONS) for i in slices]
        index = np.concatenate(chosen)
        picked = torch.from_numpy(index)
        prompts = pool.prompts[picked].clone()
        prompts[torch.from_numpy(rng.random(prompts.shape) < _PROMPT_DROPOUT)] = 0
        tokens = torch.from_numpy(pool.tokens[index].astype(np.float32))
        judged = network(tokens, pool.statistics[picked], base[picked], prompts)
        wanted = (targets[picked] - base[picked]) / network.spread
        return _loss(judged, wanted.clamp(-2, 2), known[picked].float(), variant.distributions)

    _descend(network, loss, steps)


def _loss(judged: Judged, wanted: Tensor, known: Tensor, distributions: bool) -> Tensor:
    error = (judged.added - wanted) * known
    total = error.square().sum() / known.sum()
    versions = error[_RATED:].reshape(-1, _VERSIONS, error.shape[1])
    within = versions - versions.mean(1, keepdim=True)
    total = total + _ORDER * within.square().sum() / known[_RATED:].sum().clamp_min(1)
    if distributions and judged.distributions is not None:
        from dicom_qa_node.models.md_iqa.ct import BINS, WIDTHS

        support = torch.linspace(-2, 2, BINS)
        for k, width in enumerate(WIDTHS):
            goal = (-(support - wanted[..., None]).square() / (2 * width**2)).softmax(-1)
            said = judged.distributions[:, k]
            divergence = (goal * (goal.clamp_min(1e-8).log() - said.clamp_min(1e-8).log())).sum(-1)
            moved = (goal.cumsum(-1) - said.cumsum(-1)).square().mean(-1)
            total = total + ((0.1 * divergence + moved) * known).sum() / known.sum() / len(WIDTHS)
    return total


def _descend(network: torch.nn.Module, loss: Callable[[], Tensor], steps: int) -> None:
    parameters = [value for value in network.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    network.train()
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()


@torch.inference_mode()
def predict(pool: Pool, network: CtNetwork, rows: npt.NDArray[np.bool_]) -> Array:
    """Return the ratings (rows, 7) of some rows."""
    chosen = np.flatnonzero(rows)
    parts = []
    for start in range(0, len(chosen), 256):
        index = chosen[start : start + 256]
        tokens = torch.from_numpy(pool.tokens[index].astype(np.float32))
        parts.append(network(tokens, pool.statistics[index], None, pool.prompts[index]).ratings.numpy())
    return np.concatenate(parts).astype(np.float64)


def photographs(cache: Path, tokens: Path) -> tuple[npt.NDArray[np.float16], Tensor]:
    """Return tokens and scores of the photographs."""
    from training.feature_cache import read_cache

    rows = read_cache(cache, ("natural_",), ("bands",))
    stacked = np.concatenate([np.load(path) for path in sorted(tokens.glob("natural_*.npy"))])
    return stacked, torch.tensor([float(row["mos"]) for row in rows.table])


def main() -> None:
    """Train every run that is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--variant", default="main")
    parser.add_argument("--fold", nargs="+", default=[*map(str, range(FOLDS)), "all"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool.read(arguments.cache, arguments.tokens)
    found = readouts(pool, arguments.out)
    photos = photographs(arguments.cache, arguments.tokens)
    for seed in arguments.seeds:
        for method in arguments.method:
            for fold in arguments.fold:
                _run(pool, method, arguments.variant, fold, seed, found, photos, arguments.out)


def _run(pool: Pool, method: str, name: str, fold: str, seed: int, found: Any, photos: Any, out: Path) -> None:
    path = out / f"{method}_{name}_{fold}_{seed}.pt"
    variant = METHODS[method].get(name)
    if path.exists() or variant is None:
        return
    held_out = None if fold == "all" else int(fold)
    network = train(pool, method, variant, held_out, seed, found, photos)
    judged = pool.table.fold == held_out if held_out is not None else np.zeros(len(pool.table.group), bool)
    ratings = predict(pool, network, judged) if judged.any() else np.zeros((0, 7))
    part = path.with_suffix(".part")
    torch.save({"ratings": ratings, "state": network.state_dict()}, part)
    part.rename(path)
    print(path.name, flush=True)


if __name__ == "__main__":
    main()
