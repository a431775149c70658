"""The backfill without a network: days, rate, what is skipped, failures, kills, pause, priority, delivery, pages."""

from __future__ import annotations

import datetime as dt
import json
import sys

import pytest
import sqlalchemy as sa
from pydicom import Dataset

from dicom_qa_node.cli.app import run as run_command
from dicom_qa_node.config import Backfill, Config
from dicom_qa_node.config.backfill import source_named, source_names
from dicom_qa_node.config.scoring import LEVELS, priority_name
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver import retrieve_scu
from dicom_qa_node.deliver.backfill_worker import BackfillWorker
from dicom_qa_node.deliver.retrieve_scu import MoveFailed
from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.backfill import BackfillRequest, EntryState, FoundSeries, RunState
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.results import ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.backfill_runs import MOST_ATTEMPTS, BackfillRuns
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from tests.fake_clock import PassingTime
from tests.web_site import logged_in, open_site

DAY = dt.date(2026, 1, 1)


class Killed(BaseException):
    """The process is gone: nothing catches it."""


class Archive:
    """An archive of two series a day that sends them into the registry, and may refuse or be killed."""

    def __init__(self, database: Database, clock, per_day: int = 2) -> None:
        self.database, self.clock, self.per_day = database, clock, per_day
        self.days: list[dt.date] = []
        self.sent: list[str] = []
        self.fails: dict[str, list[BaseException]] = {}
        self.search_fails: list[BaseException] = []

    def series_of_day(self, day, modalities, scanner=""):
        if self.search_fails:
            raise self.search_fails.pop(0)
        self.days.append(day)
        return [
            FoundSeries(f"1.{day:%Y%m%d}.{number}", f"2.{day:%Y%m%d}", "CT", day, 2) for number in range(self.per_day)
        ]

    def move(self, entry, progress=lambda: None):
        failures = self.fails.get(entry.series_instance_uid, [])
        if failures:
            failure = failures.pop(0)
            if isinstance(failure, Killed):
                self._arrive(entry, 1)
            raise failure
        self._arrive(entry, entry.images)
        self.sent.append(entry.series_instance_uid)
        progress()

    def _arrive(self, entry, images: int) -> None:
        facts = SeriesHeader(entry.series_instance_uid, entry.study_instance_uid, "CT", station_name="CT7")
        Registry(self.database).record(
            [
                StoredInstance(
                    f"{entry.series_instance_uid}.{number}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1",
                    f"{entry.series_instance_uid}/{number}", "0" * 64, 10, self.clock(), "PACS", "a", facts,
                )
                for number in range(images)
            ]
        )  # fmt: skip

    def abort(self):
        pass


@pytest.fixture
def clock(any_database):
    return PassingTime(utc_now(), any_database)


@pytest.fixture
def runs(any_database, clock):
    return BackfillRuns(any_database, clock)


def request(days: int = 3, **more) -> BackfillRequest:
    values = {"source": "pacs", "modalities": ("CT", "PT"), "rate_per_hour": 60.0} | more
    return BackfillRequest(first_day=DAY, last_day=DAY + dt.timedelta(days=days - 1), **values)


def worker(runs, clock, archive, tmp_path, holder: str = "deliver@here", local=None, **settings) -> BackfillWorker:
    config = Config.model_validate({"spool_dir": tmp_path, "backfill": settings, "spool": {"min_free_mb": 0}})
    time = (lambda: dt.datetime(2026, 1, 1, 12, 0)) if local is None else local  # noqa: DTZ001
    return BackfillWorker(config, runs, holder, clock, lambda _run: archive, time)


def score_all(database: Database) -> None:
    registry, jobs = Registry(database), Jobs(database)
    for progress in registry.receiving():
        registry.complete(progress, reason="all")
    while job := jobs.claim("w"):
        uid = job.series_instance_uid
        done = SeriesResult(uid, "CT", SeriesKind.CT, 3.0, None, None, (), (), (), ModelRef("m", "1", "f"), 2)
        assert jobs.finish(job, done)


def drive(
    made: BackfillWorker,
    runs,
    clock,
    database,
    *,
    steps: int = 200,
    least_s: float = 20.0,
    until=lambda run: run.state is RunState.DONE,
):
    """Step with time passing as the worker asks, scoring at once what arrives."""
    for _ in range(steps):
        wait_s = made.step()
        score_all(database)
        (latest,) = runs.runs(1)
        if until(latest):
            return latest
        clock.advance(max(wait_s, least_s))
    raise AssertionError(f"not reached in {steps} steps: {runs.runs(1)}")


