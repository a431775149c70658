"""Documents beside the report pass the validators: dciodvfy, DCMTK's dsrdump, PixelMed's; Orthanc shows the page."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.deliver.targets.base import DeliveryItem, Refused
from dicom_qa_node.deliver.targets.dicom import Pacs, Peer
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef
from dicom_qa_node.report.derived_objects import make_documents
from dicom_qa_node.report.document_base import document_series_uid, document_uid
from dicom_qa_node.report.rendered_documents import SC_SOP_CLASS_UID
from dicom_qa_node.report.source_headers import read_sources
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest, report_series_uid, report_uid
from dicom_qa_node.report.summary_page.page_layout import HEIGHT, WIDTH
from tests.peers.orthanc_peer import start_orthanc
from tests.peers.test_report_validators import (
    JAVA_OPTIONS,
    ct,
    multiframe,
    not_rated_japanese,
    pet_alone,
    petct_second_version,
    sparse_header,
    stored_of,
)
from tests.report_samples import MODEL, T0

pytestmark = pytest.mark.peers("dciodvfy", "dsrdump", "dcmdump", "DicomSRValidator", "Orthanc", "storescp")

KINDS = [ct, petct_second_version, pet_alone, not_rated_japanese, multiframe, sparse_header]
FURTHER = [DocumentKind.IMAGE, DocumentKind.PDF, DocumentKind.KEY_OBJECTS]


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> dict[tuple[str, DocumentKind], Path]:
    """Return the file of every document, by the names of series and document."""
    made = {}
    for kind in KINDS:
        spool = tmp_path_factory.mktemp(kind.__name__)
        request = kind(spool)
        sources = read_sources(spool, request.result, stored_of(spool, request))
        wanted = {document: ["pacs"] for document in FURTHER}

        def earlier(document: DocumentKind, request: ReportRequest = request) -> ReportRef | None:
            return _first(request, document) if request.predecessor else None

        for ref, _ in make_documents(wanted, request, sources, spool, Config(), earlier, lambda: [3.0, 2.5]):
            made[kind.__name__, ref.kind] = spool / ref.path
    return made


def _first(request: ReportRequest, kind: DocumentKind) -> ReportRef:
    uid = request.result.series_instance_uid
    if kind is DocumentKind.REPORT:
        return ReportRef(report_uid(uid, 1, MODEL), SOP_CLASS_UID, report_series_uid(uid, MODEL), uid, 1, "r", T0)
    return ReportRef(
        document_uid(kind, uid, 1, MODEL), "1.2.840.10008.5.1.4.1.1.7", document_series_uid(kind, uid, MODEL), uid, 1,
        "d", T0, kind=kind,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
@pytest.mark.parametrize("document", FURTHER)
def test_dciodvfy_finds_no_error(kind, document, documents, run_tool):
    if (kind, document) not in documents:
        assert document is DocumentKind.KEY_OBJECTS
        return
    done = run_tool("dciodvfy", documents[kind, document])
    words = done.stdout + done.stderr
    assert {"image": "SCImage", "pdf": "EncapsulatedPDF", "key_objects": "KeyObjectSelectionDocument"}[
        document
    ] in words
    assert [line for line in words.splitlines() if line.startswith("Error")] == []


def test_key_objects_are_made_where_there_is_something_to_point_at(documents):
    pointing = {kind for kind, document in documents if document is DocumentKind.KEY_OBJECTS}
    assert pointing >= {"ct", "petct_second_version", "multiframe"}


@pytest.mark.parametrize("kind", ["ct", "petct_second_version", "multiframe"])
def test_dsrdump_renders_the_key_objects(kind, documents, run_tool):
    done = run_tool("dsrdump", "+Pl", documents[kind, DocumentKind.KEY_OBJECTS], check=True)
    assert "Key Object Selection Document" in done.stdout
    assert '"Quality Issue"' in done.stdout
    assert '"Key Object Description"' in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))] == []


@pytest.mark.parametrize("kind", ["ct", "multiframe"])
def test_pixelmed_finds_no_error_in_key_objects(kind, documents):
    environment = {**os.environ, "JAVA_TOOL_OPTIONS": JAVA_OPTIONS}
    path = documents[kind, DocumentKind.KEY_OBJECTS]
    done = subprocess.run(
        ["DicomSRValidator", path], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    words = done.stdout + done.stderr
    assert "IOD validation complete" in words
    assert [line for line in words.splitlines() if "Error" in line] == []


@pytest.mark.integration
def test_orthanc_stores_the_documents_and_shows_the_page(tmp_path, documents, free_port, background, poll):
    peer = start_orthanc(tmp_path, free_port, background, poll, free_port())
    stored = {kind: peer.ask("instances", documents["ct", kind].read_bytes()) for kind in FURTHER}
    assert [answer["Status"] for answer in stored.values()] == ["Success"] * 3
    page = stored[DocumentKind.IMAGE]["ID"]
    address = f"http://127.0.0.1:{peer.http_port}/instances/{page}/preview"
    with urllib.request.urlopen(address, timeout=60) as answer, Image.open(BytesIO(answer.read())) as preview:
        assert preview.size == (WIDTH, HEIGHT)
        shown = np.asarray(preview.convert("RGB"))
    assert np.array_equal(shown, dcmread(documents["ct", DocumentKind.IMAGE]).pixel_array)
    pdf = stored[DocumentKind.PDF]["ID"]
    with urllib.request.urlopen(f"http://127.0.0.1:{peer.http_port}/instances/{pdf}/pdf", timeout=60) as answer:
        assert answer.read(5) == b"%PDF-"


@pytest.mark.integration
def test_every_document_reaches_an_archive_by_c_store(tmp_path, documents, free_port, background, poll):
    orthanc = start_orthanc(tmp_path, free_port, background, poll, free_port())
    pacs = Pacs(Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC", "DICOMQA"))
    for kind in FURTHER:
        path = documents["ct", kind]
        header = dcmread(path, stop_before_pixels=True)
        uids = (str(header[name].value) for name in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID"))
        ref = ReportRef(*uids, "1.2.3", 1, path.name, T0, kind=kind)
        first, again = (pacs.send(DeliveryItem(path.parent, ref)) for _ in range(2))
        assert first.status.startswith("0x0000"), kind
        assert first.sent_uid == again.sent_uid == ""
    assert len(orthanc.ask("instances")) == len(FURTHER)


@pytest.mark.integration
def test_an_archive_without_the_class_refuses_it_for_good(tmp_path, documents, free_port, background, poll, listening):
    config = "\n".join(
        (
            "[[TransferSyntaxes]]", "[Explicit]", "TransferSyntax1 = LittleEndianExplicit",
            "[[PresentationContexts]]", "[SR]", "PresentationContext1 = Comprehensive3DSRStorage\\Explicit",
            "[[Profiles]]", "[SROnly]", "PresentationContexts = SR",
        )
    )  # fmt: skip
    (tmp_path / "sr.cfg").write_text(config + "\n")
    port = free_port()
    background(["storescp", "-od", tmp_path, "-xf", tmp_path / "sr.cfg", "SROnly", str(port)])
    path = documents["ct", DocumentKind.IMAGE]
    ref = ReportRef("2.25.1", SC_SOP_CLASS_UID, "2.25.2", "1.2.3", 1, path.name, T0, kind=DocumentKind.IMAGE)
    pacs = Pacs(Peer("127.0.0.1", port, "ANY", "DICOMQA"))

    poll(lambda: listening(port))
    with pytest.raises(Refused):
        pacs.send(DeliveryItem(path.parent, ref))
