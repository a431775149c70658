"""The wall clock is set by an hour or a year, either way: nothing is cut short, sent twice, or waits for that time."""

from __future__ import annotations

import datetime as dt
import socket
import threading
from collections import Counter

import apscheduler.executors.base
import apscheduler.schedulers.base
import pytest
import sqlalchemy as sa

from dicom_qa_node.config import Config, Deliver
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.deliver.delivery_worker import TargetWorker
from dicom_qa_node.deliver.targets.base import Answer, Deferred
from dicom_qa_node.domain.clock import ClockWatch
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.series import AssociationEnd, AssociationStart, SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.completion import ArrivalAges, sweep
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.ops.health import HealthSnapshot, Level, assess
from dicom_qa_node.ops.retention import retain
from dicom_qa_node.ops.scheduler import Task, TaskRunner, recall, tasks_of
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.receive import server
from tests.report_samples import T0, verdict
from tests.set_clock import HOUR_S, JUMPS, YEAR_S, Host

QUIET_S, LEASE_S = 60.0, 60.0
S = SeriesState


@pytest.fixture
def database(any_database: Database) -> Database:
    return any_database


@pytest.fixture
def host(database: Database) -> Host:
    return Host(database)


@pytest.fixture
def config(tmp_path) -> Config:
    targets = [{"kind": "folder", "name": "pacs", "path": tmp_path / "out"}]
    return Config.model_validate(
        {
            "spool_dir": tmp_path / "spool",
            "complete": {"quiet_s": QUIET_S, "force_age_s": 3600},
            "score": {"lease_s": LEASE_S},
            "deliver": {"targets": targets, "retry_first_s": 5, "retry_max_s": 300, "lease_s": LEASE_S},
        }
    )


def image(host: Host, number: int, series: str = "1.2.3") -> StoredInstance:
    uid, link = f"{series}.{number}", f"a{series}.{number}"
    facts = SeriesHeader(series, "1.2", "CT", frame_of_reference_uid="1.9")
    return StoredInstance(uid, "1.2", "1.2", f"instances/{uid}.dcm", "0" * 64, 9, host(), "SC", link, facts)


def queued(database: Database, host: Host, series: str = "1.2.3") -> str:
    registry = Registry(database)
    registry.record([image(host, 1, series)])
    progress = next(item for item in registry.receiving() if item.series_instance_uid == series)
    assert registry.complete(progress, reason="quiet", at=host())
    return series


def reported(database: Database, host: Host, series: str = "1.2.3", number: int = 1) -> str:
    queued(database, host, series)
    jobs, outbox = Jobs(database, clock=host), Outbox(database, clock=host)
    job = jobs.claim("w")
    assert job is not None
    assert jobs.finish(job, verdict(Registry(database).instances(series), slices=(), findings=()))
    assert outbox.add_report(ReportRef(f"2.25.{number}", "1.2", "2.25.9", series, 1, f"{number}.dcm", T0), ["pacs"])
    return series


def results(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(t.results)).scalar_one())


@pytest.mark.parametrize("by_s", JUMPS)
def test_a_series_that_is_arriving_is_neither_cut_nor_left_waiting(database, config, host, by_s):
    registry, ages = Registry(database), ArrivalAges(host.steady)

    def look() -> int:
        return sweep(registry, config.complete, host(), ages)

    for number in range(1, 11):
        # One association for each image: only silence can end the series.
        start = AssociationStart(f"a1.2.3.{number}", "SC", "127.0.0.1", "r", host())
        registry.record([start, image(host, number), AssociationEnd(start.association_id, host())])
        for _ in range(4):
            host.pass_(QUIET_S / 5)
            assert look() == 0
        if number == 5:
            host.set_clock(by_s)
            assert look() == 0
    waited = 0.0
    while not look():
        host.pass_(1)
        waited += 1
    history = Counter(row["new_state"] for row in registry.history("1.2.3"))
    row = registry.series("1.2.3")
    print(f"set by {by_s:g} s: {row.received} images, complete {waited:g} s after the last look, {dict(history)}")
    # At most one look later than without the jump.
    assert waited <= 2 * QUIET_S / 5
    assert (row.received, row.version, history["COMPLETE"], Jobs(database, clock=host).waiting()) == (10, 1, 1, 1)


@pytest.mark.parametrize("by_s", JUMPS)
def test_a_sweep_that_starts_after_the_clock_was_set_waits_for_silence_only(database, config, host, by_s):
    registry = Registry(database)
    registry.record([image(host, 1)])
    host.set_clock(by_s)
    ages, waited = ArrivalAges(host.steady), 0
    while not sweep(registry, config.complete, host(), ages):
        host.pass_(1)
        waited += 1
    assert waited == (QUIET_S if by_s < 0 else 0)


