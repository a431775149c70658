"""Ship the CT models: weights as half floats, calibration and figures.

python -m training.ct_export --cache CACHE --tokens TOKENS --runs RUNS --models dicom_qa_node/models
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dicom_qa_node.models.card import Calibration, Measured, measured_to_json
from dicom_qa_node.models.ct_cards import CT_METHODS
from dicom_qa_node.models.ct_network import CtModel, build_model
from training.ct_judge import Held, conformal_widths, figures_of, held_out, judged_rows, nested_scores, offset_of
from training.ct_table import CtTable, read_table

_EXACT = ("readout", "standard", "spread", "dose_offset", "half_widths")
"""Tensors kept in single precision: sums of many terms that nearly cancel."""

_TRAINED_ON = "reader study of denoised CT, multi-scanner CT with simulated severities (cached features)"


def model_of(members: Sequence[str], runs: Path, projection: Path, seed: int) -> CtModel:
    """Return the model of some methods' runs without a held-out fold."""
    model = build_model(",".join(members))
    for member, method in zip(model.members, members, strict=True):
        state = torch.load(runs / f"{method}_main_all_{seed}.pt", weights_only=False)["state"]
        missing, unexpected = member.load_state_dict(state, strict=False)
        if unexpected or any(not name.startswith("projection") for name in missing):
            raise SystemExit(f"the run of {method} is of another network: {missing} {unexpected}")
    with np.load(projection) as found, torch.no_grad():
        first = model.members[0].projection
        first.centre.copy_(torch.from_numpy(found["centre"]))  # type: ignore[union-attr,operator]
        first.basis.copy_(torch.from_numpy(found["basis"]))  # type: ignore[union-attr,operator]
    return model


def ship(table: CtTable, held: Held, model: CtModel, name: str, folder: Path, seed: int) -> None:
    """Write the weights of one model and what its card must know."""
    every = np.ones(len(table.group), bool)
    offset = offset_of(table, held, every)
    score = nested_scores(table, held)
    rows = judged_rows(table)
    widths = conformal_widths(score, table.score, rows)
    with torch.no_grad():
        model.dose_offset.fill_(offset)
        model.half_widths.copy_(torch.from_numpy(widths))
    stored = {
        key: (value if any(part in key for part in _EXACT) else value.half()).contiguous().clone()
        for key, value in model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file(stored, path)
    path.chmod(0o644)
    figures = tuple(figures_of(table, held))
    by_name = {figure.name: figure.value for figure in figures}
    calibration = Calibration(
        half_width=round(by_name["ct_interval_half_width"], 4),
        nominal=0.9,
        coverage=by_name["ct_interval_coverage"],
        n=int(rows.sum()),
        groups=len(set(table.group[rows])),
        note="mean half width; at scores 0, 0.5 ... 4: " + ", ".join(f"{width:.2f}" for width in widths),
    )
    measured = Measured(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        parameters=sum(value.numel() for value in stored.values()),
        trained_on=_TRAINED_ON,
        seed=seed,
        steps=90,
        figures=figures,
        calibration={"ct": calibration},
    )
    path.with_suffix(".json").write_text(measured_to_json(measured))


def main() -> None:
    """Write everything that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = read_table(arguments.cache)
    projection = arguments.tokens / "projection.npz"
    seed = arguments.seed
    for name, members in (("ct_panel", CT_METHODS), *((method, (method,)) for method in CT_METHODS)):
        held = held_out(table, arguments.runs, name, [(method, "main", seed) for method in members])
        if held is None:
            raise SystemExit(f"runs of {name} are missing")
        model = model_of(members, arguments.runs, projection, seed)
        shipped = name if name == "ct_panel" else f"{name}_ct"
        ship(table, held, model, shipped, arguments.models / name / "weights", seed)
        print(shipped, flush=True)


if __name__ == "__main__":
    main()
