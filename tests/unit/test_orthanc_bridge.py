"""The bridge to Orthanc where a real one does not do as wanted: faults, hostile answers, newer versions."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.config.loader import InvalidConfig, parse_config
from dicom_qa_node.deliver.orthanc.bridge import Bridge
from dicom_qa_node.deliver.orthanc.report_codes import read_verdict
from dicom_qa_node.deliver.orthanc.rest_client import OrthancError, orthanc_client
from dicom_qa_node.deliver.orthanc.series_marks import mark_series
from dicom_qa_node.deliver.orthanc.series_selection import SeriesTags, why_not
from dicom_qa_node.deliver.orthanc.server_settings import UnknownNames
from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.domain.errors import NodeError, Permanent
from dicom_qa_node.domain.states import BridgeState
from dicom_qa_node.flow.orthanc_ledger import OrthancLedger
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import ReportRequest
from tests.report_samples import T0, implausible, not_rated, verdict, with_parts, write_series

CT = "1.2.840.10008.5.1.4.1.1.2"
SERIES_ID = "5e0134c8-6d2c69c6-34071960-25634d30-b6e4dd13"


class FakeOrthanc:
    """Answers as ``answers`` says, by method and path without the query; remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"GET system": {"Version": "1.12.4", "HasLabels": True}}
        self.asked: list[tuple[str, bytes, dict[str, str]]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                call = f"{self.command} {self.path.split('?')[0].lstrip('/')}"
                fake.asked.append((call, body, dict(self.headers)))
                found = fake.answers.get(call, 404)
                if callable(found):
                    found(self)
                    return
                status = found if isinstance(found, int) else 200
                content = b"{}" if isinstance(found, int) else found
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", '"3-abc"')
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def calls(self) -> list[str]:
        return [call for call, _, _ in self.asked]


@pytest.fixture
def fake() -> Iterator[FakeOrthanc]:
    server = FakeOrthanc()
    yield server
    server.server.shutdown()
    server.server.server_close()


def config_of(fake: FakeOrthanc, **more: Any) -> Config:
    return Config.model_validate({"orthanc": {"url": fake.url, "timeout_s": 1.0} | more})


def redirect(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "http://elsewhere.example/")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        handler.close_connection = True


def slow(handler: BaseHTTPRequestHandler) -> None:
    threading.Event().wait(3)
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (redirect, Refused, "points to elsewhere.example"),
        (endless, Deferred, "no end|not complete"),
        (slow, Deferred, "no answer from"),
        (b"<html>", Deferred, "not JSON"),
        (b"[" * 100_000, Deferred, "not JSON"),
        ([1], Deferred, "not one of Orthanc"),
        (401, Deferred, "refuses the user"),
        (500, OrthancError, "HTTP 500 for system"),
    ],
)
def test_a_server_that_is_not_a_well_orthanc_is_an_error_of_the_node(fake, answer, kind, words):
    fake.answers["GET system"] = answer
    with pytest.raises(kind, match=words) as caught, orthanc_client(config_of(fake).orthanc) as client:
        client.system()
    assert isinstance(caught.value, NodeError)


@pytest.mark.parametrize("page", [{}, {"Changes": 1, "Last": 2}, {"Changes": [], "Last": "x"}])
def test_changes_of_another_form_move_nothing(fake, page):
    fake.answers["GET changes"] = page
    with pytest.raises(Deferred, match="changes"), orthanc_client(config_of(fake).orthanc) as client:
        client.changes(0)


def test_identifiers_of_the_server_never_lead_elsewhere(fake):
    with orthanc_client(config_of(fake).orthanc) as client:
        for name in ("../tools/reset", "a?b", "", "5e0134c8-6d2c69c6-34071960-25634d30-b6e4dd13/x"):
            with pytest.raises(OrthancError):
                client.series(name)
    assert fake.asked == []