def test_every_series_of_every_day_is_brought_in_once(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock)
    runs.start(request(days=5), by="kim")
    done = drive(worker(runs, clock, archive, tmp_path), runs, clock, any_database)
    assert archive.days == [DAY + dt.timedelta(days=number) for number in range(5)]
    assert len(archive.sent) == len(set(archive.sent)) == 10
    assert (done.found, done.moved, done.scored, done.skipped, done.failed) == (10, 10, 10, 0, 0)
    assert (done.waiting, done.unscored, done.searched, done.words) == (0, 0, True, "")


def test_the_rate_is_kept(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock, per_day=10)
    runs.start(request(days=1, rate_per_hour=12), by="kim")
    begun = clock()
    drive(worker(runs, clock, archive, tmp_path), runs, clock, any_database, steps=400, least_s=0.01)
    assert dt.timedelta(minutes=45) <= clock() - begun <= dt.timedelta(minutes=52)


def test_what_the_node_has_is_skipped(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock)
    archive._arrive(type("E", (), {"series_instance_uid": "1.20260101.0", "study_instance_uid": "2"})(), 2)
    runs.start(request(days=1), by="kim")
    done = drive(worker(runs, clock, archive, tmp_path), runs, clock, any_database)
    assert archive.sent == ["1.20260101.1"]
    (skipped,) = runs.entries(done.run_id, EntryState.SKIPPED)
    assert (done.skipped, done.scored, skipped.words) == (1, 1, "the node has it")


def test_a_series_that_its_scanner_sends_meanwhile_stays_a_live_one(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock)
    number = runs.start(request(days=1), by="kim")
    made = worker(runs, clock, archive, tmp_path)
    made.step()
    assert runs.run(number).found == 2
    archive._arrive(type("E", (), {"series_instance_uid": "1.20260101.0", "study_instance_uid": "2"})(), 2)
    score_all(any_database)
    drive(made, runs, clock, any_database)
    registry = Registry(any_database)
    assert registry.series("1.20260101.0").priority == 0
    assert registry.not_delivered("1.20260101.0") == ""


def test_two_runs_do_not_bring_in_the_same_series(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock)
    first, second = runs.start(request(days=2), by="kim"), runs.start(request(days=2), by="kim")
    made = worker(runs, clock, archive, tmp_path)
    made.step()
    made.step()
    other = BackfillWorker(made._config, runs, "deliver@there", clock, lambda _run: archive)
    other.step()
    other.step()
    assert runs.run(second).skipped == 4
    assert runs.entries(second, EntryState.SKIPPED)[0].words == f"backfill {first} brings it in"
    drive(made, runs, clock, any_database, until=lambda _run: runs.run(first).state is RunState.DONE)
    assert len(archive.sent) == 4


@pytest.mark.parametrize("at", ["search", "move", "after"])
def test_kill_9_forgets_nothing_and_repeats_only_what_was_cut(any_database, runs, clock, tmp_path, at, monkeypatch):
    archive = Archive(any_database, clock)
    if at == "search":
        archive.search_fails = [Killed()]
    elif at == "move":
        archive.fails["1.20260101.1"] = [Killed()]
    else:
        # All images are here, and the process ends before it has noted so.
        before, cut = BackfillRuns.moved, []

        def moved(self, run, entry, *, wait_s):
            if not cut:
                cut.append(entry.series_instance_uid)
                raise Killed
            before(self, run, entry, wait_s=wait_s)

        monkeypatch.setattr(BackfillRuns, "moved", moved)
    runs.start(request(days=3), by="kim")
    first = worker(runs, clock, archive, tmp_path)
    with pytest.raises(Killed):
        drive(first, runs, clock, any_database)
    done = drive(worker(runs, clock, archive, tmp_path), runs, clock, any_database)
    assert sorted(archive.sent) == sorted(set(archive.sent))
    assert len(archive.sent) == 6
    assert (done.found, done.scored, done.failed) == (6, 6, 0)
    with any_database.read() as connection:
        received = connection.execute(sa.select(t.series.c.received)).scalars()
        assert set(received) == {2}


def test_another_host_takes_over_when_the_first_is_silent(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock)
    runs.start(request(days=1), by="kim")
    worker(runs, clock, archive, tmp_path).step()
    other = worker(runs, clock, archive, tmp_path, holder="deliver@there")
    other.step()
    assert archive.sent == []
    clock.advance(3600)
    done = drive(other, runs, clock, any_database)
    assert (len(archive.sent), done.scored) == (2, 2)


