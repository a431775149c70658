"""Every page and every call of the API over a series with hostile texts: scripts stay text, patients stay hidden."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace

import pytest
import sqlalchemy as sa
from starlette.routing import Route

from dicom_qa_node.db import tables as t
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.results import Finding, Grade, ModelRef, SeriesKind, SeriesResult, Severity
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.web import app as web_app
from tests.web_site import bearer, logged_in, open_site, stranger

SCRIPT = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
UID = "1.2.3"
PATIENT = {
    "patient_id": "PID-4711",
    "patient_name": "Doe^Jane",
    "patient_birth_date": "19700102",
    "accession_number": "ACC-99",
}
WORDS = ("PID-4711", "Doe", "Jane", "19700102", "1970-01-02", "ACC-99")


def series(database, **change: str) -> None:
    facts = replace(SeriesHeader(UID, "1.2", "CT", study_date="20260301", study_time="080000"), **change)
    registry, jobs = Registry(database), Jobs(database)
    registry.record([StoredInstance("1.2.3.1", "1.2", "1.2", "a/1", "0" * 64, 9, utc_now(), "SC", "a", facts)])
    (progress,) = registry.receiving()
    registry.complete(progress, reason="quiet")
    finding = Finding("noise", Severity.WARNING, "The noise is high.")
    result = SeriesResult(
        UID, "CT", SeriesKind.CT, 2.25, (1.5, 3.0), Grade.LIMITED, (), (), (finding,), ModelRef("m", "1", "f"), 1
    )
    assert jobs.finish(jobs.claim("w"), result)


def texts(kind: str = SCRIPT) -> dict[str, str]:
    free = [field.name for field in fields(SeriesHeader) if field.name.endswith(("_name", "_description", "_id"))]
    more = [
        "patient_sex",
        "body_part_examined",
        "manufacturer",
        "accession_number",
        "series_number",
        "device_serial_number",
    ]
    return {name: kind for name in [*free, *more] if "frame_of" not in name}


def addresses(site) -> list[str]:
    found = []
    for view in web_app._VIEWS:
        for route in view.routes(site):
            if isinstance(route, Route) and "GET" in route.methods and "/setup/" not in route.path:
                path = route.path.replace("{uid}", UID)
                found.append(re.sub(r"{\w+(:\w+)?}", "1", path))
    return found


def api_addresses(client) -> list[str]:
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    return [
        "/api/v1" + re.sub(r"{\w+}", "1", re.sub(r"{(uid|series\w*)}", UID, path))
        for path, methods in paths.items()
        if "get" in methods
    ]


@pytest.fixture
def site(tmp_path):
    site = open_site(tmp_path, api_per_minute=100_000)
    yield site
    site.database.close()


def test_hostile_texts_are_text_on_every_page(site):
    series(site.database, **texts())
    client, found = logged_in(site), 0
    for path in addresses(site):
        answer = client.get(path)
        assert answer.status_code < 500, path
        kind = answer.headers.get("content-type", "")
        if kind.startswith("text/html"):
            assert "<script>alert" not in answer.text, path
            assert "<img src=x" not in answer.text, path
            found += "&lt;script&gt;alert" in answer.text
        else:
            assert not kind.startswith(("image/svg", "text/javascript")), path
    assert found >= 2, "the log and the series page show it, escaped"


def test_hostile_texts_are_json_in_the_api(site):
    series(site.database, **texts())
    client, header = stranger(site), bearer(site)
    for path in api_addresses(client):
        answer = client.get(path, headers=header)
        assert answer.status_code < 500, path
        if answer.headers["content-type"].startswith("application/json"):
            json.loads(answer.text)


@pytest.mark.parametrize("formula", ["=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3"])
def test_tables_for_spreadsheets_hold_no_formula(site, formula):
    series(site.database, **texts(formula))
    client = logged_in(site)
    for path in [path for path in addresses(site) if path.endswith(".csv")]:
        answer = client.get(path)
        cells = [cell.strip('"') for line in answer.text.splitlines() for cell in line.split(",")]
        assert formula not in cells, path


def test_a_viewer_never_gets_a_patient(site):
    series(site.database, **PATIENT)
    client, header = logged_in(site, Role.VIEWER), bearer(site, Role.VIEWER)
    paths = [
        *addresses(site),
        *api_addresses(client),
        f"/log?q={'Doe'}",
        "/log?q=PID-4711",
        f"/series/{UID}",
        "/healthz",
        "/metrics",
    ]
    for path in paths:
        for answer in (client.get(path), stranger(site).get(path, headers=header)):
            assert answer.status_code < 500 or path == "/healthz", path
            leaked = [word for word in WORDS if word.encode() in answer.content and word not in path]
            assert leaked == [], (path, leaked)
    assert "Doe" in logged_in(site, Role.REVIEWER).get(f"/series/{UID}").text, "the test can find what it looks for"


def test_the_page_of_a_series_says_where_it_came_in_and_how_urgent_it_is(site):
    series(site.database)
    client = logged_in(site, Role.VIEWER)
    assert "<dt>Received at</dt><dd>default</dd>" in client.get(f"/series/{UID}").text
    with site.database.write() as connection:
        connection.execute(sa.update(t.series).values(site="north", priority=20))
    assert "<dt>Received at</dt><dd>north, stat</dd>" in client.get(f"/series/{UID}").text


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
def test_actions_are_for_administrators(site, role):
    series(site.database)
    client = logged_in(site, role)
    allowed = {
        "/notifications/read",
        "/log/views",
        "/log/views/1/remove",
        "/logout",
        "/theme",
        "/login",
        "/account/password",
        "/account/tokens",
    }
    if role is Role.REVIEWER:
        allowed |= {
            f"/series/{UID}/v1/review",
            f"/series/{UID}/v1/heat",
            f"/review/{UID}/v1",
            f"/review/{UID}/assign",
            "/alerts/acknowledge",
            "/alerts/1/acknowledge",
            "/scanners/names/scanner/1",
            "/scanners/names/merge/1",
            "/scanners/names/protocol",
        }
    for view in web_app._VIEWS:
        for route in view.routes(site):
            if not isinstance(route, Route) or "POST" not in route.methods or "/setup/" in route.path:
                continue
            path = re.sub(r"{\w+(:\w+)?}", "1", route.path.replace("{uid}", UID).replace("{action}", "rescore"))
            if path in allowed or path.startswith("/account/tokens/"):
                continue
            answer = client.post(path, data={"csrf": client.csrf})
            assert answer.status_code in (403, 404), (path, answer.status_code)
    assert [event["new_state"] for event in Registry(site.database).history(UID)][-1] == "SCORED"


def changes(site) -> list[tuple[str, str]]:
    """Return method and address of every page and call that changes something."""
    routes = [route for view in web_app._VIEWS for route in view.routes(site) if isinstance(route, Route)]
    posts = [route.path for route in routes if "POST" in route.methods and "/setup/" not in route.path]
    found = [("POST", re.sub(r"{\w+(:\w+)?}", "1", path.replace("{uid}", UID))) for path in posts]
    calls = stranger(site).get("/api/v1/openapi.json", headers=bearer(site)).json()["paths"]
    for path, methods in calls.items():
        filled = "/api/v1" + re.sub(r"{\w+}", "1", re.sub(r"{(uid|series\w*)}", UID, path))
        found += [(method.upper(), filled) for method in methods if method != "get"]
    return found


def test_nothing_changes_for_nobody_nor_without_the_token_against_forgery(site):
    """Each change by a stranger, and by an administrator's session whose request another site could have made."""
    series(site.database)
    before = Registry(site.database).history(UID)
    session, nobody = logged_in(site), stranger(site)
    asked = changes(site)
    assert len(asked) > 40
    for method, path in asked:
        body = {"json": {}} if path.startswith("/api/") else {"data": {}}
        # The theme is a cookie of the browser's own, and who logs in has no session yet.
        if path not in ("/login", "/theme"):
            answer = session.request(method, path, **body)
            assert answer.status_code in (400, 401, 403, 404, 405, 422), (method, path, answer.status_code)
        answer = nobody.request(method, path, **body, follow_redirects=False)
        assert answer.status_code in (303, 400, 401, 403, 404, 405, 422, 429), (method, path, answer.status_code)
        assert [word for word in WORDS if word in answer.text] == []
    assert Registry(site.database).history(UID) == before
