"""The worker scores what it claims, gives back what it cannot finish, parks what cannot be scored, awaits a model."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from pathlib import Path

import pytest

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured, Transient
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.heat_map_requests import HeatRequests
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.score import heat_maps
from dicom_qa_node.score import worker as worker_module
from dicom_qa_node.score.worker import run_worker
from dicom_qa_node.spool.layout import SpoolLayout
from tests.stub_model import TinyScorer

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("dicom_qa_node.score.pipeline.measure", lambda *_: ())
    monkeypatch.setattr(worker_module, "_IDLE_S", 0.01)
    monkeypatch.setattr(worker_module, "_MODEL_RECHECK_S", 0.05)
    monkeypatch.setattr(worker_module, "_DATABASE_PAUSE_S", 0.02)
    monkeypatch.setattr(worker_module._Worker, "_too_large", lambda worker: False)  # the tests before may have grown it


class Node:
    """A spool and a database with completed series in them, and a worker in a thread."""

    def __init__(self, config: Config, database: Database) -> None:
        self.config, self.database = config, database
        self.registry, self.stop, self.said = Registry(database), threading.Event(), []
        self.layout = SpoolLayout(config.spool_dir)
        self.layout.create()
        self.recycled: bool | None = None
        self.thread: threading.Thread | None = None

    def add(self, uid: str, files: list[Path], conflict: Path | None = None) -> None:
        facts = SeriesHeader(uid, "1.2", "CT", frame_of_reference_uid="1.9", patient_name="Doe^Jane")
        items = [(path, False) for path in files] + ([(conflict, True)] if conflict else [])
        self.registry.record(
            [
                StoredInstance(
                    sop_instance_uid=f"{uid}.{number}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                    transfer_syntax_uid="1.2.840.10008.1.2.1", path=self.layout.relative(path), sha256=str(number),
                    size_bytes=1, received_at=T0, calling_ae="A", association_id="a", series=facts, conflict=other,
                )
                for number, (path, other) in enumerate(items)
            ]
        )  # fmt: skip
        (progress,) = (item for item in self.registry.receiving() if item.series_instance_uid == uid)
        assert self.registry.complete(progress, reason="test")

    def start(self, scorer=None, open_scorer=None) -> None:
        def run() -> None:
            self.recycled = run_worker(
                self.config, self.database, self.stop, "score-1@here", say=self.said.append,
                open_scorer=open_scorer or (lambda config, name: scorer or TinyScorer()),
            )  # fmt: skip

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        if self.thread:
            self.thread.join(20)
            assert not self.thread.is_alive()

    def state(self, uid: str) -> SeriesState:
        return self.registry.series(uid).state

    def reached(self, uid: str, state: SeriesState):
        return lambda: self.state(uid) is state


@pytest.fixture
def node(node_config, request):
    database = Database(node_config.database_url)
    database.upgrade()
    changes = getattr(request, "param", {})
    config = node_config.model_copy(update={"score": node_config.score.model_copy(update=changes)})
    made = Node(config, database)
    yield made
    made.end()
    database.close()


@pytest.fixture
def images(node):
    """Write one generated CT series to the spool; returns its UID and files."""
    series = ct_series(3, 8, 64, spacing_mm=12.0)
    return series[0].SeriesInstanceUID, write_phantom(series, node.layout.instances / "x")


def test_a_completed_series_is_scored_with_its_pictures(node, images, poll, caplog):
    caplog.set_level(logging.INFO)
    uid, files = images
    node.add(uid, files)
    node.start()
    poll(node.reached(uid, SeriesState.SCORED))
    entry = QualityLog(node.database).entry(uid)
    assert entry.result.score is not None
    assert len(entry.result.slices) == 7
    assert (node.layout.pictures(uid, 1) / "sheet.png").is_file()
    assert len(list(node.layout.pictures(uid, 1).glob("slice_*.png"))) == 7
    poll(lambda: node.said[-1] == "idle")
    assert node.said == ["idle", f"scoring {uid}", "idle"]
    assert any(record.getMessage() == "scored" for record in caplog.records)
    assert "Doe" not in caplog.text


@pytest.mark.parametrize("node", [{"heat_maps": "first"}, {"heat_maps": "idle"}, {"heat_maps": "off"}], indirect=True)
def test_heat_maps_are_made_before_the_result_or_after_it_or_never(node, images, poll):
    uid, files = images
    node.add(uid, files)
    node.start()
    poll(node.reached(uid, SeriesState.SCORED))
    folder, wanted = node.layout.pictures(uid, 1), node.config.score.heat_maps
    assert QualityLog(node.database).entry(uid).result.grade is not Grade.DIAGNOSTIC
    if wanted == "idle":
        poll(lambda: len(list(folder.glob("heat_*.png"))) == 7)
    else:
        assert len(list(folder.glob("heat_*.png"))) == (7 if wanted == "first" else 0)


@pytest.mark.parametrize("node", [{"heat_maps": "off"}], indirect=True)
def test_heat_maps_that_somebody_asks_for_are_made_while_no_series_waits(node, images, poll, monkeypatch):
    monkeypatch.setattr(heat_maps, "_LOOK_S", 0.01)
    uid, files = images
    node.add(uid, files)
    node.start()
    poll(node.reached(uid, SeriesState.SCORED))
    requests = HeatRequests(node.database)
    assert requests.ask(uid, 1, by="rudi")
    poll(lambda: requests.of(uid, 1).ended_at)
    assert requests.of(uid, 1).problem == ""
    assert len(list(node.layout.pictures(uid, 1).glob("heat_*.png"))) == 7


def test_the_result_belongs_to_the_series_of_the_registry(node, images, poll):
    """A damaged header may give another UID than the one that the receiver checked."""
    _, files = images
    node.add("1.2.3", files)
    node.start()
    poll(node.reached("1.2.3", SeriesState.SCORED))
    assert QualityLog(node.database).entry("1.2.3").result.series_instance_uid == "1.2.3"


def test_conflicting_bytes_are_never_scored(node, images, poll):
    uid, files = images
    node.add(uid, files[:6], conflict=files[6])
    node.start()
    poll(node.reached(uid, SeriesState.SCORED))
    assert QualityLog(node.database).entry(uid).result.instances_used == 6


def test_a_series_that_cannot_be_scored_is_parked_with_the_reason(node, poll):
    broken = node.layout.instances / "broken.dcm"
    broken.write_bytes(b"nothing")
    node.add("1.2.3", [broken])
    node.start()
    poll(node.reached("1.2.3", SeriesState.PARKED))
    assert "broken.dcm has a damaged beginning" in node.registry.series("1.2.3").parked_reason


@pytest.mark.parametrize("node", [{"max_attempts": 1}], indirect=True)
def test_an_unexpected_error_parks_after_the_last_try_and_replaces_the_process(node, images, poll):
    class Wrecked(TinyScorer):
        def score(self, images, kind):
            raise RuntimeError("Doe^Jane")

    uid, files = images
    node.add(uid, files)
    node.start(Wrecked())
    poll(node.reached(uid, SeriesState.PARKED))
    reason = node.registry.series(uid).parked_reason
    assert "RuntimeError" in reason
    assert "Doe" not in reason
    node.thread.join(10)
    assert node.recycled is True


def test_a_transient_error_leaves_the_series_to_be_tried_again(node, images, poll):
    class Busy(TinyScorer):
        def score(self, images, kind):
            raise Transient("the device is busy")

    uid, files = images
    node.add(uid, files)
    node.start(Busy())
    poll(lambda: "the device is busy" in str(node.registry.history(uid)))
    assert node.state(uid) is SeriesState.COMPLETE


class Slow(TinyScorer):
    """Blocks in the network until released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def score(self, images, kind):
        self.entered.set()
        assert self.release.wait(20)
        return super().score(images, kind)


