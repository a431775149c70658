"""One node on several hosts, as processes that share PostgreSQL and the spool: whoever dies or loses the database.

Every process takes another name for its host. Scorers have no network (`tests.single_host`).
"""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_qa_node.config import Config
from dicom_qa_node.config.scoring import LEVELS
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.quality_log.entries import QualityLog
from tests.cluster import Cluster, rows_left
from tests.conftest import seed_of
from tests.crash_helpers import Archive, Scanner, series_of
from tests.interrupted_connection import CutLine

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [pytest.mark.integration, pytest.mark.serial, pytest.mark.filterwarnings("ignore::ResourceWarning")]

LEASE_S = 5
PATIENCE_S = 240
SLICES = 8
S = SeriesState
NORTH, SOUTH = "north", "south"


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


def test_whichever_host_dies_every_series_is_delivered_once(cluster, archive, free_port, poll):
    seed = seed_of("QA_MANY_HOSTS_SEED")
    chance = random.Random(seed)
    archive_node, archive_port = archive
    target = {"name": "archive", "kind": "dicom", "host": "127.0.0.1", "port": archive_port, "ae_title": "ARCHIVE"}
    cluster.settings["deliver"] |= {"targets": [target]}
    ports = {NORTH: free_port(), SOUTH: free_port()}
    for site, port in ports.items():
        cluster.start(f"receive-{site}", "receive", receive={"port": port, "site": site})
    for number in range(3):
        cluster.start(f"score-{number}", "score", score={"sites": [[NORTH, SOUTH], [NORTH], []][number]})
    for number in range(2):
        cluster.start(f"deliver-{number}", "deliver")
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
        poll(lambda: cluster.at_gate("away"), PATIENCE_S, "the first scorer is in the middle of the series")
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
    poll(lambda: cluster.at_gate("one"), PATIENCE_S, "the scorer is in the middle of the series")
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
