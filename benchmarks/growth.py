"""How the cost of what a node does all day grows with what it holds: waiting jobs, series in the log, spooled files.

    python -m benchmarks.growth queue                                # 100 to 100,000 jobs, on embedded SQLite
    python -m benchmarks.growth log --sizes 1000 10000 100000        # generated quality logs, filled on the way
    python -m benchmarks.growth spool --folder /var/tmp/soak         # a folder that benchmarks.soak has left

Each figure is the median of some rounds: the processor's time, which says what a step costs on a machine that is busy
otherwise, and the clock's. The ratio compares the largest with the smallest size.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import sqlalchemy as sa
import yaml

from dicom_qa_node.complete import sweep
from dicom_qa_node.config import Config, load_config
from dicom_qa_node.ops.backup import back_up
from dicom_qa_node.ops.health import ModelCheck, assess, gather
from dicom_qa_node.ops.retention import clear_quarantine, retain
from dicom_qa_node.ops.tasks import close_orphans
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.records import SeriesState, utc_now
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.store import Database, Jobs, Registry
from dicom_qa_node.store import tables as t

COMMANDS: dict[str, tuple[str, ...]] = {
    "health": ("health",),
    "series list": ("series", "list"),
    "series list, one state": ("series", "list", "--state", "COMPLETE"),
    "log": ("log",),
    "log, one grade": ("log", "--grade", "non-diagnostic"),
    "log of a day": ("log", "--since", "24h"),
    "outbox list": ("outbox", "list"),
    "outbox list --dead": ("outbox", "list", "--dead"),
}
_ROUNDS = 5


@dataclass(frozen=True)
class Cost:
    """What one thing costs at one size: medians of the processor's and the clock's time in milliseconds."""

    what: str
    size: int
    processor_ms: float
    clock_ms: float


def measured(what: str, size: int, act: Callable[[], object], rounds: int = _ROUNDS) -> Cost:
    """Return what ``act`` costs in this process, after once for warming up where there are several rounds."""
    if rounds > 1:
        act()
    busy, times = [], []
    for _ in range(rounds):
        begun, worked = time.perf_counter(), time.process_time()
        act()
        busy.append((time.process_time() - worked) * 1000)
        times.append((time.perf_counter() - begun) * 1000)
    cost = Cost(what, size, round(statistics.median(busy), 2), round(statistics.median(times), 2))
    print(
        f"{cost.what:32} {cost.size:>9}: processor {cost.processor_ms:9.2f} ms, clock {cost.clock_ms:9.2f} ms",
        flush=True,
    )
    return cost


def command(what: str, size: int, config: Path, words: Sequence[str], rounds: int) -> Cost:
    """Return what a command of the operator costs, with the start of its process."""
    busy, times = [], []
    for _ in range(rounds):
        begun, before = time.perf_counter(), os.times()
        line = [sys.executable, "-m", "dicom_qa_node", "--config", str(config), *words]
        done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        after = os.times()
        # 1: done, and the node is not well.
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.decode(errors='replace')[-500:]}")
        used = after.children_user + after.children_system - before.children_user - before.children_system
        busy.append(used * 1000)
        times.append((time.perf_counter() - begun) * 1000)
    cost = Cost(f"dicom-qa-node {what}", size, round(statistics.median(busy)), round(statistics.median(times)))
    print(
        f"{cost.what:32} {cost.size:>9}: processor {cost.processor_ms:9.0f} ms, clock {cost.clock_ms:9.0f} ms",
        flush=True,
    )
    return cost


# -- jobs that wait ---------------------------------------------------------------------------------


def queue(sizes: Sequence[int]) -> list[Cost]:
    """Measure the queue with this many waiting jobs, and as many that are done."""
    costs = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="growth-") as folder, opened(Path(folder)) as (config, database):
            fill_queue(database, size)
            jobs, registry = Jobs(database), Registry(database)
            costs += [
                measured("claim a job and give it back", size, lambda jobs=jobs: _claimed(jobs), rounds=25),
                measured("count the waiting jobs", size, jobs.waiting),
                measured(
                    "sweep", size, lambda registry=registry, config=config: sweep(registry, config.complete, utc_now())
                ),
                measured("counts by state", size, registry.counts),
                measured("since when the oldest waits", size, registry.oldest_waiting),
            ]
    return costs


def _claimed(jobs: Jobs) -> None:
    job = jobs.claim("benchmark")
    if job is None or not jobs.release(job):
        raise RuntimeError("there was no job to claim")


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Config, Database]]:
    """Make a node's folder with its configuration and an empty database, open until the block ends."""
    values = {"database_url": f"sqlite:///{folder / 'quality.db'}", "spool_dir": str(folder / "spool")}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    config = Config.model_validate(values)
    SpoolLayout(config.spool_dir).create()
    database = Database(config.database_url)
    database.upgrade()
    try:
        yield config, database
    finally:
        database.close()


def fill_queue(database: Database, size: int) -> None:
    """Write ``size`` series with a waiting job each, and as many whose job is done, a second apart."""
    began = utc_now() - dt.timedelta(days=3)
    for first in range(0, 2 * size, 5000):
        numbers = range(first, min(first + 5000, 2 * size))
        with database.write() as connection:
            connection.execute(t.series.insert(), [_series_row(n, began, waits=n >= size) for n in numbers])
            connection.execute(t.jobs.insert(), [_job_row(n, began, waits=n >= size) for n in numbers])


