"""Every command over a small database: what it prints, what it changes, and the exit code."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import sys

import pytest

from dicom_qa_node.cli.app import run
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.results import (
    Finding,
    Grade,
    Measurement,
    ModelRef,
    ScoredSlice,
    SeriesKind,
    SeriesResult,
    Severity,
)
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.spool.layout import SpoolLayout

NAME = "Mustermann^Erika"
SCORED, PARKED, ARRIVING = "1.2.3", "1.2.4", "1.2.5"


def facts(uid: str, station: str = "CT7") -> SeriesHeader:
    return SeriesHeader(uid, "1.2", "CT", patient_name=NAME, patient_id="P-4711", station_name=station)


def instance(series: SeriesHeader, at: dt.datetime) -> StoredInstance:
    uid = series.series_instance_uid
    return StoredInstance(
        f"{uid}.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", f"images/{uid}/1.dcm", "0" * 64, 10, at,
        "SCANNER", "a1", series, expected=1,
    )  # fmt: skip


def result(uid: str) -> SeriesResult:
    return SeriesResult(
        uid, "CT", SeriesKind.CT, 3.1, (2.6, 3.6), Grade.DIAGNOSTIC,
        (ScoredSlice(f"{uid}.1", "1.2.840.10008.5.1.4.1.1.2", 0, 12.5, 3.1, 1.0, "body"),),
        (Measurement("noise_hu", "Noise in soft tissue", 11.25, "[hnsf'U]", "lower is better", low=5, high=20),),
        (Finding("few_slices", Severity.WARNING, "The series has 1 slice.", "1 < 7"),),
        ModelRef("ms_iqa_small", "1.0.0", "f" * 64), 1,
    )  # fmt: skip


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_QA_NODE_CONFIG", raising=False)
    (tmp_path / "config.yaml").write_text(
        "database_url: sqlite:///node.db\nspool_dir: spool\n"
        "deliver: {targets: [{kind: folder, name: pacs, path: out}]}\n"
    )
    database = Database(f"sqlite:///{tmp_path}/node.db")
    database.upgrade()
    registry, jobs, outbox = Registry(database), Jobs(database), Outbox(database)
    for uid in (SCORED, PARKED):
        registry.record([instance(facts(uid), utc_now())])
        (progress,) = registry.receiving()
        assert registry.complete(progress, reason="1 of 1 images")
    registry.record([instance(facts(ARRIVING, "CT8"), utc_now())])
    assert jobs.finish(jobs.claim("w"), result(SCORED))
    assert jobs.fail(jobs.claim("w"), "the slices are not parallel", permanent=True)
    report = ReportRef("2.25.1", "1.2.840", "2.25.9", SCORED, 1, "reports/1.dcm", utc_now())
    assert outbox.add_report(report, ["pacs", "late"])
    assert outbox.delivered(outbox.claim(["pacs"]), "0x0000 Success")
    assert outbox.park(outbox.claim(["late"]), "0xA900 data set does not match")
    yield database
    database.close()


@pytest.fixture
def qa(monkeypatch, capsys):
    """Run a command line in this process; returns exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", *arguments])
        code = run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def state(database: Database, uid: str) -> SeriesState:
    return Registry(database).series(uid).state


def test_log_json_holds_the_verdict_and_no_patient(database, qa):
    code, out, _ = qa("log", "--json")
    (row,) = json.loads(out)
    assert code == ExitCode.OK
    assert row["series_instance_uid"] == SCORED
    assert (row["score"], row["interval"], row["grade"]) == (3.1, [2.6, 3.6], "diagnostic")
    assert row["model"] == {"name": "ms_iqa_small", "version": "1.0.0", "sha256": "f" * 64}
    assert row["slices"][0] | {"score": 3.1, "weight": 1.0, "index": 0} == row["slices"][0]
    assert [item["state"] for item in row["deliveries"]] == ["DELIVERED", "PARKED"]
    assert "Mustermann" not in out
    assert "4711" not in out


