"""An image in another encoding is one image; other pixels or another patient conflict until an operator chooses."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.conflicts import Conflicts
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.ops.health import Level, ModelCheck, assess, gather
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.image_difference import Difference, differences
from dicom_qa_node.spool.incoming import Outcome, SpoolWriter
from tests.received_series import Carrier, Ticking
from tests.report_samples import T0, write_series
from tests.unit.encoded_images import EXPLICIT


@pytest.fixture
def image(tmp_path):
    (item,) = write_series(tmp_path / "made", slices=1)
    ds = dcmread(tmp_path / "made" / item.path)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "A", "99X", "a"
    ds.ProcedureCodeSequence = Sequence([code])
    return ds


def stored(ds, path, syntax=ExplicitVRLittleEndian):
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def other(image, **elements):
    copy = Dataset()
    copy.update(image)
    for keyword, value in elements.items():
        setattr(copy, keyword, value)
    return copy


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_another_transfer_syntax_is_the_same_image(tmp_path, image, syntax):
    image["PixelData"].VR = "OW"
    first = stored(image, tmp_path / "first")
    second = dcmread(first)
    if syntax is ExplicitVRBigEndian:
        second.PixelData = b"".join(second.PixelData[at : at + 2][::-1] for at in range(0, len(second.PixelData), 2))
    second.file_meta.TransferSyntaxUID = syntax
    dcmwrite(
        tmp_path / "second",
        second,
        implicit_vr=syntax is ImplicitVRLittleEndian,
        little_endian=syntax is not ExplicitVRBigEndian,
    )
    assert differences(first, tmp_path / "second") == frozenset()


def test_a_lossless_compression_is_the_same_image(tmp_path, image):
    first = stored(image, tmp_path / "first")
    second = dcmread(first)
    second.compress(RLELossless)
    second.save_as(tmp_path / "second")
    assert differences(first, tmp_path / "second") == frozenset()


def test_lengths_of_sequences_group_lengths_and_padding_are_no_difference(tmp_path, image):
    first = stored(image, tmp_path / "first")
    second = dcmread(first)
    second["ProcedureCodeSequence"].is_undefined_length = True
    second.ProcedureCodeSequence[0].is_undefined_length_sequence_item = True
    second.add_new(0x00100000, "UL", 12)
    second.add_new(0xFFFCFFFC, "OB", bytes(64))
    second.PatientName = "Sample^Sally^^"
    second.PatientID = "SAMPLE-7  "
    second.SliceThickness = "5.0"
    second.PixelData = second.PixelData + bytes(2)
    stored(second, tmp_path / "second")
    assert differences(first, tmp_path / "second") == frozenset()


def test_text_in_another_character_set_is_no_difference(tmp_path, image):
    image.PatientName = "Müller^Jürgen"
    first = stored(image, tmp_path / "first")
    second = dcmread(first)
    second.PatientName = str(second.PatientName)
    second.SpecificCharacterSet = "ISO_IR 192"
    stored(second, tmp_path / "second")
    assert differences(first, tmp_path / "second") == frozenset()


@pytest.mark.parametrize(
    "keyword", ["StudyDescription", "ReferringPhysicianName", "InstitutionName", "PatientComments"]
)
def test_a_corrected_description_is_no_conflict(tmp_path, image, keyword):
    first = stored(image, tmp_path / "first")
    assert differences(first, stored(other(image, **{keyword: "Other"}), tmp_path / "second")) == frozenset()


@pytest.mark.parametrize(
    ("elements", "differs"),
    [
        ({"PatientID": "OTHER"}, Difference.PATIENT),
        ({"PatientName": "Other^Patient"}, Difference.PATIENT),
        ({"PatientBirthDate": ""}, Difference.PATIENT),
        ({"StudyInstanceUID": "1.2.3.4"}, Difference.STUDY),
        ({"AccessionNumber": "ACC-13"}, Difference.STUDY),
        ({"RescaleSlope": "2"}, Difference.IMAGE),
        ({"PixelSpacing": [0.5, 0.5]}, Difference.IMAGE),
        ({"PixelData": b"\1" * 512}, Difference.PIXELS),
    ],
)
def test_what_conflicts_is_named(tmp_path, image, elements, differs):
    first = stored(image, tmp_path / "first")
    assert differences(first, stored(other(image, **elements), tmp_path / "second")) == {differs}


def test_a_file_that_cannot_be_read_is_never_the_same(tmp_path, image):
    first = stored(image, tmp_path / "first")
    (tmp_path / "second").write_bytes(first.read_bytes()[:400])
    assert differences(first, tmp_path / "second")


def test_a_value_of_a_wrong_length_is_never_the_same(tmp_path, image):
    first = stored(image, tmp_path / "first")
    damaged = first.read_bytes().replace(b"\x10\x00\x40\x00CS", b"\x10\x00\x40\x00FD", 1)
    assert damaged != first.read_bytes(), "the sample has a Patient's Sex"
    (tmp_path / "second").write_bytes(damaged)
    assert differences(first, tmp_path / "second")


@pytest.fixture
def carrier(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    shelf = [{"kind": "folder", "name": "shelf", "path": tmp_path / "shelf"}]
    config = Config.model_validate({"spool_dir": tmp_path / "spool", "deliver": {"targets": shelf}})
    yield Carrier(config, database, tmp_path, Ticking(T0 + dt.timedelta(hours=1)))
    database.close()


def corrected(carrier, **elements):
    """Return the images of series 1 as they come again."""
    images = carrier.images(1)
    for ds in images:
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
    return images


def health(carrier):
    config = carrier.config
    facts = gather(config, carrier.database, ModelCheck(config))
    return assess(facts, config, carrier.database.now())


def test_the_same_images_again_are_duplicates(carrier):
    carrier.whole_way(1)
    writer = SpoolWriter(carrier.layout, carrier.clock)
    for ds in corrected(carrier, StudyDescription="Other words"):
        origin = Origin(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, "CT1", "DICOMQA", "d" * 32)
        incoming = writer.begin(origin)
        from tests.unit.encoded_images import encoded

        incoming.write(encoded(ds))
        assert incoming.keep().outcome is Outcome.DUPLICATE
    assert not list(carrier.layout.conflicts.iterdir())


def test_a_corrected_patient_is_told_and_taken_by_one_command(carrier):
    uid = carrier.whole_way(1)
    first = carrier.outbox.report(uid)
    carrier.receive(corrected(carrier, PatientID="RIGHT", PatientName="Right^Patient"))
    (conflict,) = Conflicts(carrier.database, carrier.clock).open()
    assert (conflict.images, conflict.differs) == (3, ("patient",))
    assert carrier.registry.series(uid).state is SeriesState.DELIVERED
    check = health(carrier).named("conflicts")
    assert check.level is Level.DEGRADED
    assert "3 images" in check.detail
    assert "take-newer" in check.detail
    assert Conflicts(carrier.database, carrier.clock).take_newer(uid, carrier.layout, actor="test")
    row = carrier.registry.series(uid)
    assert (row.state, row.version, row.facts.patient_id) == (SeriesState.COMPLETE, 2, "RIGHT")
    assert (row.received, row.conflicts) == (3, 3)
    assert Conflicts(carrier.database).of(uid) is None
    assert health(carrier).named("conflicts").level is Level.OK
    score_again(carrier, uid)
    carrier.report()
    second = carrier.outbox.report(uid)
    report = dcmread(carrier.config.spool_dir / second.path)
    assert (report.PatientID, str(report.PatientName)) == ("RIGHT", "Right^Patient")
    assert second.predecessor_uid == first.sop_instance_uid
    (study,) = report.PredecessorDocumentsSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.sop_instance_uid
    assert carrier.deliver() == [second.sop_instance_uid]


def score_again(carrier, uid):
    from dicom_qa_node.flow.jobs import Jobs
    from tests.report_samples import verdict

    jobs = Jobs(carrier.database, clock=carrier.clock)
    job = jobs.claim("test")
    usable = [item for item in carrier.registry.instances(uid) if not item.conflict]
    assert jobs.finish(job, verdict(usable))


def test_images_that_moved_to_another_study_get_a_report_series_of_that_study(carrier):
    uid = carrier.whole_way(1)
    first = carrier.outbox.report(uid)
    carrier.receive(corrected(carrier, StudyInstanceUID="1.2.3.4.5"))
    assert Conflicts(carrier.database, carrier.clock).of(uid).differs == ("study",)
    assert Conflicts(carrier.database, carrier.clock).take_newer(uid, carrier.layout, actor="test")
    score_again(carrier, uid)
    carrier.report()
    second = carrier.outbox.report(uid)
    report = dcmread(carrier.config.spool_dir / second.path)
    assert report.StudyInstanceUID == "1.2.3.4.5"
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == "1.2.3.4.5"
    (before,) = report.PredecessorDocumentsSequence
    old = dcmread(carrier.config.spool_dir / first.path)
    assert before.StudyInstanceUID == old.StudyInstanceUID != "1.2.3.4.5"
    assert second.report_series_uid != first.report_series_uid
    assert carrier.registry.rescore(uid, actor="test", at=carrier.clock())
    score_again(carrier, uid)
    carrier.report()
    third = carrier.outbox.report(uid)
    assert third.report_series_uid == second.report_series_uid


def test_the_stored_images_can_be_kept(carrier):
    uid = carrier.whole_way(1)
    carrier.receive(corrected(carrier, PatientID="WRONG"))
    conflicts = Conflicts(carrier.database, carrier.clock)
    assert conflicts.keep_stored(uid, actor="test")
    assert not conflicts.keep_stored(uid, actor="test")
    row = carrier.registry.series(uid)
    assert (row.state, row.facts.patient_id, row.conflicts) == (SeriesState.DELIVERED, "SAMPLE-7", 3)
    assert conflicts.of(uid) is None
    assert carrier.registry.history(uid)[-1]["reason"] == "the images that came first were kept"
    carrier.receive(corrected(carrier, PatientID="WRONG AGAIN"))
    assert conflicts.of(uid).images == 3


def test_the_choice_outlives_the_database(carrier, tmp_path):
    uid = carrier.whole_way(1)
    carrier.receive(corrected(carrier, PatientID="RIGHT"))
    Conflicts(carrier.database, carrier.clock).take_newer(uid, carrier.layout, actor="test")
    again = Database(f"sqlite:///{tmp_path}/again.db")
    again.upgrade()
    reconcile(carrier.layout, Registry(again))
    row = Registry(again).series(uid)
    assert (row.facts.patient_id, row.received, row.conflicts) == ("RIGHT", 3, 3)
    scored = [item for item in Registry(again).instances(uid) if not item.conflict]
    for item in scored:
        assert dcmread(carrier.config.spool_dir / item.path).PatientID == "RIGHT"
    assert {item.differs for item in Registry(again).instances(uid) if item.conflict} == {"patient"}
    again.close()


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_exchange_that_broke_off_is_done_again_and_loses_nothing(carrier, monkeypatch, renames):
    uid = carrier.whole_way(1)
    carrier.receive(corrected(carrier, PatientID="RIGHT"))
    contents = spool_contents(carrier)
    done, real = [], Path.rename

    def rename(self, target):
        if len(done) == renames:
            raise OSError("killed")
        done.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(OSError, match="killed"):
            Conflicts(carrier.database, carrier.clock).take_newer(uid, carrier.layout, actor="test")
    assert spool_contents(carrier) == contents
    reconcile(carrier.layout, carrier.registry)
    assert Conflicts(carrier.database, carrier.clock).take_newer(uid, carrier.layout, actor="test")
    row = carrier.registry.series(uid)
    assert (row.received, row.conflicts, row.facts.patient_id) == (3, 3, "RIGHT")
    assert spool_contents(carrier) == contents
    instances = carrier.registry.instances(uid)
    assert len(instances) == 6
    for item in instances:
        ds = dcmread(carrier.config.spool_dir / item.path)
        assert (ds.PatientID == "RIGHT") is not item.conflict


def spool_contents(carrier):
    folders = (carrier.layout.instances, carrier.layout.conflicts)
    return {path.read_bytes() for folder in folders for path in folder.rglob("*.dcm")}
