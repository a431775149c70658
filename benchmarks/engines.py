"""What ONNX Runtime saves against torch on the CPU: processor time a slice, at the start, and memory.

Candidates take turns, picture after picture, and processor time of the process counts, so that what else the machine
does meets all of them. Start and memory are those of processes of their own that open a scorer and score seven slices.

python -m benchmarks.engines [--rounds 9] [--csv FILE]
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dicom_qa_node.models.efficientnet_lite0 import ENCODER
from dicom_qa_node.models.efficientnet_lite0.net import PooledEncoder, open_encoder
from dicom_qa_node.models.onnx_engine import OnnxNetwork
from dicom_qa_node.models.registry import DEFAULT_MODEL, build_network, card_of
from dicom_qa_node.models.torch_engine import DisplayModule
from dicom_qa_node.models.weights import load, verify_onnx

ROWS, COLUMNS, CROPS = 416, 512, 4
Run = Callable[[], object]

_START = """
import json, resource, sys
import numpy as np
{hidden}
from dicom_qa_node.score.ct_inference import open_scorer
scorer = open_scorer("ms_iqa_small", "tfkt_ct", "cpu")
def used():
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime
start = used()
pictures = np.random.default_rng(0).integers(20, 200, (7, 512, 512, 1), np.uint8).repeat(3, 3)
scorer.score(pictures, "ct"), scorer.score(pictures, "petct")
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([start, used() - start, peak]))
"""
#: Makes every card one without an ONNX file, which torch then runs.
_ON_TORCH = """
from dicom_qa_node.models import engines
engines._onnx_file = lambda card, folder: None
"""


def main(arguments: Sequence[str]) -> int:
    """Measure and print; exit code 0."""
    options = _parser().parse_args(arguments)
    rows: list[tuple[str, str, str, str]] = []
    for what, unit, candidates in _pairs():
        spent = _in_turn(candidates, options.rounds)
        for name, times in spent.items():
            ratio = statistics.median(own / onnx for own, onnx in zip(times, spent["ONNX Runtime"], strict=True))
            rows.append((f"{what}, ms a {unit}", name, f"{1000 * statistics.median(times):.1f}", f"{ratio:.2f}"))
    started = {"ONNX Runtime": _started(""), "torch": _started(_ON_TORCH)}
    for index, what in enumerate(("start of a scorer, s", "seven slices twice, s", "peak memory, MiB")):
        for name, found in started.items():
            rows.append((what, name, f"{found[index]:.2f}", f"{found[index] / started['ONNX Runtime'][index]:.2f}"))
    for row in rows:
        print(f"{row[0]:36} {row[1]:16} {row[2]:>9} {row[3]:>6} x ONNX Runtime")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("what", "engine", "processor_time_or_size", "ratio_to_onnx"), *rows])
    return 0


def _pairs() -> Iterator[tuple[str, str, dict[str, Run]]]:
    random = np.random.default_rng(0)
    given = {
        "pictures": random.integers(0, 256, (1, ROWS, COLUMNS, 3), np.uint8),
        "body": np.ones((1, ROWS // 8, COLUMNS // 8), np.float32),
    }
    encoder = PooledEncoder(open_encoder(ENCODER)).eval()
    yield "encoder with features", "picture", _candidates(OnnxNetwork(verify_onnx(ENCODER)), encoder, given)
    card = card_of(DEFAULT_MODEL)
    network = build_network(card)
    load(network, card)
    side = card.input.side
    crops = {"pictures": random.integers(0, 256, (CROPS, side, side, 3), np.uint8)}
    yield (
        "display network",
        f"{CROPS} crops",
        _candidates(OnnxNetwork(verify_onnx(card)), DisplayModule(network).eval(), crops),
    )


def _candidates(onnx: OnnxNetwork, module: nn.Module, given: dict[str, Any]) -> dict[str, Run]:
    tensors = [torch.from_numpy(value) for value in given.values()]
    plain = _as_laid_out(module, torch.contiguous_format)
    last = _as_laid_out(module, torch.channels_last)

    def eager(chosen: nn.Module) -> object:
        with torch.inference_mode():
            return chosen(*tensors)

    return {
        "ONNX Runtime": lambda: onnx.run(given),
        "torch, rows first": lambda: eager(plain),
        "torch, channels last": lambda: eager(last),
    }


def _as_laid_out(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    laid: nn.Module = copy.deepcopy(module).to(memory_format=layout)  # type: ignore[call-overload]
    return laid


def _in_turn(candidates: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            begun = time.process_time()
            run()
            spent[name].append(time.process_time() - begun)
    return spent


def _started(hidden: str) -> tuple[float, ...]:
    done = subprocess.run(
        [sys.executable, "-c", _START.format(hidden=hidden)], capture_output=True, text=True, check=True, timeout=600
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--csv", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