def test_a_worker_that_is_told_to_stop_gives_its_series_back(node, images, poll):
    uid, files = images
    node.add(uid, files)
    scorer = Slow()
    node.start(scorer)
    assert scorer.entered.wait(20)
    node.stop.set()
    scorer.release.set()
    node.thread.join(20)
    assert node.recycled is False
    assert node.state(uid) is SeriesState.COMPLETE
    assert QualityLog(node.database).count() == 0
    assert node.registry.history(uid)[-1]["reason"] == "worker stopped"


@pytest.mark.parametrize("node", [{"lease_s": 5.0}], indirect=True)
def test_the_lease_is_renewed_while_scoring(node, images, poll, monkeypatch):
    beats = []
    heartbeat = worker_module.Jobs.heartbeat
    monkeypatch.setattr(worker_module.Jobs, "heartbeat", lambda jobs, job: beats.append(job) or heartbeat(jobs, job))
    uid, files = images
    node.add(uid, files)
    scorer = Slow()
    node.start(scorer)
    poll(lambda: len(beats) >= 2)
    scorer.release.set()
    poll(node.reached(uid, SeriesState.SCORED))


@pytest.mark.parametrize("node", [{"lease_s": 5.0}], indirect=True)
def test_a_late_image_takes_the_series_away(node, images, poll):
    uid, files = images
    node.add(uid, files[:7])
    scorer = Slow()
    node.start(scorer)
    assert scorer.entered.wait(20)
    facts = node.registry.series(uid).facts
    late = StoredInstance(
        sop_instance_uid=f"{uid}.99", sop_class_uid="1.2", transfer_syntax_uid="1.2", sha256="x", size_bytes=1,
        path=node.layout.relative(files[7]), received_at=T0, calling_ae="A", association_id="b", series=facts,
    )  # fmt: skip
    node.registry.record([late])
    scorer.release.set()
    poll(lambda: node.said and node.said[-1] == "idle" and len(node.said) == 3)
    assert node.state(uid) is SeriesState.RECEIVING
    assert QualityLog(node.database).count() == 0


