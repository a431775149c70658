"""Exports of the quality log: order of columns, the page's filter in every format, hostile text, bounded memory."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import sys
import tracemalloc

import openpyxl
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from dicom_qa_node.cli.app import run
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.log_tables import log_rows
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.results import (
    DimensionScore,
    Measurement,
    QualityDimension,
    RatedPart,
    RatedPartKind,
    result_from_json,
    result_to_json,
)
from dicom_qa_node.quality_log import export_formats
from dicom_qa_node.quality_log.export_columns import COLUMNS, MEASURED, Access, columns_for, rounded, with_table
from dicom_qa_node.quality_log.export_formats import ExportFormat, csv_parts, parquet_parts, write_workbook
from dicom_qa_node.quality_log.export_rows import export_rows
from dicom_qa_node.quality_log.filters import LogOrder, LogQuery
from dicom_qa_node.quality_log.reviews import Reviews
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.web import log_export
from dicom_qa_node.web.app import create_app
from tests.conftest import ROOT
from tests.realistic_log import fill
from tests.web_site import HOST, bearer, open_site

UNTIL = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
FORMATS = tuple(item.value for item in ExportFormat)
FIRST = (
    "study_date", "study_time", "acquired_on", "accession_number", "patient_id", "patient_name",
    "patient_birth_date", "protocol",
    "series_description", "study_description", "body_part", "scanner", "scanner_model", "site", "modality", "kind",
    "qc_outcome", "score", "score_low", "score_high", "ct_score", "pet_score", "display_score", "ct_noise_score",
    "ct_resolution_score", "ct_contrast_score", "ct_structure_score", "ct_artefact_score", "pet_noise_score",
    "pet_resolution_score", "pet_plausibility_score", "decided_by", "limiting_dimension", "grade", "grade_low", "why",
    "findings", "severity", "deviation_sd", "global_noise_level_hu",
)  # fmt: skip
LAST = (
    "tilt_deg", "other_measurements", "ctdi_vol_mgy", "dlp_mgy_cm", "ssde_mgy", "water_equivalent_diameter_mm",
    "rdsr_ctdi_vol_mgy", "rdsr_dlp_mgy_cm", "ctdi_phantom_cm", "rdsr_link", "review", "review_score", "reviewed_by",
    "review_comment", "reviewed_at_utc", "model", "model_sha256", "rated_with", "state", "delivery", "version",
    "latest", "scored_at_utc", "series_instance_uid", "study_instance_uid",
)  # fmt: skip
#: What a spreadsheet runs, or what breaks out of a cell.
HOSTILE = (
    '=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)*cmd", "\t=1+1", "\r=1+1",
    "\n=1+1", " =1+1", "＝1+1", "＠SUM(1)",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    made = open_site(folder, api_per_minute=100_000)
    fill(made.database, 240, seed=3, until=UNTIL, days=20)
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def get(site):
    client = TestClient(create_app(site), base_url=HOST, follow_redirects=False)
    tokens = {role: bearer(site, role) for role in Role}

    def ask(path: str, role: Role = Role.ADMIN):
        return client.get(path, headers={**tokens[role], "accept": "text/html"})

    return ask


def read(kind: str, content: bytes) -> tuple[list[str], list[dict[str, object]]]:
    """Return heading and rows of a file; empty cells are None in each format."""
    if kind == "csv":
        reader = csv.DictReader(io.StringIO(content.decode(), newline=""))
        rows = [{name: value or None for name, value in row.items()} for row in reader]
        return list(reader.fieldnames or ()), rows
    if kind == "xlsx":
        sheet = openpyxl.load_workbook(io.BytesIO(content)).worksheets[0]
        heading, *rows = sheet.iter_rows(values_only=True)
        return list(heading), [dict(zip(heading, row, strict=True)) for row in rows]
    table = pq.read_table(io.BytesIO(content))
    return table.column_names, table.to_pylist()


def test_the_order_of_the_columns_is_fixed():
    names = tuple(column.name for column in COLUMNS)
    assert names[: len(FIRST)] == FIRST
    assert names[-len(LAST) :] == LAST
    assert len(set(names)) == len(names)
    assert {column.name for column in COLUMNS if column.access is Access.PATIENT} == {
        "accession_number", "patient_id", "patient_name", "patient_birth_date", "reviewed_by", "review_comment",
    }  # fmt: skip


def test_every_measurement_of_the_node_has_its_column():
    defined = [*CT_QUANTITIES, *PET_QUANTITIES, *GEOMETRY_QUANTITIES]
    assert {item.name: (item.unit, item.meaning) for item in defined} == {
        name: (item.unit, item.meaning) for name, item in MEASURED.items()
    }
    suffixes = {item.unit: item.suffix for item in MEASURED.values()}
    assert all(item.column.name.endswith(suffixes[item.unit]) for item in MEASURED.values())
    assert all(suffixes[unit] for unit in suffixes if unit != "1" and not unit.startswith("{"))


def test_the_documentation_lists_the_columns():
    page = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    assert page == with_table(page), "run: make docs"
    assert all(f"| `{column.name}` |" in page for column in COLUMNS)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("place", ["/log.{kind}?", "/api/v1/log/export?format={kind}&"])
@pytest.mark.parametrize(
    "asked",
    [
        "scanner=CT-A2&sort=score&versions=all",
        "by=acquired&since=2026-05-20&until=2026-05-27&scanner=CT-A2",
        "grade=limited,none&dir=asc",
        "review=disagreed",
        "q=thorax+a00000012",
    ],
)
def test_a_file_is_what_the_page_shows(get, kind, place, asked):
    shown = get(f"/api/v1/series?{asked}&limit=1000").json()["items"]
    heading, rows = read(kind, get(place.format(kind=kind) + asked).content)
    assert heading == [column.name for column in COLUMNS]
    assert [(row["series_instance_uid"], int(row["version"])) for row in rows] == [
        (item["series_instance_uid"], item["version"]) for item in shown
    ]
    for row, item in zip(rows, shown, strict=True):
        assert (row["scanner"], row["review"], row["grade"]) == (item["scanner"], item["review"], item["grade"])
        assert (None if row["score"] is None else float(row["score"])) == pytest.approx(item["score"], abs=0.0051)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_viewer_gets_no_patient(get, kind):
    heading, rows = read(kind, get(f"/log.{kind}", Role.VIEWER).content)
    assert heading == [column.name for column in COLUMNS if column.access is Access.EVERYBODY]
    assert len(rows) > 200


def test_the_filter_of_the_address_is_checked_by_the_api(get):
    assert get("/api/v1/log/export?grade=superb").status_code == 422
    assert get("/api/v1/log/export?format=ods").status_code == 422
    assert get("/log.ods").status_code == 404


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_runs_as_a_formula(kind, text):
    columns = columns_for(patients=False)
    at = [column.name for column in columns].index("protocol")
    row = tuple(text if index == at else None for index in range(len(columns)))
    file = io.BytesIO()
    export_formats.write_export(ExportFormat(kind), columns, [row], file)
    (found,) = read(kind, file.getvalue())[1]
    if kind == "parquet":
        assert not any(ord(char) < 32 for char in found["protocol"])
        return
    assert found["protocol"].startswith("'")
    assert not any(ord(char) < 32 for char in found["protocol"])
    if kind == "xlsx":
        cell = openpyxl.load_workbook(io.BytesIO(file.getvalue())).worksheets[0].cell(2, at + 1)
        assert cell.data_type == "s"


def test_text_cannot_leave_its_cell_where_semicolons_separate():
    columns = columns_for(patients=False)
    row = tuple("a;=1+1" if column.name == "protocol" else None for column in columns)
    text = b"".join(csv_parts(columns, [row])).decode()
    assert '"a;=1+1"' in text


@pytest.mark.parametrize("kind", FORMATS)
def test_odd_values_do_not_end_an_export(kind):
    columns = columns_for(patients=True)
    odd = {
        "patient_birth_date": dt.date(1, 1, 1), "protocol": "\ufffe\uffff\x00\x1b[2J", "scanner": "x" * 40_000,
        "study_date": dt.date(1899, 12, 31),
    }  # fmt: skip
    file = io.BytesIO()
    rows = [tuple(odd.get(column.name) for column in columns)]
    export_formats.write_export(ExportFormat(kind), columns, rows, file)
    (found,) = read(kind, file.getvalue())[1]
    assert str(found["study_date"]) == "1899-12-31"
    assert "\\x00\\x1b[2J" in found["protocol"]
    assert found["scanner"].startswith("xxx")


def test_values_are_rounded_by_their_quantity(site):
    with site.database.write() as connection:
        row = connection.execute(sa.select(t.results).limit(1)).one()
        stored = result_from_json(row.payload)
        measured = (
            Measurement("global_noise_level", "", 12.3456, "[hnsf'U]"), Measurement("ctdi_vol", "", 7.005, "mGy"),
            Measurement("pitch", "", float("nan"), "1"), Measurement("dlp", "", None, "mGy.cm", not_applicable="no"),
            Measurement("ssde", "", 3.0, "Gy"), Measurement("homemade", "", 1 / 3, "mm"),
        )  # fmt: skip
        part = RatedPart(
            RatedPartKind.CT, 2.345,
            dimensions=(
                DimensionScore(QualityDimension.NOISE, 1.005), DimensionScore(QualityDimension.PLAUSIBILITY, 2.0),
            ),
        )  # fmt: skip
        changed = {name: getattr(stored, name) for name in stored.__slots__}
        changed |= {"measurements": measured, "rated_parts": (part,), "decided_by": RatedPartKind.CT}
        payload = result_to_json(type(stored)(**changed))
        same = t.results.c.result_id == row.result_id
        connection.execute(t.results.update().where(same).values(payload=payload))
    query = LogQuery(words=row.series_instance_uid, all_versions=True)
    columns = [column.name for column in columns_for(patients=False)]
    found = next(
        dict(zip(columns, cells, strict=True))
        for cells in export_rows(site.database, query, patients=False)
        if cells[columns.index("version")] == row.version
    )
    assert (found["global_noise_level_hu"], found["pitch"], found["dlp_mgy_cm"]) == (12.35, None, None)
    assert (found["ct_noise_score"], found["ssde_mgy"]) == (round(1.005, 2), None)
    assert found["other_measurements"] == "ct_plausibility_score=2.00; ssde=3 Gy; homemade=0.333333 mm"
    assert rounded("global_noise_level", -0.001) == 0.0


def test_reviews_stand_in_the_row_they_are_about(site):
    row = next(iter(export_rows(site.database, LogQuery(), patients=True)))
    names = [column.name for column in COLUMNS]
    uid, version = row[names.index("series_instance_uid")], row[names.index("version")]
    words = {"reviewer": "kim", "agrees": False, "score": 1.5, "reason": "noise", "comment": "=too noisy"}
    Reviews(site.database, clock=lambda: UNTIL).add(uid, version, **words)
    found = dict(zip(names, next(iter(export_rows(site.database, LogQuery(words=uid), patients=True))), strict=True))
    assert (found["review"], found["review_score"], found["reviewed_at_utc"]) == ("disagreed", 1.5, UNTIL)
    assert "kim" in found["reviewed_by"]
    assert "noise =too noisy" in found["review_comment"]


def days_of(rows) -> list[str]:
    return [str(row["acquired_on"])[:10] for row in rows]


def test_days_of_the_acquisition_are_whole_and_included(site, get, qa, tmp_path):
    asked = "by=acquired&since=2026-05-20&until=2026-05-22"
    _, rows = read("csv", get(f"/log.csv?{asked}").content)
    assert set(days_of(rows)) == {"2026-05-20", "2026-05-21", "2026-05-22"}
    assert days_of(rows) == sorted(days_of(rows), reverse=True)
    every = [str(row["acquired_on"])[:10] for row in read("csv", get("/log.csv").content)[1]]
    assert len(rows) == sum("2026-05-20" <= day <= "2026-05-22" for day in every)
    words = ("--since", "2026-05-20", "--until", "2026-05-22")
    assert read("csv", qa("log", "--csv", "--patients", *words)[1])[1] == rows
    scored = read("csv", qa("log", "--csv", "--by", "scored", *words)[1])[1]
    assert {row["scored_at_utc"][:10] for row in scored} <= {"2026-05-19", "2026-05-20", "2026-05-21", "2026-05-22"}
    assert qa("log", "--by", "received")[0] == 2


def test_series_brought_in_later_are_found_by_their_day(site, get):
    row = next(iter(export_rows(site.database, LogQuery(), patients=False)))
    uid = row[[column.name for column in columns_for(patients=False)].index("series_instance_uid")]
    with site.database.write() as connection:
        same = log_rows.c.series_instance_uid == uid
        connection.execute(log_rows.update().where(same).values(acquired_on=dt.date(2019, 3, 1)))
    for more in ("", "&sort=score", "&sort=deviation&scanner="):
        _, rows = read("csv", get(f"/log.csv?by=acquired&since=2019-01-01&until=2019-12-31{more}").content)
        assert [item["series_instance_uid"] for item in rows] == [uid]
    assert uid not in get("/log.csv?by=acquired&since=2026-01-01").text


@pytest.mark.parametrize("order", list(LogOrder))
def test_both_databases_select_days_in_every_order(any_database, order):
    fill(any_database, 40, seed=3, until=UNTIL, days=8)
    first, last = dt.date(2026, 5, 26), dt.date(2026, 5, 28)
    query = LogQuery(order=order, acquired_from=first, acquired_until=last)
    at = [column.name for column in columns_for(patients=False)].index("acquired_on")
    days = [row[at] for row in export_rows(any_database, query, patients=False)]
    everything = [row[at] for row in export_rows(any_database, LogQuery(), patients=False)]
    assert sorted(days) == sorted(day for day in everything if first <= day <= last)
    assert len(days) > 5


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_pages_in_the_order_of_the_acquisition_follow_each_other(get, direction):
    seen, place = [], ""
    while True:
        answer = get(f"/api/v1/series?limit=17&sort=acquired&dir={direction}{place}").json()
        seen += [item["series_instance_uid"] for item in answer["items"]]
        if answer["next"] is None:
            break
        place = f"&cursor={answer['next']}"
    _, rows = read("csv", get(f"/log.csv?sort=acquired&dir={direction}").content)
    assert seen == [row["series_instance_uid"] for row in rows]
    assert len(set(seen)) == 240


def test_times_name_their_zone(get):
    _, (first, *_) = read("csv", get("/log.csv").content)
    assert first["scored_at_utc"].endswith("Z")
    table = pq.read_table(io.BytesIO(get("/log.parquet").content))
    assert str(table.schema.field("scored_at_utc").type) == "timestamp[ms, tz=UTC]"
    _, (row, *_) = read("xlsx", get("/log.xlsx").content)
    assert f"{row['scored_at_utc']:%Y-%m-%dT%H:%M:%SZ}" == first["scored_at_utc"]


def many(count: int):
    columns = columns_for(patients=False)
    for number in range(count):
        yield tuple(f"protocol {number}" if column.name == "protocol" else None for column in columns)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_long_export_is_written_in_bounded_memory(kind, monkeypatch):
    parts = csv_parts if kind == "csv" else lambda columns, rows: parquet_parts(columns, rows, group=500)
    tracemalloc.start()
    largest = []
    for count in (2_000, 12_000):
        tracemalloc.reset_peak()
        total = sum(len(part) for part in parts(columns_for(patients=False), many(count)))
        largest.append(tracemalloc.get_traced_memory()[1])
        assert total > 10_000
    tracemalloc.stop()
    assert largest[1] < 1.5 * largest[0] + 2_000_000


def test_a_workbook_goes_on_on_a_second_sheet(monkeypatch):
    monkeypatch.setattr(export_formats, "SHEET_ROWS", 3)
    file = io.BytesIO()
    write_workbook(columns_for(patients=False), many(7), file)
    sheets = openpyxl.load_workbook(file).worksheets
    assert [sheet.max_row for sheet in sheets] == [4, 4, 2]
    assert [sheet.title for sheet in sheets] == ["log", "log 2", "log 3"]
    assert sheets[0].freeze_panes == "A2"


def test_a_workbook_that_is_too_long_for_a_page_is_refused_with_what_to_do(get, monkeypatch):
    monkeypatch.setattr(log_export, "MOST_WORKBOOK_ROWS", 10)
    answer = get("/log.xlsx")
    assert answer.status_code == 413
    assert "dicom-qa-node log --format xlsx" in answer.text
    assert get("/log.csv").status_code == 200


def test_without_pyarrow_the_extra_is_named(get, monkeypatch):
    monkeypatch.setattr(export_formats, "find_spec", lambda _name: None)
    with pytest.raises(Misconfigured, match=r"dicom-qa-node\[parquet\]"):
        export_formats.write_export(ExportFormat.PARQUET, COLUMNS, [], io.BytesIO())
    assert get("/log.parquet").status_code == 501
    assert "/log.parquet" not in get("/log").text


@pytest.fixture
def qa(site, tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(
        f"database_url: {site.config.database_url}\nspool_dir: {tmp_path / 'spool'}\n"
    )

    def call(*arguments: str) -> tuple[int, bytes, bytes]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", *arguments])
        code = run()
        captured = capsysbinary.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("kind", FORMATS)
def test_the_command_writes_what_the_page_writes(get, qa, tmp_path, kind):
    target = tmp_path / f"log.{kind}"
    target.write_bytes(b"an older export")
    code, out, err = qa("log", "--format", kind, "--output", str(target), "--scanner", "CT-A2", "--patients")
    assert (code, out, err) == (0, b"", b"")
    assert read(kind, target.read_bytes()) == read(kind, get(f"/log.{kind}?scanner=CT-A2").content)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_command_writes_no_patient_unasked(qa, tmp_path):
    code, out, _ = qa("log", "--format", "csv", "--limit", "7")
    heading, rows = read("csv", out)
    assert (code, len(rows)) == (0, 7)
    assert "patient_name" not in heading
    everything = read("csv", qa("log", "--csv")[1])[1]
    assert len(everything) == 240
    assert len(read("csv", qa("log", "--csv", "--all-versions")[1])[1]) > 240


def test_json_is_written_entry_by_entry(qa, tmp_path):
    code, _, _ = qa("log", "--format", "json", "--output", "log.json")
    entries = json.loads((tmp_path / "log.json").read_text())
    assert (code, len(entries) > 240) == (0, True)
    assert json.loads(qa("log", "--json")[1]) == entries[:50]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "xlsx"), "needs a file"),
        (("--format", "parquet"), "needs a file"),
        (("--output", "x.txt"), "goes to the terminal"),
        (("--json", "--csv"), "one format"),
        (("--format", "xlsx", "--csv"), "one format"),
        (("--until", "never"), "not a date"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(qa, words, said):
    code, _, err = qa("log", *words)
    assert code == 2
    assert said in " ".join(err.decode().replace("│", " ").split())


def test_a_failed_export_leaves_the_older_file(qa, tmp_path, monkeypatch):
    target = tmp_path / "log.csv"
    target.write_text("older")
    monkeypatch.setattr(
        "dicom_qa_node.quality_log.export_formats.csv_parts", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    assert qa("log", "--format", "csv", "--output", str(target))[0] == 1
    assert target.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "log.csv"]
