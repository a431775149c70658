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
from dicom_qa_node.store import Database, Jobs, Liveness, Registry
from dicom_qa_node.web.app import create_app

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
    with TestClient(create_app(LiveNode(node_config, database))) as client:
        yield client


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


def test_health_and_readiness_follow_the_receiver(client, database):
    assert client.get("/healthz").status_code == 503
    assert client.get("/readyz").status_code == 503
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


def test_status_page_shows_scores_without_patient_data(client, database):
    score_one(database)
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for wanted in ("1.2.3", "2.25", "1.50 to 3.00", "limited", "CT7", "The noise is &lt;high&gt;.", "SCORED"):
        assert wanted in answer.text
    for page in ("/", "/healthz", "/readyz", "/metrics"):
        assert not [word for word in PATIENT if word in client.get(page).text]


def test_metrics_are_prometheus_text(client, database):
    score_one(database)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'dicom_qa_node_series{state="SCORED"} 1.0' in answer.text


def test_other_methods_and_pages_are_refused(client):
    assert client.post("/").status_code == 405
    assert client.get("/docs").status_code == 404


def test_pages_of_an_empty_database(node_config):
    database = Database(node_config.database_url)
    with TestClient(create_app(LiveNode(node_config, database))) as client:
        assert client.get("/healthz").status_code == 503
        assert "db upgrade" in client.get("/").text
        assert client.get("/metrics").status_code == 200
    database.close()
