"""Slices a second of the network by batch, precision and layout, against what the device reaches in plain arithmetic.

The roof is measured, not taken from a data sheet: a large matrix product (2 n^3 operations) in the same precision with
the same threads. A network's operations are counted by torch. Every candidate runs in turn, round after round, so that
a load that comes and goes meets all of them. "node" is the way the node itself takes.

python -m benchmarks.scoring [--model NAME] [--device auto] [--rounds 7] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.models.registry import build_network, card_of
from dicom_qa_node.score import display_images
from dicom_qa_node.score.inference import Scorer

PICTURE_SIDE = 512
SLICES = 7
Run = Callable[[], object]


@dataclass(frozen=True)
class Candidate:
    """One way to run the network: what it is called, its batch, its precision, and how to do all crops once."""

    name: str
    batch: int
    dtype: torch.dtype
    run: Run


def main(arguments: Sequence[str]) -> int:
    """Measure and print; exit code 0."""
    options = _parser().parse_args(arguments)
    scorer = Scorer.open(options.model, options.device)
    side = scorer.card.input.side
    pictures = np.random.default_rng(1).integers(0, 255, (SLICES, PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    padded = display_images.pad_image(pictures[0], side, SeriesKind.CT)
    crops = SLICES * len(display_images.crop_plan(padded, side, SeriesKind.CT))
    device = torch.device(scorer.device)
    if device.type == "cpu":
        # The threads of a candidate share its batches; those of torch would wait for each other.
        torch.set_num_threads(1)
    network = build_network(card_of(options.model)).to(device).eval()
    operations = _operations(network, side, device)
    candidates = list(_candidates(scorer, network, pictures, crops, side))
    spent: dict[str, list[float]] = {item.name: [] for item in candidates}
    for item in candidates:
        item.run()
    for _ in range(options.rounds):
        for item in candidates:
            spent[item.name].append(_timed(item.run, device))
    roofs = {dtype: _roof(dtype, device) for dtype in {item.dtype for item in candidates}}
    print(
        f"{options.model} on {_device_name(device)}: {operations / 1e9:.2f} GFLOP a crop of {side} x {side}, ",
        end="",
    )
    print(f"{crops / SLICES:.0f} crops a slice")
    for dtype, roof in roofs.items():
        print(f"roof {str(dtype).removeprefix('torch.'):9} {roof / 1e9:10.0f} GFLOP/s in a matrix product")
    rows = [_row(item, spent, crops, operations, roofs[item.dtype]) for item in candidates]
    for name, batch, speed, ratio, share in rows:
        print(f"{name:24} batch {batch:4} {speed:>8} slices/s {ratio:>6} x node  {float(share):4.0%} of the roof")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows(
                [("candidate", "batch", "slices_per_s", "ratio_to_node", "share_of_roof"), *rows]
            )
    return 0


def _row(
    item: Candidate, spent: dict[str, list[float]], crops: int, operations: float, roof: float
) -> tuple[str, int, str, str, str]:
    took = statistics.median(spent[item.name])
    ratio = statistics.median(node / own for node, own in zip(spent["node"], spent[item.name], strict=True))
    share = crops * operations / took / roof
    return item.name, item.batch, f"{SLICES / took:.1f}", f"{ratio:.3f}", f"{share:.3f}"


def _candidates(scorer: Scorer, network: nn.Module, pictures: np.ndarray, crops: int, side: int) -> Iterator[Candidate]:
    """Yield the node's own way first; those on CUDA try larger batches and bfloat16, those on the CPU threads."""
    device = torch.device(scorer.device)
    cuda = device.type == "cuda"
    plain = torch.bfloat16 if cuda else torch.float32
    yield Candidate("node", crops, plain, lambda: scorer.score(pictures, "ct"))
    batches = (1, 7, 28, 56, 128, 256) if cuda else (1, 4, 14, crops)
    for batch in batches:
        yield Candidate(
            f"eager {_short(plain)} {batch}", batch, plain, _eager(network, device, batch, crops, side, plain)
        )
    yield Candidate(
        "eager, rows first", 4, plain, _eager(network, device, 4, crops, side, plain, torch.contiguous_format)
    )
    if cuda:
        yield Candidate("eager float32", 128, torch.float32, _eager(network, device, 128, crops, side, torch.float32))
        compiled = torch.compile(network, mode="reduce-overhead")
        yield Candidate("compiled with graphs", 128, plain, _eager(compiled, device, 128, crops, side, plain))
        return
    yield Candidate("eager bfloat16", 4, torch.bfloat16, _eager(network, device, 4, crops, side, torch.bfloat16))
    if importlib.util.find_spec("openvino"):
        yield Candidate("OpenVINO", 4, plain, _openvino(network, crops, side))


def _eager(
    network: Callable[..., object],
    device: torch.device,
    batch: int,
    crops: int,
    side: int,
    dtype: torch.dtype,
    layout: torch.memory_format = torch.channels_last,
) -> Run:
    """Run batches on the GPU one after the other, on the CPU in one thread for each core."""
    cuda = device.type == "cuda"
    spans = [min(batch, crops - start) for start in range(0, crops, batch)]
    inputs = {
        span: torch.rand(span, 3, side, side, device=device).contiguous(memory_format=layout) for span in set(spans)
    }

    def one(span: int) -> object:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return network(inputs[span])

    def run() -> object:
        if cuda:
            return [one(span) for span in spans]
        with ThreadPoolExecutor(torch.get_num_interop_threads()) as pool:
            return list(pool.map(one, spans))

    return run


def _openvino(network: nn.Module, crops: int, side: int) -> Run:
    """Convert the network and run it with two requests in flight."""
    import openvino

    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
            said = self.network(pictures)
            return said.score, said.weight, said.spread, said.levels, said.features

    batch = torch.rand(4, 3, side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(Outputs(), example_input=batch)
    model.reshape([4, 3, side, side])
    compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    array = batch.numpy()

    def run() -> object:
        queue = openvino.AsyncInferQueue(compiled, 0)
        for _ in range(0, crops, 4):
            queue.start_async({0: array})
        queue.wait_all()
        return None

    return run


def _operations(network: nn.Module, side: int, device: torch.device) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, 3, side, side, device=device))
    return float(counter.get_total_flops())


def _roof(dtype: torch.dtype, device: torch.device) -> float:
    """Return the most operations a second of a square matrix product, over some sizes and tries."""
    cuda = device.type == "cuda"
    threads = torch.get_num_threads()
    if not cuda:
        torch.set_num_threads(torch.get_num_interop_threads())
    best = 0.0
    for size in (4096, 8192) if cuda else (1024, 2048):
        left, right = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
        torch.matmul(left, right)
        took = min(_timed(lambda: torch.matmul(left, right), device) for _ in range(8))  # noqa: B023
        best = max(best, 2.0 * size**3 / took)
    torch.set_num_threads(threads)
    return best


def _timed(run: Run, device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_interop_threads()} cores"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="ms_iqa_small")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
