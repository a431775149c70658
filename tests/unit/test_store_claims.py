"""Several workers on one database: every job is held by one of them, and a full or locked database is Transient."""

from __future__ import annotations

import datetime as dt
import sqlite3
import threading

import pytest
import sqlalchemy as sa

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured, Transient
from dicom_qa_node.domain.results import ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.entries import QualityLog
from tests.fake_clock import PassingTime

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
MODEL = ModelRef("m", "1", "f" * 64)


@pytest.fixture
def database(any_database):
    return any_database


def stored(uid: str) -> StoredInstance:
    return StoredInstance(
        f"{uid}.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", f"i/{uid}", "0" * 64, 1, T0, "CT", "a",
        SeriesHeader(uid, "1.2", "CT"),
    )  # fmt: skip


def queue(database: Database, count: int) -> None:
    registry = Registry(database)
    registry.record([stored(f"1.2.{number}") for number in range(count)])
    for progress in registry.receiving():
        assert registry.complete(progress, reason="count", at=T0)


def verdict(uid: str) -> SeriesResult:
    return SeriesResult(uid, "CT", SeriesKind.CT, 3.0, (2.5, 3.5), None, (), (), (), MODEL, 1)


def test_four_workers_score_every_series_once(database):
    queue(database, 24)
    claimed: list[str] = []

    def work(name: str) -> None:
        jobs = Jobs(database)
        while job := jobs.claim(name):
            claimed.append(job.series_instance_uid)
            assert jobs.finish(job, verdict(job.series_instance_uid))

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(claimed) == sorted(f"1.2.{number}" for number in range(24))
    assert QualityLog(database).count() == 24


def test_a_job_whose_worker_fell_silent_goes_before_younger_ones(database):
    queue(database, 3)
    clock = PassingTime(T0, database)
    jobs = Jobs(database, lease_s=60, clock=clock)
    lost = jobs.claim("dead")
    assert jobs.claim("living").series_instance_uid != lost.series_instance_uid
    clock.advance(61)
    found = jobs.claim("living")
    assert (found.series_instance_uid, found.attempt) == (lost.series_instance_uid, 2)


def test_the_oldest_job_comes_from_an_index_however_many_wait(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    queue(database, 5)
    asked: list[tuple[str, tuple[object, ...]]] = []
    sa.event.listen(
        database.engine, "before_cursor_execute", lambda c, cursor, text, values, *_: asked.append((text, values))
    )
    assert Jobs(database).claim("w") is not None
    questions = [(text, values) for text, values in asked if text.startswith("SELECT jobs.")]
    assert len(questions) >= 2
    with database.read() as connection:
        for text, values in questions:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
            assert "USE TEMP B-TREE" not in " ".join(plan), plan
    database.close()


def test_locked_database_is_transient(tmp_path, monkeypatch):
    Database(f"sqlite:///{tmp_path}/q.db").upgrade()
    monkeypatch.setattr("dicom_qa_node.db.engine._BUSY_TIMEOUT_MS", 50)
    other = Database(f"sqlite:///{tmp_path}/q.db")
    holder = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient, match="locked"):
        Registry(other).record([stored("1.2.3")])
    holder.execute("ROLLBACK")
    holder.close()
    Registry(other).record([stored("1.2.3")])
    other.close()


def test_old_schema_is_refused_with_the_command_to_run(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(Misconfigured, match="no database at"):
        database.require_current()
    (tmp_path / "empty.db").touch()
    with pytest.raises(Misconfigured, match="dicom-qa-node db upgrade"):
        database.require_current()
    assert database.upgrade() == database.upgrade()
    database.require_current()
    database.close()


def test_reading_a_database_that_is_not_there_makes_no_file(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/folder/none.db")
    assert database.revision()[0] == ""
    assert list(tmp_path.iterdir()) == []
    database.upgrade()
    database.require_current()
    database.close()


def test_newer_schema_is_refused_and_left_alone(database):
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for refused in (database.require_current, database.upgrade):
        with pytest.raises(Misconfigured, match=r"9999.*newer version"):
            refused()
    assert database.revision()[0] == "9999"


def test_unknown_database_driver_is_misconfigured():
    with pytest.raises(Misconfigured, match="database_url"):
        Database("nosuchdb://somewhere/qa")


def test_the_server_gives_a_lost_connection_up_as_soon_as_the_node_does(postgresql):
    url = postgresql.create()
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    own = "?keepalives_idle=7&tcp_user_timeout=4000"
    for query, expected in (("", ["10", "5", "3", "30000"]), (own, ["7", "5", "3", "4000"])):
        database = Database(url + query)
        with database.read() as connection:
            assert [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names] == expected
        database.close()
