"""The node's pages: status codes for machines, no patient data for anybody."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dicom_qa_node.config import Config
from dicom_qa_node.db import chart_tables
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.results import Finding, Grade, ModelRef, SeriesKind, SeriesResult, Severity
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.ops.alert_evaluation import AlertEvaluator, update_charts
from dicom_qa_node.ops.metrics import MOST_SCANNERS, NodeCollector, exposition
from dicom_qa_node.ops.web_server import LiveNode
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Site
from tests.web_site import HOST, PASSWORD, log_in

FACTS = SeriesHeader(
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
        Heartbeats(database).beat(role)
    assert client.get("/readyz").json() == {"ready": True, "reason": ""}
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert {check["name"] for check in answer.json()["checks"]} >= {"database", "spool", "disk", "model", "queue"}


def test_a_silent_receiver_is_not_ready(client, database):
    Heartbeats(database).beat("receive", at=utc_now() - dt.timedelta(minutes=2))
    assert client.get("/readyz").status_code == 503


def test_node_page_and_metrics_hold_no_patient_data(client, node_config, database):
    score_one(database)
    update_charts(node_config, database, AlertEvaluator(node_config))(utc_now())
    enter(client, node_config, database)
    answer = client.get("/node")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "SCORED" in answer.text
    for page in ("/node", "/scanners", "/scanners/1", "/alerts", "/healthz", "/readyz", "/metrics"):
        assert client.get(page).status_code in (200, 503)
        assert not [word for word in PATIENT if word in client.get(page).text]


def test_metrics_are_prometheus_text(client, database):
    score_one(database)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'dicom_qa_node_series{state="SCORED"} 1.0' in answer.text


def test_the_flow_is_counted_by_scanner(client, node_config, database):
    score_one(database)
    update_charts(node_config, database, AlertEvaluator(node_config))(utc_now())
    text = client.get("/metrics").text
    assert 'dicom_qa_node_scores_total{grade="limited",kind="ct",scanner="CT7"} 1.0' in text
    assert 'dicom_qa_node_score_sum_total{kind="ct",scanner="CT7"} 2.25' in text
    assert 'dicom_qa_node_findings_total{finding="noise",severity="warning"} 1.0' in text
    assert 'dicom_qa_node_turnaround_seconds_bucket{le="+Inf"} 1.0' in text
    assert "dicom_qa_node_completion_lag_seconds_count 1.0" in text
    assert "dicom_qa_node_received_images_total 1.0" in text
    assert "dicom_qa_node_alerts_unacknowledged 0.0" in text


def test_metrics_stay_few_with_many_scanners(database):
    names = [f"CT{number}" for number in range(MOST_SCANNERS + 50)]
    with database.write() as connection:
        for name in names:
            labels = json.dumps({"grade": "limited", "kind": "ct", "scanner": name}, sort_keys=True)
            connection.execute(chart_tables.counters.insert().values(name="scores", labels=labels, value=1))
    config = Config()
    collector = NodeCollector(config, lambda: LiveNode(config, database).look(), database)
    text = exposition(collector).decode()
    assert text.count("dicom_qa_node_scores_total{") == MOST_SCANNERS + 1
    assert 'scanner="(other scanners)"} 50.0' in text


def test_every_query_of_the_dashboard_names_a_metric_that_exists(client, node_config, database):
    score_one(database)
    update_charts(node_config, database, AlertEvaluator(node_config))(utc_now())
    there = set(re.findall(r"^# TYPE (dicom_qa_node_\w+)", client.get("/metrics").text, re.MULTILINE))
    there |= {f"{name}_{part}" for name in there for part in ("bucket", "sum", "count")}
    board = json.loads((Path(__file__).parents[2] / "docs" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) >= 12
    for query in queries:
        named = set(re.findall(r"dicom_qa_node_\w+", query))
        assert named, query
        assert named <= there, query


def test_other_methods_and_pages_are_refused(client):
    assert client.post("/").status_code == 405
    assert client.get("/docs").status_code == 404


def test_pages_without_a_database(node_config):
    database = Database(node_config.database_url)
    with TestClient(create_app(site_over(node_config, database)), base_url=HOST) as client:
        assert client.get("/healthz").status_code == 503
        assert client.get("/metrics").status_code == 200
    database.close()
