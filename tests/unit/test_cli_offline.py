"""Folders of DICOM files become series, and each PET finds its CT."""

from __future__ import annotations

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.score.series_files import find_series

CT, PT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.128"


@pytest.fixture
def write(tmp_path):
    """Write one header-only file of a series; returns its path."""
    written = []

    def make(series: str, modality: str = "CT", study: str = "1.2", frame: str = "1.9", folder: str = "a"):
        ds = Dataset()
        ds.SOPClassUID = PT if modality == "PT" else CT
        ds.SOPInstanceUID = f"{series}.{len(written) + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.FrameOfReferenceUID, ds.Modality = frame, modality
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = tmp_path / folder / f"{len(written):03}.dcm"
        path.parent.mkdir(exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        written.append(path)
        return path

    return make


def test_files_are_grouped_by_series_over_folders(write, tmp_path):
    for folder in ("a", "b"):
        write("1.5", folder=folder)
        write("1.6", folder=folder)
    found = find_series([tmp_path])
    assert {item.series_instance_uid: len(item.files) for item in found.series} == {"1.5": 2, "1.6": 2}


def test_a_file_given_twice_counts_once(write, tmp_path):
    path = write("1.5")
    found = find_series([tmp_path, path, path.parent])
    assert [len(item.files) for item in found.series] == [1]


def test_every_ct_of_its_study_and_frame_may_go_with_a_pet(write, tmp_path):
    for series, count in (("1.10", 1), ("1.11", 3)):
        for _ in range(count):
            write(series)
    write("1.12", study="1.3")
    write("1.13", frame="1.8")
    write("1.20", "PT")
    (pet,) = [item for item in find_series([tmp_path]).series if item.modality == "PT"]
    assert [item.series_instance_uid for item in pet.ct_candidates] == ["1.10", "1.11"]


def test_pet_without_a_frame_of_reference_stays_alone(write, tmp_path):
    write("1.10", frame="")
    write("1.20", "PT", frame="")
    assert [item.ct_candidates for item in find_series([tmp_path]).series] == [[], []]


def test_other_files_are_counted_and_broken_ones_named(write, tmp_path):
    write("1.5")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "cut.dcm").write_bytes(write("1.6").read_bytes()[:300])
    found = find_series([tmp_path])
    assert found.others == 1
    assert [path.name for path, _ in found.broken] == ["cut.dcm"]


def test_a_named_file_that_is_no_dicom_is_said_to_be_none(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert find_series([tmp_path / "notes.txt"]).broken == ((tmp_path / "notes.txt", "no DICOM file"),)


def test_a_path_that_does_not_exist_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="does not exist"):
        find_series([tmp_path / "none"])


def test_a_file_that_ends_before_its_series_uid_is_named_with_a_plain_reason(write, tmp_path):
    path = write("1.5")
    path.write_bytes(path.read_bytes()[:-90])
    found = find_series([tmp_path])
    assert found.series == ()
    assert [(file, "Series Instance UID" in reason) for file, reason in found.broken] == [(path, True)]


def test_unwritable_picture_folder_is_told_before_scoring(tmp_path, monkeypatch):
    from dicom_qa_node import phantom
    from dicom_qa_node.cli import offline_scoring
    from dicom_qa_node.config import Config
    from dicom_qa_node.domain.errors import Permanent

    phantom.write(phantom.ct_series(1, slices=1, rows=64), tmp_path / "study")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(offline_scoring, "open_scorer", lambda *_: pytest.fail("scored all the same"))
    with pytest.raises(Permanent, match="nothing was scored"):
        offline_scoring.score_folders(Config(), [tmp_path / "study"], tmp_path / "file" / "pictures")
