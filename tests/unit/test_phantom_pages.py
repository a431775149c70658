"""The pages of phantoms: calendar, charts, tolerances, and the decision on the page of a series."""

from __future__ import annotations

import csv
import datetime as dt
import io

import pytest

from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.qc_phantoms import PhantomKind
from dicom_qa_node.quality_control.decisions import SubjectDecisions
from dicom_qa_node.quality_control.tolerances import Tolerances
from tests.phantom_runs import add_run, phantom_result
from tests.web_site import logged_in, open_site

NOW = dt.datetime(2026, 11, 6, 12, 0, tzinfo=dt.UTC)
GOOD = {"phantom_hu_centre": 0.5, "phantom_noise": 5.0, "phantom_edge_centre": 1.0}
PHANTOMS = {"analyse": [{"name": "water", "kind": "water", "scanner": "CT1", "schedule": "daily"}]}


@pytest.fixture
def site(tmp_path):
    found = open_site(tmp_path, clock=lambda: NOW)
    phantoms = type(found.config.phantoms).model_validate(PHANTOMS)
    object.__setattr__(found, "config", found.config.model_copy(update={"phantoms": phantoms}))
    for number in range(4):
        moment = dt.datetime(2026, 11, 2 + number, 7, 30)  # noqa: DTZ001 - the scanner's clock
        centre = 9.5 if number == 3 else 0.5 + number
        add_run(
            found.database,
            f"1.{number + 1}",
            phantom_result(f"1.{number + 1}", GOOD | {"phantom_hu_centre": centre}, moment),
        )
    yield found
    found.database.close()


def test_the_overview_shows_calendar_charts_and_runs(site):
    text = logged_in(site, Role.VIEWER).get("/phantoms").text
    assert 'aria-label="2026-11-02: done"' in text
    assert 'aria-label="2026-11-05: failed"' in text
    assert 'aria-label="2026-11-06: due"' in text
    assert "QC phantom: outside" in text
    assert "/phantoms/charts/1?phantom=water" in text


def test_a_chart_has_points_tolerance_and_values(site):
    text = logged_in(site, Role.VIEWER).get("/phantoms/charts/1?phantom=water").text
    assert text.count('<circle class="bad"') == 1
    assert "tolerance -5 to 5" in text
    assert "CT number of the centre" in text
    assert logged_in(site).get("/phantoms/charts/1?phantom=other").status_code == 404
    assert logged_in(site).get("/phantoms/charts/99999999999999999999?phantom=water").status_code == 404


def test_the_values_of_a_chart_are_a_file(site):
    client = logged_in(site, Role.VIEWER)
    answer = client.get("/phantoms/charts/1/values.csv?phantom=water")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    centre = [row for row in rows if row["quantity"] == "phantom_hu_centre"]
    assert [row["value"] for row in centre] == ["0.5", "1.5", "2.5", "9.5"]
    assert [row["judged"] for row in centre] == ["pass", "pass", "pass", "outside"]
    assert (centre[0]["low"], centre[0]["unit"], centre[0]["series_instance_uid"]) == ("-5.0", "[hnsf'U]", "1.1")


def test_an_administrator_sets_a_tolerance_and_it_is_audited(site):
    client = logged_in(site)
    form = {
        "csrf": client.csrf,
        "kind": "water",
        "quantity": "phantom_noise",
        "low": "4",
        "high": "6,5",
        "dated": "2026",
    }
    refused = client.post("/phantoms/tolerances?kind=water", data=form)
    assert refused.status_code == 422
    assert "source" in refused.text
    answer = client.post("/phantoms/tolerances?kind=water", data=form | {"source": "acceptance test"})
    assert answer.status_code == 303
    held = Tolerances(site.database).of(PhantomKind.WATER).by_quantity["phantom_noise"]
    assert (held.low, held.high, held.author) == (4.0, 6.5, "ada")
    page = client.get("/phantoms/tolerances?kind=water").text
    assert "acceptance test" in page
    assert "tolerance.set" in client.get("/audit").text


@pytest.mark.parametrize("role", [Role.VIEWER, Role.REVIEWER])
def test_others_may_not_change_tolerances_or_subjects(site, role):
    client = logged_in(site, role)
    assert client.post("/phantoms/tolerances", data={"csrf": client.csrf}).status_code == 403
    assert client.post("/series/1.1/subject", data={"csrf": client.csrf, "shows": "patient"}).status_code == 403
    assert "This is a patient" not in client.get("/series/1.1").text


def test_the_page_of_a_series_says_phantom_and_reverses_it(site):
    client = logged_in(site)
    page = client.get("/series/1.1").text
    assert "QC phantom: pass" in page
    assert "This is a patient" in page
    form = {"csrf": client.csrf, "shows": "patient", "reason": "a patient with a phantom's name"}
    answer = client.post("/series/1.1/subject", data=form)
    assert answer.status_code == 303
    assert answer.headers["location"].endswith("done=subject")
    decision = SubjectDecisions(site.database).latest("1.1")
    assert (decision.phantom, decision.author) == (False, "ada")
    assert "series.subject" in client.get("/audit").text
    assert "marked as a patient" in client.get("/series/1.1?done=subject").text


def test_a_decision_without_a_reason_or_series_changes_nothing(site):
    client = logged_in(site)
    answer = client.post("/series/1.1/subject", data={"csrf": client.csrf, "shows": "patient", "reason": " "})
    assert answer.headers["location"].endswith("done=refused")
    assert SubjectDecisions(site.database).latest("1.1") is None
    assert client.post("/series/9.9/subject", data={"csrf": client.csrf, "shows": "patient"}).status_code == 404
    assert client.post("/series/1.1/subject", data={"csrf": client.csrf, "shows": "x"}).status_code == 404


def test_the_log_shows_a_phantom_where_a_grade_would_stand(site):
    client = logged_in(site, Role.VIEWER)
    assert "QC phantom: outside" in client.get("/log").text


@pytest.mark.parametrize("path", ["/phantoms?until=x", "/phantoms/tolerances?kind=x"])
def test_wrong_addresses_are_not_found(site, path):
    assert logged_in(site, Role.VIEWER).get(path).status_code == 404
