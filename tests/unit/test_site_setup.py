"""``init``: a first configuration from a site's answers, tried against real application entities."""

from __future__ import annotations

import io
import socket
import sys
import threading
import time

import pytest
from pynetdicom import AE

from dicom_qa_node.cli.app import run
from dicom_qa_node.cli.demo_archive import AE_TITLE, start_archive
from dicom_qa_node.config import load_config, parse_config
from dicom_qa_node.config.site_setup import PacsAnswer, ScannerAnswer, SiteAnswers, peer_sheet, site_yaml


@pytest.fixture
def answer(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(lines, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(str, lines)) + "\n"))
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", "init", *map(str, arguments)])
        code = run()
        return code, *capsys.readouterr()

    return call


def test_configuration_of_a_site_is_valid_and_rejects_unknown_peers():
    answers = SiteAnswers(
        scanners=(ScannerAnswer("CT1", "10.20.0.11"), ScannerAnswer("PETCT2", "10.20.1.0/24", 104)),
        pacs=(PacsAnswer("pacs", "PACS1", "pacs.example", 104),),
        institution_name="Klinikum Süd: Radiologie",
    )
    config = parse_config(site_yaml(answers))
    assert not config.receive.allow_unknown_peers
    assert [peer.ae_title for peer in config.receive.peers] == ["CT1", "PETCT2", "PACS1"]
    assert config.receive.peers[2].hosts == [], "a host name cannot be compared with the address of a caller"
    assert config.deliver.targets[0].host == "pacs.example"
    assert config.report.institution_name == "Klinikum Süd: Radiologie"
    sheet = peer_sheet(answers, ["10.20.0.5"])
    assert all(
        word in sheet for word in ("CT1, PETCT2", "10.20.0.5", "11112", "DICOMQA", "1.2.840.10008.5.1.4.1.1.88.34")
    )


def test_without_scanners_the_node_stays_open():
    assert parse_config(site_yaml(SiteAnswers())).receive.allow_unknown_peers


def test_questions_lead_to_a_file_and_the_pacs_is_tried(answer, tmp_path, free_port):
    port = free_port()
    archive = start_archive(port, tmp_path / "archive")
    try:
        lines = ["QANODE", 11113, "data", "", "CT1", "10.20.0.11", 0, "", AE_TITLE, "127.0.0.1", port, "", "n", "y"]
        code, out, _ = answer(lines)
    finally:
        archive.shutdown()
    assert code == 0
    assert f"{AE_TITLE} at 127.0.0.1:{port}: 0x0000 Success" in out
    config = load_config(tmp_path / "config.yaml")
    assert (config.ae_title, config.receive.port) == ("QANODE", 11113)
    assert config.deliver.targets[0].name == "pacs"


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_wrong_answers_are_asked_again_and_a_silent_pacs_is_kept(answer, tmp_path, free_port):
    lines = ["A" * 17, "QANODE", 0, 11112, "data", "", "CT1", "not an address", "10.1.2.3", 0, "", "PACS1", "127.0.0.1",
             free_port(), "", "n", "y"]  # fmt: skip
    code, out, err = answer(lines)
    assert code == 0
    assert "printable ASCII" in out + err
    assert "does not answer" in out
    assert load_config(tmp_path / "config.yaml").deliver.targets[0].ae_title == "PACS1"


def test_existing_file_is_kept(answer, tmp_path):
    (tmp_path / "config.yaml").write_text("ae_title: MINE\n")
    code, _, err = answer([])
    assert code == 1
    assert "--force" in err
    assert (tmp_path / "config.yaml").read_text() == "ae_title: MINE\n"


def test_call_of_a_scanner_is_heard(answer, free_port):
    port = free_port()

    def verify():
        scanner = AE(ae_title="CT1")
        scanner.add_requested_context("1.2.840.10008.1.1")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                threading.Event().wait(0.05)
                continue
            assoc = scanner.associate("127.0.0.1", port, ae_title="QANODE")
            assoc.send_c_echo()
            assoc.release()
            return

    caller = threading.Thread(target=verify)
    caller.start()
    code, out, _ = answer(["QANODE", port, "data", "", "CT1", "127.0.0.0/8", 0, "", "", "y", "y"], "--wait-s", 60)
    caller.join()
    assert code == 0
    assert "CT1: verified, called from 127.0.0.1" in out
