"""The queue of jobs, alike on both databases: order, sites, claims that lapse, and cancellation."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa

from dicom_qa_node.config.scoring import LEVELS, PriorityRule, priority_name, priority_of
from dicom_qa_node.db.engine import Database, SharedClock
from dicom_qa_node.domain.errors import Misconfigured, Transient
from dicom_qa_node.domain.results import ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.entries import QualityLog
from tests.fake_clock import PassingTime

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
RULES = [
    PriorityRule(calling_aes=["ER*"]),
    PriorityRule(priority="high", stations=["CT7"]),
    PriorityRule(priority="low", modalities=["PT"], institutions=["Research"]),
]
S = SeriesState


@pytest.fixture
def database(any_database):
    return any_database


@pytest.fixture
def clock(database) -> PassingTime:
    return PassingTime(T0, database)


def facts(uid: str, **changes: str) -> SeriesHeader:
    return SeriesHeader(uid, f"{uid}.0", changes.pop("modality", "CT"), **changes)


def image(series: SeriesHeader, number: int = 1, calling_ae: str = "CT1") -> StoredInstance:
    uid = f"{series.series_instance_uid}.{number}"
    return StoredInstance(
        uid, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", f"i/{uid}", "0" * 64, 1, T0, calling_ae, "a", series
    )


def complete(database: Database, images: list[StoredInstance], site: str = "default") -> Registry:
    Registry(database, site=site).record(images)
    registry = Registry(database, priority_of=partial(priority_of, RULES))
    for progress in registry.receiving():
        assert registry.complete(progress, reason="count", at=T0)
    return registry


def verdict(uid: str) -> SeriesResult:
    return SeriesResult(uid, "CT", SeriesKind.CT, 3.0, (2.5, 3.5), None, (), (), (), ModelRef("m", "1", "f" * 64), 1)


def score_all(jobs: Jobs) -> list[str]:
    done = []
    while job := jobs.claim("w"):
        assert jobs.finish(job, verdict(job.series_instance_uid))
        done.append(job.series_instance_uid)
    return done


def left_in_the_queue(database: Database) -> int:
    """Return how many rows Procrastinate holds; the embedded queue has none besides the jobs themselves."""
    if database.is_sqlite:
        return 0
    with database.read() as connection:
        counts = [
            connection.execute(sa.text(f"SELECT count(*) FROM procrastinate_{table}")).scalar_one()
            for table in ("jobs", "workers", "events")
        ]
    return sum(counts)


def test_urgent_series_go_first(database, clock):
    complete(database, [image(facts("1.1", modality="PT", institution_name="Research"))])
    complete(database, [image(facts("1.2"))])
    complete(database, [image(facts("1.3", station_name="CT7"))])
    complete(database, [image(facts("1.4"), calling_ae="ER2")])
    complete(database, [image(facts("1.5"))])
    assert score_all(Jobs(database, clock=clock)) == ["1.4", "1.3", "1.2", "1.5", "1.1"]
    assert left_in_the_queue(database) == 0


def test_every_level_of_priority_has_its_word():
    assert {name: priority_name(level) for name, level in LEVELS.items()} == {name: name for name in LEVELS}
    assert priority_name(7) == "7"


def test_a_rule_of_priority_needs_something_to_look_at():
    with pytest.raises(ValueError, match="would fit every series"):
        PriorityRule(priority="high")
    with pytest.raises(ValueError, match="never matches"):
        PriorityRule(stations=[" CT"])


def test_scorers_take_from_their_sites_only(database, clock):
    complete(database, [image(facts("1.1"))], site="north")
    complete(database, [image(facts("1.2"))], site="south")
    complete(database, [image(facts("1.3"))], site="west")
    assert score_all(Jobs(database, sites=["south", "west"], clock=clock)) == ["1.2", "1.3"]
    assert Jobs(database, sites=["south"], clock=clock).claim("w") is None
    assert score_all(Jobs(database, clock=clock)) == ["1.1"]


def test_cancelling_a_running_job_voids_its_claim_and_frees_the_series(database, clock):
    registry = complete(database, [image(facts("1.1"))])
    jobs = Jobs(database, clock=clock)
    job = jobs.claim("w1")
    assert jobs.held(job)
    assert registry.park("1.1", "not wanted", actor="admin", at=T0)
    assert not jobs.held(job)
    assert registry.release("1.1", actor="admin", at=T0)
    assert not jobs.release(job)
    again = jobs.claim("w2")
    assert (again.series_instance_uid, again.attempt) == ("1.1", 1)
    assert not jobs.finish(job, verdict("1.1"))
    assert jobs.finish(again, verdict("1.1"))
    assert registry.series("1.1").state is S.SCORED
    assert left_in_the_queue(database) == 0


def test_cancelling_a_waiting_job_takes_it_out_of_the_queue(database, clock):
    registry = complete(database, [image(facts("1.1"))])
    assert registry.park("1.1", "not wanted", actor="admin", at=T0)
    assert Jobs(database, clock=clock).claim("w") is None
    assert left_in_the_queue(database) == 0


def test_late_images_leave_one_job_and_one_result(database, clock):
    registry, jobs = complete(database, [image(facts("1.1"))]), Jobs(database, lease_s=10, clock=clock)
    stale = jobs.claim("w1")
    complete(database, [image(facts("1.1"), 2)])
    # The worker of the version before died: the lock of the series is free when its lease is over.
    clock.advance(11)
    job = jobs.claim("w2")
    assert (job.version, job.attempt) == (2, 1)
    for ended in (jobs.finish(stale, verdict("1.1")), jobs.fail(stale, "late", permanent=True), jobs.release(stale)):
        assert not ended
    assert jobs.finish(job, verdict("1.1"))
    assert registry.series("1.1").version == 2
    assert QualityLog(database).count() == 1
    assert left_in_the_queue(database) == 0


def test_every_worker_takes_over_what_a_silent_one_held(database, clock):
    complete(database, [image(facts(f"1.{number}")) for number in range(3)])
    slow = Jobs(database, lease_s=100, clock=clock)
    held = [slow.claim("slow") for _ in range(3)]
    clock.advance(60)
    assert slow.heartbeat(held[2])
    clock.advance(60)
    others = [Jobs(database, lease_s=100, clock=clock) for _ in range(2)]
    taken = [jobs.claim(f"w{number}") for number, jobs in enumerate(others)]
    assert [job.series_instance_uid for job in taken] == [job.series_instance_uid for job in held[:2]]
    assert others[0].claim("w0") is None
    assert [slow.heartbeat(job) for job in held] == [False, False, True]
    assert not slow.finish(held[0], verdict(held[0].series_instance_uid))
    assert slow.finish(held[2], verdict(held[2].series_instance_uid))
    for jobs, job in zip(others, taken, strict=True):
        assert job.attempt == 2
        assert jobs.finish(job, verdict(job.series_instance_uid))
    assert left_in_the_queue(database) == 0


def test_a_job_that_failed_for_good_or_too_often_leaves_the_queue(database, clock):
    registry = complete(database, [image(facts("1.1")), image(facts("1.2"))])
    jobs = Jobs(database, max_attempts=2, clock=clock)
    assert jobs.fail(jobs.claim("w"), "no pixel data", permanent=True)
    assert jobs.fail(jobs.claim("w"), "out of memory", permanent=False)
    assert jobs.claim("w") is None
    clock.advance(7)
    assert jobs.fail(jobs.claim("w"), "out of memory", permanent=False)
    assert registry.counts()[S.PARKED] == 2
    assert left_in_the_queue(database) == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_series_that_somebody_changes_is_left_to_them(database, clock, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.flow.jobs._BUSY_PAUSE_S", 0.0)
    complete(database, [image(facts("1.1"))])
    jobs = Jobs(database, clock=clock)
    with database.write() as connection:
        connection.execute(sa.text("SELECT 1 FROM series FOR UPDATE"))
        assert jobs.claim("w") is None
    assert jobs.claim("w").attempt == 1


def test_a_waiting_worker_hears_of_a_new_job(any_database, poll):
    waiter, stop, heard = Jobs(any_database, sites=["north"]).waiter(0.01), threading.Event(), threading.Event()

    def listen() -> None:
        while not stop.is_set():
            waiter.wait(stop)
            if Jobs(any_database).waiting():
                heard.set()
                return

    thread = threading.Thread(target=listen)
    thread.start()
    complete(any_database, [image(facts("1.1"))], site="north")
    poll(heard.is_set)
    stop.set()
    thread.join(10)
    waiter.close()
    assert not thread.is_alive()


def test_hosts_agree_on_the_time_of_the_server():
    now, elapsed, asked = T0, [100.0], []

    def ask() -> dt.datetime:
        if len(asked) == 1:
            raise Transient("database: out of reach")
        asked.append(elapsed[0])
        return now + dt.timedelta(seconds=elapsed[0] - 100)

    clock = SharedClock(ask, lambda: elapsed[0])
    assert clock() == T0
    elapsed[0] = 110.0
    assert clock() == T0 + dt.timedelta(seconds=10)
    elapsed[0] = 500.0
    assert clock() == T0 + dt.timedelta(seconds=400)
    assert asked == [100.0]

    def never() -> dt.datetime:
        raise Transient("database: out of reach")

    with pytest.raises(Transient):
        SharedClock(never)()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_receiver_whose_clock_is_wrong_does_not_make_its_series_old(database, monkeypatch):
    behind = dt.timedelta(minutes=7)
    monkeypatch.setattr("dicom_qa_node.db.engine.utc_now", lambda: dt.datetime.now(dt.UTC) - behind)
    at = dt.datetime.now(dt.UTC)
    Registry(database).record([replace(image(facts("1.1")), received_at=at - behind)])
    (progress,) = Registry(database).receiving()
    assert abs(progress.last_received_at - at) < dt.timedelta(minutes=1)


def test_the_embedded_database_loads_no_procrastinate(tmp_path):
    script = (
        "import sys; from dicom_qa_node.db.engine import Database; from dicom_qa_node.flow.jobs import Jobs;"
        "from dicom_qa_node.score import worker;"
        f"d = Database('sqlite:///{tmp_path}/q.db'); d.upgrade(); assert Jobs(d).claim('w') is None;"
        "print(*[name for name in ('procrastinate', 'psycopg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture
def release(postgresql, tmp_path, monkeypatch):
    """Return the folder of the steps of Procrastinate, to be changed, and a database that the present ones made."""
    from procrastinate.schema import SchemaManager

    steps = tmp_path / "steps"
    shutil.copytree(SchemaManager.get_migrations_path(), steps)
    monkeypatch.setattr(SchemaManager, "get_migrations_path", staticmethod(lambda: str(steps)))
    database = Database(postgresql.create())
    yield steps, database
    database.close()


def test_an_upgrade_takes_the_queue_to_a_newer_procrastinate(release):
    steps, database = release
    (steps / "99.00.00_01_pre_more.sql").write_text("CREATE TABLE procrastinate_more (share text DEFAULT '5 %');")
    (steps / "99.00.00_50_post_more.sql").write_text("INSERT INTO procrastinate_more DEFAULT VALUES;")
    for _ in range(2):
        database.upgrade()
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT share FROM procrastinate_more").scalars().all() == ["5 %"]


def test_an_older_procrastinate_than_the_queue_s_is_refused(release):
    steps, database = release
    max(steps.glob("*.sql")).unlink()
    with pytest.raises(Misconfigured, match=r"newer Procrastinate.*pip install --upgrade procrastinate"):
        database.upgrade()
