"""Which images retention may delete: those of series with nothing left to do, and only after their time."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_qa_node.config import Complete, Config
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.dose_tables import dose_events
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.dose import StoredDoseReport
from dicom_qa_node.domain.results import Grade, ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.domain.series import Quarantined, SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.dose.report_reader import dose_report_of
from dicom_qa_node.flow.completion import sweep
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.retention_candidates import Retention
from dicom_qa_node.ops.retention import clear_dose_reports, clear_quarantine, clear_rendered_images, make_room, retain
from dicom_qa_node.phantom.dose_reports import MadeEvent, dose_report
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.quality_log.reviews import Reviews
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.disk_space import DiskUsage
from dicom_qa_node.spool.incoming import SpoolWriter, move_to_quarantine
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import INDEX, ImageManifest, RenderedSlice, StoredLayer, manifest_to_json

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
LATER = T0 + dt.timedelta(days=1)


@pytest.fixture
def database(any_database):
    return any_database


def report(database: Database, targets: list[str], grade: Grade | None = None) -> Outbox:
    registry = Registry(database)
    facts = SeriesHeader("1.2.3", "1.2", "CT")
    registry.record([StoredInstance("1.2.3.1", "1.2", "1.2", "a/1.dcm", "0" * 64, 9, T0, "SC", "a1", facts)])
    (progress,) = registry.receiving()
    registry.complete(progress, reason="quiet", at=T0)
    jobs, outbox = Jobs(database, clock=lambda: T0), Outbox(database, clock=lambda: T0)
    model = ModelRef("m", "1", "f" * 64)
    score, interval = (None, None) if grade is None else (1.0, (0.5, 1.5))
    result = SeriesResult("1.2.3", "CT", SeriesKind.CT, score, interval, grade, (), (), (), model, 1)
    assert jobs.finish(jobs.claim("w"), result)
    assert outbox.add_report(ReportRef("2.25.1", "1.2", "2.25.2", "1.2.3", 1, "r/1.dcm", T0), targets)
    return outbox


def test_delivered_images_stay_for_their_time(database):
    outbox = report(database, ["pacs"])
    retention = Retention(database)
    assert retention.expired(LATER, LATER) == []
    assert outbox.delivered(outbox.claim(["pacs"]), "0x0000")
    assert retention.expired(T0, LATER) == []
    assert retention.expired(LATER, T0) == ["a/1.dcm"]
    assert retention.forget(["a/1.dcm"]) == 1
    assert retention.expired(LATER, LATER) == []


def test_images_stay_while_a_delivery_is_parked(database):
    outbox = report(database, ["pacs"])
    assert outbox.park(outbox.claim(["pacs"]), "0x0122")
    retention = Retention(database)
    assert retention.expired(LATER, T0) == []
    assert retention.expired(T0, LATER) == ["a/1.dcm"]


def test_without_targets_a_reported_series_is_finished(database):
    report(database, [])
    assert Retention(database).expired(LATER, T0) == ["a/1.dcm"]


AWAITED = [Grade.NON_DIAGNOSTIC]


def test_images_stay_until_a_bad_series_was_reviewed(database):
    report(database, [], Grade.NON_DIAGNOSTIC)
    retention = Retention(database, AWAITED)
    assert retention.expired(LATER, LATER) == []
    assert retention.awaiting_review(LATER) == 1
    assert retention.awaiting_review(T0) == 0
    Reviews(database).add("1.2.3", 1, reviewer="kim", agrees=True)
    assert retention.awaiting_review(LATER) == 0
    assert retention.expired(LATER, LATER) == ["a/1.dcm"]


@pytest.mark.parametrize(("grade", "awaited"), [(Grade.LIMITED, AWAITED), (None, AWAITED), (Grade.NON_DIAGNOSTIC, [])])
def test_no_other_grade_waits_for_a_review(database, grade, awaited):
    report(database, [], grade)
    retention = Retention(database, awaited)
    assert retention.awaiting_review(LATER) == 0
    assert retention.expired(LATER, None) == ["a/1.dcm"]


@dataclass
class Disk:
    """The free space that images of 1 MiB each leave."""

    layout: SpoolLayout
    images: int
    free_when_full: int

    def __call__(self, folder: Path) -> DiskUsage:
        gone = self.images - sum(1 for _ in self.layout.instances.rglob("*.dcm"))
        return DiskUsage(100 << 20, (self.free_when_full + gone) << 20)


def delivered_series(database: Database, layout: SpoolLayout, count: int) -> list[Path]:
    """Lay down series of one image each, delivered one hour after the other."""
    registry, paths = Registry(database), []
    for number in range(count):
        at, uid = T0 + dt.timedelta(hours=number), f"1.2.3.{number}"
        path = layout.instance(f"{uid}.1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
        paths.append(path)
        facts = SeriesHeader(uid, uid, "CT")
        image = StoredInstance(f"{uid}.1", "1.2", "1.2", layout.relative(path), "0" * 64, 9, at, "SC", "a", facts)
        registry.record([image])
        (progress,) = registry.receiving()
        registry.complete(progress, reason="quiet", at=at)
        jobs = Jobs(database, clock=lambda at=at: at)
        model = ModelRef("m", "1", "f" * 64)
        result = SeriesResult(uid, "CT", SeriesKind.CT, None, None, None, (), (), (), model, 1)
        assert jobs.finish(jobs.claim("w"), result)
        outbox = Outbox(database, clock=lambda at=at: at)
        assert outbox.add_report(ReportRef(f"2.25.{number}", "1.2", "2.25.2", uid, 1, f"r/{number}.dcm", at), [])
    return paths


def short_of(layout: SpoolLayout, **changes: object) -> Config:
    spool = {"min_free_mb": 10, "resume_free_mb": 20} | changes
    return Config.model_validate({"spool_dir": layout.root, "spool": spool})


def test_a_short_disk_lets_the_oldest_delivered_images_leave_early(database, layout, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.ops.retention._BATCH", 2)
    paths = delivered_series(database, layout, 9)
    disk = Disk(layout, images=9, free_when_full=15)
    assert make_room(short_of(layout, leave_early=False), database, LATER, disk) == 0
    # Batches of two: the third brings more than the 20 MiB that are wanted.
    assert make_room(short_of(layout), database, LATER, disk) == 6
    assert [path.exists() for path in paths] == [False] * 6 + [True] * 3
    assert make_room(short_of(layout), database, LATER, disk) == 0
    assert [kept_of(database)[f"1.2.3.{number}"] for number in range(9)] == [0] * 6 + [1] * 3


def test_a_short_disk_takes_no_image_that_waits_for_delivery_or_review_or_is_parked(database, layout):
    delivered_series(database, layout, 1)
    report(database, ["pacs"])
    facts = SeriesHeader("1.2.9", "1.2", "CT")
    registry = Registry(database)
    registry.record([StoredInstance("1.2.9.1", "1.2", "1.2", "p/1.dcm", "0" * 64, 9, T0, "SC", "a1", facts)])
    assert registry.park("1.2.9", "no slices", actor="score", at=T0)
    full = Disk(layout, images=0, free_when_full=0)
    assert make_room(short_of(layout), database, LATER, full) == 1
    assert {uid: kept for uid, kept in kept_of(database).items() if kept} == {"1.2.3": 1, "1.2.9": 1}


def kept_of(database: Database) -> dict[str, int]:
    with database.read() as connection:
        rows = connection.execute(sa.select(t.series.c.series_instance_uid, t.series.c.kept))
        return {uid: int(kept) for uid, kept in rows}


def pictured(layout: SpoolLayout, uid: str, version: int = 1) -> Path:
    folder = layout.pictures(uid, version)
    folder.mkdir(parents=True)
    for name in ("sheet.png", "display_1.png", INDEX):
        (folder / name).touch()
    return folder


def test_pictures_leave_after_their_time_and_the_result_stays(database, layout):
    delivered_series(database, layout, 2)
    old, young = (pictured(layout, f"1.2.3.{number}") for number in range(2))
    config = Config.model_validate({"spool_dir": layout.root, "spool": {"keep_pictures_days": 30}})
    at = T0 + dt.timedelta(days=30)
    assert clear_rendered_images(config, database, at) == 0
    assert clear_rendered_images(config, database, at + dt.timedelta(minutes=30)) == 1
    assert not old.parent.exists()
    assert len(list(young.iterdir())) == 3
    assert QualityLog(database).count() == 2
    assert clear_rendered_images(config, database, at + dt.timedelta(minutes=30)) == 0


def test_pictures_of_what_waits_for_a_review_or_delivery_stay(database, layout):
    report(database, ["pacs"], Grade.NON_DIAGNOSTIC)
    folder = pictured(layout, "1.2.3")
    config = Config.model_validate({"spool_dir": layout.root, "spool": {"keep_pictures_days": 0}})
    assert clear_rendered_images(config, database, LATER) == 0
    Reviews(database).add("1.2.3", 1, reviewer="kim", agrees=True)
    assert clear_rendered_images(config, database, LATER) == 0
    outbox = Outbox(database)
    assert outbox.delivered(outbox.claim(["pacs"]), "0x0000")
    assert clear_rendered_images(config, database, LATER) == 1
    assert not folder.exists()


def test_pictures_stay_while_their_series_is_at_work_again(database, layout):
    delivered_series(database, layout, 1)
    folder = pictured(layout, "1.2.3.0")
    assert Registry(database).rescore("1.2.3.0", actor="admin")
    config = Config.model_validate({"spool_dir": layout.root, "spool": {"keep_pictures_days": 0}})
    assert clear_rendered_images(config, database, LATER) == 0
    assert len(list(folder.iterdir())) == 3


def test_pictures_that_cannot_be_deleted_are_tried_again(database, layout):
    delivered_series(database, layout, 1)
    folder = pictured(layout, "1.2.3.0")
    (folder / "stuck").mkdir()
    config = Config.model_validate({"spool_dir": layout.root, "spool": {"keep_pictures_days": 0}})
    assert clear_rendered_images(config, database, LATER) == 0
    (folder / "stuck").rmdir()
    assert clear_rendered_images(config, database, LATER) == 1
    assert not folder.exists()


def test_a_late_image_takes_the_series_off_the_list(database):
    report(database, [])
    facts = SeriesHeader("1.2.3", "1.2", "CT")
    late = StoredInstance("1.2.3.2", "1.2", "1.2", "a/2.dcm", "0" * 64, 9, T0, "SC", "a1", facts)
    Registry(database).record([late])
    assert Retention(database).expired(LATER, LATER) == []


def test_conflicting_images_go_with_their_series_and_leave_nothing_to_look_at(database):
    report(database, [])
    facts = SeriesHeader("1.2.3", "1.2", "CT")
    other = StoredInstance("1.2.3.1", "1.2", "1.2", "c/1.dcm", "1" * 64, 9, T0, "SC", "a1", facts, conflict=True)
    Registry(database).record([other])
    retention = Retention(database)
    assert kept(database) == 2
    (first,) = retention.expired(LATER, LATER, limit=1)
    assert retention.forget([first]) == 1
    assert kept(database) == 1
    (second,) = retention.expired(LATER, LATER, limit=9)
    assert {first, second} == {"a/1.dcm", "c/1.dcm"}
    assert retention.forget([second]) == 1
    assert kept(database) == 0
    assert retention.expired(LATER, LATER) == []


def kept(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(t.series.c.kept)).scalar_one())


def test_only_series_with_images_are_looked_at(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    asked: list[tuple[str, object]] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    retention = Retention(database, AWAITED)
    retention.expired(LATER, LATER)
    retention.old_pictures(LATER)
    queries = [call for call in asked if "FROM instances" in call[0]]
    assert len(queries) == 3
    (pictures,) = (call for call in asked if "pictures > 0" in call[0])
    with database.read() as connection:
        for query, values in queries:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all())
            assert "ix_series_kept" in plan, plan
            assert "SEARCH log_rows USING INDEX ix_log_rows_series_instance_uid" in plan, plan
            assert not re.search("SCAN (series|instances|outbox|log_rows)", plan), plan
            assert "ORDER BY" not in plan, plan
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {pictures[0]}", pictures[1]).all())
        assert "SEARCH results USING INDEX ix_results_pictures (scored_at<?)" in plan, plan
        assert "SEARCH log_rows USING INDEX ix_log_rows_series_instance_uid" in plan, plan
        assert not re.search("SCAN (series|results|outbox|log_rows)|ORDER BY", plan), plan
    database.close()


def images(*numbers: int, at: dt.datetime = T0) -> list[StoredInstance]:
    facts = SeriesHeader("1.2.3", "1.2", "CT")
    return [
        StoredInstance(f"1.2.3.{n}", "1.2", "1.2", f"a/{n}.dcm", "0" * 64, 9, at, "SC", "a1", facts, expected=3)
        for n in numbers
    ]


def scored_and_forgotten(database: Database) -> Registry:
    registry = Registry(database)
    registry.record(images(1, 2, 3))
    assert sweep(registry, Complete(), T0) == 1
    jobs = Jobs(database, clock=lambda: T0)
    result = SeriesResult("1.2.3", "CT", SeriesKind.CT, None, None, None, (), (), (), ModelRef("m", "1", "f" * 64), 3)
    assert jobs.finish(jobs.claim("w"), result)
    assert Outbox(database).add_report(ReportRef("2.25.1", "1.2", "2.25.2", "1.2.3", 1, "r/1.dcm", T0), [])
    assert Retention(database).forget([f"a/{n}.dcm" for n in (1, 2, 3)]) == 3
    return registry


def test_a_fragment_after_retention_never_replaces_the_report_of_the_whole(database):
    registry = scored_and_forgotten(database)
    assert registry.series("1.2.3").received == 3
    registry.record(images(2))
    assert sweep(registry, Complete(), T0 + dt.timedelta(hours=2)) == 0
    row = registry.series("1.2.3")
    assert row.state is SeriesState.PARKED
    assert row.parked_reason.startswith("1 image came after the earlier 3 had been removed")
    assert Jobs(database).claim("w") is None
    assert registry.release("1.2.3", actor="admin")
    assert Jobs(database).claim("w").version == 2


def test_the_whole_series_sent_again_after_retention_is_scored_again(database):
    registry = scored_and_forgotten(database)
    registry.record(images(2))
    sweep(registry, Complete(), T0 + dt.timedelta(hours=2))
    registry.record(images(1, 2, 3, at=LATER))
    assert sweep(registry, Complete(), LATER) == 1
    row = registry.series("1.2.3")
    assert (row.state, row.received, row.complete_reason) == (SeriesState.COMPLETE, 3, "all 3 images")


def test_the_large_copies_of_the_slices_go_with_the_images(database, tmp_path):
    layout = SpoolLayout(tmp_path)
    folder = layout.pictures("1.2.3", 1)
    folder.mkdir(parents=True)
    layer = StoredLayer("slice_1.png", "HU", 1.0, -1024.0, 0.0, -135.0, 215.0)
    shown = RenderedSlice(1, "1.2.3.1", None, 0, 0.0, "display_1.png", 8, 8, (1.0, 1.0), (layer,))
    (folder / INDEX).write_bytes(manifest_to_json(ImageManifest("ct", (shown,))))
    for name in ("sheet.png", "display_1.png", "slice_1.png"):
        (folder / name).touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.dcm").touch()
    report(database, [])
    config = Config.model_validate({"spool_dir": tmp_path})
    assert retain(config, database, T0 + dt.timedelta(days=1)) == 0
    assert (folder / "slice_1.png").is_file()
    assert retain(config, database, T0 + dt.timedelta(days=30)) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["display_1.png", INDEX, "sheet.png"]
    assert not (tmp_path / "a" / "1.dcm").exists()


@pytest.fixture
def layout(tmp_path):
    layout = SpoolLayout(tmp_path / "spool")
    layout.create()
    return layout


def refuse(layout: SpoolLayout, database: Database, at: dt.datetime) -> Quarantined:
    """Put an object in quarantine as the receiver does."""
    incoming = SpoolWriter(layout, lambda: at).begin(Origin("1.2", "x", "1.2", "CT1", "QA", "d" * 32))
    incoming.write(b"nonsense")
    held = incoming.quarantine("not a data set")
    Registry(database).record([held])
    return held


def in_quarantine(layout: SpoolLayout) -> set[str]:
    return {layout.relative(path.with_suffix(".dcm")) for path in layout.quarantine.iterdir()}


def test_refused_objects_leave_quarantine_after_their_time(database, layout):
    old = [refuse(layout, database, T0) for _ in range(3)]
    young = refuse(layout, database, T0 + dt.timedelta(days=20))
    config = Config.model_validate({"spool_dir": layout.root})
    assert config.spool.keep_quarantine_days == 30
    assert clear_quarantine(config, database, T0 + dt.timedelta(days=29)) == 0
    assert in_quarantine(layout) == {item.path for item in (*old, young)}
    assert clear_quarantine(config, database, T0 + dt.timedelta(days=31)) == 3
    assert in_quarantine(layout) == {young.path}
    assert Registry(database).quarantined() == [young]
    # Nothing is left of them that a later look at the spool would find.
    assert reconcile(layout, Registry(database)).added == 0


def test_a_stored_image_that_was_found_damaged_stays_in_quarantine(database, layout):
    path = layout.instance("1.2.3")
    path.write_bytes(b"damaged")
    held = move_to_quarantine(layout, path, "damaged in the spool: cut off", at=T0)
    Registry(database).record([held])
    config = Config.model_validate({"spool_dir": layout.root, "spool": {"keep_quarantine_days": 0}})
    assert clear_quarantine(config, database, LATER) == 0
    assert in_quarantine(layout) == {held.path}


def test_what_cannot_be_deleted_keeps_its_row(database, layout):
    stuck, other = refuse(layout, database, T0), refuse(layout, database, T0)
    notice = layout.absolute(stuck.path).with_suffix(".json")
    notice.unlink()
    notice.mkdir()
    config = Config.model_validate({"spool_dir": layout.root})
    assert clear_quarantine(config, database, T0 + dt.timedelta(days=31)) == 1
    assert [item.path for item in Registry(database).quarantined()] == [stuck.path]
    notice.rmdir()
    assert clear_quarantine(config, database, T0 + dt.timedelta(days=31)) == 1
    assert Registry(database).quarantined() == []
    assert in_quarantine(layout) == set()
    assert not layout.absolute(other.path).exists()


def test_more_refused_objects_than_one_batch_leave(database, layout, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.ops.retention._BATCH", 4)
    for _ in range(10):
        refuse(layout, database, T0)
    config = Config.model_validate({"spool_dir": layout.root})
    assert clear_quarantine(config, database, T0 + dt.timedelta(days=31)) == 10
    assert in_quarantine(layout) == set()


def test_dose_reports_leave_after_the_images_of_their_study(database, node_config):
    layout = SpoolLayout(node_config.spool_dir)
    layout.create()
    made = [dose_report_of(dose_report(study, [MadeEvent("1.2.9.1")])) for study in ("1.2", "1.7")]
    items = []
    for number, item in enumerate(made):
        path = layout.dose_reports / f"{number}.dcm"
        path.write_bytes(b"report")
        items.append(StoredDoseReport(layout.relative(path), "a" * 64, 6, T0, "CT1", item))
    report(database, ["pacs"])
    Registry(database).record(items)
    later = T0 + dt.timedelta(days=node_config.spool.keep_delivered_days + 1)
    assert clear_dose_reports(node_config, database, T0) == 0
    # Images of study 1.2 are here still, none of study 1.7 has come.
    assert clear_dose_reports(node_config, database, later) == 1
    assert [path.name for path in layout.dose_reports.iterdir()] == ["0.dcm"]
    assert Retention(database).forget(["a/1.dcm"]) == 1
    assert clear_dose_reports(node_config, database, later) == 1
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(dose_events)).scalar_one() == 2
    # What comes again gets a time of its own.
    Registry(database).record(items[:1])
    (layout.dose_reports / "0.dcm").write_bytes(b"report")
    assert clear_dose_reports(node_config, database, later) == 1
    assert list(layout.dose_reports.iterdir()) == []
