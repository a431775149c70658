"""``send`` and ``echo`` against the demo's archive on loopback."""

from __future__ import annotations

import json
import ssl
import sys

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage
from pynetdicom import AE, evt

from dicom_qa_node.cli.app import run
from dicom_qa_node.cli.demo_archive import AE_TITLE, start_archive
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.phantom import pet_series, write
from tests.tls_files import Authority

# pynetdicom leaves the socket of a refused connection to the garbage collector.
refused = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def archive(tmp_path, free_port):
    port = free_port()
    server = start_archive(port, tmp_path / "archive")
    yield port
    server.shutdown()


@pytest.fixture
def qa(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_QA_NODE_CONFIG", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", *map(str, arguments)])
        code = run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def study(tmp_path):
    return write(pet_series(1, slices=3, rows=16), tmp_path / "study")


def test_send_delivers_every_file_unchanged(archive, qa, study, tmp_path):
    (study[0].parent / "notes.txt").write_text("no DICOM")
    code, out, _ = qa("send", study[0].parent, "127.0.0.1", archive, "--to", AE_TITLE, "--json")
    summary = json.loads(out)
    assert (code, summary["sent"], len(summary["skipped"])) == (ExitCode.OK, 3, 1)
    for path in study:
        kept = dcmread(tmp_path / "archive" / path.name)
        assert kept == dcmread(path)


def test_send_over_tls_to_a_receiver_that_is_trusted(qa, study, tmp_path, free_port):
    hospital = Authority(tmp_path / "hospital")
    pacs, own = hospital.issue("pacs", hosts=["pacs.example"]), hospital.issue("own")
    port, kept = free_port(), []
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(pacs.certificate, pacs.key)
    secure.load_verify_locations(hospital.ca)
    secure.verify_mode = ssl.CERT_REQUIRED
    ae = AE("PACS")
    ae.add_supported_context(PositronEmissionTomographyImageStorage, ExplicitVRLittleEndian)
    handlers = [(evt.EVT_C_STORE, lambda event: kept.append(event.request.AffectedSOPInstanceUID) or 0)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=secure)
    try:
        shown = ["--ca", hospital.ca, "--certificate", own.certificate, "--key", own.key]
        code, _, err = qa("send", study[0], "127.0.0.1", port, "--tls", *shown)
        assert (code, kept) == (ExitCode.TRY_LATER, [])
        assert "not accepted: IP address mismatch" in err
        code, out, err = qa("send", study[0], "127.0.0.1", port, "--tls", *shown, "--no-check-host-name")
        assert (code, len(kept)) == (ExitCode.OK, 1), err
        assert "1 sent" in out
        code, _, err = qa("send", study[0], "127.0.0.1", port, *shown)
        assert code == ExitCode.USAGE
        assert "need --tls" in err
    finally:
        server.shutdown()


@refused
def test_send_without_a_listener_says_so(qa, study, free_port):
    code, _, err = qa("send", study[0], "127.0.0.1", free_port())
    assert code == ExitCode.TRY_LATER
    assert "error: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["none", "notes.txt", "empty"])
def test_send_of_nothing_is_not_found(qa, tmp_path, name):
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "empty").mkdir()
    code, _, err = qa("send", tmp_path / name, "127.0.0.1", 104)
    assert code == ExitCode.NOT_FOUND
    assert "error: " in err


@refused
def test_echo_asks_the_target_of_the_configuration(archive, qa, tmp_path, free_port):
    dead = free_port()
    (tmp_path / "config.yaml").write_text(
        f"deliver: {{targets: [{{kind: dicom, name: pacs, host: 127.0.0.1, port: {archive}, ae_title: {AE_TITLE}}},"
        f" {{kind: dicom, name: dead, host: 127.0.0.1, port: {dead}, ae_title: X}}]}}\n"
    )
    code, out, _ = qa("echo", "pacs")
    assert (code, out) == (ExitCode.OK, "pacs: 0x0000 Success\n")
    assert qa("echo", "dead")[0] == ExitCode.TRY_LATER
    code, _, err = qa("echo", "nobody")
    assert code == ExitCode.NOT_FOUND
    assert "pacs" in err
