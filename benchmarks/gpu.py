"""One run on a machine with a GPU, ten minutes at most: slices a second, share of the roof, feeding, the tests.

Every part is a process of its own with a limit of its own: one that fails or hangs leaves the others their time.

python -m benchmarks.gpu [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SLICES, SIDE = 7, 512
_SERIES = (1, 4, 16)
_ROUNDS = 7


def main(arguments: Sequence[str]) -> int:
    """Run all parts; exit code 0 if each ended well."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.feeding:
        return _feeding(options.device, options.out / "feeding.csv")
    own = [sys.executable, "-m", "benchmarks.gpu", "--out", str(options.out), "--device", options.device, "--feeding"]
    scoring = [sys.executable, "-m", "benchmarks.scoring", "--device", options.device, "--rounds", "5"]
    parts = (
        ("slices a second and share of the roof", [*scoring, "--csv", str(options.out / "scoring_gpu.csv")], 200),
        ("feeding", own, 120),
        ("tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"], 240),
    )
    ended = []
    for name, command, limit_s in parts:
        print(f"== {name}", flush=True)
        try:
            ended.append(subprocess.run(command, timeout=limit_s, check=False).returncode)
        except subprocess.TimeoutExpired:
            print(f"stopped after {limit_s} s", flush=True)
            ended.append(1)
    return max(ended)


def _feeding(device: str, target: Path) -> int:
    """Score 1, 4 and 16 series at once from their pictures; what the processor prepares counts, and is timed alone."""
    from dicom_qa_node.api import open_model
    from dicom_qa_node.score.ct_inference import _prepared

    scorer = open_model(device=device)
    random = np.random.default_rng(0)
    rows = [("kind", "series", "slices_per_s", "preparing_share")]
    for count in _SERIES:
        pictures = random.integers(20, 200, (count * SLICES, SIDE, SIDE, 1), np.uint8).repeat(3, 3)
        for kind in ("ct", "petct"):
            for _ in range(3):
                scorer.score(pictures, kind)
            whole = statistics.median(_timed(lambda: scorer.score(pictures, kind)) for _ in range(_ROUNDS))  # noqa: B023
            alone = _timed(lambda: [_prepared(one) for one in pictures]) if kind == "ct" else 0.0  # noqa: B023
            rows.append((kind, str(count), f"{len(pictures) / whole:.1f}", f"{alone / whole:.2f}"))
            print(*rows[-1], flush=True)
    with target.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return 0


def _timed(run: object) -> float:
    assert callable(run)
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script")
    parser.add_argument("--feeding", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
