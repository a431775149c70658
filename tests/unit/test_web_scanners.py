"""Pages and API of scanners, node and alerts: who may do what, what is written, what is hidden, what is refused."""

from __future__ import annotations

import pytest

from dicom_qa_node.accounts.audit import AuditFilter
from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.charts.service_events import ServiceEvents
from dicom_qa_node.config import Config
from dicom_qa_node.db import chart_tables, tables
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.web.node_view import config_lines
from dicom_qa_node.web.site import Actions, Site
from tests.mail_server import Hook, MailServer
from tests.unit.test_store_scanners import START, add, fold_all
from tests.web_site import LiveNode, bearer, logged_in, open_site, stranger

PATIENT = ("Doe", "Jane", "PID-1")
PAGES = (
    "/scanners",
    "/scanners/names",
    "/scanners/1",
    "/scanners/1/chart.json",
    "/scanners/1/chart.csv",
    "/node",
    "/node/now",
    "/alerts",
)
CALLS = (
    "/api/v1/scanners", "/api/v1/scanners/1", "/api/v1/scanners/1/chart", "/api/v1/scanners/1/weeks",
    "/api/v1/scanners/1/fleet", "/api/v1/scanners/1/events", "/api/v1/scanners/alarms", "/api/v1/node",
    "/api/v1/scanners/protocol-names", "/api/v1/node/peers", "/api/v1/node/tasks", "/api/v1/node/errors",
    "/api/v1/node/processes",
    "/api/v1/node/parked-deliveries", "/api/v1/alerts", "/api/v1/alerts/open", "/api/v1/alerts/messages",
)  # fmt: skip


@pytest.fixture
def site(tmp_path):
    site = open_site(tmp_path, actions=Actions(echo=lambda target: (target == "pacs", f"{target} asked")))
    for number in range(60):
        add(site.database, number, 3.0 + 0.1 * (number % 3), noise=10.0 + number % 4)
    fold_all(site.database)
    yield site
    site.database.close()


def with_config(site: Site, **sections) -> Site:
    values = site.config.model_dump()
    config = Config.model_validate({**values, **sections})
    return Site(config, site.database, LiveNode(config, site.database), site.actions)


def events_of(site: Site) -> list[str]:
    return [entry.event for entry in site.audit.entries(AuditFilter(), limit=50)]


@pytest.mark.parametrize("path", [*PAGES, *CALLS])
def test_every_page_and_call_needs_a_login_and_shows_no_patient(site, path):
    assert stranger(site).get(path).status_code in (303, 401)
    answer = logged_in(site, Role.VIEWER).get(path)
    assert answer.status_code == 200
    assert not [word for word in PATIENT if word in answer.text]


