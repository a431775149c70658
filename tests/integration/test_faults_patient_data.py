"""A patient's name and identifiers in the images, whole and broken, reach no log line, metric, alert or crash text."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.cookiejar
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from dicom_qa_node.accounts.accounts import Accounts
from dicom_qa_node.charts.alerts import Alerts
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.web.auth.csrf import FIELD
from tests.conftest import ROOT
from tests.crash_helpers import Archive
from tests.integration.receive_peer import association, store_bytes
from tests.mail_server import Hook
from tests.unit.encoded_images import encoded

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

WORDS = ("Zwirnhuber", "Quirina", "PID-83412-X", "ACC-771144", "19310717")
NAME = "Zwirnhuber^Quirina"
UNKNOWN_TEXT = "a character set that nobody knows"


class Refusing(Archive):
    """A PACS that quotes the patient when it refuses the first report."""

    def _store(self, event) -> Dataset | int:
        if sum(self.arrived.values()) == 0:
            self.arrived[str(event.request.AffectedSOPInstanceUID)] += 1
            answer = Dataset()
            answer.Status, answer.ErrorComment = 0xA700, f"no room for {NAME} {WORDS[2]}"
            return answer
        return super()._store(event)


def of_patient(images: list[Dataset]) -> list[Dataset]:
    """Give the images to the patient, in every element that names one."""
    for ds in images:
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = NAME, WORDS[2], WORDS[4]
        ds.AccessionNumber, ds.OtherPatientIDs = WORDS[3], WORDS[2]
        ds.PatientComments = ds.AdditionalPatientHistory = f"{NAME} was here"
        ds.ReferringPhysicianName = ds.OperatorsName = NAME
    return images


def broken(images: list[Dataset], keyword: str) -> list[Dataset]:
    """Write the patient where a number belongs: whoever converts it quotes it."""
    for ds in images:
        del ds[keyword]
        ds.add_new(keyword, "LO", NAME)
    return images


def cut(images: list[Dataset]) -> list[Dataset]:
    """Shorten the pixel data."""
    for ds in images:
        ds.PixelData = ds.PixelData[:100]
    return images


def another(images: list[Dataset]) -> list[Dataset]:
    series, study = generate_uid(), generate_uid()
    for ds in images:
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.SOPInstanceUID = series, study, generate_uid()
    return images


def of_today(images: list[Dataset]) -> list[Dataset]:
    for ds in images:
        for element in [element for element in ds if element.VR == "DA" and element.keyword != "PatientBirthDate"]:
            element.value = f"{dt.datetime.now(dt.UTC):%Y%m%d}"
    return images


def all_series() -> dict[str, list[Dataset]]:
    def fresh() -> list[Dataset]:
        # Series of long ago give rise to no alerts.
        return of_today(of_patient(another(ct_series(5, slices=8, rows=64, spacing_mm=30))))

    return {
        "whole": fresh(),
        "no number: thickness": broken(fresh(), "SliceThickness"),
        "no number: position": broken(fresh(), "ImagePositionPatient"),
        "no number: slope": broken(fresh(), "RescaleSlope"),
        "no number: rows": broken(fresh(), "Rows"),
        "cut": cut(fresh()),
        UNKNOWN_TEXT: fresh(),
    }


@pytest.fixture
def archive(free_port):
    port = free_port()
    archive = Refusing(port)
    yield port
    archive.close()


@pytest.fixture
def hook():
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture
def node(tmp_path, node_config: Config, archive, hook, background, poll, listening):
    settings = node_config.model_dump(mode="json", exclude_defaults=True)
    settings["log"] = {"level": "debug", "format": "json"}
    settings["score"] = {"threads": 1}
    target = {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": archive, "ae_title": "PACS"}
    settings["deliver"]["targets"] = [target]
    (tmp_path / "secret").write_text("s3cret\n")
    settings["alerts"] = {
        "gather_minutes": 0,
        "rules": [{"name": "any", "about": "finding", "severity": "info", "urgent": True}],
        "webhook": [{"name": "hook", "url": hook.url, "secret_file": str(tmp_path / "secret")}],
    }
    path, log = tmp_path / "config.yaml", tmp_path / "node.log"
    path.write_text(yaml.safe_dump(settings))
    process = background([sys.executable, "-m", "dicom_qa_node", "--config", path, "serve"], output=log, cwd=tmp_path)
    ports = (node_config.receive.port, node_config.web.port)
    poll(lambda: all(map(listening, ports)), 90, f"the node; see {log}")
    return SimpleNamespace(config=node_config, path=path, log=log, process=process)


def test_the_patient_is_in_no_log_metric_alert_or_list(node, hook, poll):
    sent = all_series()
    _send(node.config.receive.port, sent)
    database = Database(node.config.database_url)
    registry = Registry(database)
    settled = {"DELIVERED", "PARKED"}

    def done() -> bool:
        rows = registry.list_series()
        return len(rows) == len(sent) and all(row.state in settled for row in rows)

    poll(done, 180, f"every series; see {node.log}")
    parked = [row.parked_reason for row in registry.list_series() if row.state == "PARKED"]
    poll(lambda: hook.posted, 60, "an alert")
    pages = _ask(node.config, database)
    lists = _commands(node.path)
    told = [alert.text for alert in Alerts(database).history()] + parked
    database.close()
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(60) == 0
    lines = node.log.read_text().splitlines()
    events = {json.loads(line)["event"] for line in lines}
    assert {"refused", "scored", "reported", "delivered", "alert_sent", "login_failed"} <= events
    alerts = [str(item) for item in hook.posted]
    seen = {"log lines": lines, "pages and metrics": pages, "commands": lists, "alerts": alerts, "told": told}
    print({name: f"{len(texts)} texts, {sum(map(len, texts))} characters" for name, texts in seen.items()})
    for name, texts in seen.items():
        assert texts, name
        for text in texts:
            found = [word for word in WORDS if word.lower() in text.lower()]
            assert not found, (name, text[:2000])


def _send(port: int, sent: dict[str, list[Dataset]]) -> None:
    with association(SimpleNamespace(port=port)) as assoc:
        for name, images in sent.items():
            for ds in images:
                data = encoded(ds)
                if name == UNKNOWN_TEXT:
                    data = data.replace(b"ISO_IR 100", b"ISO_IR 999")
                assert store_bytes(assoc, data, CTImageStorage, str(ds.SOPInstanceUID)).Status == 0
        one = of_patient(ct_series(6, slices=1, rows=64))[0]
        data = encoded(one)
        refused = [
            store_bytes(assoc, data, CTImageStorage, "1.2.3.4"),
            store_bytes(assoc, data[: len(data) // 2], CTImageStorage, str(one.SOPInstanceUID)),
            store_bytes(assoc, data, CTImageStorage, f"{NAME} {WORDS[2]}"),
            store_bytes(assoc, f"{NAME} {WORDS[2]}".encode(), CTImageStorage, "1.2.3.5"),
        ]
        assert all(answer.Status != 0 for answer in refused), refused


def _ask(config: Config, database: Database) -> list[str]:
    """Ask as strangers and as an administrator, the patient in every address; return what machines read."""
    account = Accounts(database).add("admin", Role.ADMIN, password_hash="x")
    secret, _ = Accounts(database).add_token(account.account_id, "test", Role.ADMIN, 1)
    base = f"http://127.0.0.1:{config.web.port}"
    quoted = urllib.parse.quote(NAME)
    for path in (f"/log?q={quoted}", f"/series/{quoted}", f"/{quoted}", f"/api/v1/series/{quoted}", "/log.csv"):
        for headers in ({}, {"Authorization": f"Bearer {secret}"}, {"Authorization": f"Bearer {NAME}"}):
            _get(base + path, headers | {"User-Agent": NAME, "Referer": f"{base}/log?q={quoted}"})
    _log_in(base)
    return [_get(base + path, {}) for path in ("/healthz", "/readyz", "/metrics")]


def _log_in(base: str) -> None:
    """Try to log in under the patient's name, as a browser does."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    with opener.open(f"{base}/login", timeout=20) as page:
        (token,) = set(re.findall(rf'name="{FIELD}" value="([^"]+)"', page.read().decode()))
    form = urllib.parse.urlencode({"name": NAME, "password": WORDS[2], FIELD: token}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(f"{base}/login", form, timeout=20)
    refused.value.close()
    assert refused.value.code == 401


def _get(url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, headers=headers)
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())
    return ""


