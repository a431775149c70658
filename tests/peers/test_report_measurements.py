"""A report that holds every measurement and every finding there is passes the validators."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.results import Finding, SeriesKind, Severity
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import ReportRequest
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.physics.quantities import Register
from dicom_qa_node.score.rules import case
from tests.report_samples import T0, verdict, write_series

pytestmark = pytest.mark.peers("dciodvfy", "dsrdump", "DicomSRValidator")

JAVA_OPTIONS = " ".join(f"-Djdk.xml.{name}Limit=0" for name in ("xpathExprGrp", "xpathExprOp", "xpathTotalOp"))
STANDARD = [found for found in vars(case).values() if isinstance(found, Code)]


def every_finding():
    codes = {**case.PRIVATE_CODES, **{code.value.lower(): code for code in STANDARD}}
    return tuple(Finding(key, Severity.WARNING, "It is so.", "1 of 2", code) for key, code in codes.items())


def every_measurement(register):
    return tuple(register.value(quantity.name, 12.345 + i, "a detail") for i, quantity in enumerate(register))


def report(folder: Path, kind: SeriesKind, register: Register) -> Path:
    images = write_series(folder, 1, "CT" if kind is SeriesKind.CT else "PT")
    measurements = (*every_measurement(register), *every_measurement(GEOMETRY_QUANTITIES))
    result = verdict(images, kind, measurements=measurements, findings=every_finding())
    path = folder / "report.dcm"
    path.write_bytes(build_report(ReportRequest(result, 1, T0), images, folder, Config()))
    return path


@pytest.fixture(
    scope="module", params=[(SeriesKind.CT, CT_QUANTITIES), (SeriesKind.PT, PET_QUANTITIES)], ids=["ct", "pet"]
)
def built(request, tmp_path_factory):
    kind, register = request.param
    return report(tmp_path_factory.mktemp(kind.value), kind, register), register


def run(*command, **environment):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "TCP_NODELAY": "1", **environment}
    )
    return done.stdout + done.stderr


def test_dciodvfy_finds_no_error(built):
    assert "Error" not in run("dciodvfy", str(built[0]))


def test_pixelmed_finds_no_error(built):
    found = run("DicomSRValidator", str(built[0]), JAVA_TOOL_OPTIONS=JAVA_OPTIONS)
    assert "Root Template Validation Complete" in found
    assert "Error" not in found, found


def test_every_measurement_is_in_the_report_with_its_unit_and_code(built):
    path, register = built
    shown = run("dsrdump", "+Pc", str(path))
    for quantity in (*register, *GEOMETRY_QUANTITIES):
        assert quantity.code.value in shown, quantity.name
        assert quantity.code.meaning in shown, quantity.name
        assert quantity.unit in shown, quantity.name


def test_values_come_back_as_they_were_measured(built):
    path, register = built
    numbers = [
        (item.ConceptNameCodeSequence[0].CodeValue, float(item.MeasuredValueSequence[0].NumericValue))
        for item in walk(dcmread(path))
        if item.get("ValueType") == "NUM"
    ]
    for found in every_measurement(register):
        assert any(code == found.code.value and np.isclose(value, found.value, atol=1e-3) for code, value in numbers)


def walk(item):
    for child in item.get("ContentSequence") or []:
        yield child
        yield from walk(child)
