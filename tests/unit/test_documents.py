"""Documents beside the report: made where a target wants them, of the same patient, and never in its way."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial

import numpy as np
import pypdfium2
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_qa_node.canvas import Drawn
from dicom_qa_node.config import Config
from dicom_qa_node.config.loader import InvalidConfig, parse_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.results import Finding, Grade, Severity
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.report.key_object_selection import offending
from dicom_qa_node.report.report_builder import report_pending
from dicom_qa_node.report.summary_page.page_layout import HEIGHT, WIDTH
from tests.report_samples import verdict, write_series

FURTHER = [DocumentKind.IMAGE, DocumentKind.PDF, DocumentKind.KEY_OBJECTS]
WANTED = {"image": True, "pdf": True, "key_objects": True}


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


def configured(tmp_path, **report: object) -> Config:
    targets = [
        {"kind": "folder", "name": "shelf", "path": tmp_path / "shelf", "companion": WANTED},
        {"kind": "folder", "name": "plain", "path": tmp_path / "plain"},
    ]
    return Config.model_validate({"spool_dir": tmp_path / "spool", "deliver": {"targets": targets}, "report": report})


def scored(database: Database, instances, result=None) -> Registry:
    registry, jobs = Registry(database), Jobs(database)
    registry.record(instances)
    (progress,) = registry.receiving()
    assert registry.complete(progress, reason="count")
    assert jobs.finish(jobs.claim("w"), result or limited(instances))
    return registry


def limited(instances, **changes: object):
    return verdict(instances, score=1.8, interval=(1.2, 2.4), grade=Grade.LIMITED, **changes)


def reported(tmp_path, database, config=None, result=None, number: int = 1):
    config = config or configured(tmp_path)
    instances = write_series(config.spool_dir, number)
    registry = scored(database, instances, result(instances) if result else None)
    outbox = Outbox(database)
    assert report_pending(outbox, registry, config.spool_dir, config) == 1
    return config, registry, outbox, instances


def document(config, outbox, uid, kind, version=None):
    found = outbox.report(uid, version, kind)
    return None if found is None else dcmread(config.spool_dir / found.path)


def test_only_the_target_that_wants_them_gets_documents(tmp_path, database):
    _, _, outbox, instances = reported(tmp_path, database)
    rows = outbox.deliveries_of(instances[0].series.series_instance_uid)
    assert [(row.target, row.report.kind) for row in rows] == [
        ("shelf", DocumentKind.REPORT), ("plain", DocumentKind.REPORT), *(("shelf", kind) for kind in FURTHER)
    ]  # fmt: skip


def test_every_document_belongs_to_the_patient_and_study_of_the_images(tmp_path, database):
    config, _, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    source = dcmread(config.spool_dir / instances[0].path, stop_before_pixels=True)
    series = set()
    for kind, modality in zip(FURTHER, ("OT", "DOC", "KO"), strict=True):
        made = document(config, outbox, uid, kind)
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate"):
            assert made.get(keyword) == source.get(keyword), keyword
        assert (made.Modality, made.InstanceNumber) == (modality, 1)
        assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID
        series.add(made.SeriesInstanceUID)
    assert len(series | {uid, outbox.report(uid).report_series_uid}) == 5


def test_the_page_is_an_image_with_its_origin(tmp_path, database):
    config, _, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    image = document(config, outbox, uid, DocumentKind.IMAGE)
    assert image.BurnedInAnnotation == "YES"
    assert image.pixel_array.shape == (HEIGHT, WIDTH, 3)
    assert image.pixel_array.std() > 20
    named = {item.ReferencedSOPInstanceUID for item in image.SourceImageSequence}
    assert named >= {item.sop_instance_uid for item in instances[:7]}
    (report,) = image.ReferencedInstanceSequence
    assert report.ReferencedSOPInstanceUID == outbox.report(uid).sop_instance_uid


def test_the_pdf_holds_the_page(tmp_path, database):
    config, _, outbox, instances = reported(tmp_path, database)
    pdf = document(config, outbox, instances[0].series.series_instance_uid, DocumentKind.PDF)
    content = pdf.EncapsulatedDocument[: pdf.EncapsulatedDocumentLength]
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert (pdf.MIMETypeOfEncapsulatedDocument, pdf.BurnedInAnnotation) == ("application/pdf", "YES")
    with pypdfium2.PdfDocument(content) as read:
        page = read[0].get_textpage()
        text = page.get_text_range()
    assert "Patient Sample Sally" in text, "the page has a layer of text"


def test_documents_made_again_are_the_same_bytes(tmp_path, database, monkeypatch):
    config = configured(tmp_path)
    instances = write_series(config.spool_dir)
    registry, outbox = scored(database, instances), Outbox(database)
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "add_report", lambda *_, **__: False)
        report_pending(outbox, registry, config.spool_dir, config)
    before = {path.name: path.read_bytes() for path in (config.spool_dir / "reports").rglob("*.dcm")}
    assert report_pending(outbox, registry, config.spool_dir, config) == 1
    after = {path.name: path.read_bytes() for path in (config.spool_dir / "reports").rglob("*.dcm")}
    assert before == after
    assert len(after) == 4


def test_key_objects_point_at_the_worst_slices_and_the_findings(tmp_path, database):
    config, _, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    found = document(config, outbox, uid, DocumentKind.KEY_OBJECTS)
    title = found.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113010", "DCM")
    assert "113001" not in str(found)
    images = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in found.ContentSequence
        if item.ValueType == "IMAGE"
    ]
    result = QualityLog(database).entry(uid).result
    worst = sorted(result.slices, key=lambda item: item.score)[:3]
    expected = {item.sop_instance_uid for item in worst if item.score < 2.5} | {instances[-1].sop_instance_uid}
    assert set(images) == expected


def test_a_good_series_without_findings_has_no_key_objects(tmp_path, database):
    _, _, outbox, instances = reported(tmp_path, database, result=lambda items: verdict(items, findings=()))
    uid = instances[0].series.series_instance_uid
    assert outbox.report(uid, kind=DocumentKind.KEY_OBJECTS) is None
    assert outbox.report(uid, kind=DocumentKind.IMAGE) is not None


def test_what_only_explains_is_not_pointed_at(tmp_path):
    instances = write_series(tmp_path)
    explains = Finding("other_stack", Severity.INFO, "x", "", None, (instances[3].sop_instance_uid,))
    warns = dataclasses.replace(explains, severity=Severity.WARNING)
    assert offending(verdict(instances, findings=(explains,)), 2.5) == {}
    assert offending(verdict(instances, findings=(warns,)), 2.5) == {instances[3].sop_instance_uid: ()}


def test_frames_of_a_multi_frame_image_are_pointed_at(tmp_path):
    (instance,) = write_series(tmp_path, slices=1)
    result = limited([instance])
    slices = tuple(
        dataclasses.replace(item, frame_number=number, score=number / 4) for number, item in enumerate(result.slices, 1)
    )
    result = dataclasses.replace(result, slices=slices, findings=())
    assert offending(result, 2.5) == {instance.sop_instance_uid: (1, 2, 3)}


def test_the_series_is_delivered_when_every_target_has_the_report(tmp_path, database):
    _, registry, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    for target in ("shelf", "plain"):
        delivery = outbox.claim([target])
        assert delivery.report.kind is DocumentKind.REPORT
        assert outbox.delivered(delivery, "ok")
    assert registry.series(uid).state is SeriesState.DELIVERED
    image = outbox.claim(["shelf"])
    assert image.report.kind is DocumentKind.IMAGE
    assert outbox.park(image, "0x0122 SOP class not supported")
    assert registry.series(uid).state is SeriesState.DELIVERED


def test_a_refused_page_holds_no_later_report_back(tmp_path, database):
    config, registry, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    assert outbox.delivered(outbox.claim(["shelf"]), "ok")
    page = outbox.claim(["shelf"])
    assert outbox.retry_later(page, "not now", 3600)
    late = [dataclasses.replace(write_series(config.spool_dir, 1, slices=10)[9], association_id="late")]
    registry.record(late)
    (progress,) = registry.receiving()
    assert registry.complete(progress, reason="count")
    jobs = Jobs(database)
    assert jobs.finish(jobs.claim("w"), limited([*instances, *late]))
    assert report_pending(outbox, registry, config.spool_dir, config) == 1
    claimed = []
    while (delivery := outbox.claim(["shelf"])) is not None:
        claimed.append((delivery.report.version, delivery.report.kind))
        assert outbox.delivered(delivery, "ok")
    # Its first page still waits for its hour, and so its second page waits for that.
    assert (2, DocumentKind.REPORT) in claimed
    assert (2, DocumentKind.IMAGE) not in claimed
    second = document(config, outbox, uid, DocumentKind.IMAGE, 2)
    named = [item.ReferencedSOPInstanceUID for item in second.ReferencedInstanceSequence]
    assert named == [outbox.report(uid, 2).sop_instance_uid, outbox.report(uid, 1, DocumentKind.IMAGE).sop_instance_uid]
    assert outbox.report(uid).kind is DocumentKind.REPORT
    assert outbox.report(uid).predecessor_uid == outbox.report(uid, 1).sop_instance_uid


def test_retrying_a_page_does_not_move_its_series(tmp_path, database):
    _, registry, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    assert outbox.park(outbox.claim(["shelf"]), "no")
    page = outbox.claim(["shelf"])
    assert outbox.park(page, "no")
    assert registry.series(uid).state is SeriesState.PARKED
    assert outbox.retry([page.delivery_id], actor="test") == 1
    assert registry.series(uid).state is SeriesState.PARKED


def test_a_page_that_cannot_be_drawn_costs_itself_only(tmp_path, database, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise ValueError("Doe^Jane")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("dicom_qa_node.report.derived_objects.companion_page", broken)
    _, registry, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    assert registry.series(uid).state is SeriesState.REPORTED
    assert outbox.report(uid, kind=DocumentKind.IMAGE) is None
    assert outbox.report(uid, kind=DocumentKind.KEY_OBJECTS) is not None
    assert [record.getMessage() for record in caplog.records].count("document_failed") == 2
    assert "Doe" not in caplog.text


def _with_score(instances, score: float):
    return dataclasses.replace(limited(instances), score=score)


def test_the_trend_is_that_of_the_scanner_s_other_series(tmp_path, database, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "dicom_qa_node.report.derived_objects.companion_page",
        lambda request, sources, folder, trend, config: seen.append(list(trend)) or Drawn(Image.new("RGB", (4, 4)), ()),
    )
    config = configured(tmp_path)
    for number, score in ((1, 3.5), (2, 1.0), (3, 2.0)):
        result = partial(_with_score, score=score)
        reported(tmp_path, database, config, result, number)
    assert seen == [[], [3.5], [3.5, 1.0]]


def test_an_unknown_language_is_an_error_of_the_configuration():
    with pytest.raises(InvalidConfig, match=r"report\.language.*en, de, fr or es"):
        parse_config("report:\n  language: it\n")


@pytest.mark.parametrize("language", ["de", "fr", "es"])
def test_another_language_is_another_page(tmp_path, database, language):
    pages = []
    for name, number in (("en", 1), (language, 2)):
        config, _, outbox, instances = reported(tmp_path, database, configured(tmp_path, language=name), number=number)
        image = document(config, outbox, instances[0].series.series_instance_uid, DocumentKind.IMAGE)
        pages.append(image.pixel_array)
    assert np.abs(pages[0][:60].astype(int) - pages[1][:60]).max() > 100


def test_the_documents_are_small_enough_to_keep(tmp_path, database):
    config, _, outbox, instances = reported(tmp_path, database)
    uid = instances[0].series.series_instance_uid
    sizes = {kind: (config.spool_dir / outbox.report(uid, kind=kind).path).stat().st_size for kind in FURTHER}
    assert sizes[DocumentKind.IMAGE] < 7_000_000
    assert sizes[DocumentKind.PDF] < 1_000_000