def _commands(path: Path) -> list[str]:
    """Return what commands say that do not ask for one series."""
    said = []
    for words in (["series", "list"], ["outbox", "list"], ["log"], ["health"], ["outbox", "list", "--json"]):
        command = [sys.executable, "-m", "dicom_qa_node", "--config", str(path), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
        said.append(done.stdout + done.stderr)
    return said


CRASHES = {
    "main thread": "raise ValueError(name)",
    "thread": "t = threading.Thread(target=lambda: int(name)); t.start(); t.join()",
    "in an exception group": "raise ExceptionGroup(name, [ValueError(name)])",
    "a warning": "warnings.warn(name)",
}


@pytest.mark.parametrize(
    ("form", "crash"), [("text", CRASHES["main thread"]), *(("json", crash) for crash in CRASHES.values())]
)
def test_a_crash_is_told_by_type_and_place(form: str, crash: str, tool_env: dict[str, str]):
    head = f"import threading, warnings\nfrom dicom_qa_node import log\nlog.configure('debug', {form!r})\n"
    program = f"{head}name = '{WORDS[0]}' + '^{WORDS[1]}'\n{crash}\n"
    done = subprocess.run([sys.executable, "-c", program], env=tool_env, capture_output=True, text=True, timeout=60)
    assert WORDS[0] not in done.stdout + done.stderr
    if "warn(" not in crash:
        assert "crashed" in done.stderr
        assert "ValueError" in done.stderr or "ExceptionGroup" in done.stderr
