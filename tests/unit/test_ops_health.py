"""Health: each fact moves its own check, and the worst check is the node's level."""

from __future__ import annotations

import datetime as dt

import pytest

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeat
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.ops.health import HealthSnapshot, Level, ModelCheck, assess, gather
from dicom_qa_node.ops.metrics import NodeCollector, exposition
from dicom_qa_node.spool.disk_space import DiskUsage

NOW = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
GIB = 2**30


def beat(role: str, age_s: float = 1, detail: str = "", process: str = "") -> Heartbeat:
    seen = NOW - dt.timedelta(seconds=age_s)
    return Heartbeat(f"{process or role}@qa", role, "qa", 7, NOW - dt.timedelta(hours=1), seen, detail)


ALIVE = tuple(beat(role) for role in ("receive", "schedule", "score", "deliver", "web"))


def facts(**changes: object) -> HealthSnapshot:
    values = {
        "revision": "1",
        "disk": DiskUsage(100 * GIB, 50 * GIB),
        "heartbeats": ALIVE,
        "series": dict.fromkeys(SeriesState, 0),
        "deliveries": dict.fromkeys(DeliveryState, 0),
    }
    return HealthSnapshot(**(values | changes))  # type: ignore[arg-type]


def without(role: str, *more: Heartbeat) -> tuple[Heartbeat, ...]:
    return tuple(item for item in ALIVE if item.role != role) + more


CASES = [
    ("all well", {}, "database", Level.OK),
    ("database away", {"database_problem": "connection refused"}, "database", Level.FAILED),
    ("spool missing", {"spool_problem": "no folder"}, "spool", Level.FAILED),
    ("disk full", {"disk": DiskUsage(100 * GIB, GIB)}, "disk", Level.FAILED),
    ("disk nearly full", {"disk": DiskUsage(100 * GIB, int(2.5 * GIB))}, "disk", Level.DEGRADED),
    ("no model", {"model_problem": "weights missing"}, "model", Level.DEGRADED),
    ("no receiver", {"heartbeats": without("receive")}, "role receive", Level.FAILED),
    ("silent receiver", {"heartbeats": without("receive", beat("receive", 31))}, "role receive", Level.FAILED),
    ("no scorer", {"heartbeats": without("score")}, "role score", Level.DEGRADED),
    ("one scorer of two", {"heartbeats": (*ALIVE, beat("score", 99, process="score-2"))}, "role score", Level.DEGRADED),
    ("a task fails", {"heartbeats": without("schedule", beat("schedule", 1, "sweep fails: x"))}, "role schedule",
     Level.DEGRADED),
    ("old queue", {"oldest_waiting": NOW - dt.timedelta(seconds=901)}, "queue", Level.DEGRADED),
    ("young queue", {"oldest_waiting": NOW - dt.timedelta(seconds=10)}, "queue", Level.OK),
    ("parked series", {"series": {SeriesState.PARKED: 2}}, "parked", Level.DEGRADED),
    ("parked delivery", {"deliveries": {DeliveryState.PARKED: 1}}, "deliveries", Level.DEGRADED),
    ("waiting delivery", {"deliveries": {DeliveryState.PENDING: 5}}, "deliveries", Level.OK),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "name", "level"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_check(changes, name, level):
    report = assess(facts(**changes), Config(), NOW)
    assert report.named(name).level is level
    assert report.level is level


def test_parked_deliveries_name_the_command_that_lists_them():
    many = {DeliveryState.PARKED: 3, DeliveryState.PENDING: 2, DeliveryState.SENDING: 1}
    detail = assess(facts(deliveries=many), Config(), NOW).named("deliveries").detail
    assert detail == "3 parked deliveries: dicom-qa-node outbox list --parked; 3 waiting"
    one = assess(facts(deliveries={DeliveryState.PARKED: 1}), Config(), NOW).named("deliveries").detail
    assert one.startswith("1 parked delivery: ")


def test_the_worst_check_counts():
    report = assess(facts(model_problem="missing", spool_problem="no folder"), Config(), NOW)
    assert report.level is Level.FAILED


def test_facts_of_an_empty_folder_and_of_a_fresh_database(node_config):
    model = ModelCheck(node_config)
    database = Database(node_config.database_url)
    empty = gather(node_config, database, model)
    assert empty.revision == ""
    assert assess(empty, node_config, utc_now()).named("database").level is Level.FAILED
    database.upgrade()
    node_config.spool_dir.mkdir(parents=True)
    fresh = gather(node_config, database, model)
    database.close()
    report = assess(fresh, node_config, utc_now())
    assert report.named("database").level is Level.OK
    assert report.named("spool").level is Level.OK
    assert report.named("role receive").level is Level.FAILED


def test_unreachable_database_is_a_fact(tmp_path):
    (tmp_path / "q.db").write_text("this is no database, and long enough to be told apart from one" * 20)
    config = Config.model_validate({"database_url": f"sqlite:///{tmp_path}/q.db", "spool_dir": tmp_path})
    database = Database(config.database_url)
    report = assess(gather(config, database, ModelCheck(config)), config, utc_now())
    database.close()
    assert report.named("database").level is Level.FAILED
    assert "not a database" in report.named("database").detail


def test_unknown_model_is_named(node_config):
    config = node_config.model_copy(update={"score": node_config.score.model_copy(update={"model": "nonsense"})})
    assert "nonsense" in ModelCheck(config).problem()


def test_metrics_tell_counts_and_ages(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    found = facts(series={SeriesState.PARKED: 2}, oldest_waiting=NOW - dt.timedelta(seconds=10))
    collector = NodeCollector(Config(), lambda: (found, assess(found, Config(), NOW)), database)
    text = exposition(collector).decode()
    database.close()
    assert 'dicom_qa_node_series{state="PARKED"} 2.0' in text
    assert "dicom_qa_node_queue_age_seconds 10.0" in text
    assert 'dicom_qa_node_health{level="degraded"} 1.0' in text
    assert 'dicom_qa_node_heartbeat_age_seconds{process="score@qa",role="score"} 1.0' in text
    assert "dicom_qa_node_disk_free_bytes" in text
