"""The page for one more scanner or PACS: entries by the rules of the file, a C-ECHO, and the other side's sheet."""

from __future__ import annotations

import html
import re

import pytest
import yaml

from dicom_qa_node.config import parse_config
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.web.site import Actions
from tests.web_site import logged_in, open_site

PATH = "/node/connections/new"


@pytest.fixture
def calls() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture
def site(tmp_path, calls):
    def echo_peer(called_ae, host, port):
        calls.append((called_ae, host, port))
        return called_ae == "PACS2", f"{called_ae} asked"

    site = open_site(tmp_path, actions=Actions(echo_peer=echo_peer))
    yield site
    site.database.close()


def ask(site, **answers):
    client = logged_in(site)
    return client.post(PATH, data={"csrf": client.csrf, **answers})


def entries(page: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)]


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("10.20.0.11", "", {"ae_title": "CT 1", "hosts": ["10.20.0.11"]}),
        ("10.20.0.0/16", "104", {"ae_title": "CT 1", "hosts": ["10.20.0.0/16"], "port": 104}),
        ("", "", {"ae_title": "CT 1"}),
    ],
)
def test_the_entry_of_a_scanner_is_one_that_the_file_takes(site, calls, host, port, expected):
    said = ask(site, kind="scanner", ae_title=" CT 1 ", host=host, port=port)
    assert said.status_code == 200
    entry, sheet = entries(said.text)
    assert yaml.safe_load(entry) == [expected]
    lines = "".join(f"    {line}\n" for line in entry.splitlines())
    config = parse_config(f"receive:\n  allow_unknown_peers: false\n  peers:\n{lines}")
    assert config.receive.peers[0].ae_title == "CT 1"
    assert site.config.ae_title in sheet
    assert str(site.config.receive.port) in sheet
    assert "On CT 1:" in sheet
    assert "PACS" not in sheet.replace("leave storage commitment to the PACS", "")
    assert calls == []


def test_the_entry_of_a_pacs_is_tried_and_its_peer_entry_stands_beside_it(site, calls):
    said = ask(site, kind="pacs", ae_title="PACS2", host="pacs.example", port="", name="pacs2", test="yes")
    target, peer, sheet = entries(said.text)
    assert yaml.safe_load(target) == [
        {"kind": "dicom", "name": "pacs2", "host": "pacs.example", "port": 104, "ae_title": "PACS2"}
    ]
    assert yaml.safe_load(peer) == [{"ae_title": "PACS2", "port": 104}]
    assert "On the PACS pacs2 (PACS2)" in sheet
    assert "On each scanner" not in sheet
    assert calls == [("PACS2", "pacs.example", 104)]
    assert "PACS2 asked" in said.text
    (row,) = [row for row in site.audit.entries() if row.event == "node.echo"]
    assert (row.ident, row.detail) == ("PACS2", "pacs.example:104 answers")


def test_a_scanner_that_listens_nowhere_is_not_called(site, calls):
    said = ask(site, kind="scanner", ae_title="CT1", host="10.0.0.0/8", port="104", test="yes")
    assert calls == []
    assert "it was not called" in said.text
    assert len(entries(said.text)) == 2


@pytest.mark.parametrize(
    ("answers", "field"),
    [
        ({"kind": "scanner", "ae_title": "", "host": ""}, "ae_title"),
        ({"kind": "scanner", "ae_title": "A" * 17, "host": ""}, "ae_title"),
        ({"kind": "scanner", "ae_title": "CT\\1", "host": ""}, "ae_title"),
        ({"kind": "scanner", "ae_title": "CT1", "host": "ct.example"}, "host"),
        ({"kind": "scanner", "ae_title": "CT1", "host": "10.0.0.1", "port": "99999"}, "port"),
        ({"kind": "scanner", "ae_title": "CT1", "host": "10.0.0.1", "port": "0x68"}, "port"),
        ({"kind": "pacs", "ae_title": "PACS2", "host": "", "name": "pacs2"}, "host"),
        ({"kind": "pacs", "ae_title": "PACS2", "host": "pacs.example", "name": ""}, "name"),
        ({"kind": "pacs", "ae_title": "PACS2", "host": "pacs.example", "name": "pacs2", "port": "0"}, "port"),
    ],
)
def test_what_the_file_would_refuse_is_named_at_its_field_and_nobody_is_called(site, calls, answers, field):
    said = ask(site, **answers, test="yes")
    assert said.status_code == 422
    assert re.findall(r'id="(\w+)-wrong"', said.text) == [field]
    assert entries(said.text) == []
    assert calls == []


def test_what_is_configured_already_is_named(site, tmp_path):
    peers = parse_config(
        "receive:\n  allow_unknown_peers: false\n  peers:\n  - ae_title: CT1\n"
        "deliver:\n  targets:\n  - {kind: dicom, name: pacs2, host: h, ae_title: P}\n"
    )
    object.__setattr__(
        site, "config", site.config.model_copy(update={"receive": peers.receive, "deliver": peers.deliver})
    )
    assert "already has this AE title" in ask(site, kind="scanner", ae_title="CT1", host="").text
    assert "already has this name" in ask(site, kind="pacs", ae_title="X", host="h", name="pacs2").text


def test_answers_are_text_on_the_page_and_in_the_entry(site):
    said = ask(site, kind="pacs", ae_title="<b>&'", host="x: [y", name="pacs2")
    assert "<b>&" not in said.text
    assert yaml.safe_load(entries(said.text)[0])[0]["ae_title"] == "<b>&'"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
def test_only_administrators_come_here(site, role):
    client = logged_in(site, role)
    assert client.get(PATH).status_code == 403
    assert client.post(PATH, data={"csrf": client.csrf, "kind": "scanner", "ae_title": "CT1"}).status_code == 403
    assert PATH not in client.get("/node").text


def test_an_administrator_finds_the_page_from_the_node(site):
    client = logged_in(site)
    assert PATH in client.get("/node").text
    assert client.get(PATH).status_code == 200
    assert client.post(PATH, data={"csrf": client.csrf, "kind": "toaster", "ae_title": "CT1"}).status_code == 422
