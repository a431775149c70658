"""SCORED becomes REPORTED: the file is durable first, a report that cannot be built parks its series."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report import report_builder
from dicom_qa_node.report.report_builder import report_pending, write_report
from tests.odd_headers import series_with
from tests.report_samples import verdict, write_series


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def config(tmp_path):
    targets = [{"kind": "folder", "name": "shelf", "path": tmp_path / "shelf"}]
    return Config.model_validate({"spool_dir": tmp_path / "spool", "deliver": {"targets": targets}})


def scored(database: Database, instances, result=None) -> Registry:
    registry, jobs = Registry(database), Jobs(database)
    registry.record(instances)
    (progress,) = registry.receiving()
    assert registry.complete(progress, reason="count")
    assert jobs.finish(jobs.claim("w"), result or verdict(instances))
    return registry


def test_scored_series_is_reported_with_a_durable_file_and_a_delivery(database, config):
    spool = config.spool_dir
    instances = write_series(spool)
    registry, outbox = scored(database, instances), Outbox(database)
    assert report_pending(outbox, registry, spool, config) == 1
    uid = instances[0].series.series_instance_uid
    assert registry.series(uid).state is SeriesState.REPORTED
    report = outbox.report(uid)
    written = dcmread(spool / report.path)
    assert written.SOPInstanceUID == report.sop_instance_uid
    assert written.SeriesInstanceUID == report.report_series_uid
    assert outbox.claim(["shelf"]).report == report
    assert report_pending(outbox, registry, spool, config) == 0
    assert not list(spool.rglob("*.part"))


def test_report_built_again_after_a_crash_is_the_same_file(database, config, monkeypatch):
    spool = config.spool_dir
    registry, outbox = scored(database, write_series(spool)), Outbox(database)
    add = outbox.add_report
    monkeypatch.setattr(outbox, "add_report", lambda *_, **__: False)
    report_pending(outbox, registry, spool, config)
    (path,) = (spool / "reports").rglob("*.dcm")
    before = path.read_bytes()
    monkeypatch.setattr(outbox, "add_report", add)
    report_pending(outbox, registry, spool, config)
    assert list((spool / "reports").rglob("*.dcm")) == [path]
    assert path.read_bytes() == before


def test_late_image_gives_a_second_report_that_names_the_first(database, config):
    spool = config.spool_dir
    instances = write_series(spool)
    registry, outbox = scored(database, instances[:-1], verdict(instances[:-1], findings=())), Outbox(database)
    report_pending(outbox, registry, spool, config)
    scored(database, instances[-1:], verdict(instances))
    report_pending(outbox, registry, spool, config)
    uid = instances[0].series.series_instance_uid
    first, second = outbox.report(uid, 1), outbox.report(uid, 2)
    assert second.predecessor_uid == first.sop_instance_uid
    assert second.report_series_uid == first.report_series_uid
    assert "PredecessorDocumentsSequence" in dcmread(spool / second.path)


def test_report_that_cannot_be_built_parks_its_series_and_no_other(database, config):
    spool = config.spool_dir
    broken, whole = write_series(spool, 1), write_series(spool, 2)
    registry = scored(database, broken)
    scored(database, whole)
    (spool / broken[0].path).unlink()
    assert report_pending(Outbox(database), registry, spool, config) == 2
    row = registry.series(broken[0].series.series_instance_uid)
    assert row.state is SeriesState.PARKED
    assert "cannot be read from the spool" in row.parked_reason
    assert registry.series(whole[0].series.series_instance_uid).state is SeriesState.REPORTED


def test_full_disk_parks_nothing(database, config, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spool = config.spool_dir
    instances = write_series(spool)
    registry, outbox = scored(database, instances), Outbox(database)
    monkeypatch.setattr("dicom_qa_node.dicom_io.durable.os.fsync", full)
    with pytest.raises(Transient, match="no space"):
        report_pending(outbox, registry, spool, config)
    assert registry.series(instances[0].series.series_instance_uid).state is SeriesState.SCORED
    monkeypatch.undo()
    assert report_pending(outbox, registry, spool, config) == 1


def test_file_and_name_are_synced_before_the_path_is_given(tmp_path: Path, monkeypatch):
    path = write_report(b"before", tmp_path / "reports", "1.2.3")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (steps.append(name), real(*a))[1])
    assert write_report(b"content", tmp_path / "reports", "1.2.3") == path
    assert path.read_bytes() == b"content"
    assert steps == ["fsync", "replace", "fsync"]


def test_result_without_its_pair_in_the_registry_is_still_reported(database, config):
    spool = config.spool_dir
    instances = write_series(spool)
    result = dataclasses.replace(verdict(instances), pair_series_uid="1.2.3.4")
    registry = scored(database, instances, result)
    assert report_pending(Outbox(database), registry, spool, config) == 1
    assert registry.series(result.series_instance_uid).state is SeriesState.REPORTED


def test_one_series_whose_report_fails_unexpectedly_is_set_aside_and_the_others_go_on(database, config, monkeypatch):
    spool = config.spool_dir
    broken, whole = write_series(spool, 1), write_series(spool, 2)
    registry = scored(database, broken)
    scored(database, whole)
    uid = broken[0].series.series_instance_uid

    def built(request, sources, settings):
        if request.result.series_instance_uid == uid:
            raise OverflowError("of a kind that nobody foresaw")
        return real(request, sources, settings)

    real = report_builder.build_document
    monkeypatch.setattr(report_builder, "build_document", built)
    monkeypatch.setattr(report_builder, "BROKEN_DATA", (KeyError,))
    assert report_pending(Outbox(database), registry, spool, config) == 2
    assert registry.series(uid).state is SeriesState.PARKED
    assert "OverflowError" in registry.series(uid).parked_reason
    assert registry.series(whole[0].series.series_instance_uid).state is SeriesState.REPORTED


def test_what_was_not_copied_unchanged_stands_in_the_history_of_the_series(database, config, caplog):
    spool = config.spool_dir
    instances, result = series_with(spool, {"PatientBirthDate": b"19600231", "Manufacturer": b"GE\\MEDICAL"})
    registry = scored(database, instances, result)
    assert report_pending(Outbox(database), registry, spool, config) == 1
    reason = registry.history(result.series_instance_uid)[-1]["reason"]
    assert "Manufacturer reduced to the first of 2 values" in reason
    assert "PatientBirthDate left out (not a valid DA value)" in reason
    assert "19600231" not in reason + caplog.text


@pytest.mark.parametrize("text", ["Abd\nroutine", "a\x85b", "a\x1cb", "a\u2028b", "a\x1b[31mb", "a\N{GRINNING FACE}b"])
def test_no_text_of_a_header_stops_a_page(database, config, text):
    targets = [{"kind": "folder", "name": "shelf", "path": config.spool_dir, "companion": {"image": True, "pdf": True}}]
    wanted = Config.model_validate({"spool_dir": config.spool_dir, "deliver": {"targets": targets}})
    keywords = ("SeriesDescription", "StudyDescription", "InstitutionName", "StationName", "AccessionNumber")
    elements = {keyword: text.encode() for keyword in keywords} | {"SpecificCharacterSet": b"ISO_IR 192"}
    instances, result = series_with(config.spool_dir, elements)
    registry, outbox = scored(database, instances, result), Outbox(database)
    assert report_pending(outbox, registry, config.spool_dir, wanted) == 1
    uid = result.series_instance_uid
    assert registry.series(uid).state is SeriesState.REPORTED
    assert outbox.report(uid, kind=DocumentKind.PDF) is not None
    assert outbox.report(uid, kind=DocumentKind.IMAGE) is not None
