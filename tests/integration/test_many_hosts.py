"""One node on several hosts, as processes that share PostgreSQL and the spool: whoever dies or loses the database.

Every process takes another name for its host. Scorers have no network (`tests.one_host`).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
import yaml

from dicom_qa_node.config import Config
from dicom_qa_node.config.priority import LEVELS
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.records import SeriesFacts, SeriesState, StoredInstance, utc_now
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.store import Database, Jobs, Outbox, QualityLog, Registry
from tests.cut_line import CutLine
from tests.killed_node import Archive, Scanner, series_of
from tests.processes import signal_all

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROOT = Path(__file__).parents[2]
LEASE_S = 5
PATIENCE_S = 240
SLICES = 8
S = SeriesState
NORTH, SOUTH = "north", "south"


@dataclass
class Cluster:
    """The hosts of one node, by name."""

    folder: Path
    settings: dict[str, Any]
    database: Database
    hosts: dict[str, tuple[list[str], subprocess.Popen[bytes]]] = field(default_factory=dict)

    @property
    def registry(self) -> Registry:
        return Registry(self.database)

    @property
    def spool(self) -> Path:
        return Path(self.settings["spool_dir"])

    def start(self, name: str, role: str, gate: Path | None = None, **changes: Any) -> None:
        """Start a host with one role; ``changes`` are merged into the sections of the configuration."""
        settings = {key: dict(value) if isinstance(value, dict) else value for key, value in self.settings.items()}
        for key, value in changes.items():
            settings[key] = settings.get(key, {}) | value if isinstance(value, dict) else value
        config = self.folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "tests.one_host", name, str(config), role]
        self._run(name, command + ([str(gate)] if gate else []))

    def _run(self, name: str, command: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.log(name).open("ab") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=ROOT, env=environment)
        self.hosts[name] = (command, process)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def signal(self, name: str, number: int) -> None:
        """Send a signal to every process of a host."""
        main = psutil.Process(self.hosts[name][1].pid)
        signal_all((*main.children(recursive=True), main), number)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        self.hosts[name][1].wait(30)

    def restart(self, name: str) -> None:
        self._run(name, self.hosts[name][0])

    def says(self, name: str, event: str) -> bool:
        return f"event={event}" in self.log(name).read_text()

    def gave_up(self, name: str) -> bool:
        """Whether a scorer learned that its claim is void, before its verdict or with it."""
        return self.says(name, "series_given_back") or self.says(name, "result_superseded")

    def history(self, uid: str) -> list[tuple[str, str]]:
        return [(event["new_state"], event["actor"]) for event in self.registry.history(uid)]

    def state(self, uid: str) -> SeriesState | None:
        row = self.registry.series(uid)
        return None if row is None else row.state

    def close(self) -> None:
        for _, process in self.hosts.values():
            if process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                signal_all((*children, psutil.Process(process.pid)))
                process.wait(30)

    def put(self, number: int, site: str = "default", priority: int = 0) -> str:
        """Lay a received, complete series down as a receiver and the schedule do; return its UID."""
        layout = SpoolLayout(self.spool)
        layout.create()
        images = ct_series(number, 8, 64, spacing_mm=12.0)
        uid = str(images[0].SeriesInstanceUID)
        facts = SeriesFacts(uid, f"1.2.{number}", "CT", frame_of_reference_uid="1.9")
        stored = [
            StoredInstance(
                f"{uid}.{index}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", layout.relative(path),
                str(index), 1, utc_now(), "CT1", "a", facts,
            )
            for index, path in enumerate(write_phantom(images, layout.instances / f"x{number}"))
        ]  # fmt: skip
        Registry(self.database, site=site).record(stored)
        registry = Registry(self.database, priority_of=lambda _facts, _calling_ae: priority)
        (progress,) = (item for item in registry.receiving() if item.series_instance_uid == uid)
        assert registry.complete(progress, reason="test")
        return uid


@pytest.fixture
def cluster(tmp_path: Path, node_config: Config, postgresql) -> Iterator[Cluster]:
    settings = node_config.model_dump(mode="json", exclude_defaults=True)
    settings["database_url"] = postgresql.create()
    settings["score"] = {"lease_s": LEASE_S, "max_attempts": 20, "heat_maps": "off", "max_memory_mb": 100_000}
    settings["complete"]["quiet_s"] = 60
    settings["deliver"] |= {"lease_s": 5}
    database = Database(settings["database_url"])
    made = Cluster(tmp_path, settings, database)
    yield made
    made.close()
    database.close()


@pytest.fixture
def archive(free_port: Callable[[], int]) -> Iterator[tuple[Archive, int]]:
    port = free_port()
    made = Archive(port)
    yield made, port
    made.close()


def rows_left(database: Database) -> dict[str, int]:
    with database.read() as connection:
        query = "SELECT count(*) FROM procrastinate_{}"
        return {name: connection.scalar(sa.text(query.format(name))) for name in ("jobs", "workers")}


def test_whichever_host_dies_every_series_is_delivered_once(cluster, archive, free_port, poll):
    seed = int(os.environ.get("QA_MANY_HOSTS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"QA_MANY_HOSTS_SEED={seed}")
    chance = random.Random(seed)
    archive_node, archive_port = archive
    target = {"name": "archive", "kind": "dicom", "host": "127.0.0.1", "port": archive_port, "ae_title": "ARCHIVE"}
    cluster.settings["deliver"] |= {"targets": [target]}
    ports = {NORTH: free_port(), SOUTH: free_port()}
    for site, port in ports.items():
        cluster.start(f"receive-{site}", "receive", receive={"port": port, "site": site})
    for number in range(3):
        cluster.start(f"score-{number}", "score", score={"sites": [[NORTH, SOUTH], [NORTH], []][number]})
    cluster.start("deliver", "deliver")
    cluster.start("schedule", "schedule")
    scanners = {site: Scanner(port) for site, port in ports.items()}
    template, sent = ct_series(7, slices=SLICES, rows=64), {}
    victims = [*cluster.hosts, "score-0", "score-1"]
    chance.shuffle(victims)
    try:
        for number, victim in enumerate(victims):
            site = (NORTH, SOUTH)[number % 2]
            images = series_of(template, number)
            sent[str(images[0].SeriesInstanceUID)] = site
            scanners[site].push(images)
            uid = str(images[0].SeriesInstanceUID)
            poll(lambda uid=uid: cluster.registry.series(uid) is not None, PATIENCE_S, f"an image of {uid}")
            threading.Event().wait(chance.uniform(0, 1.5))
            cluster.kill(victim)
            cluster.restart(victim)
        poll(lambda: not any(scanner.busy() for scanner in scanners.values()), PATIENCE_S, "every image acknowledged")
        poll(lambda: cluster.registry.counts()[S.DELIVERED] == len(sent), PATIENCE_S, "every series delivered")
    finally:
        for scanner in scanners.values():
            scanner.close()
    outbox, expected = Outbox(cluster.database), set()
    for uid, site in sent.items():
        words = Counter(state for state, _ in cluster.history(uid))
        assert words["SCORED"] == words["REPORTED"] == words["DELIVERED"] == 1, cluster.history(uid)
        row = cluster.registry.series(uid)
        assert (row.version, row.received, row.site) == (1, SLICES, site)
        expected.add(outbox.report(uid).sop_instance_uid)
    assert set(archive_node.documents) == expected
    assert len(expected) == QualityLog(cluster.database).count() == len(sent)
    assert rows_left(cluster.database) == {"jobs": 0, "workers": 0}


@pytest.mark.parametrize("how", ["line cut", "stopped"])
def test_a_scorer_that_was_away_does_not_write_over_its_successor(cluster, free_port, poll, tmp_path, how):
    url = sa.make_url(cluster.settings["database_url"])
    line, gate = CutLine(port := free_port(), int(url.port)), tmp_path / "gate"
    try:
        cluster.start("away", "score", gate, database_url=str(url.set(port=port)))
        uid = cluster.put(1)
        poll(lambda: cluster.state(uid) is S.SCORING, PATIENCE_S, "the first scorer has the series")
        if how == "line cut":
            line.cut()
        else:
            cluster.signal("away", signal.SIGSTOP)
        cluster.start("here", "score")
        poll(lambda: cluster.state(uid) is S.SCORED, PATIENCE_S, "the second scorer has scored it")
        if how == "line cut":
            poll(lambda: cluster.says("away", "lease_not_renewed"), PATIENCE_S, "the first scorer misses the database")
            line.heal()
        else:
            cluster.signal("away", signal.SIGCONT)
        gate.touch()
        poll(lambda: cluster.gave_up("away"), PATIENCE_S, "the first scorer gives up")
        other = cluster.put(2)
        cluster.kill("here")
        poll(lambda: cluster.state(other) is S.SCORED, PATIENCE_S, "the first scorer works again")
    finally:
        line.close()
    actors = [actor for state, actor in cluster.history(uid) if state == "SCORING"]
    assert actors == ["score@away", "score@here"]
    assert Counter(state for state, _ in cluster.history(uid))["SCORED"] == 1
    assert QualityLog(cluster.database).count() == 2
    assert rows_left(cluster.database) == {"jobs": 0, "workers": 0}


def test_a_series_is_taken_from_a_scorer_that_is_at_it(cluster, poll, tmp_path):
    gate = tmp_path / "gate"
    cluster.start("one", "score", gate, score={"lease_s": 60})
    uid = cluster.put(1)
    poll(lambda: cluster.state(uid) is S.SCORING, PATIENCE_S)
    assert cluster.registry.park(uid, "not wanted", actor="admin")
    gate.touch()
    poll(lambda: cluster.gave_up("one"), PATIENCE_S, "the scorer gives the series up")
    assert cluster.state(uid) is S.PARKED
    assert QualityLog(cluster.database).count() == 0
    assert cluster.registry.release(uid, actor="admin")
    poll(lambda: cluster.state(uid) is S.SCORED, PATIENCE_S)
    assert rows_left(cluster.database) == {"jobs": 0, "workers": 0}


def test_stat_goes_before_routine_and_each_site_has_its_queue(cluster, poll):
    routine = [cluster.put(number, NORTH) for number in (1, 2)]
    elsewhere = cluster.put(3, SOUTH, LEVELS["stat"])
    stat = cluster.put(4, NORTH, LEVELS["stat"])
    cluster.start("north", "score", score={"sites": [NORTH]})
    poll(lambda: all(cluster.state(uid) is S.SCORED for uid in (*routine, stat)), PATIENCE_S)
    entries = sorted(QualityLog(cluster.database).entries(), key=lambda entry: entry.scored_at)
    assert [entry.result.series_instance_uid for entry in entries] == [stat, *routine]
    assert cluster.state(elsewhere) is S.COMPLETE
    cluster.start("anywhere", "score")
    poll(lambda: cluster.state(elsewhere) is S.SCORED, PATIENCE_S)
    assert Jobs(cluster.database).waiting() == 0
