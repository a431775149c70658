"""A million images on end, with everything that else reaches an open port: does the node grow, slow down or lose one?

    python -m benchmarks.soak --images 1000000 --folder /var/tmp/soak    # an hour or more; about 5 GB per million
    python -m benchmarks.soak --images 3000 --clients 2                  # a minute, in a folder of its own

The roles receive and schedule run as processes on embedded SQLite; nothing scores, so the queue grows as well. Ctrl-C
or SIGTERM ends the sending and goes on to the count. Exit code 1: what was acknowledged, what the registry has and what
lies in the spool are not the same images, or a well-behaved peer was turned away, or a process was replaced.
A folder that was used before is gone on with; what lies there counts as acknowledged.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty

import psutil
import sqlalchemy as sa
import yaml

from benchmarks.soak_figure import draw
from benchmarks.soak_peer import TITLE, Report, Sender, sender_of
from benchmarks.targets import free_port
from dicom_qa_node.config import Config
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database

PROCESSES = ("receive", "master", "receiver 1", "receiver 2", "schedule")
MEASURES = ("rss_mb", "threads", "files")
WARM_UP = 0.1
"""The share of the images after which memory is expected to stand still."""
_SETTLE_S = 120.0
_MIB = 1024 * 1024


class Totals(Report):
    """What all senders did so far; the latencies are those since the last sample."""

    def latency_ms(self) -> tuple[float, float]:
        """Return median and 95th percentile since the last call, in milliseconds; zeros without any."""
        taken, self.latencies = sorted(self.latencies), array("f")
        if not taken:
            return 0.0, 0.0
        return statistics.median(taken) * 1000, taken[int(len(taken) * 0.95)] * 1000


@dataclass(frozen=True)
class Node:
    """The running roles."""

    config: Config
    roles: dict[str, subprocess.Popen[bytes]]

    def processes(self) -> dict[str, psutil.Process]:
        """Return the processes by the names of `PROCESSES`; one that is missing just now is left out."""
        found = {name: psutil.Process(process.pid) for name, process in self.roles.items()}
        masters = found["receive"].children()
        if masters:
            found["master"] = masters[0]
            # The reconciler of the start is a child of the master, too, but does not listen.
            children = [child for child in masters[0].children() if _listens(child)]
            found |= {f"receiver {number}": child for number, child in enumerate(children, 1)}
        return found


def _listens(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(connection.status == psutil.CONN_LISTEN for connection in process.net_connections("tcp"))
    return False


@contextmanager
def running(folder: Path) -> Iterator[Node]:
    """Run the roles on an empty folder until the block ends."""
    values = {
        "ae_title": TITLE,
        "database_url": f"sqlite:///{folder / 'quality.db'}",
        "spool_dir": str(folder / "spool"),
        "receive": {"host": "127.0.0.1", "port": free_port(), "processes": 2, "require_called_ae": True},
        "complete": {"quiet_s": 10},
        "log": {"level": "error"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    config = Config.model_validate(values)
    database = Database(config.database_url)
    database.upgrade()
    database.close()
    command = [sys.executable, "-m", "dicom_qa_node", "--config", str(path)]
    with (folder / "node.log").open("ab") as log:
        roles = {
            role: subprocess.Popen([*command, role], stdout=log, stderr=log, start_new_session=True)
            for role in ("receive", "schedule")
        }
    try:
        yield Node(config, roles)
    finally:
        for process in roles.values():
            process.terminate()
        for process in roles.values():
            process.wait(60)


def wait_for(node: Node, wait_s: float = 60.0) -> None:
    """Return when every receiver process listens."""
    deadline = time.monotonic() + wait_s
    while not set(PROCESSES) <= node.processes().keys():
        if time.monotonic() > deadline or any(process.poll() is not None for process in node.roles.values()):
            raise TimeoutError("the node did not start; see node.log in its folder")
        time.sleep(0.1)


class Sampler:
    """Takes one row of figures after another; ``rows`` has them, ``replaced`` the processes that were not the first."""

    def __init__(self, node: Node, totals: Totals) -> None:
        self.rows: list[dict[str, float]] = []
        self.replaced: list[str] = []
        self.totals = totals
        self._node = node
        self._began = time.monotonic()
        self._known: dict[int, str] = {}

    def take(self) -> dict[str, float]:
        """Look at every process, the database and what the senders measured."""
        median, late = self.totals.latency_ms()
        database = Path(self._node.config.database_url.removeprefix("sqlite:///"))
        row = {
            "elapsed_s": round(time.monotonic() - self._began, 1),
            "images": self.totals.acknowledged,
            "associations": self.totals.associations,
            "median_ms": round(median, 2),
            "p95_ms": round(late, 2),
            "database_mb": round(_size(database) / _MIB, 1),
            "wal_mb": round(_size(database.with_name(f"{database.name}-wal")) / _MIB, 1),
        }
        row |= {f"{name} {measure}": 0.0 for name in PROCESSES for measure in MEASURES}
        for name, process in self._same(self._node.processes()).items():
            with suppress(psutil.Error):
                row[f"{name} rss_mb"] = round(process.memory_info().rss / _MIB, 1)
                row[f"{name} threads"] = process.num_threads()
                row[f"{name} files"] = process.num_fds()
        self.rows.append(row)
        return row

    def _same(self, found: dict[str, psutil.Process]) -> dict[str, psutil.Process]:
        """Keep each process under its first name; a new one under an old name was put in its place."""
        for name, process in found.items():
            if process.pid not in self._known:
                if name in self._known.values():
                    self.replaced.append(f"{name} after {self.totals.acknowledged} images")
                self._known[process.pid] = name
        return {self._known[process.pid]: process for process in found.values()}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def send(node: Node, clients: int, images: int, per_series: int, every_s: float, stop: threading.Event) -> Sampler:
    """Let the clients send, sample meanwhile, and return the samples; ``stop`` ends the sending early."""
    before = in_registry(node.config)
    totals = Totals(before.count, before.fingerprint, refused=refused(node.config)[0])
    sampler = Sampler(node, totals)
    first = _unused_sender(node.config)
    context = multiprocessing.get_context("spawn")
    told: Queue[Report] = context.Queue()
    ended = context.Event()
    port = node.config.receive.port
    shares = [images // clients + (number < images % clients) for number in range(clients)]
    senders = [
        context.Process(target=_run_sender, args=(port, number, share, per_series, told, ended))
        for number, share in enumerate(shares, first)
    ]
    for sender in senders:
        sender.start()
    due = time.monotonic()
    while any(sender.is_alive() for sender in senders) or not told.empty():
        if stop.is_set():
            ended.set()
        with suppress(Empty):
            totals.add(told.get(timeout=0.2))
        if time.monotonic() >= due:
            due += every_s
            _tell(sampler.take())
    for sender in senders:
        sender.join()
    _tell(sampler.take())
    return sampler


def _unused_sender(config: Config) -> int:
    """Return the number after those whose images an earlier run left in the folder."""
    database = Database(config.database_url)
    with database.read() as connection:
        latest = connection.execute(sa.select(sa.func.max(t.series.c.series_instance_uid))).scalar_one()
    database.close()
    return sender_of(latest) + 1 if latest else 0


def _run_sender(port: int, number: int, images: int, per_series: int, told: Queue[Report], ended: Event) -> None:
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Sender(port, number, images, per_series, told.put).run(ended.is_set)


def _tell(row: dict[str, float]) -> None:
    memory = " ".join(f"{row[f'{name} rss_mb']:.0f}" for name in PROCESSES)
    text = f"{row['elapsed_s']:8.0f} s {row['images']:9.0f} images, median {row['median_ms']:.1f} ms, 95 % "
    print(f"{text}{row['p95_ms']:.1f} ms, database {row['database_mb']:.0f} MB, resident {memory} MB", flush=True)


@dataclass(frozen=True)
class Held:
    """How many images there are in one place, and the exclusive or of their keys."""

    count: int
    fingerprint: int


def in_registry(config: Config) -> Held:
    """Count the rows of stored images."""
    database = Database(config.database_url)
    count = fingerprint = 0
    with database.read() as connection:
        for path in connection.execute(sa.select(t.instances.c.path)).scalars():
            count, fingerprint = count + 1, fingerprint ^ int(Path(path).stem, 16)
    database.close()
    return Held(count, fingerprint)


def in_spool(config: Config) -> Held:
    """Count the files of stored images."""
    count = fingerprint = 0
    for shard in os.scandir(config.spool_dir / "instances"):
        for entry in os.scandir(shard.path):
            count, fingerprint = count + 1, fingerprint ^ int(entry.name.removesuffix(".dcm"), 16)
    return Held(count, fingerprint)


def refused(config: Config) -> tuple[int, int]:
    """Count the refused images: rows of the quarantine, and its files."""
    database = Database(config.database_url)
    with database.read() as connection:
        rows = connection.execute(sa.select(sa.func.count()).select_from(t.quarantine)).scalar_one()
    database.close()
    return int(rows), sum(1 for _ in (config.spool_dir / "quarantine").glob("*.dcm"))


def settle(node: Node, images: int, wait_s: float = _SETTLE_S) -> Held:
    """Wait until the registry has every acknowledged and every refused image: rows follow in batches."""
    deadline = time.monotonic() + wait_s
    while True:
        held, (rows, files) = in_registry(node.config), refused(node.config)
        if (held.count >= images and rows >= files) or time.monotonic() > deadline:
            return held
        time.sleep(0.5)


def growth_mb(rows: Sequence[dict[str, float]], name: str) -> float:
    """Return by how many MB per 100,000 images a process grows after the warm-up (slope of the regression)."""
    first, last = rows[0]["images"], rows[-1]["images"]
    warm = first + (last - first) * WARM_UP
    late = [row for row in rows if row["images"] >= warm and row[f"{name} rss_mb"]]
    if len({row["images"] for row in late}) < 2:
        return 0.0
    fit = statistics.linear_regression([row["images"] for row in late], [row[f"{name} rss_mb"] for row in late])
    return fit.slope * 100_000


def tenths(rows: Sequence[dict[str, float]], key: str) -> tuple[float, float]:
    """Return the median of a figure over the first and the last tenth of the images; not a number without any."""
    begin, end = rows[0]["images"], rows[-1]["images"]
    tenth = (end - begin) * 0.1
    sent = [row for row in rows if row["median_ms"]]
    if not sent:
        return math.nan, math.nan
    first = [row[key] for row in sent if row["images"] <= begin + tenth] or [sent[0][key]]
    last = [row[key] for row in sent if row["images"] >= end - tenth] or [sent[-1][key]]
    return statistics.median(first), statistics.median(last)


def judge(node: Node, sampler: Sampler, totals: Totals) -> bool:
    """Print what came of it; False if an image is missing, or a peer or a process came to harm."""
    rows = sampler.rows
    acknowledged = Held(totals.acknowledged, totals.fingerprint)
    registry, spool = settle(node, totals.acknowledged), in_spool(node.config)
    print(f"acknowledged {acknowledged.count}, in the registry {registry.count}, in the spool {spool.count}")
    held = refused(node.config)
    print(f"refused {totals.refused}, in the registry {held[0]}, in quarantine {held[1]}")
    print(f"associations {totals.associations}, duplicates {totals.duplicates}")
    print("beside them:", ", ".join(f"{count} {kind}" for kind, count in sorted(totals.mischief.items())))
    for name in PROCESSES:
        most = {measure: max(row[f"{name} {measure}"] for row in rows) for measure in MEASURES}
        words = f"at most {most['rss_mb']:.0f} MB, {most['threads']:.0f} threads, {most['files']:.0f} files"
        print(f"{name}: {growth_mb(rows, name):+.2f} MB per 100,000 images after the warm-up; {words}")
    for key in ("median_ms", "p95_ms"):
        first, last = tenths(rows, key)
        print(f"{key}: first tenth {first:.1f}, last tenth {last:.1f}, ratio {last / first:.2f}")
    for word, found in (("failed", totals.failures), ("replaced", sampler.replaced)):
        print(f"{word}: {len(found)}", *found[:10], sep="\n  ")
    log = (Path(node.config.spool_dir).parent / "node.log").read_text()
    print(f"error lines of the node: {len(log.splitlines())}")
    complete = acknowledged == registry == spool and held == (totals.refused, totals.refused)
    return complete and not totals.failures and not sampler.replaced


def save(rows: Sequence[dict[str, float]], path: Path, most: int = 300) -> None:
    """Write the samples as CSV, evenly thinned to at most ``most`` rows."""
    step = max(1, -(-len(rows) // (most - 1)))
    kept = [*rows[:-1:step], rows[-1]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def soak(folder: Path, arguments: argparse.Namespace, stop: threading.Event) -> bool:
    """Run the whole benchmark in ``folder``; return whether nothing was lost."""
    with running(folder) as node:
        wait_for(node)
        sampler = send(node, arguments.clients, arguments.images, arguments.per_series, arguments.every_s, stop)
        good = judge(node, sampler, sampler.totals)
    if arguments.csv:
        save(sampler.rows, arguments.csv)
    if arguments.figure:
        draw(sampler.rows, PROCESSES, arguments.figure)
    return good


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--per-series", type=int, default=40)
    parser.add_argument("--every-s", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--folder", type=Path, help="where spool and database go; they stay there")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        return 0 if soak(arguments.folder, arguments, stop) else 1
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return 0 if soak(Path(folder), arguments, stop) else 1


if __name__ == "__main__":
    sys.exit(main())
