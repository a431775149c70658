"""From the last C-STORE of a series to its report at the archive, on the whole node with the shipped model.

Every series announces its count, so no idle timer is involved. Beside the seconds stands the ratio to the time that
the transfer itself took, and the resident memory of every role.

python -m benchmarks.latency [--series 5] [--slices 100] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydicom import Dataset, dcmread

from dicom_qa_node import phantom
from dicom_qa_node.cli.demo_run import DemoNode, demo_node
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.deliver.send_files import Peer, send_files
from dicom_qa_node.domain.uids import derived_uid

PATIENCE_S = 300.0
MB = 1024 * 1024


@dataclass(frozen=True)
class Run:
    """One series: how long its transfer took and how long the report took after it."""

    transfer_s: float
    report_s: float


def main(arguments: Sequence[str]) -> int:
    """Measure and print; exit code 0."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        images = phantom.ct_series(1, slices=options.slices)
        with demo_node(Path(folder) / "node") as node:
            wait_for_scorer(node)
            runs = [_one(node, _copies(images, number, Path(folder))) for number in range(options.series + 1)][1:]
            memory = dict(_memory(node))
    _print(options.slices, runs, memory)
    if options.csv:
        _write(options.csv, runs)
    return 0


def _one(node: DemoNode, files: list[Path]) -> Run:
    receive = node.config.receive
    there = len(list(node.archive.glob("*.dcm")))
    started = time.monotonic()
    peer = Peer(receive.host, receive.port, node.config.ae_title, "BENCHMARK", 60)
    summary = send_files(files, peer, lambda *_: None)
    sent = time.monotonic()
    if summary.failed:
        raise SystemExit(f"the node refused {len(summary.failed)} images")
    _until(lambda: len(list(node.archive.glob("*.dcm"))) > there, "the report at the archive")
    return Run(sent - started, time.monotonic() - sent)


def _copies(images: Sequence[Dataset], number: int, folder: Path) -> list[Path]:
    """Write the same images as a new study and series."""
    target = folder / f"series{number}"
    paths = phantom.write(list(images), target)
    for path in paths:
        ds = dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            setattr(ds, keyword, derived_uid("latency", str(number), str(ds[keyword].value)))
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        # The generator names its patients and scanners phantoms: the pixels would be looked at for one.
        ds.PatientName, ds.ManufacturerModelName = "Doe^Jane", "CT 64"
        ds.save_as(path)
    return sorted(paths)


def wait_for_scorer(node: DemoNode) -> None:
    database = Database(node.config.database_url)

    def idle() -> bool:
        node.require_alive()
        revision, head = database.revision()
        return revision == head and any(
            beat.role == "score" and beat.detail == "idle" for beat in Heartbeats(database).all()
        )

    _until(idle, "the scoring worker")
    database.close()


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come within {PATIENCE_S:g} s")
        time.sleep(0.02)


def _memory(node: DemoNode) -> Iterator[tuple[str, float]]:
    for process in psutil.Process(node.process.pid).children(recursive=True):
        words = process.cmdline()
        role = next(
            (word for word in reversed(words) if word in ("receive", "score", "deliver", "web", "schedule")), ""
        )
        yield f"{role or words[-1]} {process.pid}", process.memory_info().rss / MB


def _print(slices: int, runs: Sequence[Run], memory: dict[str, float]) -> None:
    seconds = sorted(run.report_s for run in runs)
    ratio = statistics.median(run.report_s / run.transfer_s for run in runs)
    print(f"{len(runs)} series of {slices} slices: last C-STORE to report at the archive")
    print(f"  median {statistics.median(seconds):.2f} s, worst {seconds[-1]:.2f} s, {ratio:.1f} x the transfer itself")
    for name, used in sorted(memory.items()):
        print(f"  {name:24} {used:7.0f} MB resident")


def _write(path: Path, runs: Sequence[Run]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["transfer_s", "report_s", "ratio"])
        writer.writerows([f"{r.transfer_s:.3f}", f"{r.report_s:.3f}", f"{r.report_s / r.transfer_s:.2f}"] for r in runs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--series", type=int, default=5, help="series counted, after one for warming up")
    parser.add_argument("--slices", type=int, default=100, help="slices of 512 x 512 in each")
    parser.add_argument("--csv", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
