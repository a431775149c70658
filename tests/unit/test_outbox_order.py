"""Order of deliveries, parked deliveries, and what is kept of the routing of a report."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.delivery import ReportRef, Sender
from dicom_qa_node.domain.series import AssociationStart
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import report_pending
from tests.report_samples import T0, verdict, write_series


class Clock:
    def __init__(self) -> None:
        self.now = T0 + dt.timedelta(days=1)

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def scored(database: Database, spool, number: int, **changes: object) -> str:
    """Bring one more series of the same study, or another version of it, to SCORED."""
    registry, jobs = Registry(database), Jobs(database)
    instances = write_series(spool, number, slices=1, **changes)
    registry.record(instances)
    for progress in registry.receiving():
        registry.complete(progress, reason="count")
    jobs.finish(jobs.claim("w"), verdict(instances, slices=(), findings=()))
    return instances[0].series.series_instance_uid


def reported(database, spool, clock, number: int, version: int = 1, targets=("pacs",)) -> str:
    if version == 1:
        uid = scored(database, spool, number)
    else:
        registry, jobs = Registry(database), Jobs(database)
        uid = f"1.2.826.0.1.3680043.10.1500.1.{number}"
        assert registry.rescore(uid, actor="admin")
        instances = registry.instances(uid)
        jobs.finish(jobs.claim("w"), verdict(instances, slices=(), findings=()))
    report = ReportRef(f"2.25.{number}{version}", "1.2", "2.25.9", uid, version, f"r{number}{version}", clock.now)
    assert Outbox(database, clock=clock).add_report(report, list(targets))
    clock.advance(1)
    return uid


def sent(outbox: Outbox, clock: Clock, fails: set[str], rounds: int = 12) -> list[str]:
    """Return the reports in the order in which a target took them; each of ``fails`` is put off once."""
    taken = []
    for _ in range(rounds):
        delivery = outbox.claim(["pacs"])
        if delivery is None:
            clock.advance(5)
            continue
        uid = delivery.report.sop_instance_uid
        if uid in fails:
            fails.remove(uid)
            outbox.retry_later(delivery, "not now", 10)
        else:
            outbox.delivered(delivery, "ok")
            taken.append(uid)
    return taken


def test_reports_of_a_study_go_in_the_order_in_which_they_were_made(database, tmp_path, clock):
    for number, version in [(1, 1), (2, 1), (1, 2), (3, 1)]:
        reported(database, tmp_path, clock, number, version)
    assert sent(Outbox(database, clock=clock), clock, set()) == ["2.25.11", "2.25.21", "2.25.12", "2.25.31"]


def test_a_failed_report_holds_back_only_later_versions_of_its_series(database, tmp_path, clock):
    for number, version in [(1, 1), (2, 1), (1, 2), (3, 1)]:
        reported(database, tmp_path, clock, number, version)
    assert sent(Outbox(database, clock=clock), clock, {"2.25.11"}) == ["2.25.21", "2.25.31", "2.25.11", "2.25.12"]


def test_a_parked_report_holds_back_nothing(database, tmp_path, clock):
    reported(database, tmp_path, clock, 1)
    outbox = Outbox(database, clock=clock)
    outbox.park(outbox.claim(["pacs"]), "refused")
    reported(database, tmp_path, clock, 1, 2)
    assert sent(outbox, clock, set()) == ["2.25.12"]


def test_a_second_courier_does_not_overtake_within_a_study(database, tmp_path, clock):
    reported(database, tmp_path, clock, 1)
    reported(database, tmp_path, clock, 2)
    outbox = Outbox(database, clock=clock)
    first = outbox.claim(["pacs"])
    assert outbox.claim(["pacs"]) is None
    assert outbox.delivered(first, "ok")
    second = outbox.claim(["pacs"])
    assert second.report.sop_instance_uid == "2.25.21"
    # One that has died is taken over in its turn.
    clock.advance(1000)
    again = outbox.claim(["pacs"])
    assert again.delivery_id == second.delivery_id


def test_after_an_outage_and_a_retry_of_all_the_order_is_that_of_making(database, tmp_path, clock):
    outbox = Outbox(database, clock=clock)
    for number, version in [(1, 1), (2, 1), (1, 2)]:
        reported(database, tmp_path, clock, number, version)
    for wait_s in (900, 5):
        outbox.retry_later(outbox.claim(["pacs"]), "no connection", wait_s)
    assert outbox.retry(target="pacs", actor="admin") == 3
    assert sent(outbox, clock, set()) == ["2.25.11", "2.25.21", "2.25.12"]


@contextmanager
def watched(database: Database) -> Iterator[list[Any]]:
    """Return the statements that are asked of a database until the block ends."""
    asked: list[Any] = []

    def note(_connection: sa.Connection, statement: Any, *_rest: object) -> None:
        asked.append(statement)

    sa.event.listen(database.engine, "before_execute", note)
    yield asked
    sa.event.remove(database.engine, "before_execute", note)


def test_looks_in_vain_ask_the_same_few_statements_again(database, tmp_path, clock):
    reported(database, tmp_path, clock, 1)
    outbox = Outbox(database, clock=clock)
    outbox.retry_later(outbox.claim(["pacs"]), "no connection", 900)
    looks = []
    for _ in range(2):
        with watched(database) as asked:
            assert outbox.claim(["pacs"]) is None
            assert outbox.unreported() == []
        looks.append(asked)
        clock.advance(1)
    assert len(looks[0]) == 3
    assert all(first is again for first, again in zip(*looks, strict=True))


def test_what_comes_up_after_looks_in_vain_is_found(database, database_url, tmp_path, clock):
    mine, other = Outbox(database, lease_s=60, clock=clock), Database(database_url)

    def finds(uid: str) -> bool:
        delivery = mine.claim(["pacs"])
        return delivery is not None and delivery.report.sop_instance_uid == uid

    assert mine.claim(["pacs"]) is None
    assert mine.unreported() == []
    # Another process scores and reports.
    reported(other, tmp_path, clock, 1)
    assert finds("2.25.11")
    # Whoever held it is gone, its lease runs out.
    clock.advance(59)
    assert mine.claim(["pacs"]) is None
    clock.advance(2)
    delivery = mine.claim(["pacs"])
    # Its next attempt comes; the clock may be set past it, too.
    mine.retry_later(delivery, "no connection", 900)
    clock.advance(899)
    assert mine.claim(["pacs"]) is None
    clock.advance(86400)
    assert finds("2.25.11")
    # An operator takes up what was parked.
    clock.advance(61)
    mine.park(mine.claim(["pacs"]), "refused")
    assert mine.claim(["pacs"]) is None
    assert Outbox(other, clock=clock).retry(actor="admin") == 1
    assert finds("2.25.11")
    scored(other, tmp_path, 2)
    (waiting,) = mine.unreported()
    assert waiting.facts.series_instance_uid.endswith(".2")
    other.close()


def test_parked_deliveries_are_paged_found_and_retried(database, tmp_path, clock):
    outbox = Outbox(database, clock=clock)
    uids = [reported(database, tmp_path, clock, number, targets=["pacs", "web"]) for number in (1, 2, 3)]
    assert outbox.parked() == []
    while delivery := outbox.claim(["pacs", "web"]):
        outbox.park(delivery, f"{delivery.target} says no")
    first = outbox.parked(limit=4)
    rest = outbox.parked(limit=4, after=first[-1].delivery_id)
    numbers = [row.delivery_id for row in first + rest]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 6
    assert {row.target for row in outbox.parked(target="web")} == {"web"}
    assert outbox.row(numbers[0]).last_answer.endswith("says no")
    assert outbox.row(999) is None
    states = {Registry(database).series(uid).state for uid in uids}
    assert states == {SeriesState.PARKED}
    assert outbox.retry([numbers[0], 999], actor="admin") == 1
    assert outbox.retry([numbers[0]], target="nowhere", actor="admin") == 0
    assert outbox.retry(target="pacs", actor="admin") == 3
    assert len(outbox.parked()) == 2
    assert outbox.retry(actor="admin") == 6
    assert outbox.parked() == []
    assert {Registry(database).series(uid).state for uid in uids} == {SeriesState.REPORTED}


def test_a_series_parks_again_when_only_its_other_dead_letter_is_left(database, tmp_path, clock):
    outbox = Outbox(database, clock=clock)
    uid = reported(database, tmp_path, clock, 1, targets=["pacs", "web"])
    for _ in range(2):
        outbox.park(outbox.claim(["pacs", "web"]), "no")
    assert outbox.retry(target="pacs", actor="admin") == 1
    assert outbox.delivered(outbox.claim(["pacs"]), "ok")
    row = Registry(database).series(uid)
    assert (row.state, row.parked_reason) == (SeriesState.PARKED, "report not delivered to web: no")
    outbox.retry(target="web", actor="admin")
    assert outbox.delivered(outbox.claim(["web"]), "ok", "2.25.5")
    assert Registry(database).series(uid).state is SeriesState.DELIVERED
    assert [row.sent_uid for row in outbox.deliveries_of(uid)] == ["", "2.25.5"]


def test_deliveries_to_a_target_that_is_gone_are_parked_without_reading_the_others(database, tmp_path, clock):
    outbox = Outbox(database, clock=clock)
    for number in (1, 2):
        reported(database, tmp_path, clock, number, targets=["pacs", "gone"])
    assert outbox.park_unknown(["pacs"], "no such target", actor="deliver") == {"gone": 2}
    assert [row.state for row in outbox.rows(target="pacs")] == [DeliveryState.PENDING] * 2


def test_routing_is_decided_with_the_report_and_kept(database, tmp_path):
    sections = [
        {"kind": "folder", "name": "all", "path": tmp_path / "all"},
        {"kind": "folder", "name": "pet", "path": tmp_path / "pet", "route": {"modalities": ["PT"]}},
        {"kind": "folder", "name": "room", "path": tmp_path / "room", "route": {"stations": ["CT*"]}},
        {"kind": "sender", "name": "back"},
    ]
    peers = [{"ae_title": "SCANNER", "port": 104}]
    config = Config.model_validate({"deliver": {"targets": sections}, "receive": {"peers": peers}})
    registry, outbox = Registry(database), Outbox(database)
    registry.record([AssociationStart("a1", "SCANNER", "10.0.0.9", "r", T0)])
    uid = scored(database, tmp_path, 1)
    assert report_pending(outbox, registry, tmp_path, config) == 1
    report = outbox.report(uid)
    assert [row.target for row in outbox.deliveries_of(uid)] == ["all", "room", "back"]
    assert outbox.unrouted(report.sop_instance_uid) == {"pet": "modalities: CT is none of PT"}
    assert outbox.sender_of(uid) == Sender("SCANNER", "10.0.0.9")
    claimed = outbox.claim(["back"])
    assert claimed.sender == Sender("SCANNER", "10.0.0.9")


def test_sender_that_cannot_be_called_is_not_routed(database, tmp_path):
    config = Config.model_validate({"deliver": {"targets": [{"kind": "sender", "name": "back"}]}})
    outbox = Outbox(database)
    uid = scored(database, tmp_path, 1)
    assert report_pending(outbox, Registry(database), tmp_path, config) == 1
    assert outbox.deliveries_of(uid) == []
    reason = outbox.unrouted(outbox.report(uid).sop_instance_uid)
    assert reason == {"back": "the sender SCANNER is not in receive.peers"}
