"""Give a finished run what its named degradations are worth: the readers' means and the severity curves.

    python -m training.encode --run RUN --pools POOLS

Writes ``RUN/coded.json`` (``dicom_qa_node/models/card.py``). The cell means are those of the references that the run
was trained on. How far the worth is trusted, and how sharp a named level is taken to be, were chosen on one held-out
fold (`TRUST`, `SIGMA`); for PET alone, where there is no reader to choose by, nothing is mixed in.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pydantic import TypeAdapter

from dicom_qa_node.models.card import DegradationPrior
from training.code import severity_curves
from training.config import RunConfig
from training.dataset import cell_table, unseen_groups
from training.pool import LEVEL_NAMES
from training.severity import ROUTINE_SCORE
from training.train import read_pools

__all__ = ["encode", "read_coded"]

SIGMA = 0.3
TRUST = {"petct": 0.7, "ct": 0.2, "pt": 0.0}
STEP, POINTS = 0.25, 17
_DISPLAY = LEVEL_NAMES.index("dose")

_FILE: TypeAdapter[DegradationPrior] = TypeAdapter(DegradationPrior)


def read_coded(run: Path) -> DegradationPrior | None:
    """Read what `encode` wrote into a run folder; None where nothing was."""
    path = run / "coded.json"
    return _FILE.validate_json(path.read_bytes()) if path.is_file() else None


def encode(run: Path, pools_folder: Path) -> DegradationPrior:
    """Measure the cell means of the run's training references, and write them with the curves."""
    config = RunConfig.model_validate(json.loads((run / "run.json").read_text())["config"])
    pools = read_pools(pools_folder, config)
    table = cell_table(pools, unseen_groups(pools, config))
    if table is None:
        raise ValueError(f"{run} saw no rated pictures that name their display cells")
    curves = severity_curves(POINTS, STEP)
    coded = DegradationPrior(
        cells=tuple(round(float(value), 4) for value in table.ravel()),
        sigma=SIGMA,
        shares=((),) * _DISPLAY + tuple(tuple(round(float(x), 5) for x in curve) for curve in curves),
        step=STEP,
        routine=ROUTINE_SCORE,
        trust=TRUST,
    )
    (run / "coded.json").write_bytes(_FILE.dump_json(coded, indent=1))
    return coded


def main() -> None:
    """Encode as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--pools", type=Path, required=True)
    arguments = parser.parse_args()
    coded = encode(arguments.run, arguments.pools)
    print(" ".join(f"{value:.2f}" for value in coded.cells))


if __name__ == "__main__":
    main()