@pytest.mark.parametrize("by_s", JUMPS)
def test_a_leased_job_is_ended_by_one_worker_only(database, config, host, by_s):
    queued(database, host)
    jobs = Jobs(database, lease_s=LEASE_S, clock=host)
    first = jobs.claim("w1")
    host.set_clock(by_s)
    recall(config, database, host())
    second = jobs.claim("w2")
    held = verdict(Registry(database).instances("1.2.3"), slices=(), findings=())
    written = [job is not None and jobs.finish(job, held) for job in (first, second)]
    print(f"set by {by_s:g} s: taken over {second is not None}, results written {sum(written)}")
    # Set back, the holder keeps what it has; set forwards, another may take it, and then the first writes nothing.
    # On a server its clock counts, and nobody set that.
    kept = by_s < 0 or not database.is_sqlite
    assert written == ([True, False] if kept else [False, True])
    assert results(database) == QualityLog(database).count() == 1
    assert Registry(database).series("1.2.3").state is S.SCORED


@pytest.mark.parametrize("by_s", JUMPS)
def test_the_job_of_a_dead_worker_is_taken_over_in_time(database, config, host, by_s):
    queued(database, host)
    jobs = Jobs(database, lease_s=LEASE_S, clock=host)
    assert jobs.claim("dead")
    host.set_clock(by_s)
    recall(config, database, host())
    host.pass_(LEASE_S + 1)
    job = jobs.claim("alive")
    assert (job.series_instance_uid, job.attempt) == ("1.2.3", 2)


@pytest.mark.parametrize("by_s", JUMPS)
def test_what_was_queued_or_put_off_before_is_due(database, config, host, by_s):
    for series in ("1.2.3", "1.2.4"):
        queued(database, host, series)
    jobs = Jobs(database, clock=host)
    assert jobs.fail(jobs.claim("w"), "later", permanent=False)
    host.set_clock(by_s)
    recalled = recall(config, database, host())
    host.pass_(11)
    claimed = [jobs.claim("w"), jobs.claim("w"), jobs.claim("w")]
    print(f"set by {by_s:g} s: {recalled} rows recalled")
    assert recalled == (2 if by_s < 0 else 0)
    assert sorted(job.series_instance_uid for job in claimed if job) == ["1.2.3", "1.2.4"]


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S, -YEAR_S])
def test_a_delivery_between_two_attempts_goes_once_and_in_its_order(database, config, host, by_s, tmp_path):
    sent: list[str] = []
    answers = [Deferred("no connection")] * 3

    class Pacs:
        def send(self, shipment):
            if answers:
                raise answers.pop()
            sent.append(shipment.report.sop_instance_uid)
            return Answer("0x0000 Success")

        def check(self):
            return Answer("there")

    for number in (1, 2, 3):
        reported(database, host, f"1.2.{number}", number)
        (tmp_path / f"{number}.dcm").write_bytes(b"report")
    outbox = Outbox(database, lease_s=LEASE_S, clock=host)
    settings = Deliver(retry_first_s=5, retry_max_s=300)
    target_worker = TargetWorker("pacs", Pacs(), outbox, settings, tmp_path, threading.Event(), host)
    assert [target_worker.step() for _ in range(4)] == [True, True, True, False]
    host.set_clock(by_s)
    recalled = recall(config, database, host())
    host.pass_(10)
    while target_worker.step():
        pass
    rows = [row for number in (1, 2, 3) for row in outbox.deliveries_of(f"1.2.{number}")]
    print(f"set by {by_s:g} s: {recalled} rows recalled, sent {sent}, attempts {[row.attempts for row in rows]}")
    assert recalled == (3 if by_s < 0 else 0)
    assert sorted(sent) == ["2.25.1", "2.25.2", "2.25.3"]
    assert [(row.state, row.attempts) for row in rows] == [(DeliveryState.DELIVERED, 2)] * 3


def test_the_delivery_of_a_dead_courier_does_not_wait_for_a_far_time(database, config, host):
    reported(database, host)
    outbox = Outbox(database, lease_s=LEASE_S, clock=host)
    assert outbox.claim(["pacs"])
    host.set_clock(-YEAR_S)
    assert recall(config, database, host()) == 1
    assert outbox.claim(["pacs"]) is None
    host.pass_(LEASE_S + 1)
    assert outbox.claim(["pacs"]).attempt == 2


def test_what_is_planned_as_the_settings_say_is_left_alone(database, config, host):
    reported(database, host)
    queued(database, host, "1.2.4")
    jobs, outbox = Jobs(database, lease_s=LEASE_S, clock=host), Outbox(database, lease_s=LEASE_S, clock=host)
    assert jobs.claim("w")
    assert outbox.retry_later(outbox.claim(["pacs"]), "later", 300)
    assert recall(config, database, host()) == 0


