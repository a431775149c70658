"""Which images retention may delete: those of series with nothing left to do, and only after their time."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from dicom_qa_node.complete import sweep
from dicom_qa_node.config import Complete, Config
from dicom_qa_node.ops.tasks import clear_quarantine, retain
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.records import (
    ModelRef,
    Quarantined,
    ReportRef,
    SeriesFacts,
    SeriesKind,
    SeriesResult,
    SeriesState,
    StoredInstance,
)
from dicom_qa_node.spool.gallery import INDEX, Gallery, ShownSlice, StoredLayer, gallery_to_json
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.part10 import Origin
from dicom_qa_node.spool.write import SpoolWriter, move_to_quarantine
from dicom_qa_node.store import Database, Jobs, Outbox, Registry, Retention
from dicom_qa_node.store import tables as t

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
LATER = T0 + dt.timedelta(days=1)


@pytest.fixture
def database(any_database):
    return any_database


def report(database: Database, targets: list[str]) -> Outbox:
    registry = Registry(database)
    facts = SeriesFacts("1.2.3", "1.2", "CT")
    registry.record([StoredInstance("1.2.3.1", "1.2", "1.2", "a/1.dcm", "0" * 64, 9, T0, "SC", "a1", facts)])
    (progress,) = registry.receiving()
    registry.complete(progress, reason="quiet", at=T0)
    jobs, outbox = Jobs(database, clock=lambda: T0), Outbox(database, clock=lambda: T0)
    model = ModelRef("m", "1", "f" * 64)
    result = SeriesResult("1.2.3", "CT", SeriesKind.CT, None, None, None, (), (), (), model, 1)
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


def test_a_late_image_takes_the_series_off_the_list(database):
    report(database, [])
    facts = SeriesFacts("1.2.3", "1.2", "CT")
    late = StoredInstance("1.2.3.2", "1.2", "1.2", "a/2.dcm", "0" * 64, 9, T0, "SC", "a1", facts)
    Registry(database).record([late])
    assert Retention(database).expired(LATER, LATER) == []


def test_conflicting_images_go_with_their_series_and_leave_nothing_to_look_at(database):
    report(database, [])
    facts = SeriesFacts("1.2.3", "1.2", "CT")
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
    Retention(database).expired(LATER, LATER)
    queries = [call for call in asked if "FROM instances" in call[0]]
    assert len(queries) == 3
    with database.read() as connection:
        for query, values in queries:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all())
            assert "ix_series_kept" in plan, plan
            assert "SCAN" not in plan, plan
            assert "ORDER BY" not in plan, plan
    database.close()


def images(*numbers: int, at: dt.datetime = T0) -> list[StoredInstance]:
    facts = SeriesFacts("1.2.3", "1.2", "CT")
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
    shown = ShownSlice(1, "1.2.3.1", None, 0, 0.0, "display_1.png", 8, 8, (1.0, 1.0), (layer,))
    (folder / INDEX).write_bytes(gallery_to_json(Gallery("ct", (shown,))))
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
    monkeypatch.setattr("dicom_qa_node.ops.tasks._BATCH", 4)
    for _ in range(10):
        refuse(layout, database, T0)
    config = Config.model_validate({"spool_dir": layout.root})
    assert clear_quarantine(config, database, T0 + dt.timedelta(days=31)) == 10
    assert in_quarantine(layout) == set()