def test_log_csv_loses_no_measurement(database, qa):
    _, out, _ = qa("log", "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["other_measurements"] == "noise_hu=11.25 [hnsf'U]"
    assert (row["scanner"], row["findings"], row["score_high"]) == ("CT7", "few_slices", "3.60")
    assert "Mustermann" not in out


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ((), 1),
        (("--scanner", "CT7"), 1),
        (("--scanner", "CT8"), 0),
        (("--modality", "ct"), 1),
        (("--modality", "PT"), 0),
        (("--grade", "diagnostic"), 1),
        (("--grade", "limited"), 0),
        (("--since", "1h"), 1),
        (("--since", "2000-01-01"), 1),
        (("--since", "2999-01-01T10:00"), 0),
    ],
)
def test_log_filters(database, qa, options, rows):
    code, out, _ = qa("log", "--json", *options)
    assert (code, len(json.loads(out))) == (ExitCode.OK, rows)


def test_log_table_shows_score_interval_and_finding(database, qa):
    _, out, _ = qa("log")
    assert "3.10 [2.60, 3.60]" in out
    assert "few_slices" in out


def test_show_names_the_patient_that_the_operator_asked_for(database, qa):
    code, out, _ = qa("show", SCORED)
    assert code == ExitCode.OK
    for word in (NAME, "3.10 [2.60, 3.60]", "Noise in soft tissue", "The series has 1 slice", "0xA900", "PARKED"):
        assert word in out


def test_show_json_tells_the_whole_way(database, qa):
    _, out, _ = qa("show", SCORED, "--json")
    page = json.loads(out)
    assert page["facts"]["patient_name"] == NAME
    assert page["verdict"]["score"] == 3.1
    assert (page["site"], page["priority"]) == ("default", "routine")
    assert [event["new_state"] for event in page["history"]][:4] == ["COMPLETE", "SCORING", "SCORED", "REPORTED"]
    assert page["deliveries"][0]["file"] == "spool/reports/1.dcm"


def test_show_works_before_anything_is_scored(database, qa):
    code, out, _ = qa("show", ARRIVING)
    assert code == ExitCode.OK
    assert "RECEIVING" in out


def test_series_list_says_where_each_stands_and_why(database, qa):
    _, out, _ = qa("series", "list", "--json")
    rows = {row["series_instance_uid"]: row for row in json.loads(out)}
    assert {uid: row["state"] for uid, row in rows.items()} == {
        SCORED: "PARKED", PARKED: "PARKED", ARRIVING: "RECEIVING",
    }  # fmt: skip
    assert rows[PARKED]["reason"] == "the slices are not parallel"
    assert "Mustermann" not in out


def test_series_list_by_state(database, qa):
    _, out, _ = qa("series", "list", "--state", "RECEIVING", "--json")
    assert [row["series_instance_uid"] for row in json.loads(out)] == [ARRIVING]


