"""How the cost of what a node does all day grows with what it holds: waiting jobs, series in the log, spooled files.

    python -m benchmarks.growth queue                                # 100 to 100,000 jobs, on embedded SQLite
    python -m benchmarks.growth log --sizes 100000 1000000 10000000  # generated quality logs, filled on the way
    python -m benchmarks.growth spool --folder /var/tmp/soak         # a folder that benchmarks.soak has left

Each figure is the median of some rounds: the processor's time, which says what a step costs on a machine that is busy
otherwise, and the clock's; ``first_ms`` is the clock's time of the round before them, with whatever the disk's cache
had. The ratio compares the largest with the smallest size. Ten million series take 35 GB and some minutes.
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

from benchmarks import readings
from benchmarks.multiplied_log import BASE, fill_base, multiply
from benchmarks.readings import newest_series
from benchmarks.targets import free_port
from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.completion import sweep
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.retention_candidates import Retention
from dicom_qa_node.ops.backup import back_up
from dicom_qa_node.ops.health import ModelCheck, assess, gather
from dicom_qa_node.ops.retention import clear_quarantine, retain
from dicom_qa_node.ops.scheduler import close_orphans, tasks_of
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.layout import SpoolLayout

COMMANDS: dict[str, tuple[str, ...]] = {
    "health": ("health",),
    "series list": ("series", "list"),
    "series list, one state": ("series", "list", "--state", "COMPLETE"),
    "log": ("log",),
    "log, one grade": ("log", "--grade", "non-diagnostic"),
    "log of a day": ("log", "--since", "24h"),
    "outbox list": ("outbox", "list"),
    "outbox list --parked": ("outbox", "list", "--parked"),
}
_ROUNDS = 5
_LONG_MS = 5000


@dataclass(frozen=True)
class Cost:
    """What one thing costs at one size: medians of the processor's and the clock's time in milliseconds."""

    what: str
    size: int
    processor_ms: float
    clock_ms: float
    first_ms: float = 0.0


def measured(what: str, size: int, act: Callable[[], object], rounds: int = _ROUNDS) -> Cost:
    """Return what ``act`` costs in this process, after once for warming up where there are several rounds."""
    first = time.perf_counter()
    if rounds > 1:
        act()
    first_ms = (time.perf_counter() - first) * 1000
    # What takes long is not asked again and again.
    rounds = rounds if first_ms < _LONG_MS else 1
    busy, times = [], []
    for _ in range(rounds):
        begun, worked = time.perf_counter(), time.process_time()
        act()
        busy.append((time.process_time() - worked) * 1000)
        times.append((time.perf_counter() - begun) * 1000)
    first_ms = first_ms if first_ms > 0.01 else times[0]
    cost = Cost(
        what, size, *(round(figure, 2) for figure in (statistics.median(busy), statistics.median(times), first_ms))
    )
    print(
        f"{cost.what:66} {cost.size:>9}: processor {cost.processor_ms:9.2f} ms, clock {cost.clock_ms:9.2f} ms, "
        f"first {cost.first_ms:9.2f} ms",
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
    values = {
        "database_url": f"sqlite:///{folder / 'quality.db'}", "spool_dir": str(folder / "spool"),
        "receive": {"port": free_port()}, "web": {"api_per_minute": 100_000},
    }  # fmt: skip
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
    """Measure commands, pages and tasks over logs of these sizes; they are filled once and stay in ``folder``."""
    places = {size: prepared_log(folder, size) for size in sizes}
    costs = []
    for size, place in places.items():
        path = place / "config.yaml"
        with opened(place) as (config, database):
            uid = newest_series(database)
            costs.append(command("--version", size, path, ["--version"], rounds))
            asked = (*readings.commands(path, uid), *readings.pages(config, database, uid))
            costs += [measured(reading.what, size, reading.act, rounds) for reading in asked]
            costs += every_task(size, config, database)
            costs += tasks(size, config, database)
            costs.append(measured("start of the receiver", size, lambda c=config, p=path: _started(c, p), 1))  # type: ignore[misc]
    return costs


def prepared_log(folder: Path, size: int) -> Path:
    """Return the folder of a log of that size, filled where it is not there: multiplied beyond `BASE`."""
    place = folder / str(size)
    if place.exists():
        return place
    begun = time.perf_counter()
    if size <= BASE:
        from tests.realistic_log import fill

        place.mkdir(parents=True)
        with opened(place) as (_, database):
            fill_base(database) if size == BASE else fill(database, size)
    else:
        base = prepared_log(folder, BASE) / "quality.db"
        place.mkdir(parents=True)
        with opened(place):
            pass
        multiply(base, place / "quality.db", size // BASE)
    print(f"filled {size} series in {time.perf_counter() - begun:.0f} s", flush=True)
    return place


def every_task(size: int, config: Config, database: Database) -> list[Cost]:
    """Measure one round of every periodic task of the role schedule, as it stands."""
    return [
        measured(f"task: {task.name}", size, lambda task=task: task.run(utc_now()), 3)  # type: ignore[misc]
        for task in tasks_of(config, database)
    ]


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
        measured("checks of health", size, lambda: assess(gather(config, database, model), config, utc_now())),
        measured("associations", size, lambda: close_orphans(database, utc_now())),
        # Nothing is old enough: what it costs to find that out.
        measured("retention", size, lambda: retain(config, database, utc_now() - dt.timedelta(days=10_000)), 3),
        measured("retention, the next 500 images", size, lambda: _next_images(database), 3),
        measured("quarantine", size, lambda: clear_quarantine(config, database, utc_now()), 3),
    ]


def _next_images(database: Database) -> None:
    # The first batch of a pass in which everything is due; nothing is deleted.
    now = utc_now() + dt.timedelta(days=1)
    Retention(database).expired(now, now, 500)


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
            print(f"{what:66} {found[0].size} to {found[-1].size}: ratio {ratio:.2f}")


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
        costs = log(chosen.sizes or [1000, 10_000, BASE], folder, chosen.rounds)
    else:
        if chosen.folder is None:
            parser.error("spool needs --folder")
        costs = spool(chosen.folder, chosen.rounds)
    tell_ratios(costs)
    if chosen.csv:
        save(costs, chosen.csv)


if __name__ == "__main__":
    main()
