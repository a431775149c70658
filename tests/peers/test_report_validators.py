"""Every kind of report passes the validators: dciodvfy, DCMTK's dsrdump and PixelMed's, the one of IHE."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.deliver.targets.base import CLASSES
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.results import Grade, SeriesKind
from dicom_qa_node.domain.series import StoredInstance
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sop_class_conversion import as_form
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest, report_series_uid, report_uid
from tests.phantom_runs import phantom_result
from tests.report_samples import (
    MODEL,
    T0,
    implausible,
    not_rated,
    verdict,
    with_parts,
    write_multiframe,
    write_series,
)

pytestmark = pytest.mark.peers("dciodvfy", "dsrdump", "dcmdump", "DicomSRValidator")

# Without these the validator's style sheets exceed the limits of current Java.
JAVA_OPTIONS = " ".join(f"-Djdk.xml.{name}Limit=0" for name in ("xpathExprGrp", "xpathExprOp", "xpathTotalOp"))
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
CYRILLIC = "Люкceмбypг^Роза"


def ct(spool: Path) -> ReportRequest:
    return ReportRequest(verdict(write_series(spool)), 1, T0)


def petct_second_version(spool: Path) -> ReportRequest:
    pair = write_series(spool, 1, "CT", SpecificCharacterSet="ISO_IR 144", PatientName=CYRILLIC)
    images = write_series(spool, 2, "PT", SpecificCharacterSet="ISO_IR 144", PatientName=CYRILLIC)
    result = verdict(images, SeriesKind.PETCT, grade=Grade.LIMITED, pair_series_uid=pair[0].series.series_instance_uid)
    result = dataclasses.replace(result, slices=(*result.slices[:3], *verdict(pair).slices[3:]))
    uid = result.series_instance_uid
    first = ReportRef(report_uid(uid, 1, MODEL), SOP_CLASS_UID, report_series_uid(uid, MODEL), uid, 1, "r", T0)
    return ReportRequest(result, 2, T0, first)


def pet_alone(spool: Path) -> ReportRequest:
    images = write_series(spool, 3, "PT", TimezoneOffsetFromUTC="+0530")
    return ReportRequest(verdict(images, SeriesKind.PT, grade=Grade.NON_DIAGNOSTIC, findings=()), 1, T0)


def not_rated_japanese(spool: Path) -> ReportRequest:
    images = write_series(spool, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=JAPANESE)
    return ReportRequest(not_rated(images), 1, T0)


def multiframe(spool: Path) -> ReportRequest:
    return ReportRequest(verdict(write_multiframe(spool)), 1, T0)


def sparse_header(spool: Path) -> ReportRequest:
    """A scanner that fills in the least: no names, no dates, no frame of reference, no position."""
    empty = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"), "")
    empty |= dict.fromkeys(("Manufacturer", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID"), "")
    images = write_series(spool, **empty, ImagePositionPatient=None, SliceThickness=None)
    return ReportRequest(verdict(images, measurements=(), findings=(), stack_name=""), 1, T0)


def petct_by_parts(spool: Path) -> ReportRequest:
    ct_images = write_series(spool, 4, "CT")
    return ReportRequest(with_parts(write_series(spool, 5, "PT"), ct_images), 1, T0)


def implausible_pet(spool: Path) -> ReportRequest:
    return ReportRequest(implausible(write_series(spool, 6, "PT")), 1, T0)


def qc_phantom(spool: Path) -> ReportRequest:
    images = write_series(spool, 7, "CT", PatientName="QA^Daily")
    values = {"phantom_hu_centre": 9.0, "phantom_noise": 5.0, "phantom_edge_centre": -1.0}
    made = phantom_result(images[0].series.series_instance_uid, values, T0.replace(tzinfo=None))
    return ReportRequest(dataclasses.replace(made, instances_used=len(images)), 1, T0)


KINDS: list[Callable[[Path], ReportRequest]] = [
    ct, petct_second_version, pet_alone, not_rated_japanese, multiframe, sparse_header,
    petct_by_parts, implausible_pet, qc_phantom,
]  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Path]:
    """Return every report, by the name of its kind."""
    written = {}
    for kind in KINDS:
        spool = tmp_path_factory.mktemp(kind.__name__)
        request = kind(spool)
        stored = stored_of(spool, request)
        written[kind.__name__] = spool / "report.dcm"
        written[kind.__name__].write_bytes(build_report(request, stored, spool, Config()))
    return written


def stored_of(spool: Path, request: ReportRequest) -> list[StoredInstance]:
    """Return the stored instances that a request was made from."""
    return [_stored(spool, path, request) for path in sorted((spool / "instances").iterdir())]


def _stored(spool: Path, path: Path, request: ReportRequest):
    header = dcmread(path, stop_before_pixels=True)
    (template,) = write_series(spool.parent / "template", slices=1)
    facts = dataclasses.replace(template.series, series_instance_uid=str(header.SeriesInstanceUID))
    return dataclasses.replace(
        template, sop_instance_uid=str(header.SOPInstanceUID), sop_class_uid=str(header.SOPClassUID),
        path=str(path.relative_to(spool)), series=facts,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_dciodvfy_finds_no_error(kind, reports, run_tool):
    done = run_tool("dciodvfy", reports[kind])
    words = done.stdout + done.stderr
    assert "Comprehensive3DSR" in words
    assert [line for line in words.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_dsrdump_renders_it(kind, reports, run_tool):
    done = run_tool("dsrdump", "+Pl", reports[kind], check=True)
    assert '"Imaging Measurement Report"' in done.stdout
    score = {"not_rated_japanese": None, "qc_phantom": None, "petct_by_parts": "1.7", "implausible_pet": "0"}.get(
        kind, "2.83"
    )
    assert (f'"Image Set Quality Rating")="{score}' in done.stdout) is (score is not None)
    assert done.stdout.count("Measurement Group") >= 3
    assert [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))] == []


PIXELMED = (
    "petct_second_version",
    "not_rated_japanese",
    "multiframe",
    "petct_by_parts",
    "implausible_pet",
    "qc_phantom",
)


@pytest.mark.parametrize("kind", PIXELMED)
def test_pixelmed_finds_no_error(kind, reports):
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": JAVA_OPTIONS}
    done = subprocess.run(
        ["DicomSRValidator", "-checkcontentitemorder", reports[kind]],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    words = done.stdout + done.stderr
    assert "Root Template Validation Complete" in words
    assert "IOD validation complete" in words
    wrong = [line for line in words.splitlines() if line.startswith("Error") or "not in template row order" in line]
    assert wrong == []


@pytest.fixture(scope="module")
def forms(reports) -> dict[tuple[str, str], Path]:
    """Return every report as Comprehensive and as Enhanced SR, by the names of its kind and class."""
    made = {}
    for kind, path in reports.items():
        uid = str(dcmread(path).SOPInstanceUID)
        ref = ReportRef(uid, SOP_CLASS_UID, "2.25.9", "1.2.3", 1, path.name, T0)
        for name in ("comprehensive", "enhanced"):
            made[kind, name] = path.parent / as_form(path.parent, ref, CLASSES[name]).path
    return made


@pytest.mark.parametrize(("name", "iod"), [("comprehensive", "ComprehensiveSR"), ("enhanced", "EnhancedSR")])
@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_older_classes_are_valid_too(kind, name, iod, forms, run_tool):
    done = run_tool("dciodvfy", forms[kind, name])
    words = (done.stdout + done.stderr).splitlines()
    assert iod in words
    assert [line for line in words if line.startswith("Error")] == []
    # DCMTK refuses a tree with relationships that the class does not have.
    dump = run_tool("dsrdump", "+Pl", forms[kind, name], check=True)
    assert '"Imaging Measurement Report"' in dump.stdout
    assert [line for line in dump.stderr.splitlines() if line.startswith(("E:", "F:"))] == []


@pytest.mark.parametrize("name", ["comprehensive", "enhanced"])
def test_pixelmed_finds_no_error_in_older_classes(name, forms):
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": JAVA_OPTIONS}
    done = subprocess.run(
        ["DicomSRValidator", forms["petct_second_version", name]],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    words = done.stdout + done.stderr
    assert "IOD validation complete" in words
    assert [line for line in words.splitlines() if line.startswith("Error")] == []


# Debian's DCMTK cannot convert ISO 2022; that Japanese survives is seen in Orthanc.
@pytest.mark.parametrize(("kind", "name"), [("petct_second_version", CYRILLIC), ("ct", "Sample^Sally")])
def test_dcmtk_reads_the_same_name(kind, name, reports, run_tool):
    done = run_tool("dcmdump", "+U8", "+P", "PatientName", reports[kind], check=True)
    assert f"[{name}]" in done.stdout
