"""A target worker delivers, waits, parks and never gives a report up by accident."""

from __future__ import annotations

import datetime as dt
import logging
import threading

import pytest

from dicom_qa_node.config import Config, Deliver
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.delivery_worker import TargetWorker, run_delivery_worker
from dicom_qa_node.deliver.targets.base import Answer, Deferred, Refused
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from tests.report_samples import T0, verdict, write_series


class Clock:
    def __init__(self) -> None:
        self.now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


class ScriptedTarget:
    """Answers with what the test put in ``script``, then accepts."""

    def __init__(self, *script: Exception | Answer) -> None:
        self.script = list(script)
        self.sent: list[str] = []

    def send(self, shipment):
        self.sent.append(shipment.report.sop_instance_uid)
        step = self.script.pop(0) if self.script else Answer("0x0000 Success")
        if isinstance(step, Exception):
            raise step
        return step

    def check(self):
        return Answer("there")


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def reported(database: Database, spool, clock, targets=("pacs",), number: int = 1) -> str:
    instances = write_series(spool, number, slices=1)
    registry, jobs, outbox = Registry(database), Jobs(database, clock=clock), Outbox(database, clock=clock)
    registry.record(instances)
    (progress,) = registry.receiving()
    registry.complete(progress, reason="count")
    jobs.finish(jobs.claim("w"), verdict(instances, slices=(), findings=()))
    (spool / f"report-{number}.dcm").write_bytes(b"report")
    uid = instances[0].series.series_instance_uid
    report = ReportRef(f"2.25.{number}", "1.2.840", "2.25.99", uid, 1, f"report-{number}.dcm", T0)
    assert outbox.add_report(report, list(targets))
    return uid


def target_worker(database, tmp_path, clock, target, **settings) -> TargetWorker:
    outbox = Outbox(database, clock=clock)
    return TargetWorker("pacs", target, outbox, Deliver(**settings), tmp_path, threading.Event(), clock)


def row(database, uid):
    (found,) = Outbox(database).deliveries_of(uid)
    return found


def test_accepted_report_delivers_its_series(database, tmp_path, clock):
    uid = reported(database, tmp_path, clock)
    subject = target_worker(database, tmp_path, clock, ScriptedTarget(Answer("0x0111 Duplicate", "have it")))
    assert subject.step()
    assert not subject.step()
    assert Registry(database).series(uid).state is SeriesState.DELIVERED
    assert row(database, uid).last_answer == "0x0111 Duplicate: have it"


def test_deferred_report_waits_longer_each_time(database, tmp_path, clock):
    uid = reported(database, tmp_path, clock)
    target = ScriptedTarget(*[Deferred("no connection")] * 3)
    subject = target_worker(database, tmp_path, clock, target, retry_first_s=10.0, retry_max_s=15.0)
    waits = []
    for _ in range(3):
        assert subject.step()
        assert not subject.step()
        waits.append((row(database, uid).next_attempt_at - clock.now).total_seconds())
        clock.advance(waits[-1] + 0.001)
    assert 7.5 <= waits[0] <= 12.5
    assert all(9 <= wait <= 15 for wait in waits[1:])
    assert row(database, uid).last_answer == "no connection"
    assert subject.step()
    assert Registry(database).series(uid).state is SeriesState.DELIVERED
    assert len(target.sent) == 4


def test_refused_report_is_parked_with_the_words_of_the_target(database, tmp_path, clock):
    uid = reported(database, tmp_path, clock)
    subject = target_worker(
        database, tmp_path, clock, ScriptedTarget(Refused("0x0122 SOP class not supported", "no SR here"))
    )
    subject.step()
    series = Registry(database).series(uid)
    assert series.state is SeriesState.PARKED
    assert series.parked_reason == "report not delivered to pacs: 0x0122 SOP class not supported: no SR here"
    assert not subject.step()


def test_old_delivery_is_parked_and_an_operators_retry_starts_anew(database, tmp_path, clock):
    uid = reported(database, tmp_path, clock)
    target = ScriptedTarget(*[Deferred("no connection")] * 3)
    subject = target_worker(database, tmp_path, clock, target, give_up_after_s=100.0, retry_first_s=1.0)
    subject.step()
    clock.advance(101)
    subject.step()
    assert row(database, uid).state is DeliveryState.PARKED
    assert row(database, uid).last_answer == "given up after 2 attempts; the last: no connection"
    assert Outbox(database, clock=clock).retry([row(database, uid).delivery_id], actor="admin")
    subject.step()
    assert row(database, uid).state is DeliveryState.PENDING
    clock.advance(60)
    subject.step()
    assert row(database, uid).state is DeliveryState.DELIVERED


