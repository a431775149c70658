"""The store carries a series from arrival to delivery and refuses every stale claim."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Finding, Grade, ModelRef, SeriesKind, SeriesResult, Severity
from dicom_qa_node.domain.series import AssociationEnd, AssociationStart, SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.retention_candidates import Retention
from dicom_qa_node.quality_log.entries import LogFilter, QualityLog
from tests.fake_clock import PassingTime

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
SERIES = SeriesHeader("1.2.3", "1.2", "CT", frame_of_reference_uid="1.9", patient_name="Doe^Jane", station_name="CT7")


@pytest.fixture
def database(any_database):
    return any_database


@pytest.fixture
def clock(database) -> PassingTime:
    return PassingTime(T0, database)


def instance(number: int, series: SeriesHeader = SERIES, **changes: object) -> StoredInstance:
    values = {
        "sop_instance_uid": f"{series.series_instance_uid}.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "path": f"images/{series.series_instance_uid}/{number}.dcm",
        "sha256": "0" * 64,
        "size_bytes": 10,
        "received_at": T0,
        "calling_ae": "SCANNER",
        "association_id": "a1",
        "series": series,
        "instance_number": number,
    }
    return StoredInstance(**(values | changes))  # type: ignore[arg-type]


def result(score: float = 3.0) -> SeriesResult:
    model = ModelRef("m", "1", "f" * 64)
    interval = (score - 0.5, min(4.0, score + 0.5))
    return SeriesResult("1.2.3", "CT", SeriesKind.CT, score, interval, Grade.DIAGNOSTIC, (), (), (), model, 2)


def report(version: int = 1, predecessor: str | None = None) -> ReportRef:
    return ReportRef(f"2.25.{version}", "1.2.840", "2.25.9", "1.2.3", version, f"r/{version}", T0, predecessor)


def completed(database: Database) -> Registry:
    registry = Registry(database)
    registry.record([instance(1), instance(2)])
    (progress,) = registry.receiving()
    assert registry.complete(progress, reason="count", at=T0)
    return registry


def test_series_goes_the_whole_way(database, clock):
    registry = completed(database)
    jobs = Jobs(database, clock=clock)
    clock.advance(3600)
    job = jobs.claim("w1")
    assert job is not None
    assert jobs.claim("w2") is None
    assert jobs.finish(job, result())
    outbox = Outbox(database, clock=clock)
    (item,) = outbox.unreported()
    assert item.predecessor is None
    assert item.facts == SERIES
    assert outbox.add_report(report(), ["pacs", "folder"])
    assert not outbox.unreported()
    first = outbox.claim(["pacs"])
    assert first is not None
    assert first.report == report()
    assert outbox.claim(["pacs"]) is None
    assert outbox.delivered(first, "0x0000")
    assert registry.series("1.2.3").state is SeriesState.REPORTED
    second = outbox.claim(["folder"])
    assert outbox.delivered(second, "written")
    assert registry.series("1.2.3").state is SeriesState.DELIVERED
    (entry,) = QualityLog(database).entries(LogFilter(scanner="CT7", grade=Grade.DIAGNOSTIC))
    assert entry.result == result()
    assert entry.deliveries == (
        ("pacs", DeliveryState.DELIVERED, "0x0000"),
        ("folder", DeliveryState.DELIVERED, "written"),
    )
    words = [event["new_state"] for event in registry.history("1.2.3")]
    assert words == ["COMPLETE", "SCORING", "SCORED", "REPORTED", "DELIVERED"]


def test_recording_twice_changes_nothing(database):
    registry = Registry(database)
    batch = [AssociationStart("a1", "SCANNER", "127.0.0.1", "r1", T0), instance(1, expected=2), instance(2, expected=2)]
    registry.record(batch)
    registry.record(batch)
    (progress,) = registry.receiving()
    assert (progress.received, progress.expected, progress.open_associations) == (2, 2, 1)
    registry.record([AssociationEnd("a1", T0)])
    (progress,) = registry.receiving()
    assert progress.open_associations == 0
    assert registry.known_paths(["images/1.2.3/1.dcm", "other"]) == {"images/1.2.3/1.dcm"}


def test_counts_of_several_acquisitions_add_up(database):
    registry = Registry(database)
    registry.record([instance(1, expected=5, expected_group="1"), instance(2, expected=7, expected_group="2")])
    assert registry.receiving()[0].expected == 12


def test_completion_is_refused_when_an_image_came_meanwhile(database):
    registry = Registry(database)
    registry.record([instance(1)])
    (progress,) = registry.receiving()
    registry.record([instance(2)])
    assert not registry.complete(progress, reason="quiet")
    assert registry.series("1.2.3").state is SeriesState.RECEIVING


def test_late_image_during_scoring_voids_the_claim(database, clock):
    registry = completed(database)
    jobs = Jobs(database, clock=clock)
    clock.advance(3600)
    job = jobs.claim("w1")
    registry.record([instance(3)])
    row = registry.series("1.2.3")
    assert (row.state, row.version) == (SeriesState.RECEIVING, 2)
    assert not jobs.heartbeat(job)
    assert not jobs.finish(job, result())
    assert QualityLog(database).count() == 0


def test_late_image_after_delivery_makes_a_version_with_predecessor(database, clock):
    registry = completed(database)
    jobs, outbox = Jobs(database, clock=clock), Outbox(database, clock=clock)
    clock.advance(3600)
    jobs.finish(jobs.claim("w"), result())
    outbox.add_report(report(), [])
    registry.record([instance(3)])
    (progress,) = registry.receiving()
    assert registry.complete(progress, reason="quiet", at=clock.now)
    jobs.finish(jobs.claim("w"), result(2.0))
    (item,) = outbox.unreported()
    assert item.version == 2
    assert item.predecessor.sop_instance_uid == "2.25.1"


def test_conflicting_bytes_are_kept_but_not_counted(database):
    registry = Registry(database)
    registry.record([instance(1), instance(1, path="conflicts/x", sha256="1" * 64, conflict=True)])
    row = registry.series("1.2.3")
    assert (row.received, row.conflicts) == (1, 1)
    assert [item.conflict for item in registry.instances("1.2.3")] == [False, True]


def test_silent_worker_loses_its_job_and_poison_is_parked(database, clock):
    registry = completed(database)
    jobs = Jobs(database, lease_s=10, max_attempts=2, clock=clock)
    clock.advance(3600)
    first = jobs.claim("w1")
    clock.advance(11)
    second = jobs.claim("w2")
    assert second.attempt == 2
    assert not jobs.finish(first, result())
    clock.advance(11)
    assert jobs.claim("w3") is None
    row = registry.series("1.2.3")
    assert row.state is SeriesState.PARKED
    assert "died 2 times" in row.parked_reason
    assert registry.release("1.2.3", actor="admin", at=clock.now)
    assert jobs.claim("w4").attempt == 1


def test_failed_job_waits_and_permanent_failure_parks(database, clock):
    registry = completed(database)
    jobs = Jobs(database, clock=clock)
    clock.advance(3600)
    assert jobs.fail(jobs.claim("w"), "out of memory", permanent=False)
    assert jobs.claim("w") is None
    clock.advance(7)
    assert jobs.fail(jobs.claim("w"), "no pixel data", permanent=True)
    assert registry.series("1.2.3").parked_reason == "no pixel data"


def test_released_job_does_not_count_as_a_try(database, clock):
    completed(database)
    jobs = Jobs(database, max_attempts=1, clock=clock)
    clock.advance(3600)
    for _ in range(3):
        job = jobs.claim("w")
        assert job.attempt == 1
        assert jobs.release(job)


def test_refused_delivery_parks_the_series_until_retried(database, clock):
    registry = completed(database)
    jobs, outbox = Jobs(database, clock=clock), Outbox(database, clock=clock)
    clock.advance(3600)
    jobs.finish(jobs.claim("w"), result())
    outbox.add_report(report(), ["pacs"])
    assert outbox.retry_later(outbox.claim(["pacs"]), "connection refused", 30)
    assert outbox.claim(["pacs"]) is None
    clock.advance(31)
    delivery = outbox.claim(["pacs"])
    assert delivery.attempt == 2
    assert outbox.park(delivery, "0x0122 SOP class not supported")
    assert registry.series("1.2.3").state is SeriesState.PARKED
    assert outbox.retry([delivery.delivery_id], actor="admin")
    assert registry.series("1.2.3").state is SeriesState.REPORTED
    assert outbox.delivered(outbox.claim(["pacs"]), "0x0000")
    assert not outbox.delivered(delivery, "stale")


def test_backup_is_a_complete_copy(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    completed(database)
    database.backup(tmp_path / "copy.db")
    copy = Database(f"sqlite:///{tmp_path}/copy.db")
    assert Registry(copy).series("1.2.3").received == 2
    for opened in (copy, database):
        opened.close()


CT_OF_PET = SeriesHeader("1.2.5", "1.2", "CT", frame_of_reference_uid="1.9")
PET = SeriesHeader("1.2.4", "1.2", "PT", frame_of_reference_uid="1.9")


def score_everything(registry: Registry, jobs: Jobs, clock: PassingTime) -> list[tuple[str, int, str | None]]:
    for progress in registry.receiving():
        assert registry.complete(progress, reason="count", at=clock.now)
    done = []
    while job := jobs.claim("w"):
        verdict = replace(result(), series_instance_uid=job.series_instance_uid)
        assert jobs.finish(job, verdict)
        done.append((job.series_instance_uid, job.version, job.pair_series_uid))
    return done


def test_pet_that_went_alone_is_scored_again_with_its_late_ct(database, clock):
    registry, jobs = Registry(database), Jobs(database, clock=clock)
    registry.record([instance(1, PET)])
    assert score_everything(registry, jobs, clock) == [("1.2.4", 1, None)]
    registry.record([instance(1, CT_OF_PET)])
    assert sorted(score_everything(registry, jobs, clock)) == [("1.2.4", 2, "1.2.5"), ("1.2.5", 1, None)]
    assert score_everything(registry, jobs, clock) == []


@pytest.mark.parametrize(("finding", "again"), [("petct_partial_overlap", True), ("misregistered", False)])
def test_pet_whose_ct_covers_it_in_part_is_scored_again_with_a_later_one(database, clock, finding, again):
    registry, jobs = Registry(database), Jobs(database, clock=clock)
    registry.record([instance(1, CT_OF_PET)])
    score_everything(registry, jobs, clock)
    registry.record([instance(1, PET)])
    for progress in registry.receiving():
        assert registry.complete(progress, reason="all", pair_series_uid="1.2.5", at=clock.now)
    job = jobs.claim("w")
    said = (Finding(finding, Severity.WARNING, "A sentence."),)
    verdict = replace(result(), series_instance_uid="1.2.4", pair_series_uid="1.2.5", findings=said)
    assert jobs.finish(job, verdict)
    registry.record([instance(1, replace(CT_OF_PET, series_instance_uid="1.2.6"))])
    assert registry.ct_candidates("1.2.4") == ("1.2.5",)
    done = score_everything(registry, jobs, clock)
    assert (("1.2.4", 2) in {item[:2] for item in done}) is again
    assert sorted(registry.ct_candidates("1.2.4")) == ["1.2.5", "1.2.6"]


def test_the_ct_that_a_pet_was_fused_with_stands_in_its_row(database, clock):
    registry, jobs = Registry(database), Jobs(database, clock=clock)
    registry.record([instance(1, CT_OF_PET), instance(1, replace(CT_OF_PET, series_instance_uid="1.2.6"))])
    score_everything(registry, jobs, clock)
    registry.record([instance(1, PET)])
    for progress in registry.receiving():
        assert registry.complete(progress, reason="all", pair_series_uid="1.2.5", at=clock.now)
    job = jobs.claim("w")
    assert jobs.finish(job, replace(result(), series_instance_uid="1.2.4", pair_series_uid="1.2.6"))
    assert registry.series("1.2.4").pair_series_uid == "1.2.6"


def test_ct_of_another_frame_of_reference_leaves_the_pet_alone(database, clock):
    registry, jobs = Registry(database), Jobs(database, clock=clock)
    registry.record([instance(1, PET)])
    score_everything(registry, jobs, clock)
    registry.record([instance(1, replace(CT_OF_PET, frame_of_reference_uid="1.8"))])
    assert score_everything(registry, jobs, clock) == [("1.2.5", 1, None)]


def test_series_without_images_cannot_be_scored_again(database, clock):
    registry, jobs = Registry(database), Jobs(database, clock=clock)
    registry.record([instance(1)])
    score_everything(registry, jobs, clock)
    assert Retention(database).forget(["images/1.2.3/1.dcm"]) == 1
    with pytest.raises(Permanent, match="no longer in the spool"):
        registry.rescore("1.2.3", actor="admin")
    assert registry.series("1.2.3").state is SeriesState.SCORED
