"""Phantoms through log, charts, decisions, calendar and alerts."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from pydicom import dcmread

from dicom_qa_node.charts.alerts import Alerts
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.config import Config
from dicom_qa_node.config.phantoms import Phantom
from dicom_qa_node.db import chart_tables, phantom_tables
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.qc_phantoms import PhantomKind, QcOutcome, SubjectDecision, Tolerance
from dicom_qa_node.domain.results import Finding, Severity
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.subject_decisions import decide_subject
from dicom_qa_node.ops.alert_evaluation import AlertEvaluator
from dicom_qa_node.ops.phantom_alerts import PhantomAlerts
from dicom_qa_node.quality_control.decisions import SubjectDecisions, restore_decision
from dicom_qa_node.quality_control.phantom_quantities import quantities_of
from dicom_qa_node.quality_control.qc_calendar import DayState, QcSchedules, calendar_of, periods
from dicom_qa_node.quality_control.runs import PhantomRuns
from dicom_qa_node.quality_control.tolerances import Tolerances, ToleranceSet
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import ReportRequest
from tests.phantom_runs import add_run, phantom_result
from tests.report_samples import T0, write_series
from tests.web_site import open_site

MONDAY = dt.date(2026, 11, 2)
GOOD = {"phantom_hu_centre": 0.5, "phantom_noise": 5.0, "phantom_edge_centre": 1.0}


@pytest.fixture
def database(tmp_path):
    found = open_site(tmp_path).database
    yield found
    found.close()


def at(day: int) -> dt.datetime:
    return dt.datetime.combine(MONDAY, dt.time(7, 30)) + dt.timedelta(days=day)


def phantom(schedule: str = "daily", name: str = "water") -> Phantom:
    return Phantom.model_validate({"name": name, "kind": "water", "scanner": "CT1", "schedule": schedule})


def test_a_phantom_stands_in_the_log_and_in_no_clinical_chart_or_alert(database):
    seen = []
    add_run(database, "1.1", phantom_result("1.1", GOOD, at(0)))
    ChartIngest(database).take_in(lambda new: seen.extend(new) or ())
    (row,) = LogSearch(database).page(LogQuery()).rows
    assert (row.score, row.grade, row.qc) == (None, None, QcOutcome.PASSED)
    assert row.why.startswith("QC phantom")
    assert row.findings == ("qc_phantom",)
    assert seen == []
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(chart_tables.groups)).scalar_one() == 0
        assert connection.execute(sa.select(chart_tables.points.c.group_id)).scalars().all() == [None]
    history = Registry(database).history("1.1")
    assert history[-1]["reason"].startswith("QC phantom, pass")
    (run,) = PhantomRuns(database).latest()
    assert (run.phantom, run.day, run.scanner, run.outcome) == ("water", MONDAY, "CT1", QcOutcome.PASSED)
    assert {item.quantity: item.value for item in PhantomRuns(database).values(run.result_id)} == GOOD


def test_derived_tables_are_made_again_from_the_results(database):
    add_run(database, "1.1", phantom_result("1.1", GOOD, at(0)))
    ingest = ChartIngest(database)
    ingest.forget()
    assert PhantomRuns(database).latest() == []
    ingest.take_in()
    assert len(PhantomRuns(database).latest()) == 1


def test_a_phantom_raises_no_alert_of_a_finding_even_of_severity_error(database):
    lately = database.now().replace(tzinfo=None)
    worst = replace(
        phantom_result("1.1", GOOD, lately),
        findings=(Finding("streaks", Severity.ERROR, "Streaks cross the phantom."),),
    )
    add_run(database, "1.1", worst)
    config = Config()
    judge = AlertEvaluator(config)
    ChartIngest(database).forget()
    ChartIngest(database).take_in(judge.results)
    assert Alerts(database).unacknowledged() == []


def decide(database, uid, *, phantom, reason="looked at it", moment=None):
    when = moment or dt.datetime(2026, 11, 3, 9, tzinfo=dt.UTC)
    return decide_subject(database, uid, SubjectDecision(phantom, "ada", when, reason))


def test_a_reversed_diversion_is_durable_and_judged_as_a_new_version(database):
    add_run(database, "1.1", phantom_result("1.1", GOOD, at(0)))
    assert decide(database, "1.1", phantom=False)
    assert SubjectDecisions(database).latest("1.1").phantom is False
    row = Registry(database).series("1.1")
    assert (row.state, row.version) == (SeriesState.COMPLETE, 2)
    assert Registry(database).history("1.1")[-1]["reason"] == "marked as a patient"
    jobs = Jobs(database)
    job = jobs.claim("test")
    scored = replace(phantom_result("1.1", {}, at(0)), qc_phantom=None, score=3.0, interval=(2.5, 3.5))
    assert jobs.finish(job, scored)
    ChartIngest(database).take_in()
    assert PhantomRuns(database).latest() == []
    assert sum(card.count for card in Scanners(database).overview()) == 1
    # and back again
    assert decide(database, "1.1", phantom=True, moment=dt.datetime(2026, 11, 4, tzinfo=dt.UTC))
    job = jobs.claim("test")
    assert jobs.finish(job, phantom_result("1.1", GOOD, at(0)))
    ChartIngest(database).take_in()
    assert len(PhantomRuns(database).latest()) == 1
    assert sum(card.count for card in Scanners(database).overview()) == 0
    assert [item.phantom for item in SubjectDecisions(database).of("1.1")] == [True, False]


def test_a_decision_needs_a_reason_and_waits_for_the_scorer(database):
    add_run(database, "1.1", phantom_result("1.1", GOOD, at(0)))
    with pytest.raises(Permanent, match="reason"):
        decide(database, "1.1", phantom=False, reason="  ")
    assert SubjectDecisions(database).latest("1.1") is None
    assert decide(database, "1.1", phantom=False)
    assert Jobs(database).claim("test") is not None
    assert not decide(database, "1.1", phantom=True), "while it is being scored"
    assert not decide(database, "9.9", phantom=True)


def test_a_decision_comes_back_with_a_rebuilt_result(database):
    earlier = SubjectDecision(False, "ada", dt.datetime(2026, 11, 3, tzinfo=dt.UTC), "a patient")
    later = SubjectDecision(True, "eve", dt.datetime(2026, 11, 5, tzinfo=dt.UTC), "a phantom")
    for decision in (later, earlier, later):
        with database.write() as connection:
            restore_decision(connection, "1.1", decision)
    assert SubjectDecisions(database).latest("1.1") == later
    assert len(SubjectDecisions(database).of("1.1")) == 1


@pytest.mark.parametrize(
    ("schedule", "days"),
    [("daily", 14), ("workdays", 10), ("weekly", 2), ("monthly", 0), ("none", 0)],
)
def test_periods_of_two_weeks(schedule, days):
    assert len(list(periods(schedule, MONDAY, MONDAY + dt.timedelta(days=13)))) == days
    assert list(periods("monthly", dt.date(2026, 2, 1), dt.date(2026, 2, 5))) == [
        (dt.date(2026, 2, 1), dt.date(2026, 2, 28))
    ]


def test_the_calendar_shows_done_failed_missing_and_due(database):
    add_run(database, "1.1", phantom_result("1.1", GOOD, at(0)))
    add_run(database, "1.2", phantom_result("1.2", GOOD | {"phantom_hu_centre": 9.0}, at(1)))
    add_run(database, "1.3", phantom_result("1.3", {}, at(3), remark="a cylinder is seen in 0 slices"))
    days = [MONDAY + dt.timedelta(days=number) for number in range(7)]
    today = days[5]
    found = calendar_of(phantom(), PhantomRuns(database).between(days[0], today), days, today, MONDAY)
    states = [item.state for item in found]
    assert states == [
        DayState.DONE, DayState.FAILED, DayState.MISSING, DayState.FAILED, DayState.MISSING, DayState.DUE, DayState.FREE
    ]  # fmt: skip
    found = calendar_of(phantom(), [], days, today, since=days[4])
    assert [item.state for item in found][3:6] == [DayState.FREE, DayState.MISSING, DayState.DUE]
    weekly = calendar_of(phantom("weekly"), PhantomRuns(database).between(days[0], today), days, today, MONDAY)
    assert weekly[6].state is DayState.FREE, "a week with a run is not due any more"


def test_a_second_run_of_the_day_mends_a_failed_one(database):
    add_run(database, "1.1", phantom_result("1.1", GOOD | {"phantom_hu_centre": 9.0}, at(0)))
    add_run(database, "1.2", phantom_result("1.2", GOOD, at(0) + dt.timedelta(hours=1)))
    (day,) = calendar_of(phantom(), PhantomRuns(database).between(MONDAY, MONDAY), [MONDAY], MONDAY, MONDAY)
    assert day.state is DayState.DONE


def alerting(database, schedule="daily", **alerts):
    config = Config.model_validate(
        {
            "phantoms": {"analyse": [{"name": "water", "kind": "water", "scanner": "CT1", "schedule": schedule}]},
            "alerts": {
                "email": [
                    {
                        "name": "mail",
                        "host": "localhost",
                        "sender": "a@b.c",
                        "recipients": ["x@y.z"],
                        "security": "none",
                    }
                ],
                **alerts,
            },
        }
    )
    return PhantomAlerts(config, database, AlertEvaluator(config))


def noon(day: int) -> dt.datetime:
    return dt.datetime.combine(MONDAY + dt.timedelta(days=day), dt.time(12)).astimezone()


def test_a_missing_phantom_gives_one_alert_for_each_due_date(database):
    watch = alerting(database)
    assert watch.look(noon(0)) == 0, "the schedule counts from today"
    assert watch.look(noon(1)) == 1
    assert watch.look(noon(1)) == 0
    assert watch.look(noon(3)) == 2
    texts = [alert.text for alert in Alerts(database).unacknowledged()]
    assert any("water (Water cylinder) is missing: due 2026-11-02, daily" in text for text in texts)
    (message,) = Alerts(database).messages()
    assert (message.channel, len(message.alerts)) == ("mail", 3)


def test_a_done_phantom_gives_no_alert(database):
    watch = alerting(database)
    watch.look(noon(0))
    add_run(database, "1.1", phantom_result("1.1", GOOD, at(0)))
    assert watch.look(noon(1)) == 0


def test_a_failed_phantom_gives_one_alert_and_an_unknown_one_none(database):
    watch = alerting(database, schedule="none")
    add_run(database, "1.1", phantom_result("1.1", GOOD | {"phantom_hu_centre": 9.0}, at(0)))
    add_run(database, "1.2", phantom_result("1.2", {}, at(0), phantom="", remark="no phantom is configured"))
    assert watch.look(noon(0)) == 1
    assert watch.look(noon(0)) == 0
    (alert,) = Alerts(database).unacknowledged()
    assert "outside" in alert.text
    assert alert.scanner == "CT1"


def test_rules_choose_what_is_told_about_phantoms(database):
    rule = {"name": "others", "about": "phantom", "scanner": "PET*"}
    watch = alerting(database, rules=[rule])
    watch.look(noon(0))
    assert watch.look(noon(2)) == 0


def test_the_first_day_of_a_schedule_is_kept(database):
    schedules = QcSchedules(database)
    assert schedules.since([phantom()], MONDAY) == {"water": MONDAY}
    assert schedules.since([phantom()], MONDAY + dt.timedelta(days=9)) == {"water": MONDAY}
    assert schedules.since([phantom("none")], MONDAY) == {}


def test_tolerances_are_versions_with_a_source(database):
    tolerances = Tolerances(database)
    mine = Tolerance(PhantomKind.WATER, "phantom_noise", 4.0, 6.0, "acceptance test", "2026-05", author="ada")
    tolerances.add(mine)
    tolerances.add(replace(mine, high=7.0, scanner="CT1"))
    tolerances.add(replace(mine, high=6.5))
    assert tolerances.of(PhantomKind.WATER, "CT2").by_quantity["phantom_noise"].high == 6.5
    assert tolerances.of(PhantomKind.WATER, "CT1").by_quantity["phantom_noise"].high == 7.0
    assert tolerances.of(PhantomKind.WATER).by_quantity["phantom_hu_centre"].source.startswith("ACR CT")
    assert [item.high for _, item in tolerances.history(PhantomKind.WATER)] == [6.5, 7.0, 6.0]
    assert ToleranceSet.of(PhantomKind.WATER).by_quantity.get("phantom_noise") is None
    for wrong, words in (({"source": " "}, "source"), ({"low": 9.0}, "above"), ({"quantity": "x"}, "no quantity"),
                         ({"quantity": "phantom_hu_pmp"}, "Water cylinder phantom has no quantity")):  # fmt: skip
        with pytest.raises(Permanent, match=words):
            tolerances.add(replace(mine, **wrong))


@pytest.mark.parametrize("kind", PhantomKind)
def test_each_default_tolerance_is_of_a_quantity_of_its_phantom_and_names_its_source(kind):
    known = {item.name for item in quantities_of(kind)}
    held = ToleranceSet.of(kind).by_quantity
    assert set(held) <= known
    for item in held.values():
        assert item.source
        assert (item.low, item.high) != (None, None)


def test_a_phantom_has_no_tolerance_of_another_one():
    catphan = {item.name for item in quantities_of(PhantomKind.CATPHAN504)}
    acr = {item.name for item in quantities_of(PhantomKind.ACR_CT)}
    assert acr - catphan >= {"phantom_hu_bone", "phantom_hu_polyethylene", "phantom_hu_water", "phantom_cnr"}
    assert catphan - acr >= {"phantom_hu_pmp", "phantom_hu_teflon", "phantom_line_distance", "phantom_slice_thickness"}
    assert "phantom_hu_water" not in ToleranceSet.of(PhantomKind.CATPHAN600).by_quantity, "its water is in the vial"


def test_an_empty_tolerance_takes_the_judgement_away(database):
    tolerances = Tolerances(database)
    tolerances.add(Tolerance(PhantomKind.WATER, "phantom_hu_centre", None, None, "decided by the physicist", ""))
    held = tolerances.of(PhantomKind.WATER).by_quantity["phantom_hu_centre"]
    assert held.outcome(500.0) is QcOutcome.NOT_JUDGED


def test_lists_of_runs_are_answered_by_indexes(database):
    statements = {
        "runs": sa.select(phantom_tables.runs).where(phantom_tables.runs.c.day >= MONDAY),
        "series": sa.select(phantom_tables.runs).where(phantom_tables.runs.c.series_instance_uid == "1"),
        "decisions": sa.select(phantom_tables.decisions).where(phantom_tables.decisions.c.series_instance_uid == "1"),
    }
    with database.read() as connection:
        for name, query in statements.items():
            text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
            plan = " ".join(row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
            assert "SEARCH" in plan, (name, plan)


def test_offline_rows_name_a_phantom():
    from dicom_qa_node.cli.scoring import _row
    from dicom_qa_node.domain.result_json import result_values

    row = _row(result_values(phantom_result("1.1", GOOD, at(0))))
    assert row["score"] == "QC phantom"
    assert SimpleNamespace(**row).grade == ""


def test_the_report_has_no_verdict_but_the_reason_and_the_results(tmp_path):
    images = write_series(tmp_path, 7, "CT", PatientName="QA^Daily")
    uid = images[0].series.series_instance_uid
    result = phantom_result(uid, GOOD | {"phantom_hu_centre": 9.0}, at(0))
    made = build_report(ReportRequest(result, 1, T0), images, tmp_path, Config())
    report = dcmread(BytesIO(made))
    text = " | ".join(words(report))
    assert "Image Set Quality Rating" not in text
    assert "RADLEX" not in text
    assert "QC phantom, without a verdict" in text
    assert '"qa" in PatientName' in text
    assert "Outside a tolerance" in text
    numbers = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in walk(report) if item.ValueType == "NUM"}
    value = numbers["CT number of the centre"].MeasuredValueSequence[0]
    assert (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue) == (9.0, "[hnsf'U]")
    assert "above the tolerance (-5 to 5 HU)" in text
    assert "usual range" not in text


def words(report):
    for item in walk(report):
        yield str(item.get("TextValue", ""))
        for name in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
            yield from (f"{code.CodeMeaning} {code.CodingSchemeDesignator}" for code in item.get(name, []))


def walk(item):
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)