def test_fault_of_our_own_is_tried_again_and_told_without_its_text(database, tmp_path, clock):
    uid = reported(database, tmp_path, clock)
    subject = target_worker(database, tmp_path, clock, ScriptedTarget(KeyError("Doe^Jane")))
    subject.step()
    assert row(database, uid).state is DeliveryState.PENDING
    assert row(database, uid).last_answer == "internal error (KeyError), see the log"


def test_report_whose_file_is_gone_is_parked(database, tmp_path, clock):
    uid = reported(database, tmp_path, clock)
    (tmp_path / "report-1.dcm").unlink()
    target = ScriptedTarget()
    target_worker(database, tmp_path, clock, target).step()
    assert "gone from the spool" in Registry(database).series(uid).parked_reason
    assert target.sent == []


def test_words_of_the_target_are_kept_out_of_the_log(database, tmp_path, clock, caplog):
    reported(database, tmp_path, clock, number=1)
    reported(database, tmp_path, clock, number=2)
    target = ScriptedTarget(Deferred("0xA700 Out of resources", "Doe^Jane"), Refused("0xC000 Failure", "Doe^Jane"))
    with caplog.at_level(logging.DEBUG):
        subject = target_worker(database, tmp_path, clock, target)
        assert subject.step()
        assert subject.step()
    events = [(record.qa_event, record.qa_fields["answer"]) for record in caplog.records]
    assert events == [("delivery_deferred", "0xA700 Out of resources"), ("delivery_parked", "0xC000 Failure")]
    assert "Doe" not in str([vars(record) for record in caplog.records])


def test_lease_of_a_slow_delivery_is_kept(database, tmp_path, clock):
    uid = reported(database, tmp_path, clock)
    outbox = Outbox(database, lease_s=5, clock=clock)
    entered, leave = threading.Event(), threading.Event()

    class Slow(ScriptedTarget):
        def send(self, shipment):
            entered.set()
            assert leave.wait(20)
            return super().send(shipment)

    subject = TargetWorker("pacs", Slow(), outbox, Deliver(lease_s=5.0), tmp_path, threading.Event(), clock)
    worker = threading.Thread(target=subject.step)
    worker.start()
    assert entered.wait(20)
    for _ in range(5):
        clock.advance(3)
        subject._renew_at = 0.0
        subject.keep_lease()
        assert outbox.claim(["pacs"]) is None
    leave.set()
    worker.join()
    assert row(database, uid).state is DeliveryState.DELIVERED
    assert row(database, uid).attempts == 1


def test_courier_ends_at_once_and_parks_what_has_no_target(database, tmp_path):
    uid = reported(database, tmp_path, None or Clock(), targets=["gone"])
    stop = threading.Event()
    config = Config.model_validate({"spool_dir": tmp_path, "deliver": {"targets": []}})
    stop.set()
    run_delivery_worker(config, database, stop)
    assert "no target of that name is configured" in Registry(database).series(uid).parked_reason


def test_dead_target_does_not_delay_the_others(database, tmp_path, poll, monkeypatch):
    hanging = threading.Event()

    class Dead(ScriptedTarget):
        def send(self, shipment):
            hanging.wait(30)
            raise Deferred("no connection")

    targets = {"dead": Dead(), "alive": ScriptedTarget()}
    monkeypatch.setattr(
        "dicom_qa_node.deliver.delivery_worker.open_target", lambda settings, *_: targets[settings.name]
    )
    uids = [reported(database, tmp_path, Outbox(database)._clock, ["dead", "alive"], number) for number in (1, 2, 3)]
    sections = [{"kind": "folder", "name": name, "path": tmp_path / name} for name in targets]
    config = Config.model_validate({"spool_dir": tmp_path, "deliver": {"targets": sections}})
    stop = threading.Event()
    delivery_worker = threading.Thread(
        target=run_delivery_worker, args=(config, database, stop), kwargs={"patience_s": 10}
    )
    delivery_worker.start()

    def alive_done() -> bool:
        rows = [row for uid in uids for row in Outbox(database).deliveries_of(uid) if row.target == "alive"]
        return all(row.state is DeliveryState.DELIVERED for row in rows)

    poll(alive_done, 10)
    assert not hanging.is_set()
    hanging.set()
    stop.set()
    delivery_worker.join(10)
    assert not delivery_worker.is_alive()
