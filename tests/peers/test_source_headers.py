"""Whatever a source header holds, report, page, PDF and key objects are made, and the validators find no error."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from pydicom import Dataset, dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.report.derived_objects import make_documents
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.source_headers import read_sources
from dicom_qa_node.report.sr_document import ReportRequest
from tests.odd_headers import headers, series_with
from tests.peers.test_report_validators import JAVA_OPTIONS
from tests.report_samples import T0

pytestmark = [
    pytest.mark.peers("dciodvfy", "dsrdump", "DicomSRValidator"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

CONFIG = Config.model_validate({"report": {"language": "de"}})
WANTED = {kind: ["pacs"] for kind in DocumentKind if kind is not DocumentKind.REPORT}


def written(spool: Path, elements: dict[str, object]) -> dict[str, Path]:
    """Make every document of a series with this header; return the files by kind."""
    instances, result = series_with(spool, elements, score=1.0, grade=Grade.NON_DIAGNOSTIC)
    request = ReportRequest(dataclasses.replace(result, stack_name="acquisition 2"), 1, T0)
    report = spool / "report.dcm"
    report.write_bytes(build_report(request, instances, spool, CONFIG))
    sources = read_sources(spool, request.result, instances)
    made = make_documents(WANTED, request, sources, spool, CONFIG, lambda _: None, lambda: [2.0, 2.5, 3.0])
    files = {"report": report} | {ref.kind.value: spool / ref.path for ref, _ in made}
    assert sorted(files) == sorted(DocumentKind)
    return files


def errors(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", path], capture_output=True, check=False)
    words = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    return [line for line in words if line.startswith("Error")]


def judge(elements: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), elements)
        found = {kind: errors(path) for kind, path in files.items()}
        assert found == {kind: [] for kind in files}
        dump = subprocess.run(["dsrdump", files["report"]], capture_output=True, check=False)
        assert dump.returncode == 0


TRIAL = {"ClinicalTrialSponsorName": b"S" * 80, "ClinicalTrialProtocolID": b"P1", "ClinicalTrialSubjectID": b"7"}
DOG = {
    "PatientSpeciesDescription": b"Canine", "PatientSexNeutered": b"ALTERED", "PatientBreedDescription": b"Beagle",
    "ResponsiblePerson": b"Owner^A", "ResponsiblePersonRole": b"OWNER",
}  # fmt: skip


def examples(function):
    for elements in (
        {
            "SeriesDescription": b"Abd\nroutine",
            "StudyDescription": b"a\xe2\x80\xa8b",
            "InstitutionName": b"\x1c\x1d\x85",
        },
        {"PatientBirthDate": b"19600231", "StudyDate": b"20240230"},
        {"TimezoneOffsetFromUTC": b"+01:00", "Manufacturer": b"GE\\MEDICAL", "StationName": b"CT1\\CT2"},
        {"SpecificCharacterSet": b"ISO_IR 100\\ISO_IR 192", "PatientName": "Müßig^Jörg".encode("latin-1")},
        {"SpecificCharacterSet": b"GB18030", "PatientName": b"Test^A=\x81\x5c^\x90\x5c"},
        {"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientName": b"Test^B=\x1b$B\x25\x5c\x1b(B"},
        TRIAL,
        DOG,
        {"PatientSpeciesDescription": b"Canine"},
        {"ResponsiblePerson": b"Owner^A"},
        {"PatientIdentityRemoved": b"YES"},
        {"ProcedureCodeSequence": [Dataset()], "OtherPatientIDsSequence": [Dataset()]},
    ):
        function = example(elements)(function)
    return function


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(headers())
@examples
def test_no_header_makes_a_document_invalid_or_costs_it(elements):
    judge(elements)


@pytest.mark.load
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(headers())
def test_very_many_headers(elements):
    judge(elements)


@pytest.mark.parametrize(
    "elements",
    [
        pytest.param(TRIAL | {"TimezoneOffsetFromUTC": b"Z", "PatientName": b"A^B=C^D=E^F=G^H"}, id="trial"),
        pytest.param(DOG | {"PatientComments": b"a\x1b$Bb\x0cc", "StudyDescription": b"\xff\xfe"}, id="animal"),
    ],
)
def test_pixelmed_finds_no_error_in_a_report_from_an_odd_header(tmp_path, elements):
    path = written(tmp_path, elements)["report"]
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": JAVA_OPTIONS}
    done = subprocess.run(
        ["DicomSRValidator", path], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    words = done.stdout + done.stderr
    assert "Root Template Validation Complete" in words
    assert "IOD validation complete" in words
    assert [line for line in words.splitlines() if line.startswith("Error")] == []


def test_the_report_says_what_it_takes_over(tmp_path):
    files = written(tmp_path, {"Manufacturer": b"GE\\MEDICAL", "TimezoneOffsetFromUTC": b"+01:00"} | DOG)
    for path in files.values():
        document = dcmread(path)
        assert document.TimezoneOffsetFromUTC == "+0100"
        assert document.ContributingEquipmentSequence[0].Manufacturer == "GE"
        assert document.PatientSpeciesDescription == "Canine"
        assert document.ResponsibleOrganization == ""