@pytest.mark.parametrize("node", [{"recycle_after": 1}], indirect=True)
def test_the_process_is_replaced_after_its_series(node, images, poll):
    uid, files = images
    node.add(uid, files)
    node.start()
    poll(node.reached(uid, SeriesState.SCORED))
    node.thread.join(10)
    assert node.recycled is True


def test_too_much_memory_replaces_the_process(node, images, poll, monkeypatch):
    monkeypatch.setattr(worker_module._Worker, "_too_large", lambda worker: True)
    uid, files = images
    node.add(uid, files)
    node.start()
    poll(lambda: node.recycled is True)


def test_without_a_model_the_worker_waits_and_says_so(node, images, poll, caplog):
    uid, files = images
    node.add(uid, files)
    installed = threading.Event()

    def open_scorer(config, name):
        if not installed.is_set():
            raise Misconfigured("weights of ms_iqa_small are missing")
        return TinyScorer()

    node.start(open_scorer=open_scorer)
    poll(lambda: len(node.said) > 2)
    assert set(node.said) == {"no model: weights of ms_iqa_small are missing"}
    assert len([record for record in caplog.records if record.getMessage() == "no_model"]) == 1
    assert node.state(uid) is SeriesState.COMPLETE
    installed.set()
    poll(node.reached(uid, SeriesState.SCORED))


def test_a_database_out_of_reach_is_waited_for(node, images, poll, monkeypatch):
    uid, files = images
    node.add(uid, files)
    claim, failures = worker_module.Jobs.claim, iter([True, True])

    def flaky(jobs, owner):
        if next(failures, False):
            raise Transient("locked")
        return claim(jobs, owner)

    monkeypatch.setattr(worker_module.Jobs, "claim", flaky)
    node.start()
    poll(node.reached(uid, SeriesState.SCORED))


def test_a_full_disk_costs_the_pictures_only(node, images, poll, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker_module, "write_images", full)
    uid, files = images
    node.add(uid, files)
    node.start()
    poll(node.reached(uid, SeriesState.SCORED))
    assert any(record.getMessage() == "pictures_failed" for record in caplog.records)


@pytest.mark.parametrize(
    ("wanted", "name", "gpus", "device"),
    [
        ("auto", "score@h", 4, "auto"),
        ("auto", "score-1@h", 1, "auto"),
        ("auto", "score-1@h", 4, "cuda:0"),
        ("auto", "score-6@h", 4, "cuda:1"),
        ("cpu", "score-2@h", 4, "cpu"),
    ],
)
def test_workers_spread_over_the_gpus(wanted, name, gpus, device):
    assert worker_module._own_device(wanted, name, gpus) == device


@pytest.mark.parametrize("node", [{"workers": 3}], indirect=True)
@pytest.mark.parametrize(("name", "share"), [("score-1@here", 0), ("score-3@here", 2), ("score-4@here", 0), ("own", 0)])
def test_each_worker_of_a_host_reads_ahead_its_own_share(node, monkeypatch, name, share):
    made = []
    monkeypatch.setattr(worker_module, "ReadAhead", lambda *arguments: made.append(arguments[-2:]))
    node.stop.set()
    monkeypatch.setattr(worker_module._Worker, "wait_for_model", lambda *_: TinyScorer())
    run_worker(node.config, node.database, node.stop, name)
    assert made == [(share, 3)]