def _series_row(number: int, began: dt.datetime, *, waits: bool) -> dict[str, object]:
    at = began + dt.timedelta(seconds=number)
    return {
        "series_instance_uid": f"1.2.3.{number}", "study_instance_uid": f"1.2.4.{number}", "modality": "CT",
        "state": SeriesState.COMPLETE.value if waits else SeriesState.DELIVERED.value, "state_since": at,
        "received": 100, "expected": {}, "first_received_at": at, "last_received_at": at,
    }  # fmt: skip


def _job_row(number: int, began: dt.datetime, *, waits: bool) -> dict[str, object]:
    at = began + dt.timedelta(seconds=number)
    return {
        "kind": "score", "series_instance_uid": f"1.2.3.{number}", "version": 1, "state": "READY" if waits else "DONE",
        "attempts": 0 if waits else 1, "created_at": at, "available_at": at,
    }  # fmt: skip


# -- series in the log ------------------------------------------------------------------------------


def log(sizes: Sequence[int], folder: Path, rounds: int) -> list[Cost]:
    """Measure commands and tasks over generated logs of these sizes; they are filled once and stay in ``folder``."""
    from tests.realistic_log import fill

    costs = []
    for size in sizes:
        place = folder / str(size)
        fresh = not place.exists()
        place.mkdir(parents=True, exist_ok=True)
        with opened(place) as (config, database):
            if fresh:
                fill(database, size, light=size > 100_000)
            costs += commands(size, place / "config.yaml", database, rounds)
            costs += tasks(size, config, database)
    return costs


def commands(size: int, config: Path, database: Database, rounds: int) -> list[Cost]:
    """Measure every command of `COMMANDS`, and ``show`` for one series; ``--version`` is the start of the process."""
    with database.read() as connection:
        uid = connection.execute(sa.select(t.series.c.series_instance_uid).limit(1)).scalar_one()
    known = {"--version": ("--version",), **COMMANDS, "show": ("show", uid)}
    return [command(what, size, config, words, rounds) for what, words in known.items()]


def tasks(size: int, config: Config, database: Database) -> list[Cost]:
    """Measure what the role schedule does again and again."""
    registry, model = Registry(database), ModelCheck(config)
    return [
        measured("sweep", size, lambda: sweep(registry, config.complete, utc_now())),
        measured("health", size, lambda: assess(gather(config, database, model), config, utc_now())),
        measured("associations", size, lambda: close_orphans(database, utc_now())),
        # Nothing is old enough: what it costs to find that out.
        measured("retention", size, lambda: retain(config, database, utc_now() - dt.timedelta(days=10_000)), 3),
        measured("retention, all delivered", size, lambda: retain(config, database, utc_now()), 3),
        measured("quarantine", size, lambda: clear_quarantine(config, database, utc_now()), 3),
    ]


# -- files in the spool -----------------------------------------------------------------------------


def spool(folder: Path, rounds: int) -> list[Cost]:
    """Measure a node's folder as it is; the node must not run."""
    path = folder / "config.yaml"
    config = load_config(path)
    database = Database(config.database_url)
    database.upgrade()
    registry, layout = Registry(database), SpoolLayout(config.spool_dir)
    with database.read() as connection:
        size = int(connection.execute(sa.select(sa.func.count()).select_from(t.instances)).scalar_one())
    target = folder / "copy.db"
    costs = commands(size, path, database, rounds) + tasks(size, config, database)
    costs += [
        measured("db backup", size, lambda: back_up(database, target), 1),
        measured("reconcile, the last hour", size, lambda: reconcile(layout, registry, time.time() - 3600), 1),
        measured("reconcile, everything", size, lambda: reconcile(layout, registry), 1),
        measured("start of the receiver", size, lambda: _started(config, path), 3),
    ]
    target.unlink()
    database.close()
    return costs


def _started(config: Config, path: Path) -> None:
    """Start the receiver, wait until it answers, and end it; reconciliation goes on beside it."""
    from benchmarks.targets import wait_for

    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_qa_node", "--config", str(path), "receive"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(config.receive.port, process, title=config.ae_title)
    finally:
        process.terminate()
        process.wait(60)


def save(costs: Sequence[Cost], path: Path) -> None:
    """Write the figures as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Cost)])
        writer.writerows(astuple(cost) for cost in costs)


def tell_ratios(costs: Sequence[Cost]) -> None:
    """Print by how much the processor's time grew from the smallest to the largest size."""
    for what in dict.fromkeys(cost.what for cost in costs):
        found = sorted((cost for cost in costs if cost.what == what), key=lambda cost: cost.size)
        if len(found) > 1:
            ratio = found[-1].processor_ms / max(found[0].processor_ms, 0.01)
            print(f"{what:40} {found[0].size} to {found[-1].size}: ratio {ratio:.2f}")


def main() -> None:
    """Run one of the three from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["queue", "log", "spool"])
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="how often each command is started")
    parser.add_argument("--csv", type=Path)
    chosen = parser.parse_args()
    if chosen.what == "queue":
        costs = queue(chosen.sizes or [100, 1000, 10_000, 100_000])
    elif chosen.what == "log":
        folder = chosen.folder or Path(tempfile.gettempdir()) / "qa-growth"
        costs = log(chosen.sizes or [1000, 10_000, 100_000], folder, chosen.rounds)
    else:
        if chosen.folder is None:
            parser.error("spool needs --folder")
        costs = spool(chosen.folder, chosen.rounds)
    tell_ratios(costs)
    if chosen.csv:
        save(costs, chosen.csv)


if __name__ == "__main__":
    main()
