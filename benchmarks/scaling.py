"""Speed and work per series of 1, 2 and 3 scorers on one PostgreSQL, as ratios within one run.

Each scorer is a process with one thread. It has no network: it reads, measures and draws generated series as in
service, which is work of the processor alone, and scores by mean grey. When all are up, the series are queued.

python -m benchmarks.scaling [--scorers 1 2 3] [--series 24] [--rounds 3] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from dicom_qa_node import phantom
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.spool.layout import SpoolLayout
from tests.postgresql_server import PostgresqlServer, programs, running_server

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Run:
    """One measurement: so many scorers, the clock's time for all series, the processor's time of the scorers."""

    scorers: int
    round: int
    series: int
    clock_s: float
    processor_s: float


def main(arguments: Sequence[str]) -> int:
    """Measure and print; exit code 0."""
    options = _parser().parse_args(arguments)
    found = programs()
    if found is None:
        raise SystemExit("needs the Debian package postgresql")
    runs = []
    with running_server(found) as server, tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        for number in range(1, options.rounds + 1):
            for scorers in options.scorers:
                place = Path(folder) / f"{number}-{scorers}"
                runs.append(_run(server, place, scorers, number, options.series))
                print(runs[-1], flush=True)
    for scorers in options.scorers:
        speed, work = _ratios(runs, scorers, options.scorers[0])
        print(f"{scorers} scorers: {speed:.2f} times as fast, {work:.2f} of the work per series")
    if options.csv:
        _write(options.csv, runs)
    return 0


def _run(server: PostgresqlServer, folder: Path, scorers: int, number: int, series: int) -> Run:
    folder.mkdir()
    config = {"database_url": server.create(), "spool_dir": str(folder / "spool")}
    config["score"] = {"threads": 1, "heat_maps": "off", "recycle_after": 100_000, "max_memory_mb": 100_000}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    database = Database(config["database_url"])
    stored = _received(database, SpoolLayout(folder / "spool"), series)
    processes = [_start(folder, number) for number in range(scorers)]
    try:
        _until(lambda: sum(beat.detail == "idle" for beat in Heartbeats(database).all()) == scorers)
        used, begun = _processor_s(processes), time.monotonic()
        registry = Registry(database)
        for progress in registry.receiving():
            registry.complete(progress, reason="benchmark")
        _until(lambda: registry.counts()[SeriesState.SCORED] == stored)
        return Run(scorers, number, stored, time.monotonic() - begun, _processor_s(processes) - used)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        database.close()


def _start(folder: Path, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.single_host", f"host{number}", str(folder / "config.yaml"), "score"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with (folder / f"host{number}.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **threads}, stdout=log, stderr=log
        )


def _received(database: Database, layout: SpoolLayout, count: int) -> int:
    """Lay one generated series down in the spool and record it under as many UIDs."""
    layout.create()
    files = phantom.write(phantom.ct_series(1, slices=24, rows=256), layout.instances / "x")
    for number in range(count):
        facts = SeriesHeader(f"1.2.{number}", "1.2", "CT", frame_of_reference_uid="1.9")
        Registry(database).record([_image(facts, layout.relative(path), index) for index, path in enumerate(files)])
        # A path is recorded once: the next series has links of its own.
        files = [_linked(path, number) for path in files]
    return count


def _linked(path: Path, number: int) -> Path:
    other = path.with_name(f"{number}-{path.name.rpartition('-')[2]}")
    os.link(path, other)
    return other


def _image(facts: SeriesHeader, path: str, number: int) -> StoredInstance:
    return StoredInstance(
        f"{facts.series_instance_uid}.{number}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", path,
        str(number), 1, utc_now(), "CT1", "a", facts,
    )  # fmt: skip


def _processor_s(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    total = 0.0
    for process in processes:
        main = psutil.Process(process.pid)
        for one in (main, *main.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _ratios(runs: Sequence[Run], scorers: int, base: int) -> tuple[float, float]:
    """Return how many times as fast ``scorers`` are as ``base``, and how much more the processor does for a series.

    Medians of the rounds. Where other work has the cores, the first says how they were shared out; the second stands.
    """

    def each(count: int, name: str) -> float:
        return statistics.median(getattr(run, name) / run.series for run in runs if run.scorers == count)

    return each(base, "clock_s") / each(scorers, "clock_s"), each(scorers, "processor_s") / each(base, "processor_s")


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_S:g} s")
        time.sleep(0.05)


def _write(path: Path, runs: Sequence[Run]) -> None:
    load = os.getloadavg()[0]
    with path.open("w", newline="") as file:
        file.write(f"# {utc_now():%Y-%m-%d} {platform.machine()} cores={os.cpu_count()} load={load:.0f}\n")
        writer = csv.writer(file)
        writer.writerow(["scorers", "round", "series", "clock_s", "processor_s"])
        writer.writerows(
            [run.scorers, run.round, run.series, f"{run.clock_s:.2f}", f"{run.processor_s:.2f}"] for run in runs
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorers", type=int, nargs="+", default=[1, 2, 3], help="numbers of scorers, in turn")
    parser.add_argument("--series", type=int, default=24, help="series to score each time")
    parser.add_argument("--rounds", type=int, default=3, help="times that each number is measured")
    parser.add_argument("--csv", type=Path, help="write the figures here")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