def test_a_series_that_cannot_be_sent_fails_after_its_attempts_and_holds_nothing_up(
    any_database, runs, clock, tmp_path
):
    archive = Archive(any_database, clock)
    archive.fails["1.20260101.0"] = [MoveFailed("0xC000 answer to C-MOVE: broken") for _ in range(MOST_ATTEMPTS)]
    runs.start(request(days=2), by="kim")
    done = drive(worker(runs, clock, archive, tmp_path), runs, clock, any_database)
    (failed,) = runs.entries(done.run_id, EntryState.FAILED)
    assert (done.failed, done.scored, failed.attempts) == (1, 3, MOST_ATTEMPTS)
    assert failed.words == "0xC000 answer to C-MOVE: broken"
    assert archive.sent[0] == "1.20260101.1"


@pytest.mark.parametrize("failure", [Deferred("no connection"), Refused("the archive does not know DICOMQA")])
def test_an_archive_that_is_away_holds_the_run_up_and_fails_no_series(any_database, runs, clock, tmp_path, failure):
    archive = Archive(any_database, clock)
    archive.search_fails = [failure] * 2
    archive.fails["1.20260101.0"] = [failure] * 4
    number = runs.start(request(days=1), by="kim")
    made = worker(runs, clock, archive, tmp_path)
    held = drive(made, runs, clock, any_database, until=lambda run: bool(run.words))
    assert held.words == f"pacs: {failure}"
    done = drive(made, runs, clock, any_database, least_s=300)
    assert (done.run_id, done.failed, done.scored) == (number, 0, 2)


def test_what_was_sent_but_never_arrives_fails_with_words(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock)
    archive._arrive = lambda *_: None
    runs.start(request(days=1), by="kim")
    done = drive(worker(runs, clock, archive, tmp_path), runs, clock, any_database, least_s=300)
    assert (done.failed, done.moved) == (2, 0)
    assert "nothing has arrived here" in runs.entries(done.run_id, EntryState.FAILED)[0].words


def test_a_parked_series_counts_as_failed_with_its_reason(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock, per_day=1)
    number = runs.start(request(days=1), by="kim")
    made = worker(runs, clock, archive, tmp_path)
    made.step()
    made.step()
    Registry(any_database).park("1.20260101.0", "one slice only", actor="t")
    made.step()
    run, (failed,) = runs.run(number), runs.entries(number, EntryState.FAILED)
    assert (run.failed, run.moved, failed.words) == (1, 0, "one slice only")


def test_pause_resume_and_stop(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock)
    number = runs.start(request(days=3), by="kim")
    made = worker(runs, clock, archive, tmp_path)
    drive(made, runs, clock, any_database, until=lambda run: run.moved == 2)
    assert runs.pause(number)
    assert not runs.pause(number)
    for _ in range(10):
        made.step()
        clock.advance(600)
    assert runs.run(number).moved == 2
    assert runs.resume(number)
    drive(made, runs, clock, any_database, until=lambda run: run.moved == 4)
    assert runs.stop(number)
    made.step()
    assert len(archive.sent) == 4
    assert runs.resume(number)
    assert drive(made, runs, clock, any_database).scored == 6
    assert not runs.stop(number)


def test_it_waits_while_too_many_wait_for_a_score_and_outside_its_hours(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock, per_day=5)
    number = runs.start(request(days=1), by="kim")
    made = worker(runs, clock, archive, tmp_path, most_waiting=2)
    for _ in range(40):
        made.step()
        clock.advance(60)
    assert len(archive.sent) == 2
    assert runs.run(number).words == "2 series that arrived wait for their score"
    score_all(any_database)
    night = worker(
        runs, clock, archive, tmp_path, local=lambda: dt.datetime(2026, 1, 1, 12, 0),  # noqa: DTZ001
        active_from="20:00", active_until="06:00",
    )  # fmt: skip
    for _ in range(5):
        night.step()
        clock.advance(60)
    assert len(archive.sent) == 2
    assert runs.run(number).words == "retrieves from 20:00 to 06:00"


