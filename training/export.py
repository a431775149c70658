"""Turn a finished run into what the package ships: half-precision safetensors and the measured part of the card.

    python -m training.export --run RUN --calibration calibration.json --domain DOMAIN --out WEIGHTS

The same run gives the same bytes: tensors in the order of their names, no time, no host, no path.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dicom_qa_node.models.card import DomainFile, Measured, measured_to_json
from training.calibrate import read_calibration
from training.config import RunConfig
from training.domain import read_domain_file
from training.encode import read_coded

__all__ = ["differing", "export"]


def export(run: Path, calibration: Path | None, out: Path, domain: Path | None = None) -> Measured:
    """Write ``MODEL.safetensors`` and ``MODEL.json`` into ``out`` and return what the JSON holds.

    Parameters
    ----------
    run
        Folder of a finished run.
    calibration
        What `training.calibrate` wrote; without it the model is shipped without figures and intervals.
    domain
        Folder that `training.domain` wrote; without it nothing is called strange.
    """
    facts = json.loads((run / "run.json").read_text())
    config = RunConfig.model_validate(facts["config"])
    tensors = {name: _halve(value) for name, value in sorted(load_file(run / "weights.safetensors").items())}
    # one entry only: the library writes several in random order
    content = save(tensors, metadata={"model": config.model})
    file = f"{config.model}.safetensors"
    half_widths, figures = ({}, ()) if calibration is None else read_calibration(calibration)
    measured = Measured(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        parameters=sum(value.numel() for value in tensors.values()),
        trained_on=_trained_on(facts, config),
        seed=config.seed,
        steps=config.steps,
        figures=figures,
        calibration=half_widths,
        domain=None if domain is None else _export_domain(domain, config.model, out),
        coded=read_coded(run),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / file).write_bytes(content)
    (out / f"{config.model}.json").write_text(measured_to_json(measured))
    return measured


def _export_domain(domain: Path, model: str, out: Path) -> DomainFile:
    """Copy the gate beside the weights under the model's name."""
    described, content = read_domain_file(domain)
    if hashlib.sha256(content).hexdigest() != described.sha256:
        raise ValueError(f"{domain} holds tensors that are not those of its description")
    out.mkdir(parents=True, exist_ok=True)
    file = f"{model}.domain.safetensors"
    (out / file).write_bytes(content)
    return replace(described, file=file)


def _halve(value: Tensor) -> Tensor:
    """Half precision for matrices and kernels; vectors and scalars are few and keep theirs."""
    return value.to(torch.float16) if value.is_floating_point() and value.ndim > 1 else value


def _trained_on(facts: dict[str, dict[str, dict[str, object]]], config: RunConfig) -> str:
    pools = ", ".join(f"{name} ({pool['pictures']} pictures)" for name, pool in sorted(facts["pools"].items()))
    held = "" if config.held_out is None else f"; fold {config.held_out} of {config.folds} of every pool left out"
    return pools + held


def differing(run: Path, calibration: Path | None, shipped: Path, domain: Path | None = None) -> list[str]:
    """Export into a folder that is thrown away, and return which of its files are not those shipped, byte for byte."""
    with tempfile.TemporaryDirectory() as folder:
        export(run, calibration, Path(folder), domain)
        fresh = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return sorted(
        name
        for name, content in fresh.items()
        if not (shipped / name).is_file() or (shipped / name).read_bytes() != content
    )


def main() -> None:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--domain", type=Path, help="folder that training.domain wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where OUT holds other bytes")
    arguments = parser.parse_args()
    given = (arguments.run, arguments.calibration, arguments.out, arguments.domain)
    if arguments.check:
        wrong = differing(*given)
        raise SystemExit(f"{arguments.out} differs from the run: {', '.join(wrong)}" if wrong else 0)
    measured = export(*given)
    print(f"{measured.file} sha256 {measured.sha256} {measured.parameters} values")


if __name__ == "__main__":
    main()