@pytest.mark.parametrize("by_s", JUMPS)
def test_retention_waits_and_never_deletes_what_is_not_delivered(database, config, host, by_s):
    registry, watch = Registry(database), ClockWatch(host, host.steady)
    made = {"1.3.1": S.RECEIVING, "1.3.2": S.COMPLETE, "1.3.3": S.REPORTED, "1.3.4": S.DELIVERED}
    registry.record([image(host, 1, "1.3.1")])
    for number, series in enumerate(("1.3.4", "1.3.3"), 1):
        reported(database, host, series, number)
        if made[series] is S.DELIVERED:
            outbox = Outbox(database, clock=host)
            assert outbox.delivered(outbox.claim(["pacs"]), "0x0000")
    queued(database, host, "1.3.2")
    assert {uid: registry.series(uid).state for uid in made} == made
    files = {uid: config.spool_dir / registry.instances(uid)[0].path for uid in made}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"image")
    host.set_clock(by_s)
    assert retain(config, database, host(), watch) == 0
    assert watch.look() == pytest.approx(by_s)
    for _ in range(23):
        host.pass_(HOUR_S)
        assert watch.look() == 0
        assert retain(config, database, host(), watch) == 0
    host.pass_(8 * 86400)
    gone = retain(config, database, host(), watch)
    print(f"set by {by_s:g} s: {gone} files deleted of {len(files)}")
    # Set back by a year, what was delivered before stays for that year: late is allowed, early is not.
    assert gone == (0 if by_s == -YEAR_S else 1)
    assert {uid: file.exists() for uid, file in files.items()} == {uid: uid != "1.3.4" or not gone for uid in files}


@pytest.mark.parametrize("by_s", JUMPS)
def test_associations_of_living_receivers_are_left_open(database, config, host, by_s):
    registry, liveness, watch = Registry(database), Heartbeats(database), ClockWatch(host, host.steady)
    close = next(task for task in tasks_of(config, database, watch) if task.name == "associations")
    receiver = f"receive-0@{socket.gethostname()}"
    registry.record([AssociationStart("a1", "SC", "127.0.0.1", receiver, host()), image(host, 1)])
    liveness.beat("receive", at=host())
    host.set_clock(by_s)
    close.run(host())
    assert registry.open_receivers() == [receiver]
    watch.look()
    host.pass_(31)
    liveness.beat("receive", at=host())
    close.run(host())
    assert registry.open_receivers() == [receiver]
    host.pass_(121)
    close.run(host())
    assert registry.open_receivers() == []


def test_a_beat_of_the_future_is_no_sign_of_life(database, config, host):
    Heartbeats(database).beat("receive", at=host())
    host.set_clock(-HOUR_S)
    facts = HealthSnapshot(revision="1", heartbeats=Heartbeats(database).all())
    assert assess(facts, config, host()).named("role receive").level is Level.FAILED


@pytest.mark.parametrize("by_s", JUMPS)
def test_periodic_tasks_go_on(by_s, monkeypatch, poll, host):
    real, offset = dt.datetime, [0.0]

    class Wall(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return real.now(tz) + dt.timedelta(seconds=offset[0])

    for module in (apscheduler.schedulers.base, apscheduler.executors.base):
        monkeypatch.setattr(module, "datetime", Wall)
    runs: list[dt.datetime] = []
    clock = lambda: Wall.now(dt.UTC)  # noqa: E731 - one line of the test's own clock
    runner = TaskRunner([Task("often", 0.05, runs.append), Task("rare", 3600, runs.append)], clock, ClockWatch(clock))
    runner.start()
    try:
        poll(lambda: len(runs) >= 3)
        offset[0] = by_s
        before = len(runs)
        poll(lambda: len(runs) >= before + 10, 10, "ten more runs")
        often = next(run for run in runner.runs() if run.name == "often")
        assert abs((often.next_at - clock()).total_seconds()) < 5
        # The missed times are not made up for.
        assert len(runs) < before + 500
    finally:
        runner.end()


@pytest.mark.parametrize("by_s", JUMPS)
def test_the_files_of_a_dead_receiver_are_looked_for(monkeypatch, node_config, host, by_s):
    monkeypatch.setattr(server.time, "time", lambda: host().timestamp())
    monkeypatch.setattr(server.time, "monotonic", host.steady)
    master = server.ProcessMaster(node_config, [])
    assert master._changed_since() == 0.0
    master._reconciled_from = host().timestamp(), host.steady()
    host.pass_(10)
    stamps = [host().timestamp()]
    host.set_clock(by_s)
    host.pass_(10)
    stamps.append(host().timestamp())
    host.pass_(2 * HOUR_S)
    assert master._changed_since() <= min(stamps)
