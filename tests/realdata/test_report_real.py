"""Reports on real scanners' series: whatever their headers hold, the report is valid and belongs to the study."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import ReportRequest
from tests.report_samples import T0, verdict

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.peers("dciodvfy"),
    # Real headers break value representations; pydicom says so when it reads them.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SLICES = 8


def series_folders(shared: Path) -> list[Path]:
    folders = {path.parent for path in (shared / "dicom").rglob("*.dcm")}
    return sorted(folder for folder in folders if "transfer_syntaxes" not in folder.parts)


def stored(folder: Path) -> list[StoredInstance]:
    return [_instance(path) for path in sorted(folder.glob("*.dcm"))[:SLICES]]


def _instance(path: Path) -> StoredInstance:
    header = dcmread(path, stop_before_pixels=True)
    return StoredInstance(
        sop_instance_uid=header.SOPInstanceUID,
        sop_class_uid=header.SOPClassUID,
        transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
        path=path.name,
        sha256="",
        size_bytes=path.stat().st_size,
        received_at=T0,
        calling_ae="SCANNER",
        association_id="a1",
        series=SeriesHeader(header.SeriesInstanceUID, header.StudyInstanceUID, header.Modality),
    )


def test_every_real_series_gets_a_valid_report_of_its_own_study(shared_data, tmp_path, run_tool):
    folders = series_folders(shared_data)
    assert len(folders) >= 10
    for folder in folders:
        instances = stored(folder)
        kind = SeriesKind.CT if instances[0].series.modality == "CT" else SeriesKind.PT
        content = build_report(ReportRequest(verdict(instances, kind), 1, T0), instances, folder, Config())
        report, source = dcmread(BytesIO(content)), dcmread(folder / instances[0].path, stop_before_pixels=True)
        for keyword in ("StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate"):
            assert str(report.get(keyword) or "") == str(source.get(keyword) or ""), (folder.name, keyword)
        assert str(report.PatientName) == str(source.PatientName)
        path = tmp_path / "report.dcm"
        path.write_bytes(content)
        # What is wrong with the images' own identifiers is taken over as it is.
        inherited = errors(run_tool("dciodvfy", folder / instances[0].path))
        assert errors(run_tool("dciodvfy", path)) - inherited == set(), folder.name


def errors(done: subprocess.CompletedProcess[str]) -> set[str]:
    lines = (done.stdout + done.stderr).splitlines()
    return {line.split(" - ", 1)[1] for line in lines if line.startswith("Error")}