def test_it_is_scored_behind_every_live_series(any_database, runs, clock, tmp_path):
    archive = Archive(any_database, clock, per_day=1)
    runs.start(request(days=1), by="kim")
    made = worker(runs, clock, archive, tmp_path)
    made.step()
    made.step()
    live = SeriesHeader("9.9", "9", "CT")
    registry = Registry(any_database, priority_of=lambda *_: LEVELS["low"])
    registry.record([StoredInstance("9.9.1", "1", "1", "9/1", "0" * 64, 1, clock(), "CT7", "b", live)])
    for progress in registry.receiving():
        registry.complete(progress, reason="all")
    assert registry.series("1.20260101.0").priority == min(LEVELS.values())
    assert priority_name(registry.series("1.20260101.0").priority) == "backfill"
    jobs = Jobs(any_database)
    assert [jobs.claim("w").series_instance_uid for _ in range(2)] == ["9.9", "1.20260101.0"]


@pytest.mark.parametrize("deliver", [True, False])
def test_nothing_is_delivered_unless_wished(any_database, runs, clock, tmp_path, deliver):
    archive = Archive(any_database, clock, per_day=1)
    runs.start(request(days=1, deliver=deliver), by="kim")
    drive(worker(runs, clock, archive, tmp_path), runs, clock, any_database)
    reason = Registry(any_database).not_delivered("1.20260101.0")
    assert reason == ("" if deliver else "brought in by a backfill that delivers nothing")


def answers(monkeypatch, found: list[dict[str, object]]) -> None:
    def find(_assoc, level, _most, **keys):
        for values in found:
            answer = Dataset()
            for name, value in values.items():
                setattr(answer, name, value)
            yield answer

    monkeypatch.setattr(retrieve_scu, "_find", find)


def test_ct_comes_before_pet_and_other_scanners_are_named(monkeypatch):
    rows = [
        {"SeriesInstanceUID": "1.1", "Modality": "PT", "StationName": "pet1", "NumberOfSeriesRelatedInstances": 80},
        {"SeriesInstanceUID": "1.2", "Modality": "CT", "StationName": "PET1 "},
        {"SeriesInstanceUID": "1.3", "Modality": "CT", "StationName": "CT9", "NumberOfSeriesRelatedInstances": "x"},
        {"SeriesInstanceUID": "1.4", "Modality": "CT"},
        {"SeriesInstanceUID": "1.5", "Modality": "SR"},
        {"Modality": "CT"},
    ]
    rows[2].pop("NumberOfSeriesRelatedInstances")
    answers(monkeypatch, rows)
    found = retrieve_scu._series_of(None, "1", DAY, ("CT", "PT"), "PET1")
    assert [(item.series_instance_uid, item.images, item.skip) for item in found] == [
        ("1.2", None, ""), ("1.3", None, "of CT9"), ("1.4", None, "the archive does not name the station"),
        ("1.1", 80, ""),
    ]  # fmt: skip
    assert [item.skip for item in retrieve_scu._series_of(None, "1", DAY, ("CT",), "")] == ["", "", ""]


def response(status: int | None, **counters: int) -> Dataset:
    last = Dataset()
    if status is not None:
        last.Status = status
    for name, value in counters.items():
        setattr(last, f"NumberOf{name}Suboperations", value)
    return last


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (response(0x0000, Completed=3), None),
        (response(0x0000), None),
        (response(0xB000, Completed=2, Failed=0, Warning=1), None),
        (response(0x0000, Completed=0), MoveFailed),
        (response(0xB000, Completed=2, Failed=1), MoveFailed),
        (response(0xA702, Completed=0, Failed=3), Deferred),
        (response(0xA702, Completed=1, Failed=2), MoveFailed),
        (response(0xA701), Deferred),
        (response(0xA801), Refused),
        (response(0xA900), MoveFailed),
        (response(0xC123), MoveFailed),
        (response(0xFE00, Completed=1), MoveFailed),
        (response(None), Deferred),
    ],
)
def test_what_the_end_of_a_c_move_means(last, error):
    if error is None:
        retrieve_scu._judge(last, "DICOMQA")
        return
    with pytest.raises(error):
        retrieve_scu._judge(last, "DICOMQA")


def test_sources_are_those_of_the_section_and_the_dicom_targets():
    config = Config.model_validate(
        {
            "backfill": {"sources": [{"name": "vna", "host": "h", "ae_title": "VNA", "port": 11112}]},
            "deliver": {
                "targets": [
                    {"kind": "dicom", "name": "pacs", "host": "p", "ae_title": "PACS", "port": 104},
                    {"kind": "folder", "name": "out", "path": "out"},
                ]
            },
        }
    )
    assert source_names(config.backfill, config.deliver) == ["vna", "pacs"]
    assert source_named(config.backfill, config.deliver, "pacs").ae_title == "PACS"
    assert source_named(config.backfill, config.deliver, "out") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"sources": [{"name": "a", "host": "h", "ae_title": "A"}] * 2},
        {"active_from": "20:00"},
        {"rate_per_hour": 0},
    ],
)
def test_a_wrong_section_is_refused(wrong):
    with pytest.raises(ValueError):
        Config.model_validate({"backfill": wrong})