def test_series_release_rescore_and_park(database, qa):
    assert qa("series", "release", PARKED)[0] == ExitCode.OK
    assert state(database, PARKED) is SeriesState.COMPLETE
    assert qa("series", "rescore", SCORED)[0] == ExitCode.OK
    assert Registry(database).series(SCORED).version == 2
    assert qa("series", "park", ARRIVING, "--reason", "a test object")[0] == ExitCode.OK
    row = Registry(database).series(ARRIVING)
    assert (row.state, row.parked_reason) == (SeriesState.PARKED, "a test object")
    assert Registry(database).history(ARRIVING)[-1]["actor"].startswith("cli ")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (("series", "rescore", ARRIVING), ExitCode.WRONG_STATE),
        (("series", "park", PARKED), ExitCode.WRONG_STATE),
        (("series", "release", "9.9"), ExitCode.NOT_FOUND),
        (("show", "9.9"), ExitCode.NOT_FOUND),
        (("show", SCORED, "--version", "7"), ExitCode.NOT_FOUND),
        (("outbox", "retry", "99"), ExitCode.NOT_FOUND),
        (("outbox", "retry", "1"), ExitCode.WRONG_STATE),
        (("outbox", "retry", "--target", "nobody"), ExitCode.NOT_FOUND),
        (("outbox", "park", "1"), ExitCode.WRONG_STATE),
        (("models", "verify", "nobody"), ExitCode.NOT_FOUND),
        (("db", "backup", "none/such/file.db"), ExitCode.NOT_FOUND),
        (("--config", "none.yaml", "log"), ExitCode.MISCONFIGURED),
    ],
)
def test_a_refusal_is_one_line_and_its_exit_code(database, qa, line, code):
    found, out, err = qa(*line)
    assert found == code
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        ("bogus",),
        ("log", "--since", "yesterday"),
        ("log", "--json", "--csv"),
        ("log", "--limit", "0"),
        ("log", "--grade", "good"),
        ("outbox", "retry"),
        ("config", "schema", "--yaml", "--json"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(database, qa, line):
    code, _, err = qa(*line)
    assert code == ExitCode.USAGE
    assert "Traceback" not in err


def test_parked_deliveries_are_listed_and_retried_at_once(database, qa):
    _, out, _ = qa("outbox", "list", "--parked", "--json")
    (row,) = json.loads(out)
    assert row["document"] == "report"
    assert (row["target"], row["last_answer"], row["sent_uid"]) == ("late", "0xA900 data set does not match", "")
    assert json.loads(qa("outbox", "list", "--after", str(row["delivery"]), "--parked", "--json")[1]) == []
    assert json.loads(qa("outbox", "list", "--target", "pacs", "--json")[1])[0]["state"] == "DELIVERED"
    assert qa("outbox", "list", "--parked", "--state", "PARKED")[0] == ExitCode.USAGE
    assert qa("outbox", "retry", "--all", "--target", "late")[0] == ExitCode.USAGE
    code, out, _ = qa("outbox", "retry", "--all", "--json")
    assert (code, json.loads(out)) == (ExitCode.OK, {"deliveries": 1, "result": "will be sent now"})
    assert state(database, SCORED) is SeriesState.REPORTED
    assert json.loads(qa("outbox", "list", "--parked", "--json")[1]) == []


def test_outbox_explains_where_a_report_goes_and_why_not(database, qa, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "database_url: sqlite:///node.db\nspool_dir: spool\n"
        "deliver:\n  targets:\n    - {kind: folder, name: pacs, path: out}\n"
        "    - {kind: folder, name: pet, path: pet, route: {modalities: [PT]}}\n"
    )
    code, out, _ = qa("outbox", "explain", SCORED, "--json")
    found = {row["target"]: (row["report"], row["now"]) for row in json.loads(out)}
    assert code == ExitCode.OK
    assert found == {
        "pacs": ("DELIVERED: 0x0000 Success", "gets it"),
        "pet": ("not a target when the report was made", "modalities: CT is none of PT"),
        "late": ("PARKED: 0xA900 data set does not match", "not a target"),
    }
    assert qa("outbox", "explain", "1.2.999")[0] == ExitCode.NOT_FOUND


def test_outbox_list_retry_and_park(database, qa):
    _, out, _ = qa("outbox", "list", "--state", "PARKED", "--json")
    (row,) = json.loads(out)
    assert (row["target"], row["last_answer"]) == ("late", "0xA900 data set does not match")
    assert qa("outbox", "retry", str(row["delivery"]))[0] == ExitCode.OK
    assert state(database, SCORED) is SeriesState.REPORTED
    assert qa("outbox", "park", str(row["delivery"]), "--reason", "PACS is moving")[0] == ExitCode.OK
    assert qa("outbox", "retry", "--target", "late")[0] == ExitCode.OK
    assert Outbox(database).counts()[DeliveryState.PENDING] == 1


def test_config_check_lists_every_problem(database, qa, tmp_path):
    (tmp_path / "config.yaml").write_text("ae_titel: X\nreceive: {port: -1}\n")
    code, _, err = qa("config", "check")
    assert code == ExitCode.MISCONFIGURED
    assert "ae_titel: unknown key; did you mean 'ae_title'?" in err
    assert "receive.port: expected whole number, 0 to 65535 (found -1)" in err
    code, out, _ = qa("config", "check", "--json")
    assert code == ExitCode.MISCONFIGURED
    assert [problem["path"] for problem in json.loads(out)["problems"]] == ["receive.port", "ae_titel"]


def test_config_check_of_a_good_file_names_what_is_risky(database, qa):
    code, out, _ = qa("config", "check")
    assert code == ExitCode.OK
    assert "any host may send" in out


def test_config_show_merges_file_and_defaults(database, qa):
    _, out, _ = qa("config", "show", "--json")
    values = json.loads(out)
    assert values["database_url"] == "sqlite:///node.db"
    assert values["receive"]["port"] == 11112


def test_config_from_the_environment(database, qa, tmp_path, monkeypatch):
    (tmp_path / "other.yaml").write_text("ae_title: OTHER\n")
    monkeypatch.setenv("DICOM_QA_NODE_CONFIG", str(tmp_path / "other.yaml"))
    assert json.loads(qa("config", "show", "--json")[1])["ae_title"] == "OTHER"


def test_db_upgrade_and_backup(database, qa, tmp_path):
    assert json.loads(qa("db", "upgrade", "--json")[1])["after"]
    assert qa("db", "backup", "copy.db")[0] == ExitCode.OK
    copy = Database(f"sqlite:///{tmp_path}/copy.db")
    assert Registry(copy).series(SCORED) is not None
    copy.close()
    code, _, err = qa("db", "backup", "copy.db")
    assert code == ExitCode.FAILED
    assert "never overwrites" in err


def test_a_database_that_is_not_there_or_is_none(qa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("database_url: sqlite:///here.db\n")
    assert "db upgrade" in qa("log")[2]
    (tmp_path / "here.db").write_bytes(b"no database, but long enough to be read as one" * 100)
    code, _, err = qa("log")
    assert code == ExitCode.MISCONFIGURED
    assert "not an SQLite database" in err


def test_models_list_shows_the_configured_one(database, qa):
    rows = json.loads(qa("models", "list", "--json")[1])
    assert [row["name"] for row in rows if row["in_use"]] == ["ms_iqa_small", "tfkt_ct"]


def test_models_verify_checks_the_installed_weights(database, qa, tmp_path):
    code, out, _ = qa("models", "verify", "--json")
    assert (code, {row["verdict"] for row in json.loads(out)}) == (ExitCode.OK, {"ok"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.yaml").write_text("score: {models_dir: empty}\n")
    code, out, _ = qa("models", "verify", "--json")
    assert code == ExitCode.MISCONFIGURED
    assert "missing" in json.loads(out)[0]["verdict"]


def test_health_of_a_node_that_does_not_run_is_not_ok(database, qa):
    code, out, _ = qa("health", "--json")
    report = json.loads(out)
    assert (code, report["level"]) == (ExitCode.FAILED, "failed")
    checks = {check["name"]: check["level"] for check in report["checks"]}
    assert (checks["database"], checks["role receive"], checks["parked"]) == ("ok", "failed", "degraded")


def test_show_names_the_picture_while_the_spool_has_it(database, qa, tmp_path):
    assert json.loads(qa("show", SCORED, "--json")[1])["picture"] is None
    folder = SpoolLayout(tmp_path / "spool").pictures(SCORED, 1)
    folder.mkdir(parents=True)
    (folder / "sheet.png").touch()
    shown = json.loads(qa("show", SCORED, "--json")[1])["picture"]
    assert (tmp_path / shown).samefile(folder / "sheet.png")


def test_version_and_help(qa):
    assert qa("--version")[1].startswith("dicom-qa-node ")
    code, out, _ = qa("--help")
    assert code == ExitCode.OK
    assert "serve" in out
