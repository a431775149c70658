"""A folder target writes whole files once and says in words why it cannot."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from dicom_qa_node.config import FolderTarget
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.report.sr_document import SOP_CLASS_UID
from tests.report_samples import T0, shipped

#: A Part 10 file with an empty group 0002.
CONTENT = b"\0" * 128 + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, 0) + b"content"
REPORT = ReportRef("2.25.7", SOP_CLASS_UID, "2.25.9", "1.2.3", 1, "r", T0)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "report.dcm"
    path.write_bytes(CONTENT)
    return path


def target(path):
    return open_target(FolderTarget(name="shelf", path=path), "NODE")


def test_file_appears_whole_under_the_uid(tmp_path, source):
    folder = tmp_path / "new" / "shelf"
    assert str(target(folder).send(shipped(source, REPORT))) == "written"
    assert [file.name for file in folder.iterdir()] == ["2.25.7.dcm"]
    assert (folder / "2.25.7.dcm").read_bytes() == CONTENT


def test_same_report_again_is_accepted_and_other_bytes_are_kept(tmp_path, source):
    subject = target(tmp_path / "shelf")
    subject.send(shipped(source, REPORT))
    assert str(subject.send(shipped(source, REPORT))) == "there already"
    source.write_bytes(CONTENT + b"other")
    with pytest.raises(Refused, match="another file of that name"):
        subject.send(shipped(source, REPORT))
    assert [file.read_bytes() for file in (tmp_path / "shelf").iterdir()] == [CONTENT]


def test_uid_that_is_a_path_is_refused(tmp_path, source):
    report = ReportRef("../../etc/passwd", SOP_CLASS_UID, "2.25.9", "1.2.3", 1, "r", T0)
    with pytest.raises(Exception, match="not a valid UID"):
        target(tmp_path / "shelf").send(shipped(source, report))
    assert not (tmp_path / "etc").exists()


def test_full_disk_is_tried_later_and_leaves_nothing(tmp_path, source, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dicom_qa_node.dicom_io.durable.os.fsync", full)
    with pytest.raises(Deferred, match="No space left"):
        target(tmp_path / "shelf").send(shipped(source, REPORT))
    assert list((tmp_path / "shelf").iterdir()) == []


def test_what_needs_an_operator_is_refused(tmp_path, source):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(Refused, match="cannot write to the folder"):
        target(blocked).send(shipped(source, REPORT))
    with pytest.raises(Refused, match="cannot write to the folder"):
        target(blocked / "below").check()


def test_check_leaves_no_trace(tmp_path):
    assert str(target(tmp_path / "shelf").check()) == "writable"
    assert list((tmp_path / "shelf").iterdir()) == []
