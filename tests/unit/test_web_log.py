"""The log and series pages and their API: what each role sees, what is refused, what is exported, what is audited."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import subprocess
import sys
from urllib.parse import parse_qsl

import pytest
from starlette.testclient import TestClient

from dicom_qa_node.db import tables as t
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.ops.label_export import export_labels
from dicom_qa_node.quality_log.reviews import Reviews
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.log_query import log_request_of, read_place
from tests.conftest import ROOT
from tests.realistic_log import fill
from tests.scored_series import add_ct, add_petct
from tests.web_site import HOST, bearer, logged_in, open_site, stranger

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOSTILE = '<script>alert("x")</script>^<b>Bold</b>'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    made = open_site(folder, api_per_minute=100_000)
    fill(made.database, 300, seed=2, days=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dicom_qa_node.score.pipeline.measure", lambda *_: ())
        made.__dict__["ct"] = add_ct(made.config, made.database, folder / "work", name=HOSTILE)
        made.__dict__["petct"] = add_petct(made.config, made.database, folder / "work")
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def client(site):
    return TestClient(create_app(site), base_url=HOST, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def tokens(site):
    return {role: bearer(site, role) for role in Role}


@pytest.fixture(scope="module")
def get(client, tokens):
    def ask(path: str, role: Role = Role.ADMIN, **headers: str):
        return client.get(path, headers={**tokens[role], "accept": "text/html", **headers})

    return ask


def identifiers(site) -> list[str]:
    shown = LogSearch(site.database).page(log_request_of([], patients=True, now=NOW).query).rows
    facts = [row.facts for row in shown]
    words = [word for f in facts for word in (f.patient_id, f.patient_birth_date, f.accession_number)]
    return [*words, *(f.patient_name.split("^")[0] for f in facts if "<" not in f.patient_name)]


PAGES = ("/log", "/log.csv", "/log.json", "/log/rows?than=1", "/api/v1/series?limit=200", "/log?q=Garcia")


@pytest.mark.parametrize("path", PAGES)
def test_nothing_of_a_patient_reaches_a_viewer(site, get, path):
    seen = get(path, Role.VIEWER)
    assert seen.status_code == 200
    text = seen.text.replace('value="Garcia"', "").replace("q=Garcia", "")
    assert [word for word in identifiers(site) if word and word in text] == []
    if "Garcia" not in path:
        assert any(word in get(path, Role.REVIEWER).text for word in identifiers(site))


def test_a_series_page_and_its_report_keep_the_patient_from_a_viewer(site, get):
    row = LogSearch(site.database).versions(site.ct)[0]
    for path in (f"/series/{site.ct}", f"/api/v1/series/{site.ct}", f"/api/v1/series/{site.ct}/versions"):
        text = get(path, Role.VIEWER).text
        assert site.ct in text
        for word in ("alert(", row.facts.patient_id, row.facts.patient_birth_date, row.facts.accession_number):
            assert word not in text
    assert get(f"/series/{site.ct}/v1/report.dcm", Role.VIEWER).status_code == 403
    assert get(f"/api/v1/series/{site.ct}/report", Role.VIEWER).status_code == 403
    assert get(f"/series/{site.ct}/v1/report.dcm", Role.REVIEWER).content[128:132] == b"DICM"


def test_a_hostile_name_is_shown_as_text(site, get):
    for path in ("/log", f"/series/{site.ct}"):
        text = get(path).text
        assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &lt;b&gt;Bold" in text
        assert "<script>alert" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/log?scanner=' OR 1=1 --", "/log?q=%00&grade=worst&sort=x&dir=y&score_from=abc&since=yesterday", "/log?at=zzz",
        "/log?at=WzEsMiwzXQ", "/log?q=" + "a" * 5000, "/log?site=%F0%9F%92%A9",
        "/log/rows?than=-1&rows=a,9999999999999",
        "/log?score_from=nan", "/log?until=9999-12-31", "/log?since=0001-01-01", "/log?grade=,",
    ],
)  # fmt: skip
def test_nonsense_in_the_address_is_no_failure(get, path):
    assert get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/series/..%2f..%2fetc%2fpasswd", "/series/1.2.3.4", "/series/1.2.3/v1/thumb.png", "/series/../v1/thumb.png",
        "/series/{ct}/v1/slice/99.png", "/series/{ct}/v1/slice/1.png?look=../../x", "/series/{ct}/v9/coronal.png",
        "/series/{ct}?version=7", "/series/{ct}/v1/heat/5.png", "/api/v1/series/1.2.3", "/api/v1/series/{ct}?version=7",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(site, get, path):
    assert get(path.format(ct=site.ct)).status_code == 404


@pytest.mark.parametrize("path", ["/log", "/series/1.2", "/log.csv", "/series/1.2/v1/thumb.png", "/reviews"])
def test_strangers_are_sent_to_the_login(site, path):
    answer = stranger(site, accept="text/html").get(path)
    assert answer.status_code == 303
    assert "/login" in answer.headers["location"]


def test_an_export_is_exactly_what_is_shown(site, get):
    asked = "scanner=CT-A2&sort=score&versions=all"
    shown = get(f"/api/v1/series?{asked}&limit=1000").json()["items"]
    listed = json.loads(get(f"/log.json?{asked}").text)
    assert [(i["series_instance_uid"], i["version"]) for i in listed] == [
        (i["series_instance_uid"], i["version"]) for i in shown
    ]
    rows = list(csv.DictReader(io.StringIO(get(f"/log.csv?{asked}").text)))
    assert [row["series_instance_uid"] for row in rows] == [item["series_instance_uid"] for item in shown]
    assert {row["scanner"] for row in rows} == {"CT-A2"}
    assert len(rows) > 20


def test_cells_that_a_spreadsheet_would_run_are_defused(site, get):
    with site.database.write() as connection:
        same = t.series.c.series_instance_uid == site.petct
        connection.execute(t.series.update().where(same).values(series_description='=HYPERLINK("http://x")'))
    (row,) = csv.DictReader(io.StringIO(get(f"/log.csv?q={site.petct}").text))
    assert row["series_description"] == '\'=HYPERLINK("http://x")'


def test_pages_of_the_api_follow_each_other(get):
    seen, place = [], ""
    while True:
        answer = get(f"/api/v1/series?limit=77&sort=deviation{place}").json()
        seen += [item["series_instance_uid"] for item in answer["items"]]
        if answer["next"] is None:
            break
        place = f"&cursor={answer['next']}"
    assert len(seen) == len(set(seen)) == 302
    assert get("/api/v1/series?cursor=zzz").status_code == 422
    assert get("/api/v1/series?grade=superb").status_code == 422


def test_pictures_come_in_every_window(site, get):
    for uid, looks in ((site.ct, "judged soft lung bone brain"), (site.petct, "judged soft pet hot fused")):
        drawn = [get(f"/series/{uid}/v1/slice/1.png?look={look}") for look in looks.split()]
        assert all(one.content.startswith(b"\x89PNG") for one in drawn)
        assert len({one.content for one in drawn}) == len(drawn)
        for name in ("thumb.png", "thumb/3.png", "coronal.png", "heat/1.png", "sheet.png"):
            assert get(f"/series/{uid}/v1/{name}").headers["content-type"] == "image/png"
    assert get(f"/series/{site.ct}/v1/slice/1.png?look=fused").status_code == 404


def test_the_page_shows_the_report_as_a_tree(site, get):
    text = get(f"/series/{site.ct}").text
    for word in ("Imaging Measurement Report", "Image Library", "Deliveries", "every announced image is there"):
        assert word in text


def test_a_review_is_signed_with_the_session(site):
    client = logged_in(site, Role.REVIEWER)
    path = f"/series/{site.ct}/v1/review"
    answer = client.post(path, data={"csrf": client.csrf, "opinion": "disagree", "score": "1,5", "reason": "noise"})
    assert answer.headers["location"].endswith("done=review#review")
    said = Reviews(site.database).of(site.ct)[-1]
    assert (said.reviewer, said.score, said.reason, said.agrees) == ("rudi", 1.5, "noise", False)
    assert client.post(path, data={"opinion": "agree"}).status_code == 403
    wrong = client.post(path, data={"csrf": client.csrf, "opinion": "disagree"})
    assert "problem=" in wrong.headers["location"]
    assert len(Reviews(site.database).of(site.ct)) == 1
    assert "disagrees" in client.get(f"/series/{site.ct}").text
    assert [row.event for row in site.audit.entries(limit=50) if row.event == "series.review"] == ["series.review"]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
def test_only_an_administrator_acts(site, client, tokens, role):
    for path, body in (("actions", {"action": "park", "reason": "x"}),):
        answer = client.post(f"/api/v1/series/{site.ct}/{path}", json=body, headers=tokens[role])
        assert answer.status_code == 403
    page = logged_in(site, role)
    assert page.post(f"/series/{site.ct}/park", data={"csrf": page.csrf}).status_code == 403
    assert "Park…" not in page.get(f"/series/{site.ct}").text


def test_actions_change_the_state_and_leave_a_trace(site, client, tokens):
    page, registry = logged_in(site, Role.ADMIN), Registry(site.database)
    uid = site.petct
    page.post(f"/series/{uid}/park", data={"csrf": page.csrf, "reason": "wrong patient position"})
    assert registry.series(uid).parked_reason == "wrong patient position"
    answer = client.post(f"/api/v1/series/{uid}/actions", json={"action": "park"}, headers=tokens[Role.ADMIN])
    assert answer.status_code == 409
    answer = client.post(f"/api/v1/series/{uid}/actions", json={"action": "release"}, headers=tokens[Role.ADMIN])
    assert answer.json() == {"state": "COMPLETE", "version": 2}
    events = [(row.event, row.actor, row.outcome.value) for row in site.audit.entries(limit=50) if row.ident == uid]
    done = [(event, outcome) for event, actor, outcome in events[:3] if actor == "ada"]
    assert done == [("series.release", "success"), ("series.park", "failed"), ("series.park", "success")]
    assert registry.history(uid)[-1]["actor"] == "api ada"


def test_a_parked_delivery_is_sent_again(site):
    asked = log_request_of([("delivery", "parked")], patients=False, now=NOW)
    parked = LogSearch(site.database).page(asked.query).rows[0]
    page = logged_in(site, Role.ADMIN)
    answer = page.post(f"/series/{parked.facts.series_instance_uid}/resend", data={"csrf": page.csrf})
    assert answer.headers["location"].endswith("done=resend")
    states = [item.state for item in Outbox(site.database).deliveries_of(parked.facts.series_instance_uid)]
    assert states[-1] is DeliveryState.PENDING
    assert Registry(site.database).series(parked.facts.series_instance_uid).state is SeriesState.REPORTED


def test_reviews_export_as_a_set_that_training_judges(site, tmp_path):
    Reviews(site.database).add(site.ct, 1, reviewer="ben", agrees=False, score=2.5, reason="noise")
    done = export_labels(site.database, site.config.spool_dir, tmp_path / "set")
    assert done.pictures == 7
    assert done.missing > 0
    text = (tmp_path / "set" / "labels.csv").read_text()
    assert site.ct not in text
    with pytest.raises(Permanent, match="exists"):
        export_labels(site.database, site.config.spool_dir, tmp_path / "set")
    command = [
        sys.executable, "-m", "training.evaluate", "--images", str(tmp_path / "set" / "images"),
        "--labels", str(tmp_path / "set" / "labels.csv"), "--device", "cpu", "--threads", "1", "--json",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    judged = json.loads(ran.stdout)
    assert (judged["n"], judged["groups"]) == (7, 1)


def test_the_words_of_an_address_survive_a_round():
    items = [("q", " thorax "), ("grade", "limited,none"), ("sort", "score"), ("zzz", "1"), ("site", "")]
    asked = log_request_of(items, patients=True, now=NOW)
    assert asked.address() == "q=thorax&grade=limited%2Cnone&sort=score"
    assert log_request_of(parse_qsl(asked.address()), patients=True, now=NOW).query == asked.query
    assert asked.address(sort=None, q="x") == "grade=limited%2Cnone&q=x"
    assert asked.problems == ()
    assert read_place("") is None
