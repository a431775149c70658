"""A scored series that comes again unchanged has its report sent again, to the targets that ask for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.series import RepeatedInstance
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.repeated_series import resend_reports
from dicom_qa_node.ops.scheduler import tasks_of
from dicom_qa_node.report.report_builder import report_pending
from tests.report_samples import verdict, write_series

QUIET_S = 60.0


@pytest.fixture
def config(tmp_path) -> Config:
    targets = [
        {"kind": "folder", "name": "again", "path": str(tmp_path / "a"), "resend_on_duplicate": True,
         "companion": {"key_objects": True}},
        {"kind": "folder", "name": "once", "path": str(tmp_path / "b")},
    ]  # fmt: skip
    return Config.model_validate({"spool_dir": tmp_path / "spool", "deliver": {"targets": targets}})


def delivered(database: Database, config: Config) -> str:
    """Bring a series to DELIVERED and return its UID."""
    instances = write_series(config.spool_dir)
    registry, jobs, outbox = Registry(database), Jobs(database), Outbox(database)
    registry.record(instances)
    (progress,) = registry.receiving()
    registry.complete(progress, reason="count")
    jobs.finish(jobs.claim("w"), verdict(instances))
    report_pending(outbox, registry, config.spool_dir, config)
    deliver(outbox)
    uid = instances[0].series.series_instance_uid
    assert registry.series(uid).state is SeriesState.DELIVERED
    return uid


def deliver(outbox: Outbox) -> list[tuple[str, str]]:
    done = []
    while (item := outbox.claim(["again", "once"])) is not None:
        outbox.delivered(item, "taken")
        done.append((item.target, item.report.kind.value))
    return done


def later(database: Database) -> Outbox:
    return Outbox(database, clock=lambda: database.now() + dt.timedelta(minutes=10))


def again(database: Database, uid: str, images: int = 9) -> dt.datetime:
    at = database.now()
    Registry(database).record([RepeatedInstance(uid, at)] * images)
    return at


@pytest.fixture
def resend(any_database, config) -> Callable[[float], int]:
    def after(seconds: float) -> int:
        now = any_database.now() + dt.timedelta(seconds=seconds)
        return resend_reports(any_database, config.deliver.resending(), QUIET_S, now)

    return after


def test_report_and_companions_go_out_once_more_to_the_target_that_wants_it(any_database, config, resend):
    uid = delivered(any_database, config)
    again(any_database, uid)
    assert resend(QUIET_S - 5) == 0
    assert resend(QUIET_S + 5) == 2
    outbox = later(any_database)
    assert sorted(deliver(outbox)) == [("again", "key_objects"), ("again", "report")]
    registry = Registry(any_database)
    assert registry.series(uid).state is SeriesState.DELIVERED
    assert registry.series(uid).version == 1
    assert "came again: 2 documents sent again" in registry.history(uid)[-1]["reason"]
    # Noted once, done once.
    assert resend(QUIET_S + 50) == 0
    again(any_database, uid)
    assert resend(QUIET_S + 60) == 2


def test_what_is_under_way_or_given_up_is_left_alone(any_database, config, resend):
    uid = delivered(any_database, config)
    again(any_database, uid)
    resend(QUIET_S + 5)
    again(any_database, uid)
    assert resend(QUIET_S + 5) == 0
    outbox = later(any_database)
    while (item := outbox.claim(["again"])) is not None:
        outbox.park(item, "refused")
    again(any_database, uid)
    assert resend(QUIET_S + 5) == 0
    assert {row.state for row in outbox.deliveries_of(uid) if row.target == "again"} == {DeliveryState.PARKED}


def test_a_series_that_got_new_images_is_reported_as_ever(any_database, config, resend, tmp_path):
    uid = delivered(any_database, config)
    again(any_database, uid)
    late = write_series(config.spool_dir, slices=10)[9]
    Registry(any_database).record([late])
    assert resend(QUIET_S + 5) == 0
    assert Registry(any_database).series(uid).state is SeriesState.RECEIVING


def test_of_two_versions_only_the_report_of_the_latest_goes_out_again(any_database, config, resend):
    uid = delivered(any_database, config)
    instances = write_series(config.spool_dir, slices=10)
    registry, jobs, outbox = Registry(any_database), Jobs(any_database), later(any_database)
    registry.record([instances[9]])
    (progress,) = registry.receiving()
    registry.complete(progress, reason="count")
    jobs.finish(jobs.claim("w"), verdict(instances))
    report_pending(outbox, registry, config.spool_dir, config)
    deliver(outbox)
    latest = outbox.report(uid)
    assert latest is not None
    assert latest.version == 2
    again(any_database, uid)
    assert resend(QUIET_S + 5) == 2
    waiting = [row for row in outbox.deliveries_of(uid) if row.state is DeliveryState.PENDING]
    assert {row.report.version for row in waiting} == {2}


def test_a_series_that_is_unknown_or_not_reported_yet_is_forgotten(any_database, config, resend):
    again(any_database, "1.2.3")
    assert resend(QUIET_S + 5) == 0
    instances = write_series(config.spool_dir)
    Registry(any_database).record(instances)
    again(any_database, instances[0].series.series_instance_uid)
    assert resend(QUIET_S + 5) == 0


def test_the_task_is_there_only_where_a_target_asks(any_database, config):
    assert "resend" in {task.name for task in tasks_of(config, any_database)}
    without: dict[str, Any] = {"spool_dir": config.spool_dir}
    assert "resend" not in {task.name for task in tasks_of(Config.model_validate(without), any_database)}