@pytest.fixture
def qa(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_QA_NODE_CONFIG", raising=False)
    (tmp_path / "config.yaml").write_text(
        "database_url: sqlite:///node.db\nspool_dir: spool\n"
        "backfill: {sources: [{name: vna, host: 127.0.0.1, ae_title: VNA}]}\n"
    )
    database = Database(f"sqlite:///{tmp_path}/node.db")
    database.upgrade()
    database.close()

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", *arguments])
        code = run_command()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_command_starts_lists_pauses_and_stops(qa):
    code, out, _ = qa("backfill", "--from", "vna", "--since", "2026-01-01", "--until", "2026-01-31", "--scanner", "CT7")
    assert (code, "backfill 1: vna" in out) == (0, True)
    (row,) = json.loads(qa("backfill", "--json")[1])
    assert (row["state"], row["days"], row["scanner"], row["an_hour"]) == (
        "RUNNING", "2026-01-01 to 2026-01-31", "CT7", 60.0,
    )  # fmt: skip
    assert qa("backfill", "pause", "1")[0] == 0
    assert qa("backfill", "pause", "1")[0] == 5
    assert qa("backfill", "resume", "1")[0] == 0
    assert qa("backfill", "stop", "1")[0] == 0
    assert json.loads(qa("backfill", "list", "--json")[1])[0]["state"] == "STOPPED"
    assert qa("backfill", "show", "1")[0] == 0
    assert qa("backfill", "show", "7")[0] == 4


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--from", "nobody", "--since", "2026-01-01"), 4),
        (("--from", "vna"), 2),
        (("--from", "vna", "--since", "soon"), 2),
        (("--from", "vna", "--since", "2026-02-01", "--until", "2026-01-01"), 2),
        (("--from", "vna", "--since", "2026-01-01", "--modality", "MR"), 2),
        (("--from", "vna", "--since", "2026-01-01", "--rate", "0"), 2),
    ],
)
def test_a_wrong_command_line_starts_nothing(qa, words, code):
    assert qa("backfill", *words)[0] == code
    assert json.loads(qa("backfill", "--json")[1]) == []


@pytest.fixture
def site(tmp_path):
    made = open_site(tmp_path)
    backfill = Backfill.model_validate({"sources": [{"name": "vna", "host": "127.0.0.1", "ae_title": "VNA"}]})
    made.__dict__["config"] = made.config.model_copy(update={"backfill": backfill})
    yield made
    made.database.close()


def test_administrators_start_and_stop_on_the_page(site):
    client = logged_in(site, Role.ADMIN)
    form = {"csrf": client.csrf, "source": "vna", "since": "2026-01-01", "until": "2026-02-01", "modality_CT": "1"}
    assert "No backfill was started yet" in client.get("/backfill").text
    assert client.post("/backfill", data=form | {"scanner": "<b>CT7"}).status_code == 303
    text = client.get("/backfill").text
    assert "1: vna, 2026-01-01 to 2026-02-01" in text
    assert "&lt;b&gt;CT7" in text
    assert client.post("/backfill/1/pause", data={"csrf": client.csrf}).status_code == 303
    assert client.post("/backfill/1/pause", data={"csrf": client.csrf}).status_code == 409
    assert "PAUSED" in client.get("/backfill/now").text
    (run,) = BackfillRuns(site.database).runs()
    assert (run.request.modalities, run.request.deliver, run.created_by) == (("CT",), False, "ada")
    assert {"backfill.start", "backfill.pause"} <= {row.event for row in site.audit.entries(limit=20)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "nobody"}, {"since": ""}, {"since": "2026-03-01"}, {"rate": "-1"}, {"rate": "nan"},
        {"modality_CT": ""},
    ],
)  # fmt: skip
def test_a_wrong_form_starts_nothing(site, wrong):
    client = logged_in(site, Role.ADMIN)
    form = {"csrf": client.csrf, "source": "vna", "since": "2026-01-01", "until": "2026-02-01", "modality_CT": "1"}
    answer = client.post("/backfill", data=form | wrong)
    assert (answer.status_code, 'role="alert"' in answer.text) == (422, True)
    assert BackfillRuns(site.database).runs() == []


def test_others_do_not_see_the_page(site):
    assert logged_in(site, Role.REVIEWER).get("/backfill").status_code == 403
