"""Patient names of every character set survive from the image to the report and every document beside it."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.report.derived_objects import make_documents
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.source_headers import read_sources
from dicom_qa_node.report.sr_document import ReportRequest
from tests.report_samples import T0, verdict, write_series

NAMES = [
    pytest.param([], "Doe^Jane", id="default"),
    pytest.param(["ISO_IR 100"], "Müller^Jürgen^^Dr.", id="Latin-1"),
    pytest.param(["ISO_IR 101"], "Wałęsa^Łukasz", id="Latin-2"),
    pytest.param(["ISO_IR 144"], "Люкceмбypг^Роза", id="Cyrillic"),
    pytest.param(["ISO_IR 126"], "Διονυσιος", id="Greek"),
    pytest.param(["ISO_IR 127"], "قباني^لنزار", id="Arabic"),
    pytest.param(["ISO_IR 138"], "שרון^דבורה", id="Hebrew"),
    pytest.param(["ISO_IR 166"], "นามสกุล^ชื่อ", id="Thai"),
    pytest.param(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", id="Japanese"),
    pytest.param(["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", id="Japanese half-width"),
    pytest.param(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", id="Korean"),
    pytest.param(["GB18030"], "Wang^XiaoDong=王^小东", id="Chinese GB18030"),
    pytest.param(["GBK"], "Wang^XiaoDong=王^小东", id="Chinese GBK"),
    pytest.param(["", "ISO 2022 IR 58"], "Zhang^XiaoDong=张^小东", id="Chinese GB2312"),
    pytest.param(["ISO_IR 192"], "Wang^XiaoDong=王^小東", id="UTF-8"),
]


def _images(tmp_path, charset, name):
    given = {"SpecificCharacterSet": charset if len(charset) > 1 else charset[0]} if charset else {}
    images = write_series(tmp_path, **given, PatientName=name)
    assert str(dcmread(tmp_path / images[0].path).PatientName) == name
    return images


@pytest.mark.parametrize(("charset", "name"), NAMES)
def test_the_report_names_the_patient_as_the_images_do(tmp_path, charset, name):
    images = _images(tmp_path, charset, name)
    content = build_report(ReportRequest(verdict(images), 1, T0), images, tmp_path, Config())
    assert str(dcmread(BytesIO(content)).PatientName).rstrip("=") == name.rstrip("=")


@pytest.mark.parametrize("language", ["de", "es"])
@pytest.mark.parametrize(("charset", "name"), NAMES)
def test_every_document_names_the_patient_as_the_images_do(tmp_path, charset, name, language):
    images = _images(tmp_path, charset, name)
    request = ReportRequest(verdict(images, score=1.0, grade=Grade.NON_DIAGNOSTIC), 1, T0)
    sources = read_sources(tmp_path, request.result, images)
    wanted = {kind: ["pacs"] for kind in DocumentKind if kind is not DocumentKind.REPORT}
    config = Config.model_validate({"report": {"language": language}})
    made = make_documents(wanted, request, sources, tmp_path, config, lambda _: None, lambda: [])
    assert len(made) == 3
    for ref, _ in made:
        read = dcmread(tmp_path / ref.path)
        assert str(read.PatientName).rstrip("=") == name.rstrip("="), ref.kind
        assert read.PatientID == "SAMPLE-7"
        assert str(read.ReferringPhysicianName) == "Referrer^Rita"
