"""The role ``web`` as a process of its own: TLS, the first link, the end, and certificates that cannot be used."""

from __future__ import annotations

import re
import signal
import ssl
import sys

import httpx2
import pytest
import yaml

from dicom_qa_node.accounts.audit import Audit
from dicom_qa_node.db.engine import Database
from tests.unit.test_audit_syslog import certificate

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(tmp_path, free_port):
    cert, key = certificate(tmp_path)
    return {
        "database_url": f"sqlite:///{tmp_path}/quality.db",
        "spool_dir": str(tmp_path / "spool"),
        "web": {
            "host": "127.0.0.1",
            "port": free_port(),
            "tls_certificate": str(cert),
            "tls_key": str(key),
            "password_memory_mb": 8,
        },
    }


@pytest.fixture
def start(tmp_path, settings, background):
    def run():
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        Database(settings["database_url"]).upgrade()
        command = [sys.executable, "-m", "dicom_qa_node", "--config", tmp_path / "config.yaml", "web"]
        return background(command, output=tmp_path / "log")

    return run


def test_from_the_first_link_to_the_last_page_over_tls(tmp_path, settings, start, poll):
    node, log = start(), tmp_path / "log"
    poll(lambda: "event=web_listening" in log.read_text() or node.poll() is not None, 60, "the role web")
    link = poll(lambda: (tmp_path / "setup-link").is_file() and (tmp_path / "setup-link").read_text().strip(), 20)
    assert link.startswith(f"https://127.0.0.1:{settings['web']['port']}/setup/")
    poll(lambda: link in log.read_text(), 20, "the link in the log")
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with httpx2.Client(verify=trusted, headers={"accept": "text/html"}) as client:
        page = client.get(link)
        assert page.status_code == 200
        assert "max-age=" in page.headers["strict-transport-security"]
        csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
        password = "slow copper river"
        answer = client.post(link, data={"csrf": csrf, "name": "ada", "password": password, "again": password})
        assert answer.status_code == 303
        cookie = next(line for line in answer.headers.get_list("set-cookie") if "session" in line)
        assert cookie.startswith("__Host-qa_session=")
        assert "; Secure" in cookie
        root = link.split("/setup/")[0]
        assert client.get(f"{root}/users").status_code == 200
        assert client.get(link).status_code == 410, "the link works once"
    node.send_signal(signal.SIGTERM)
    assert node.wait(30) == 0
    text = log.read_text()
    assert password not in text
    assert csrf not in text
    database = Database(settings["database_url"])
    events = [entry.event for entry in reversed(Audit(database).entries())]
    assert events == ["application.start", "account.setup", "login", "application.stop"]
    database.close()


def test_a_key_that_does_not_fit_is_said_in_one_line(tmp_path, settings, start):
    (tmp_path / "key.pem").write_text("no key")
    assert start().wait(60) == 3
    assert "web.tls_certificate or web.tls_key cannot be used" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
