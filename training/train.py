"""Train one network: ``python -m training.train --config training/configs/ms_iqa_small.yaml --pools DIR --out RUN``.

A run folder holds what decides it (``run.json``: configuration, seed, code version, checksums of the pools),
its curve (``curve.csv``, ``curve.png``), its state (``state.pt``, for resuming) and its result: the exponential
moving average of the weights (``weights.safetensors``). Started again on the same folder, the run goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import json
import math
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import dicom_qa_node
from dicom_qa_node.models.layers import Outputs
from dicom_qa_node.models.registry import build_network, card_of
from dicom_qa_node.models.torch_engine import pick_device
from training import code, losses, stages
from training.config import RunConfig, read_config
from training.dataset import CELL, Batch, Batches
from training.pool import Pool, read_pool
from training.severity import ROUTINE_SCORE

__all__ = ["main", "read_pools", "train"]

_COLUMNS = ("step", "loss", "score", "level", "rank", "spread", "cell", "learning_rate", "seconds", "widths")


def read_pools(folder: Path, config: RunConfig) -> list[Pool]:
    """Open the pools that a configuration names, each once."""
    return [read_pool(folder / name) for name in sorted({share.pool for share in config.shares})]


def train(config: RunConfig, pools: list[Pool], out: Path, device: str = "auto", stop_at: int | None = None) -> None:
    """Run or resume the training loop; ``stop_at`` ends it early, as an interruption would."""
    out.mkdir(parents=True, exist_ok=True)
    start_from = _init_file(config)
    _save_facts(config, pools, out, start_from)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    where = pick_device(device)
    card = card_of(config.model)
    network = build_network(card, config.options).to(device=where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    draws = Batches(pools, config, card.input.side)
    if not (out / "state.pt").is_file():
        _prepare(network, draws, config, where, start_from)
    average = copy.deepcopy(network).eval()
    optimiser = torch.optim.AdamW(
        _parameter_groups(network, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
    )
    start = _resume(out / "state.pt", network, average, optimiser)
    _forget_after(out / "curve.csv", start)
    end = min(stop_at or config.steps, config.steps)
    batches = DataLoader(
        draws,
        batch_size=None,
        sampler=range(start, end),
        num_workers=config.loader_processes,
    )
    network.train()
    stages.freeze(network, config.frozen)
    began = time.monotonic()
    for step, batch in zip(range(start, end), tqdm(batches, mininterval=5, disable=None), strict=True):
        torch.manual_seed(config.seed * 1_000_003 + step)
        rate = _learning_rate(config, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        terms = _step(network, optimiser, batch, config, where)
        _follow(average, network, min(config.ema_decay, (1 + step) / (10 + step)))
        if step % 10 == 0:
            seconds = time.monotonic() - began
            *first, last = (f"{t:.5f}" for t in terms)
            _append(out / "curve.csv", [step, *first, f"{rate:.3g}", f"{seconds:.0f}", last])
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == end:
            _checkpoint(out, step + 1, network, average, optimiser)
    if end == config.steps:
        plot_curve(out)


def _prepare(
    network: nn.Module, draws: Batches, config: RunConfig, where: torch.device, start_from: Path | None
) -> None:
    """Give a fresh network what it takes from the training data before the first step, or from another run."""
    if start_from is not None:
        _load_start(network, start_from)
    elif config.init == stages.FROM_TIMM:
        stages.start_from_timm(network)
    observe = getattr(network, "observe", None)
    if (start_from is None or config.observe_again) and callable(observe):
        seen = torch.cat([draws[step].pictures for step in range(config.observe_steps)])
        observe(seen.to(where).float() / 255.0)
    coded = getattr(network, "code", None)
    if coded is not None:
        if draws.cells is None:
            raise ValueError("the coded score needs rated pictures that name their display cells")
        curves = code.severity_curves(coded.shares.shape[1], coded.step)
        coded.take(torch.from_numpy(draws.cells), torch.from_numpy(curves), ROUTINE_SCORE)


def _init_file(config: RunConfig) -> Path | None:
    """Return the safetensors file that the run starts from, None for a start from random weights."""
    if config.init is None or config.init == stages.FROM_TIMM:
        return None
    fold = "all" if config.held_out is None else config.held_out
    path = Path(str(config.init).format(fold=fold)).expanduser()
    return path / "weights.safetensors" if path.is_dir() else path


def _load_start(network: nn.Module, path: Path) -> None:
    """Copy the tensors of another run; layers that it did not have keep their own start."""
    own, stored = network.state_dict(), load_file(path)
    strange = [name for name, value in stored.items() if name not in own or own[name].shape != value.shape]
    if strange:
        raise ValueError(f"{path} does not fit the network: {len(strange)} tensors, first {strange[0]!r}")
    network.load_state_dict(stored, strict=False)


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, config: RunConfig, where: torch.device
) -> list[float]:
    """One optimiser step; returns the loss and its terms."""
    pictures = (batch.pictures.to(where).float() / 255.0).contiguous(memory_format=torch.channels_last)
    score, weight = batch.score.to(where), batch.weight.to(where)
    prompt_args = (batch.prompt.to(where),) if card_of(config.model).needs_prompt else ()
    with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
        outputs = network(pictures, *prompt_args)
    predicted = outputs.score.float()
    terms = [
        losses.score_loss(predicted, score, weight),
        losses.level_loss(outputs.levels.float(), batch.levels[:, : outputs.levels.shape[1]].to(where)),
        losses.rank_loss(predicted, score, batch.scene.to(where)),
        losses.spread_loss(predicted, score, outputs.spread.float()),
        _cell_loss(network, outputs, batch.levels.to(where)),
        _widths_loss(network, outputs, score, weight),
    ]
    scored = config.score_weight
    weights = (
        scored, config.level_weight, config.rank_weight * scored, 0.1, config.cell_weight,
        config.distribution_weight * scored,
    )  # fmt: skip
    loss = torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum()
    if not torch.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss.item()}; lower the learning rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return [float(term.detach()) for term in (loss, *terms)]


def _cell_loss(network: nn.Module, outputs: Any, levels: Tensor) -> Tensor:
    """Loss of naming the display cell; zero for a network without a coded score."""
    name_cell = getattr(network, "cell_logits", None)
    logits = name_cell(outputs.features.float()) if callable(name_cell) else None
    return outputs.score.sum() * 0.0 if logits is None else code.cell_loss(logits, levels[:, : len(CELL)])


def _widths_loss(network: nn.Module, outputs: Outputs, score: Tensor, weight: Tensor) -> Tensor:
    """Loss of the predicted distributions; zero for a network without them."""
    if outputs.distributions is None:
        return outputs.score.sum() * 0.0
    widths: tuple[float, ...] = network.widths  # type: ignore[assignment]
    return losses.widths_loss(outputs.distributions.float(), score, weight, widths)


def _learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels, not biases, norms and scalars."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(value, 1 - decay)
        else:
            kept.copy_(value)


def _checkpoint(out: Path, step: int, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write state and weights; each file appears whole or not at all."""
    state = {
        "step": step,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    torch.save(state, out / "state.tmp")
    (out / "state.tmp").replace(out / "state.pt")
    tensors: dict[str, Tensor] = {key: value.detach().cpu().contiguous() for key, value in average.state_dict().items()}
    save_file(tensors, out / "weights.tmp")
    (out / "weights.tmp").replace(out / "weights.safetensors")


def _resume(path: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save_facts(config: RunConfig, pools: list[Pool], out: Path, start_from: Path | None) -> None:
    """Write ``run.json``; a folder that holds another run's facts is refused."""
    facts = {
        "config": config.model_dump(mode="json"),
        "pools": {pool.name: {"sha256": pool.sha256, "pictures": len(pool.rows)} for pool in pools},
    }
    if start_from is not None:
        facts["init"] = {"file": start_from.name, "sha256": hashlib.sha256(start_from.read_bytes()).hexdigest()}
    path = out / "run.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        # a key that is newer than the run has its default in both
        kept["config"] = RunConfig.model_validate(kept["config"]).model_dump(mode="json")
        if {key: kept.get(key) for key in facts} != facts:
            raise ValueError(f"{out} holds a run with another configuration or other data; choose another folder")
        return
    versions = {"package": dicom_qa_node.__version__, "commit": _commit(), "torch": torch.__version__}
    path.write_text(json.dumps(facts | {"versions": versions}, indent=1, sort_keys=True) + "\n")


def _commit() -> str:
    """Return the code's git commit, "" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _append(path: Path, values: list[Any]) -> None:
    fresh = not path.is_file()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if fresh:
            writer.writerow(_COLUMNS)
        writer.writerow(values)


def _forget_after(path: Path, start: int) -> None:
    """Drop the rows of steps that a resumed run is going to repeat."""
    if path.is_file():
        head, *rows = path.read_text().splitlines(keepends=True)
        path.write_text(head + "".join(row for row in rows if int(row.split(",")[0]) < start))


def plot_curve(out: Path) -> None:
    """Draw ``curve.csv`` as ``curve.png``."""
    from matplotlib.figure import Figure

    with (out / "curve.csv").open(newline="") as stream:
        records = list(csv.DictReader(stream))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("score", "level", "rank", "cell"):
        axes.plot([int(r["step"]) for r in records], [float(r[name]) for r in records], label=name, lw=0.8)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=out.name)
    axes.legend()
    figure.savefig(out / "curve.png", dpi=120)


def _folds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--pools", type=Path, required=True, help="folder of the prepared pools")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an interrupted run in it is resumed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--held-out", type=int, help="fold to hold out, instead of the configuration's")
    parser.add_argument("--seed", type=int, help="seed, instead of the configuration's")
    parser.add_argument("--steps", type=int, help="number of steps, instead of the configuration's")
    parser.add_argument("--left-out", type=_folds, help="further folds not to see, such as 1,2: those of a teacher")
    parser.add_argument("--init", type=Path, help="run or weights to start from, instead of the configuration's")
    arguments = parser.parse_args()
    config = read_config(arguments.config)
    changes = {key: getattr(arguments, key) for key in ("held_out", "seed", "init", "steps", "left_out")}
    config = config.model_copy(update={key: value for key, value in changes.items() if value is not None}).for_fold()
    train(config, read_pools(arguments.pools, config), arguments.out, arguments.device)


if __name__ == "__main__":
    main()