def test_the_password_comes_from_a_file_or_from_the_environment_and_is_never_shown(fake, tmp_path, monkeypatch):
    (tmp_path / "password").write_text("s3cret\n")
    monkeypatch.setenv("ORTHANC_PASSWORD", "s3cret")
    for more in ({"password_file": tmp_path / "password"}, {"password_variable": "ORTHANC_PASSWORD"}):
        with orthanc_client(config_of(fake, user="bridge", **more).orthanc) as client:
            client.system()
        assert fake.asked[-1][2]["Authorization"] == "Basic YnJpZGdlOnMzY3JldA=="
    monkeypatch.delenv("ORTHANC_PASSWORD")
    with (
        pytest.raises(Deferred, match="ORTHANC_PASSWORD is not set") as caught,
        orthanc_client(config_of(fake, user="bridge", password_variable="ORTHANC_PASSWORD").orthanc) as client,
    ):
        client.system()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{url: 'http://u:p@127.0.0.1:8042'}",
        "{url: 'http://pacs.example:8042', user: a, password_file: /p}",
        "{url: 'http://127.0.0.1:8042', user: a}",
        "{url: 'http://127.0.0.1:8042', password_file: /p}",
        "{url: 'http://127.0.0.1:8042', user: a, password_file: /p, password_variable: P}",
        "{url: 'ftp://127.0.0.1'}",
        "{url: 'http://127.0.0.1:8042', target: pacs}",
    ],
)
def test_settings_that_cannot_work_are_refused(text):
    with pytest.raises(InvalidConfig):
        parse_config(f"orthanc: {text}")


