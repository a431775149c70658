"""One node on hosts with a network each, and a network that loses packets in silence: nobody waits for ever.

A connection that is cut this way is not closed: whoever waits for an answer on it waits until its own limit. The limits
of the database's connections stand in its address here, so that the test takes seconds where a site waits for minutes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.outbox import Outbox, OutboxRow
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.quality_log.entries import QualityLog
from tests.cluster import Cluster, rows_left
from tests.multi_host import NoNamespaces, SeparateHosts
from tests.postgresql_server import PostgresqlServer, required_programs, running_server

pytestmark = [pytest.mark.integration, pytest.mark.peers("ip")]

LEASE_S = 5
#: What the address of the database says: a connection without an answer counts as lost after 3 s, at both ends.
LIMITS = "connect_timeout=2&keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=3000"
TARGET_TIMEOUT_S = 2
#: Far above what anything here may take, far below the two hours and more of TCP left to itself.
PATIENCE_S = 90
SLICES = 8
S = SeriesState
DATABASE = "database"


@pytest.fixture(scope="module")
def hosts() -> Iterator[SeparateHosts]:
    made = SeparateHosts()
    try:
        made.address(DATABASE)
        made.address("probe")
        made.cut("probe", DATABASE)
        made.heal("probe", DATABASE)
    except NoNamespaces as error:
        made.close()
        pytest.skip(f"this machine allows no networks of the test's own: {error}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(hosts: SeparateHosts) -> Iterator[PostgresqlServer]:
    with running_server(required_programs(), hosts.address(DATABASE), hosts.within(DATABASE)) as made:
        yield made


@pytest.fixture
def cluster(tmp_path: Path, node_config: Config, hosts, server) -> Iterator[Cluster]:
    url = server.create()
    settings = node_config.model_dump(mode="json", exclude_defaults=True)
    settings["database_url"] = f"{url}?{LIMITS}"
    settings["score"] = {"lease_s": LEASE_S, "max_attempts": 20, "heat_maps": "off", "max_memory_mb": 100_000}
    settings["complete"]["quiet_s"] = 60
    settings["deliver"] |= {"lease_s": LEASE_S}
    database = Database(server.local(url))
    made = Cluster(tmp_path, settings, database, within=hosts.within)
    yield made
    made.close()
    database.close()


@pytest.fixture
def archive(cluster: Cluster, hosts: SeparateHosts) -> Callable[..., Callable[[], Counter[str]]]:
    """Return a function that starts an archive as the target of the node and returns how to count what arrived."""

    def start(gate: Path | None = None) -> Callable[[], Counter[str]]:
        address = hosts.address("archive")
        target = {"name": "archive", "kind": "dicom", "host": address, "port": 104, "ae_title": "ARCHIVE"}
        cluster.settings["deliver"] |= {"targets": [target | {"timeout_s": TARGET_TIMEOUT_S}]}
        gates = [] if gate is None else [str(gate)]
        cluster.run("archive", [sys.executable, "-m", "tests.archive_peer", address, "104", *gates])
        return lambda: Counter(line.split()[1] for line in lines(cluster, "archive") if line.startswith("arrived"))

    return start


def lines(cluster: Cluster, host: str) -> list[str]:
    return cluster.log(host).read_text().splitlines()


def send(cluster: Cluster, number: int, to: str) -> str:
    """Push a series from the scanner, wait until it was told Success for each image, and return its UID."""
    images = ct_series(number, SLICES, 64, spacing_mm=12.0)
    folder = cluster.folder / f"scanner{number}"
    folder.mkdir()
    write_phantom(images, folder)
    cluster.run("scanner", [sys.executable, "-m", "dicom_qa_node", "send", str(folder), to, "11112"])
    code = cluster.hosts["scanner"][1].wait(PATIENCE_S)
    assert code == 0, cluster.log("scanner").read_text()
    return str(images[0].SeriesInstanceUID)


def test_a_cut_network_says_nothing_to_either_side(cluster, hosts, poll):
    # What the other tests rest on: a router that answered, or reset, would only be another kind of line that is cut.
    address = hosts.address("archive")
    cluster.run("archive", [sys.executable, "-m", "tests.archive_peer", address, "104"])
    poll(lambda: "listens" in lines(cluster, "archive"), PATIENCE_S)
    call = f"import socket; socket.create_connection(({address!r}, 104), 3).close(); print('connected')"

    def says(host: str) -> str:
        cluster.run(host, [sys.executable, "-c", call])
        cluster.hosts[host][1].wait(PATIENCE_S)
        return lines(cluster, host)[-1]

    assert says("deliver") == "connected"
    hosts.cut("deliver", "archive")
    try:
        assert says("deliver") == "TimeoutError: timed out"
        assert says("here") == "connected"
    finally:
        hosts.heal("deliver", "archive")
    assert says("deliver") == "connected"


def test_a_scorer_that_the_network_forgot_loses_its_series_to_another(cluster, hosts, archive, poll, tmp_path):
    gate = tmp_path / "gate"
    arrived = archive()
    cluster.start("away", "score", gate)
    uid = cluster.put(1)
    poll(lambda: cluster.at_gate("away"), PATIENCE_S, "the first scorer is in the middle of the series")
    hosts.cut("away", DATABASE)
    try:
        cluster.start("here", "score")
        cluster.start("deliver", "deliver")
        poll(lambda: cluster.state(uid) is S.DELIVERED, PATIENCE_S, "another scorer has scored it")
        poll(lambda: cluster.says("away", "lease_not_renewed"), PATIENCE_S, "the first scorer misses the database")
    finally:
        hosts.heal("away", DATABASE)
    gate.touch()
    poll(lambda: cluster.gave_up("away"), PATIENCE_S, "the first scorer gives up")
    cluster.kill("here")
    other = cluster.put(2)
    poll(lambda: cluster.state(other) is S.DELIVERED, PATIENCE_S, "the first scorer works again")
    assert [actor for state, actor in cluster.history(uid) if state == "SCORING"] == ["score@away", "score@here"]
    outbox = Outbox(cluster.database)
    assert arrived() == {outbox.report(one).sop_instance_uid: 1 for one in (uid, other)}
    for one in (uid, other):
        words = Counter(state for state, _ in cluster.history(one))
        assert words["SCORED"] == words["REPORTED"] == words["DELIVERED"] == 1, cluster.history(one)
    assert QualityLog(cluster.database).count() == 2
    assert rows_left(cluster.database) == {"jobs": 0, "workers": 0}


def test_a_receiver_without_its_database_acknowledges_and_records_later(cluster, hosts, poll):
    address = hosts.address("receive")
    cluster.start("receive", "receive", receive={"host": address, "port": 11112})
    call = f"import socket\nwhile socket.socket().connect_ex(({address!r}, 11112)): pass"
    cluster.run("scanner", [sys.executable, "-c", call])
    assert cluster.hosts["scanner"][1].wait(PATIENCE_S) == 0, "the receiver listens"
    first = send(cluster, 1, address)
    poll(lambda: cluster.received(first) == SLICES, PATIENCE_S, "the first series is recorded")
    hosts.cut("receive", DATABASE)
    try:
        second = send(cluster, 2, address)
        poll(lambda: cluster.says("receive", "record_postponed"), PATIENCE_S, "the receiver misses the database")
        third = send(cluster, 3, address)
        assert cluster.state(second) is cluster.state(third) is None
    finally:
        hosts.heal("receive", DATABASE)
    for uid in (second, third):
        poll(lambda uid=uid: cluster.received(uid) == SLICES, PATIENCE_S, "what came meanwhile is recorded")


def test_a_report_whose_archive_vanished_is_given_up_in_time_and_comes_once(cluster, hosts, archive, poll, tmp_path):
    gate = tmp_path / "gate"
    arrived = archive(gate)
    cluster.start("here", "score")
    cluster.start("deliver", "deliver")
    uid = cluster.put(1)
    outbox = Outbox(cluster.database)

    def delivery() -> OutboxRow:
        (row,) = outbox.deliveries_of(uid)
        return row

    poll(lambda: arrived().total() == 1, PATIENCE_S, "the archive has the report and has not answered")
    hosts.cut("deliver", "archive")
    try:
        begun = time.monotonic()
        poll(lambda: delivery().attempts == 1 and delivery().last_answer, PATIENCE_S, "the delivery worker gives up")
        waited_s = time.monotonic() - begun
        poll(lambda: delivery().attempts >= 3, PATIENCE_S, "the delivery worker tries again")
        gate.touch()
        assert "no connection" in delivery().last_answer
    finally:
        hosts.heal("deliver", "archive")
    poll(lambda: cluster.state(uid) is S.DELIVERED, PATIENCE_S, "the report is delivered")
    print(f"given up {waited_s:.1f} s after the cut, delivered with attempt {delivery().attempts}")
    # The answer in time, then the words of an abort, for which nobody waits long.
    assert waited_s < 5 * TARGET_TIMEOUT_S
    assert delivery().last_answer.startswith("0x0111")
    assert list(arrived()) == [delivery().report.sop_instance_uid]


def test_what_a_host_held_when_it_vanished_is_soon_free_again(cluster, hosts, poll):
    uid = cluster.put(1)
    holder = [sys.executable, "-m", "tests.shared_lock", cluster.settings["database_url"], uid]
    cluster.run("away", holder)
    poll(lambda: "holds" in lines(cluster, "away"), PATIENCE_S, "a host is in the middle of a transaction")
    hosts.cut("away", DATABASE)
    try:
        park = partial(cluster.registry.park, uid, "not wanted", actor="admin")
        parking = threading.Thread(target=park, daemon=True)
        parking.start()
        parking.join(PATIENCE_S)
        freed = not parking.is_alive()
    finally:
        hosts.heal("away", DATABASE)
        cluster.kill("away")
        parking.join(PATIENCE_S)
    assert freed, "the server waits for a host that is gone"
    assert cluster.state(uid) is S.PARKED