@pytest.mark.parametrize(
    "path",
    [
        "/scanners/99", "/scanners/1?group=99", "/scanners/1?group=x", "/scanners/1?quantity=nothing",
        "/scanners/1?quantity=' OR 1=1 --", "/scanners/99999999999999999999", "/scanners/1?group=99999999999999999",
        "/scanners/../../etc/passwd", "/alerts?before=x",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(site, path):
    assert logged_in(site).get(path).status_code == 404


def test_a_chart_is_the_same_in_page_csv_and_api(site):
    client = logged_in(site)
    data = client.get("/scanners/1/chart.json?quantity=noise").json()
    lines = client.get("/scanners/1/chart.csv?quantity=noise").text.strip().splitlines()
    api = client.get("/api/v1/scanners/1/chart?quantity=noise").json()
    assert len(data["values"]) == len(lines) - 1 == len(api["points"]) == 60
    assert [float(line.split(",")[5]) for line in lines[1:]] == data["values"]
    assert [point["value"] for point in api["points"]] == data["values"]
    assert [point["ewma"] for point in api["points"]] == data["ewma"]
    assert api["baseline"]["centre"] == data["limits"]["centre"]
    assert "chart.export" in events_of(site)


@pytest.mark.parametrize(
    ("path", "form", "role"),
    [
        ("/scanners/1/baseline", {"first_day": "2026-03-02", "last_day": "2026-03-04"}, Role.REVIEWER),
        ("/scanners/1/events", {"at": "2026-03-02T10:00", "kind": "tube", "text": "x"}, Role.VIEWER),
        ("/scanners/1/events/1/baseline", {}, Role.VIEWER),
        ("/scanners/1/accept", {"alarm": "1"}, Role.VIEWER),
        ("/scanners/names/scanner/1", {"name": "x"}, Role.VIEWER),
        ("/scanners/names/merge/1", {"into": "1"}, Role.VIEWER),
        ("/scanners/names/protocol", {"written": "Chest", "shown": "Thorax"}, Role.VIEWER),
        ("/alerts/1/acknowledge", {}, Role.VIEWER),
        ("/alerts/acknowledge", {"up_to": "1"}, Role.VIEWER),
        ("/alerts/channels/mail/test", {}, Role.REVIEWER),
        ("/node/echo/pacs", {}, Role.REVIEWER),
        ("/node/deliveries/1/retry", {}, Role.REVIEWER),
        ("/node/deliveries/retry", {}, Role.REVIEWER),
    ],
)
def test_changes_need_the_role_and_the_token(site, path, form, role):
    client = logged_in(site, role)
    assert client.post(path, data={**form, "csrf": client.csrf}).status_code == 403
    assert logged_in(site).post(path, data=form).status_code == 403


def test_a_baseline_is_stored_and_audited(site):
    client = logged_in(site)
    form = {"first_day": "2026-03-02", "last_day": "2026-03-03", "reason": "<i>tube</i>", "csrf": client.csrf}
    assert client.post("/scanners/1/baseline?quantity=noise", data=form).status_code == 303
    page = client.get("/scanners/1?quantity=noise").text
    assert "chosen by ada" in page
    assert "&lt;i&gt;tube&lt;/i&gt;" in page
    assert events_of(site)[0] == "baseline.choose"
    bad = client.post("/scanners/1/baseline", data={**form, "first_day": "2020-01-01", "last_day": "2020-01-02"})
    assert bad.status_code == 422
    assert "fewer than 20" in bad.text
    assert client.post("/scanners/1/baseline", data={"csrf": client.csrf}).status_code == 422
    again = {"automatic": "yes", "csrf": client.csrf}
    assert client.post("/scanners/1/baseline?quantity=noise", data=again).status_code == 303
    assert "The first 50 series" in client.get("/scanners/1?quantity=noise").text


def test_an_event_is_marked_corrected_and_withdrawn(site):
    client = logged_in(site, Role.REVIEWER)
    form = {"at": "2026-03-02T10:00", "kind": "tube", "text": "<script>x</script>", "csrf": client.csrf}
    assert client.post("/scanners/1/events", data=form).status_code == 303
    assert "<script>x" not in client.get("/scanners/1").text
    assert client.post("/scanners/1/events/1", data={**form, "text": "new tube"}).status_code == 303
    assert "new tube" in client.get("/scanners/1").text
    assert client.post("/scanners/1/events/1", data=form).status_code == 404
    assert client.post("/scanners/1/events/2", data={"withdraw": "yes", "csrf": client.csrf}).status_code == 303
    assert ServiceEvents(site.database).of(1) == []
    for wrong in ({"kind": "network"}, {"kind": "x"}, {"at": "yesterday"}, {"text": " "}):
        assert client.post("/scanners/1/events", data={**form, **wrong}).status_code == 422
    assert events_of(site).count("scanner.event") == 3


def test_the_api_marks_events_and_chooses_baselines(site):
    client = stranger(site, **bearer(site))
    event = {"at": START.isoformat(), "kind": "service", "text": "yearly"}
    made = client.post("/api/v1/scanners/1/events", json=event)
    assert made.status_code == 201
    assert client.post("/api/v1/scanners/1/events", json={**event, "supersedes": 99}).status_code == 404
    assert client.post("/api/v1/scanners/1/events", json={**event, "kind": "network"}).status_code == 422
    assert client.post("/api/v1/scanners/9/events", json=event).status_code == 404
    period = {"group_id": 1, "quantity": "noise", "first_day": "2026-03-02", "last_day": "2026-03-03"}
    chosen = client.put("/api/v1/scanners/1/baseline", json=period)
    assert chosen.status_code == 200
    assert chosen.json()["baseline"]["author"] == "ada"
    assert client.put("/api/v1/scanners/1/baseline", json={**period, "first_day": "2030-01-01"}).status_code == 409
    assert (
        stranger(site, **bearer(site, Role.VIEWER)).put("/api/v1/scanners/1/baseline", json=period).status_code == 403
    )


def test_alerts_are_acknowledged_once_in_page_and_api(site):
    Alerts(site.database).add([NewAlert(str(n), "r", AlertSubject.NODE, f"<b>{n}</b>") for n in range(4)])
    client = logged_in(site, Role.REVIEWER)
    assert "&lt;b&gt;3&lt;/b&gt;" in client.get("/alerts").text
    assert client.post("/alerts/1/acknowledge", data={"csrf": client.csrf, "note": "seen"}).status_code == 303
    assert client.post("/alerts/99/acknowledge", data={"csrf": client.csrf}).status_code == 404
    token = stranger(site, **bearer(site, Role.REVIEWER))
    assert token.post("/api/v1/alerts/1/acknowledge", json={}).status_code == 409
    assert token.post("/api/v1/alerts/2/acknowledge", json={"note": "x"}).json()["acknowledged_by"] == "rudi"
    assert client.post("/alerts/acknowledge", data={"csrf": client.csrf, "up_to": "3"}).status_code == 303
    assert [alert.alert_id for alert in Alerts(site.database).unacknowledged()] == [4]
    first = token.get("/api/v1/alerts?limit=3").json()
    rest = token.get("/api/v1/alerts", params={"limit": 3, "cursor": first["next"]}).json()
    assert [alert["alert_id"] for alert in first["items"] + rest["items"]] == [4, 3, 2, 1]
    assert token.get("/api/v1/alerts?cursor=nonsense").status_code == 422


def test_test_messages_and_echo(site):
    mail, hook = MailServer(), Hook()
    try:
        channels = {
            "email": [{"name": "mail", "host": "127.0.0.1", "port": mail.port, "security": "none",
                       "sender": "a@b.example", "recipients": ["c@d.example"]}],
            "webhook": [{"name": "hook", "url": hook.url}],
        }  # fmt: skip
        targets = {"targets": [{"kind": "dicom", "name": "pacs", "host": "h", "ae_title": "P"}]}
        mine = with_config(site, alerts=channels, deliver=targets)
        client = logged_in(mine)
        assert client.post("/alerts/channels/mail/test", data={"csrf": client.csrf}).status_code == 303
        assert client.post("/alerts/channels/none/test", data={"csrf": client.csrf}).status_code == 404
        assert Alerts(site.database).messages()[0].test
        page = client.get("/alerts").text
        assert "token=" not in page
        answer = client.post("/node/echo/pacs", data={"csrf": client.csrf})
        assert "pacs asked" in answer.text
        assert client.post("/node/echo/other", data={"csrf": client.csrf}).status_code == 404
        token = stranger(mine, **bearer(mine))
        assert token.post("/api/v1/node/targets/pacs/echo").json() == {
            "target": "pacs", "answers": True, "words": "pacs asked"
        }  # fmt: skip
        assert "c@d.example" not in logged_in(mine, Role.VIEWER).get("/alerts").text
    finally:
        mail.close()
        hook.close()


def test_the_configuration_is_shown_without_secrets(tmp_path):
    config = Config.model_validate(
        {
            "database_url": "postgresql+psycopg://qa:s3cret@db/quality?password=s3cret",
            "alerts": {"webhook": [{"name": "h", "url": "https://hooks.example/services/s3cret?x=s3cret"}]},
        }
    )
    lines = dict(config_lines(config))
    assert "s3cret" not in repr(lines)
    assert lines["database_url"] == "postgresql+psycopg://qa:(hidden)@db/quality?(hidden)"
    assert lines["alerts.webhook[0].url"] == "https://hooks.example/(hidden)"
    assert lines["score.workers"] == "1"
    assert {path.split(".")[0].split("[")[0] for path in lines} == set(Config.model_fields)


def test_a_drift_is_called_by_what_drifts(site):
    at = {"began_at": START, "raised_at": START, "group_id": 1, "side": -1, "shift_sigma": -2.0}
    with site.database.write() as connection:
        for name in ("noise", "score"):
            connection.execute(chart_tables.alarms.insert().values(quantity=name, **at))
    text = logged_in(site).get("/scanners/1").text
    assert 'quantity=noise">Show Noise</a>' in text
    assert '<td class="words">Noise</td>' in text
    assert '<td class="words">score</td>' in text
    assert "chooses a period. Centre" in " ".join(text.split())
    found = logged_in(site).get("/api/v1/scanners/alarms").json()
    assert {item["quantity"]: item["meaning"] for item in found} == {"noise": "Noise", "score": "score"}


def test_a_drift_is_accepted_by_one_click(site):
    at = {"began_at": START, "raised_at": START, "group_id": 1, "side": 1, "shift_sigma": 2.0}
    with site.database.write() as connection:
        connection.execute(chart_tables.alarms.insert().values(quantity="noise", sentence="<b>It rose</b>.", **at))
    client = logged_in(site, Role.REVIEWER)
    page = client.get("/scanners/1").text
    assert "&lt;b&gt;It rose&lt;/b&gt;." in page
    assert client.post("/scanners/1/accept", data={"alarm": "99", "csrf": client.csrf}).status_code == 404
    assert client.post("/scanners/1/accept", data={"alarm": "1", "csrf": client.csrf}).status_code == 303
    assert "accepted by rudi" in client.get("/scanners/1?quantity=noise").text
    assert events_of(site)[0] == "baseline.accept"


def test_new_baselines_begin_after_a_service_event(site):
    client = logged_in(site, Role.REVIEWER)
    form = {"at": "2026-03-04T12:00", "kind": "tube", "text": "new tube", "csrf": client.csrf}
    client.post("/scanners/1/events", data=form)
    assert client.post("/scanners/1/events/1/baseline", data={"csrf": client.csrf}).status_code == 303
    assert "Too few to tell a drift (" in client.get("/scanners/1").text
    assert client.post("/scanners/1/events/9/baseline", data={"csrf": client.csrf}).status_code == 404
    token = stranger(site, **bearer(site, Role.REVIEWER))
    new = {"from_at": START.isoformat(), "reason": "first day again"}
    assert token.put("/api/v1/scanners/1/accepted-change", json=new).json() == 1
    assert token.get("/api/v1/scanners/1/chart").json()["baseline"]["reason"] == "first day again"
    assert token.put("/api/v1/scanners/9/accepted-change", json=new).status_code == 404
    assert events_of(site).count("baseline.accept") == 2


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_cannot_hold_is_refused(site, at):
    token = stranger(site, **bearer(site, Role.REVIEWER))
    event = {"at": at, "kind": "tube", "text": "x"}
    assert token.post("/api/v1/scanners/1/events", json=event).status_code == 422
    change = {"from_at": at, "reason": "x"}
    assert token.put("/api/v1/scanners/1/accepted-change", json=change).status_code == 422


def test_names_are_given_and_taken_back_in_page_and_api(site):
    client = logged_in(site, Role.REVIEWER)
    form = {"name": "<i>Room</i> 3", "csrf": client.csrf}
    assert client.post("/scanners/names/scanner/1", data=form).status_code == 303
    assert "&lt;i&gt;Room&lt;/i&gt; 3" in client.get("/scanners").text
    assert client.post("/scanners/names/scanner/9", data=form).status_code == 422
    assert client.post("/scanners/names/merge/1", data={"into": "1", "csrf": client.csrf}).status_code == 422
    assert client.post("/scanners/names/merge/1", data={"into": "x", "csrf": client.csrf}).status_code == 422
    mapped = {"written": "Chest", "shown": "Thorax", "csrf": client.csrf}
    assert client.post("/scanners/names/protocol", data=mapped).status_code == 303
    token = stranger(site, **bearer(site, Role.REVIEWER))
    assert [item["shown"] for item in token.get("/api/v1/scanners/protocol-names").json()] == ["Thorax"]
    assert token.put("/api/v1/scanners/protocol-names", json={"written": "Chest", "shown": ""}).json() == []
    assert token.put("/api/v1/scanners/1/name", json={"name": ""}).json()["name"] == "CT1"
    assert [events_of(site).count(name) for name in ("scanner.name", "protocol.name")] == [2, 2]


def test_every_dead_letter_is_retried_and_nothing_else(site):
    uid, now = "1.2.900", START
    with site.database.write() as connection:
        row = {"series_instance_uid": uid, "state": "PARKED", "state_since": now, "expected": {}}
        connection.execute(tables.series.insert().values(**row, first_received_at=now, last_received_at=now))
        for number in range(60):
            report = {"sop_class_uid": "1.2", "report_series_uid": "9", "series_instance_uid": uid, "created_at": now}
            connection.execute(
                tables.reports.insert().values(
                    **report, sop_instance_uid=f"9.{number}", version=number + 1, path=f"r/{number}"
                )
            )
            sent = {"report_uid": f"9.{number}", "series_instance_uid": uid, "target": "pacs", "created_at": now}
            state, later = ("PENDING", START) if number == 59 else ("PARKED", now)
            connection.execute(tables.outbox.insert().values(**sent, state=state, next_attempt_at=later))
    client = logged_in(site)
    page = client.get("/node").text
    assert "Retry all 59" in page
    assert page.count('<button class="small" aria-label="Retry delivery') == 50
    assert "59 parked deliveries: dicom-qa-node outbox list --parked; 1 waiting" in page
    assert "<td>report</td>" in page
    answer = client.post("/node/deliveries/retry", data={"csrf": client.csrf})
    assert answer.headers["location"] == "/node?retried=59#parked"
    assert Outbox(site.database).undelivered() == {"PENDING": 60, "SENDING": 0, "PARKED": 0}


def test_no_route_of_these_pages_changes_anything_by_get(site):
    client = logged_in(site)
    for path in ("/scanners/1/baseline", "/scanners/1/events", "/alerts/acknowledge", "/node/deliveries/retry"):
        assert client.get(path).status_code == 405
