"""The node's pages: status codes for machines, no patient data for anybody."""

from __future__ import annotations

import datetime as dt

import pytest
from starlette.testclient import TestClient

from dicom_qa_node.ops.website import LiveNode
from dicom_qa_node.records import (
    Finding,
    Grade,
    ModelRef,
    SeriesFacts,
    SeriesKind,
    SeriesResult,
    Severity,
    StoredInstance,
    utc_now,
)
from dicom_qa_node.store import Database, Jobs, Liveness, Registry, Role
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Site
from tests.web_site import HOST, PASSWORD, log_in

FACTS = SeriesFacts(
    "1.2.3", "1.2", "CT", patient_id="PID-4711", patient_name="Doe^Jane", patient_birth_date="19700102",
    accession_number="ACC-99", station_name="CT7", institution_name="St. Elsewhere",
)  # fmt: skip
PATIENT = ("PID-4711", "Doe", "Jane", "19700102", "ACC-99")


@pytest.fixture
def database(node_config):
    database = Database(node_config.database_url)
    database.upgrade()
    node_config.spool_dir.mkdir(parents=True)
    yield database
    database.close()


@pytest.fixture
def client(node_config, database):
    with TestClient(create_app(site_over(node_config, database)), base_url=HOST) as client:
        yield client


def site_over(config, database: Database) -> Site:
    return Site(config, database, LiveNode(config, database))


def enter(client: TestClient, config, database: Database) -> None:
    site = site_over(config, database)
    site.accounts.add("vera", Role.VIEWER, password_hash=site.passwords.hash(PASSWORD))
    assert log_in(client, "vera").url.path != "/login"


def score_one(database: Database) -> None:
    registry = Registry(database)
    registry.record([StoredInstance("1.2.3.1", "1.2", "1.2", "a/1", "0" * 64, 9, utc_now(), "SC", "a", FACTS)])
    (progress,) = registry.receiving()
    registry.complete(progress, reason="quiet")
    jobs = Jobs(database)
    finding = Finding("noise", Severity.WARNING, "The noise is <high>.")
    result = SeriesResult(
        "1.2.3", "CT", SeriesKind.CT, 2.25, (1.5, 3.0), Grade.LIMITED, (), (), (finding,), ModelRef("m", "1", "f"), 1
    )
    assert jobs.finish(jobs.claim("w"), result)


def test_health_and_readiness_follow_the_receiver(client, node_config, database):
    assert client.get("/healthz").status_code == 503
    assert client.get("/readyz").status_code == 503
    assert "reason" not in client.get("/readyz").json()
    assert "detail" not in client.get("/healthz").json()["checks"][0]
    enter(client, node_config, database)
    assert "role receive" in client.get("/readyz").json()["reason"]
    for role in ("receive", "schedule", "score", "deliver"):
        Liveness(database).beat(role)
    assert client.get("/readyz").json() == {"ready": True, "reason": ""}
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert {check["name"] for check in answer.json()["checks"]} >= {"database", "spool", "disk", "model", "queue"}


def test_a_silent_receiver_is_not_ready(client, database):
    Liveness(database).beat("receive", at=utc_now() - dt.timedelta(minutes=2))
    assert client.get("/readyz").status_code == 503


def test_status_page_shows_scores_without_patient_data(client, node_config, database):
    score_one(database)
    enter(client, node_config, database)
    answer = client.get("/node")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for wanted in ("1.2.3", "2.25", "1.50 to 3.00", "limited", "CT7", "The noise is &lt;high&gt;.", "SCORED"):
        assert wanted in answer.text
    for page in ("/node", "/healthz", "/readyz", "/metrics"):
        assert not [word for word in PATIENT if word in client.get(page).text]


def test_metrics_are_prometheus_text(client, database):
    score_one(database)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'dicom_qa_node_series{state="SCORED"} 1.0' in answer.text


def test_other_methods_and_pages_are_refused(client):
    assert client.post("/").status_code == 405
    assert client.get("/docs").status_code == 404


def test_pages_without_a_database(node_config):
    database = Database(node_config.database_url)
    with TestClient(create_app(site_over(node_config, database)), base_url=HOST) as client:
        assert client.get("/healthz").status_code == 503
        assert client.get("/metrics").status_code == 200
    database.close()
