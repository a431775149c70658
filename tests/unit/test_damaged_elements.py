"""Cases that fuzzing a node found: one damaged element costs its image at most, never its series or its report."""

from __future__ import annotations

import re
import struct
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import ReportRequest
from dicom_qa_node.score.physics.ct_noise import mode
from dicom_qa_node.score.pipeline import score_series
from tests.report_samples import T0, verdict, write_series
from tests.stub_model import TinyScorer


@pytest.fixture
def files(tmp_path):
    return write_phantom(ct_series(3, 8, 64, spacing_mm=12.0), tmp_path)


def change(path, tag, vr, other):
    """Give an element of an explicit VR little endian file another VR."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    data = path.read_bytes()
    assert data.count(head + vr) == 1
    path.write_bytes(data.replace(head + vr, head + other))


def replace_value(path, tag, vr, value):
    """Give an element of an explicit VR little endian file with a short length another value."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    data = path.read_bytes()
    at = data.index(head)
    (length,) = struct.unpack("<H", data[at + 6 : at + 8])
    value += b" "[: len(value) % 2]
    path.write_bytes(data[:at] + head + struct.pack("<H", len(value)) + value + data[at + 8 + length :])


def judged(files):
    return score_series(files, scorer=TinyScorer()).result


@pytest.mark.parametrize("vr", [b"US", b"AT", b"FD", b"DS"])
def test_a_series_uid_that_cannot_be_read_does_not_make_two_series(files, vr):
    series = str(dcmread(files[0]).SeriesInstanceUID)
    change(files[2], 0x0020000E, b"UI", vr)
    result = judged(files)
    assert result.series_instance_uid == series
    assert result.instances_used == len(files)


@pytest.mark.parametrize("vr", [b"AT", b"FD", b"DS"])
def test_an_instance_uid_that_cannot_be_read_is_taken_from_the_file_meta_information(files, vr):
    uids = {str(dcmread(path).SOPInstanceUID) for path in files}
    for path in files:
        change(path, 0x00080018, b"UI", vr)
    assert {item.sop_instance_uid for item in judged(files).slices} <= uids


def test_a_file_without_a_readable_header_is_named_but_not_referenced(files):
    files[3].write_bytes(b"nothing")
    result = judged(files)
    assert result.instances_used == len(files) - 1
    assert any(files[3].name in f"{item.sentence} {item.evidence}" for item in result.findings)
    assert [uid for item in result.findings for uid in item.sop_instance_uids if not is_uid(uid)] == []
    assert not any(re.search(r"\w(Error|Exception)\b", item.sentence + item.evidence) for item in result.findings)


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00200011, b"IS", b"0x10"),
        (0x00200011, b"IS", b"abc"),
        (0x00180050, b"DS", b"1e"),
        (0x00180050, b"DS", b"nan"),
        (0x00200032, b"DS", b"inf\\0\\0"),
        (0x00280030, b"DS", b"1,5"),
        (0x00280010, b"US", bytes(4)),
        (0x00280011, b"US", b""),
        (0x00200052, b"UI", b"../../x"),
        (0x0020000E, b"UI", b"abc"),
        (0x00080005, b"CS", b"ISO_IR 999"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_value_that_breaks_its_form_does_not_cost_the_report(tmp_path, tag, vr, value):
    instances = write_series(tmp_path)
    replace_value(tmp_path / instances[0].path, tag, vr, value)
    request = ReportRequest(verdict(instances), 1, T0, None)
    report = dcmread(BytesIO(build_report(request, instances, tmp_path, Config())))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert [item.SeriesInstanceUID for item in study.ReferencedSeriesSequence] == [
        instances[0].series.series_instance_uid
    ]
    assert b"nan" not in bytes(str(report.ContentSequence), "utf8")


@pytest.mark.parametrize(("tag", "vr"), [(0x00080018, b"UI"), (0x0020000D, b"UI"), (0x00280010, b"US")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_element_of_another_vr_does_not_cost_the_report(tmp_path, tag, vr):
    instances = write_series(tmp_path)
    change(tmp_path / instances[0].path, tag, vr, b"DS")
    request = ReportRequest(verdict(instances), 1, T0, None)
    report = dcmread(BytesIO(build_report(request, instances, tmp_path, Config())))
    assert report.StudyInstanceUID == instances[0].series.study_instance_uid


@pytest.mark.parametrize("tag", [0x00281052, 0x00281053])
@pytest.mark.parametrize("value", [b"1e30", b"9" * 16, b"-1e38"])
def test_a_rescale_beyond_all_measure_costs_its_slice(files, tag, value):
    replace_value(files[3], tag, b"DS", value)
    result = judged(files)
    assert result.instances_used == len(files) - 1
    assert any("(0028,105" in f"{item.sentence} {item.evidence}" for item in result.findings)


def test_the_mode_of_values_below_zero_is_found():
    values = np.concatenate([np.full(50, -3.0), np.full(100, 2.0)]).astype(np.float32)
    assert mode(values) == pytest.approx(2.0, abs=0.1)
