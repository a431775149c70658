"""Ingest side by side: Orthanc, DCMTK storescp and this node receive the same images in turn, in one run.

    python -m benchmarks.ingest --images 250 --rounds 3

Every client is a DCMTK ``storescu`` process with ``TCP_NODELAY=1``; every target starts empty for each
measurement. What was stored is deleted after the last one: ext4 without a journal creates files slowly for minutes
after many were deleted. The figures of one run compare with each other and with nothing else: the table shows ratios.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from benchmarks.images import write_series
from benchmarks.targets import TARGETS, Target

_CLIENT_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True)
class Measurement:
    """One target under one load; ``images_per_s`` counts until the last client has its last Success."""

    target: str
    clients: int
    round: int
    images: int
    seconds: float
    images_per_s: float
    peak_rss_mb: float


def send(folders: Sequence[Path], port: int) -> float:
    """Send each folder by its own ``storescu`` at the same time; return the seconds until all have ended."""
    start = time.perf_counter()
    clients = [
        subprocess.Popen(["storescu", "+sd", "127.0.0.1", str(port), str(folder)], env=_CLIENT_ENVIRONMENT)
        for folder in folders
    ]
    codes = [client.wait() for client in clients]
    seconds = time.perf_counter() - start
    if any(codes):
        raise RuntimeError(f"storescu failed with exit codes {codes}")
    return seconds


def measure(target: Target, folders: Sequence[Path], images: int, round_: int, scratch: Path) -> Measurement:
    """Start ``target`` on the empty folder ``scratch``, send, check the count and stop it."""
    with target.running(scratch) as server:
        seconds = send(folders, server.port)
        total = images * len(folders)
        stored = target.stored(scratch)
        if stored != total:
            raise RuntimeError(f"{target.name} stored {stored} of {total} images")
        return Measurement(target.name, len(folders), round_, total, seconds, total / seconds, server.peak_rss_mb())


def run(targets: Sequence[Target], clients: Sequence[int], images: int, rounds: int) -> list[Measurement]:
    """Measure every target under every load, the targets in turn, and in the other order in every second round."""
    with tempfile.TemporaryDirectory(prefix="ingest-images-") as folder:
        folders = [Path(folder) / f"{client:02d}" for client in range(max(clients))]
        for seed, each in enumerate(folders):
            write_series(each, images, seed)
        results = []
        for round_ in range(rounds):
            for count in clients:
                share = max(20, images * min(clients) // count) if count > 4 else images
                chosen = [_first(each, share, images) for each in folders[:count]]
                for target in targets if round_ % 2 == 0 else reversed(targets):
                    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=f"{target.name}-"))
                    results.append(measure(target, chosen, share, round_, scratch))
                    print(results[-1])
        return results


def _first(folder: Path, share: int, images: int) -> Path:
    """Return a folder with the first ``share`` images of ``folder`` (links, no copies)."""
    if share == images:
        return folder
    part = folder.with_name(f"{folder.name}-{share}")
    if not part.exists():
        part.mkdir()
        for path in sorted(folder.iterdir())[:share]:
            (part / path.name).hardlink_to(path)
    return part


def table(results: Sequence[Measurement], reference: str = "orthanc") -> str:
    """Return medians and their ratio to ``reference`` as a Markdown table."""
    lines = [
        "| clients | target | images/s (median) | ratio to " + reference + " | peak RSS MB |",
        "|---|---|---|---|---|",
    ]
    for clients in sorted({result.clients for result in results}):
        rates = {}
        memory = {}
        for result in results:
            if result.clients == clients:
                rates.setdefault(result.target, []).append(result.images_per_s)
                memory[result.target] = max(memory.get(result.target, 0.0), result.peak_rss_mb)
        base = statistics.median(rates[reference]) if reference in rates else None
        for name, values in rates.items():
            median = statistics.median(values)
            ratio = f"{median / base:.2f}" if base else "-"
            lines.append(f"| {clients} | {name} | {median:.0f} | {ratio} | {memory[name]:.0f} |")
    return "\n".join(lines)


def save(results: Sequence[Measurement], path: Path) -> None:
    """Write the measurements as CSV, with the machine in a comment line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        when = dt.datetime.now(dt.UTC).date()
        file.write(f"# {when} {platform.machine()} cores={os.cpu_count()} kernel={platform.release()}\n")
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Measurement)])
        writer.writerows(astuple(result) for result in results)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--images", type=int, default=250, help="images per client (fewer each above 4 clients)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results" / "ingest.csv")
    arguments = parser.parse_args()
    results = run([TARGETS[name] for name in arguments.targets], arguments.clients, arguments.images, arguments.rounds)
    save(results, arguments.csv)
    print(table(results))


if __name__ == "__main__":
    main()