@pytest.mark.parametrize(
    ("tags", "more", "reason"),
    [
        (SeriesTags("CT", sop_class_uid=CT), {}, ""),
        (SeriesTags("PT", sop_class_uid="1.2.840.10008.5.1.4.1.1.128"), {}, ""),
        (SeriesTags("MR", sop_class_uid="1.2.840.10008.5.1.4.1.1.4"), {}, "is not scored"),
        (SeriesTags("SR", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34"), {}, "is not scored"),
        (SeriesTags("CT", sop_class_uid="1.2.840.10008.5.1.4.1.1.7"), {}, "is not scored"),
        (SeriesTags("CT", sop_class_uid=CT), {"modalities": ["PT"]}, "modality CT"),
        (SeriesTags("CT", station="CT7", sop_class_uid=CT), {"stations": ["CT[1-5]"]}, "station CT7"),
        (SeriesTags("CT", station="CT7", sop_class_uid=CT), {"stations": ["CT*"]}, ""),
        (SeriesTags("CT", sop_class_uid=CT), {"stations": ["CT*"]}, r"station \(none\)"),
        (
            SeriesTags("CT", description="Dose Report", sop_class_uid=CT),
            {"without_descriptions": ["Dose*"]},
            "left out",
        ),
    ],
)
def test_series_are_chosen_by_sop_class_and_rules(tags, more, reason):
    config = Config.model_validate({"orthanc": {"url": "http://127.0.0.1:8042", "select": more}})
    found = why_not(tags, config)
    assert (found == "") == (reason == "")
    assert re.search(reason, found)


def test_the_route_of_the_target_holds_for_the_bridge():
    target = {"kind": "folder", "name": "pacs", "path": "/x", "route": {"stations": ["CT1"], "grades": ["limited"]}}
    orthanc = {"url": "http://127.0.0.1:8042", "target": "pacs"}
    config = Config.model_validate({"orthanc": orthanc, "deliver": {"targets": [target]}})
    assert why_not(SeriesTags("CT", station="CT1", sop_class_uid=CT), config) == ""
    assert "stations" in why_not(SeriesTags("CT", station="CT2", sop_class_uid=CT), config)


# -- the report ----------------------------------------------------------------------------------------------------


def report_of(tmp_path, make: Callable[..., Any]) -> bytes:
    if make is with_parts:
        pet, ct = write_series(tmp_path, 1, "PT"), write_series(tmp_path, 2, "CT")
        return build_report(ReportRequest(make(pet, ct), 1, T0), [*pet, *ct], tmp_path, Config())
    images = write_series(tmp_path, 1, "PT" if make is implausible else "CT")
    return build_report(ReportRequest(make(images), 1, T0), images, tmp_path, Config())


@pytest.mark.parametrize(
    ("make", "score", "grade", "sentence"),
    [
        (verdict, "2.83", "diagnostic", ""),
        (with_parts, "1.70", "limited", "Limited by the noise of the PET (1.7, 41 % in the body, 25 % is routine); "),
        (not_rated, "not rated", "not rated", ""),
        (implausible, "not rated", "not rated", "No score: the PET is implausible"),
    ],
)
def test_the_verdict_is_read_from_the_first_group_by_code(tmp_path, make, score, grade, sentence):
    """The PET/CT of `with_parts` has a CT part of 1.2, slices of their own, and the findings of the series."""
    found = read_verdict(report_of(tmp_path, make))
    assert (found.score_text, found.grade) == (score, grade)
    assert found.sentence.startswith(sentence)


def test_meanings_play_no_part_and_other_schemes_are_not_taken(tmp_path):
    report = dcmread(BytesIO(report_of(tmp_path, verdict)))

    def rename(data_set: Any, element: Any) -> None:
        if element.keyword == "CodeMeaning":
            element.value = "score"

    report.walk(rename)
    content = BytesIO()
    report.save_as(content)
    assert read_verdict(content.getvalue()).score == 2.83

    def other_scheme(data_set: Any, element: Any) -> None:
        if element.keyword == "CodeValue" and element.value == "111694":
            data_set.CodingSchemeDesignator = "99OTHER"

    report.walk(other_scheme)
    content = BytesIO()
    report.save_as(content)
    assert read_verdict(content.getvalue()).score is None


def test_what_is_not_a_report_is_a_clear_error(tmp_path):
    (image, *_) = write_series(tmp_path)
    for content in (b"", b"no DICOM", (tmp_path / image.path).read_bytes()):
        with pytest.raises(Permanent, match="report"):
            read_verdict(content)


# -- what is written ------------------------------------------------------------------------------------------------


def answer_marks(fake: FakeOrthanc) -> None:
    for name in ("Score", "Grade", "Sentence", "Report"):
        fake.answers[f"GET series/{SERIES_ID}/metadata/ImageQuality{name}"] = b"old"
        fake.answers[f"PUT series/{SERIES_ID}/metadata/ImageQuality{name}"] = b""
    fake.answers[f"GET series/{SERIES_ID}/labels"] = ["quality-limited", "urgent", "quality-diagnostic"]
    for label in ("quality-limited", "quality-diagnostic"):
        for method in ("PUT", "DELETE"):
            fake.answers[f"{method} series/{SERIES_ID}/labels/{label}"] = b""


def test_a_newer_orthanc_gets_one_label_and_changes_by_revision(fake, tmp_path):
    answer_marks(fake)
    found = read_verdict(report_of(tmp_path, verdict))
    with orthanc_client(config_of(fake).orthanc) as client:
        mark_series(client, config_of(fake), SERIES_ID, found, b"", labels=client.system().labels)
    calls = fake.calls()
    assert f"DELETE series/{SERIES_ID}/labels/quality-limited" in calls
    assert not any("urgent" in call or call.startswith(f"PUT series/{SERIES_ID}/labels") for call in calls)
    puts = [(body, headers) for call, body, headers in fake.asked if call.startswith("PUT")]
    assert [body for body, _ in puts][:2] == [b"2.83", b"diagnostic"]
    assert {headers["If-Match"] for _, headers in puts} == {'"3-abc"'}


def test_a_name_that_is_not_known_stops_before_the_report_is_noted(fake, tmp_path):
    answer_marks(fake)
    fake.answers[f"PUT series/{SERIES_ID}/metadata/ImageQualityGrade"] = 404
    found = read_verdict(report_of(tmp_path, verdict))
    with pytest.raises(UnknownNames, match="UserMetadata"), orthanc_client(config_of(fake).orthanc) as client:
        mark_series(client, config_of(fake), SERIES_ID, found, b"", labels=False)
    assert not any("PUT" in call and "Report" in call for call in fake.calls())


# -- the ledger ---------------------------------------------------------------------------------------------------


def test_one_process_of_all_hosts_follows_a_server(any_database):
    now = [T0]
    ledger = OrthancLedger(any_database, "orthanc", lambda: now[0])
    ledger.begin(5, "20260105T080000")
    assert ledger.hold("a", 60)
    assert not ledger.hold("b", 60)
    assert ledger.hold("a", 60)
    now[0] += dt.timedelta(seconds=61)
    assert ledger.hold("b", 60)
    assert not ledger.hold("a", 60)
    ledger.let_go("b")
    assert ledger.hold("a", 60)
    # A second contact changes nothing.
    assert ledger.begin(99, "").last_change == 5


def test_new_content_is_not_overwritten_by_what_was_found_out_about_the_old(any_database):
    now = [T0]
    ledger = OrthancLedger(any_database, "orthanc", lambda: now[0])
    ledger.follow("a", "1.2", BridgeState.WAITING, images=3, fingerprint="x", change=7, anchor="t7")
    (old,) = ledger.due()
    now[0] += dt.timedelta(seconds=5)
    ledger.follow("a", "1.2", BridgeState.WAITING, images=4, fingerprint="y", change=9, anchor="t9")
    ledger.move(old, BridgeState.MARKED)
    (found,) = ledger.due()
    assert (found.state, found.images) == (BridgeState.WAITING, 4)
    assert list(ledger.earlier_changes()) == [(9, "t9")]


def test_waiting_series_never_keep_others_from_their_turn(any_database):
    ledger = OrthancLedger(any_database, "orthanc", lambda: T0)
    for number in range(60):
        ledger.follow(f"w{number:02}", f"1.{number}", BridgeState.WAITING, images=1)
    ledger.follow("r", "1.99", BridgeState.REPORTED, images=1, report_uid="1.2.3")
    due = ledger.due(may_start=1)
    assert [item.orthanc_id for item in due] == ["w00", "r"] or {item.state for item in due} == {
        BridgeState.WAITING, BridgeState.REPORTED,
    }  # fmt: skip
    assert len(due) == 2
    assert ledger.due(may_start=-1)[0].orthanc_id == "r"


def test_a_bridge_beside_another_one_asks_for_nothing(fake, any_database):
    fake.answers |= {"GET tools/now": b"20260105T080000", "GET changes": {"Changes": [], "Done": True, "Last": 0}}
    first = Bridge(config_of(fake), any_database, "a")
    assert not first.step()
    asked = len(fake.asked)
    second = Bridge(config_of(fake), any_database, "b")
    assert not second.step()
    assert fake.calls()[asked:] == ["GET system"]
    first.let_go()
    second.step()
    assert "GET changes" in fake.calls()[asked:]


def test_a_job_that_was_started_before_a_crash_is_found_again(fake, any_database):
    """The order to send was noted, its answer was not: the job is looked for and not started twice."""
    fake.answers |= {
        "GET tools/now": b"20260105T080000",
        "GET changes": {"Changes": [], "Done": True, "Last": 0},
        "GET jobs": [
            {"ID": "j1", "Type": "DicomModalityStore", "State": "Running", "CreationTime": "1",
             "Content": {"ParentResources": [SERIES_ID]}},
            {"ID": "j2", "Type": "Archive", "State": "Running", "Content": {"ParentResources": [SERIES_ID]}},
            {"ID": "j3", "Type": "DicomModalityStore", "Content": {"ParentResources": ["other"]}},
        ],
    }  # fmt: skip
    bridge = Bridge(config_of(fake), any_database, "a")
    ledger = OrthancLedger(any_database, "orthanc")
    ledger.follow(SERIES_ID, "1.2", BridgeState.SENDING, images=3)
    bridge.step()
    found = ledger.series(SERIES_ID)
    assert (found.state, found.job_id) == (BridgeState.SENDING, "j1")
    assert not any(call.startswith("POST modalities") for call in fake.calls())


def test_a_job_that_orthanc_forgot_is_sent_again(fake, any_database):
    fake.answers |= {"GET tools/now": b"20260105T080000", "GET changes": {"Changes": [], "Done": True, "Last": 0}}
    bridge = Bridge(config_of(fake), any_database, "a")
    ledger = OrthancLedger(any_database, "orthanc")
    ledger.follow(SERIES_ID, "1.2", BridgeState.SENDING, images=3)
    with any_database.write() as connection:
        from dicom_qa_node.db.orthanc_tables import orthanc_series

        connection.execute(orthanc_series.update().values(job_id="gone"))
    bridge.step()
    found = ledger.series(SERIES_ID)
    assert (found.state, found.attempts) == (BridgeState.WAITING, 1)
    assert "forgot" in found.problem


STABLE = {"ChangeType": "StableSeries", "Date": "20260105T090000", "ID": SERIES_ID, "ResourceType": "Series", "Seq": 3}


def test_a_series_that_the_node_has_is_not_sent_and_needs_no_job(fake, any_database, tmp_path):
    fake.answers |= {"GET tools/now": b"20260105T080000", "GET changes": {"Changes": [], "Done": True, "Last": 0}}
    bridge = Bridge(config_of(fake), any_database, "a")
    bridge.step()
    instances = write_series(tmp_path)
    Registry(any_database).record(instances)
    uid = instances[0].series.series_instance_uid
    tags = {"SeriesInstanceUID": uid, "Modality": "CT"}
    fake.answers |= {
        "GET changes": {"Changes": [STABLE], "Done": True, "Last": 3},
        "GET jobs": [],
        f"GET series/{SERIES_ID}": {"MainDicomTags": tags, "Instances": [SERIES_ID] * 2, "ParentStudy": SERIES_ID},
    }
    ledger = OrthancLedger(any_database, "orthanc")
    forgotten = SERIES_ID.replace("5e01", "aaaa")
    ledger.follow(forgotten, uid, BridgeState.SENDING, images=len(instances))
    bridge.step()
    assert ledger.series(SERIES_ID).state is BridgeState.SENT
    assert ledger.series(forgotten).state is BridgeState.SENT
    assert not any(call.startswith("POST modalities") for call in fake.calls())


def test_a_series_that_orthanc_cannot_read_now_is_asked_for_again_and_stops_nobody_for_ever(fake, any_database):
    fake.answers |= {"GET tools/now": b"20260105T080000", "GET changes": {"Changes": [], "Done": True, "Last": 0}}
    bridge = Bridge(config_of(fake), any_database, "a")
    bridge.step()
    fake.answers |= {"GET changes": {"Changes": [STABLE], "Done": True, "Last": 3}, f"GET series/{SERIES_ID}": 500}
    ledger = OrthancLedger(any_database, "orthanc")
    for _ in range(4):
        with pytest.raises(Deferred, match="HTTP 500"):
            bridge.step()
        assert ledger.position().last_change == 0
    bridge.step()
    assert ledger.position().last_change == 3


def test_a_series_whose_answers_do_not_end_lets_the_next_one_pass(fake, any_database):
    other = SERIES_ID.replace("5e01", "aaaa")
    fake.answers |= {
        "GET tools/now": b"20260105T080000",
        "GET changes": {"Changes": [], "Done": True, "Last": 0},
        f"GET series/{SERIES_ID}": endless,
    }
    bridge = Bridge(config_of(fake, retry_first_s=600.0), any_database, "a")
    ledger = OrthancLedger(any_database, "orthanc")
    for name, uid in ((SERIES_ID, "1.2"), (other, "1.3")):
        ledger.follow(name, uid, BridgeState.REPORTED, images=3, report_uid="1.2.3.4")
    with pytest.raises(Deferred, match=r"no end|not complete"):
        bridge.step()
    bridge.step()
    # The first one waits; the second one is gone from Orthanc.
    assert "answer" in ledger.series(SERIES_ID).problem
    assert ledger.series(other) is None


def test_a_series_that_is_deleted_in_orthanc_is_left_alone(fake, any_database):
    fake.answers |= {"GET tools/now": b"20260105T080000", "GET changes": {"Changes": [], "Done": True, "Last": 0}}
    bridge = Bridge(config_of(fake), any_database, "a")
    ledger = OrthancLedger(any_database, "orthanc")
    ledger.follow(SERIES_ID, "1.2", BridgeState.WAITING, images=3)
    bridge.step()
    assert ledger.series(SERIES_ID) is None
