"""The monthly report: its figures against the log, as PDF and workbook, on demand, on the page and by schedule."""

from __future__ import annotations

import datetime as dt
import io
import sys
from collections import Counter

import openpyxl
import pypdfium2
import pytest
import sqlalchemy as sa

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.reference_levels import ReferenceLevelStore
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvents
from dicom_qa_node.cli.app import run as run_command
from dicom_qa_node.config import Config
from dicom_qa_node.db import phantom_tables
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import alarms as chart_alarms
from dicom_qa_node.db.chart_tables import groups as chart_groups
from dicom_qa_node.db.chart_tables import pack
from dicom_qa_node.db.chart_tables import points as chart_points
from dicom_qa_node.db.chart_tables import quantities as chart_quantities
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import log_rows
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import NotFound, Transient
from dicom_qa_node.domain.qc_phantoms import QcOutcome
from dicom_qa_node.domain.reference_levels import LevelForm, ReferenceLevel
from dicom_qa_node.monthly_report.document import as_pdf
from dicom_qa_node.monthly_report.figures import GRADE_ROWS
from dicom_qa_node.monthly_report.gather import gather_month, months_with_series
from dicom_qa_node.monthly_report.month import Month
from dicom_qa_node.monthly_report.phantoms import phantom_lines
from dicom_qa_node.monthly_report.sections import sections_of, summary_lines
from dicom_qa_node.monthly_report.sent_reports import SentReports
from dicom_qa_node.monthly_report.workbook import as_workbook
from dicom_qa_node.ops.monthly_reports import MonthlyReports, file_name
from tests.mail_server import MailServer
from tests.realistic_log import fill
from tests.realistic_names import FAMILY_NAMES
from tests.web_site import logged_in, open_site

MAY = Month(2026, 5)
NOW = dt.datetime(2026, 6, 3, 12, tzinfo=dt.UTC)
CONFIG = Config.model_validate({"report": {"institution_name": "Klinikum Nord"}})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = open_site(tmp_path_factory.mktemp("site"), clock=lambda: NOW, api_per_minute=100_000)
    database = made.database
    fill(database, 900, seed=5, until=NOW, days=70)
    ingest = ChartIngest(database)
    while ingest.take_in(limit=500):
        pass
    while ingest.refresh_weeks():
        pass
    (scanner,) = [card.scanner for card in Scanners(database).overview() if card.scanner.name == "CT-A2"]
    with database.write() as connection:
        group = sa.select(chart_groups.c.group_id).where(chart_groups.c.scanner_id == scanner.scanner_id).limit(1)
        began, raised = (dt.datetime(2026, 5, day, tzinfo=dt.UTC) for day in (7, 9))
        drift = {
            "quantity": "global_noise_level",
            "side": 1,
            "shift_sigma": 2.1,
            "began_at": began,
            "raised_at": raised,
        }
        connection.execute(chart_alarms.insert().values(group_id=group.scalar_subquery(), **drift))
    event = ServiceEvents(database, clock=lambda: NOW)
    event.add(
        scanner.scanner_id, dt.datetime(2026, 5, 20, tzinfo=dt.UTC), EventKind.TUBE, "=tube replaced", author="kim"
    )
    alerts = Alerts(database, clock=lambda: dt.datetime(2026, 5, 10, tzinfo=dt.UTC))
    alerts.add([NewAlert("o", "drift", AlertSubject.DRIFT, "noise rises", "CT-A2", scanner.scanner_id)])
    alerts.add([NewAlert("p", "node", AlertSubject.NODE, "disk nearly full")])
    alerts.acknowledge(1, by="kim", note="service called")
    yield made
    database.close()


@pytest.fixture
def database(site):
    return site.database


def rows_of_may(database: Database) -> list[sa.Row]:
    r = log_rows.c
    query = sa.select(r.grade, r.score, r.acquired_on, t.results.c.scanner, t.results.c.model)
    query = query.join(t.results, t.results.c.result_id == r.result_id).where(r.latest == 1)
    with database.read() as connection:
        found = connection.execute(query).all()
    return [row for row in found if MAY.first_day <= row.acquired_on <= MAY.last_day]


def test_a_month_begins_and_ends_where_its_days_do():
    assert (MAY.first_day, MAY.last_day) == (dt.date(2026, 5, 1), dt.date(2026, 5, 31))
    assert (Month(2026, 12).following, Month(2026, 1).previous) == (Month(2027, 1), Month(2025, 12))
    assert Month(2024, 2).last_day.day == 29
    assert MAY.begin.astimezone().date() == MAY.first_day
    assert (str(Month.parse("2026-05")), MAY.title) == ("2026-05", "May 2026")
    for wrong in ("2026", "2026-13", "2026-00", "26-05", "May", ""):
        with pytest.raises(ValueError):
            Month.parse(wrong)


def test_figures_are_those_of_the_log(database):
    figures = gather_month(database, CONFIG, MAY, now=NOW)
    rows = rows_of_may(database)
    assert figures.series == len(rows) > 300
    assert {item.name: item.series for item in figures.scanners} == Counter(row.scanner for row in rows)
    plain = {1: "diagnostic", 2: "limited", 3: "non-diagnostic", 0: "no score"}
    assert {name: number for name, number in figures.grades.items() if number} == Counter(
        plain[row.grade] for row in rows
    )
    one = next(item for item in figures.scanners if item.name == "CT-A2")
    scores = sorted(row.score for row in rows if row.scanner == "CT-A2" and row.score is not None)
    middle = len(scores) // 2
    assert one.median == pytest.approx(scores[middle] if len(scores) % 2 else sum(scores[middle - 1 : middle + 1]) / 2)
    assert sum(item.series for item in one.protocols) == one.series
    assert one.series_before > 0
    assert one.trend is not None
    assert [line.series for line in figures.models] == [len(rows)]


def test_one_scanner_is_reported_alone(database):
    figures = gather_month(database, CONFIG, MAY, "CT-A2", now=NOW)
    assert [item.name for item in figures.scanners] == ["CT-A2"]
    assert figures.series == sum(row.scanner == "CT-A2" for row in rows_of_may(database))
    assert {line.scanner for line in figures.drifts} <= {"CT-A2"}
    assert [line.about for line in figures.troubles] == ["CT-A2"]
    assert sum(line.series for line in figures.models) == figures.series
    with pytest.raises(NotFound):
        gather_month(database, CONFIG, MAY, "CT-Z9", now=NOW)


def test_both_databases_give_a_report_and_remember_where_it_went(any_database, tmp_path):
    fill(any_database, 40, seed=5, until=NOW, days=20)
    while ChartIngest(any_database).take_in(limit=500):
        pass
    figures = gather_month(any_database, CONFIG, MAY, "CT-A2", now=NOW)
    assert figures.series == sum(row.scanner == "CT-A2" for row in rows_of_may(any_database)) > 0
    reports = scheduled(any_database, tmp_path, lambda: NOW, folder=tmp_path / "r", each_scanner=True)
    assert (reports.run() > 1, reports.run()) == (True, 0)


def test_what_was_done_stands_beside_what_drifted(database):
    figures = gather_month(database, CONFIG, MAY, now=NOW)
    assert [line.text for line in figures.events] == ["=tube replaced"]
    (drift,) = figures.drifts
    assert (drift.scanner, drift.quantity, drift.ended_at) == ("CT-A2", "Global noise level", None)
    assert drift.sentence == "+2.1 standard deviations"
    assert "tube: =tube replaced" in drift.done
    seen_to = {line.text: line.acknowledged for line in figures.troubles}
    assert seen_to == {"noise rises": "kim, 2026-05-10: service called", "disk nearly full": ""}
    assert figures.reviews.reviews > 0
    assert 0 < figures.reviews.agreed <= figures.reviews.reviews
    assert sum(total for total, _ in figures.reviews.by_reviewer.values()) == figures.reviews.reviews


def test_another_month_holds_none_of_it(database):
    figures = gather_month(database, CONFIG, Month(2020, 1), now=NOW)
    assert (figures.series, figures.scanners, figures.troubles, figures.events) == (0, (), (), ())
    assert summary_lines(figures) == ["No series was acquired in this month."]
    assert len(as_pdf(figures)) > 1000
    assert len(openpyxl.load_workbook(io.BytesIO(as_workbook(figures))).worksheets) == 11
    assert [month.title for month in months_with_series(database)] == [
        "June 2026",
        "May 2026",
        "April 2026",
        "March 2026",
    ]


def test_series_are_compared_with_the_level_at_their_size(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    fill(database, 60, seed=5, until=NOW, days=20)
    while ChartIngest(database).take_in(limit=500):
        pass
    with database.write() as connection:
        busiest = sa.select(chart_groups.c.group_id).where(chart_groups.c.kind == "ct")
        group = connection.execute(busiest.order_by(chart_groups.c.total.desc()).limit(1)).scalar_one()
        known = {row.name: row.quantity_id for row in connection.execute(sa.select(chart_quantities))}
        if "water_equivalent_diameter" not in known:
            insert = chart_quantities.insert().values(
                name="water_equivalent_diameter", meaning="Dw", unit="mm", direction="context"
            )
            known["water_equivalent_diameter"] = connection.execute(insert).inserted_primary_key[0]
        mine = list(
            connection.execute(sa.select(chart_points.c.result_id).where(chart_points.c.group_id == group)).scalars()
        )
        for number, result_id in enumerate(mine):
            # At 300 mm the level is 10 HU; the first lies at twice that, one has a size for which it does not hold.
            values = {
                known["global_noise_level"]: 20.0 if number == 0 else 10.0,
                known["water_equivalent_diameter"]: 900.0 if number == 1 else 300.0,
            }
            same = chart_points.c.result_id == result_id
            at = dt.datetime(2026, 5, 20, tzinfo=dt.UTC)
            connection.execute(chart_points.update().where(same).values(measured=pack(values), acquired_at=at))
    level = ReferenceLevel(
        "global_noise_level", LevelForm.TYPICAL_VALUE, 10.0, 2.302585092994046, 0.0, 300.0, 250.0, 350.0, 12.0, 20
    )
    ReferenceLevelStore(database).freeze(group, level, limit=12.0, reason="first", author="kim")
    figures = gather_month(database, CONFIG, MAY, now=NOW)
    (line,) = figures.levels
    assert (line.compared, line.outside) == (len(mine) - 1, 1)
    assert line.ratio_percent == pytest.approx(100.0)
    section = next(item for item in sections_of(figures) if item.title == "Reference levels")
    assert "10 HU" in section.rows[0]
    database.close()


def test_phantoms_are_counted_apart_and_missing_days_are_named(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    fill(database, 40, seed=5, until=NOW, days=20)
    while ChartIngest(database).take_in(limit=500):
        pass
    with database.write() as connection:
        ids = connection.execute(sa.select(log_rows.c.result_id, log_rows.c.series_instance_uid).limit(2)).all()
        scanner = connection.execute(sa.select(chart_groups.c.scanner_id).limit(1)).scalar_one()
        days = {
            ids[0].result_id: (dt.date(2026, 5, 18), QcOutcome.PASSED),
            ids[1].result_id: (dt.date(2026, 6, 5), QcOutcome.OUTSIDE),
        }
        for row in ids:
            day, outcome = days[row.result_id]
            at = dt.datetime.combine(day, dt.time(8), dt.UTC)
            values = {
                "result_id": row.result_id, "series_instance_uid": row.series_instance_uid, "version": 1,
                "latest": True, "scanner_id": scanner, "phantom": "water-a", "kind": "water", "protocol": "QA",
                "day": day, "at": at,
                "outcome": outcome.value, "remark": "",
            }  # fmt: skip
            connection.execute(phantom_tables.runs.insert().values(**values))
            same = log_rows.c.result_id == row.result_id
            connection.execute(log_rows.update().where(same).values(qc=1, acquired_on=dt.date(2026, 5, 18)))
        patients = (log_rows.c.qc.is_(None)) & (log_rows.c.latest == 1) & (log_rows.c.acquired_on <= MAY.last_day)
        before = connection.execute(sa.select(sa.func.count()).where(patients)).scalar_one()
        first = {"phantom": "water-a", "schedule": "weekly", "first_day": dt.date(2026, 5, 4)}
        connection.execute(phantom_tables.schedules.insert().values(**first))
    phantom = {"name": "water-a", "kind": "water", "schedule": "weekly"}
    config = Config.model_validate({"phantoms": {"analyse": [phantom]}})
    figures = gather_month(database, config, MAY, now=dt.datetime(2026, 7, 1, tzinfo=dt.UTC))
    assert figures.series == before
    (line,) = figures.phantoms
    assert (line.phantom, line.runs, line.passed, line.outside) == ("water-a", 1, 1, 0)
    # The week of 1 June has its scan on 5 June; it begins in June and is none of May's.
    assert line.missed == ("04 May to 10 May", "11 May to 17 May", "25 May to 31 May")
    # The pattern of the scanner is compared as everywhere: without regard to case.
    config = Config.model_validate({"phantoms": {"analyse": [phantom | {"scanner": line.scanner.lower()}]}})
    (of_one,) = gather_month(database, config, MAY, line.scanner, now=dt.datetime(2026, 7, 1, tzinfo=dt.UTC)).phantoms
    assert of_one == line
    # The week ends at midnight of the site: in Tokyo it is over when it is still Sunday afternoon in Greenwich.
    sunday = dt.datetime(2026, 5, 10, 16, tzinfo=dt.UTC)
    for zone, missed in (("UTC", ()), ("Asia/Tokyo", ("04 May to 10 May",))):
        local = Config.model_validate({"phantoms": {"analyse": [phantom]}, "charts": {"timezone": zone}})
        assert phantom_lines(database, local, MAY, "", sunday)[0].missed == missed
    database.close()


def text_of(pdf: bytes) -> str:
    document = pypdfium2.PdfDocument(pdf)
    try:
        pages = []
        for number in range(len(document)):
            page = document[number]
            text = page.get_textpage()
            pages.append(text.get_text_bounded())
            text.close()
            page.close()
        return "\n".join(pages)
    finally:
        document.close()


def test_the_pdf_holds_every_section_and_is_the_same_each_time(database):
    figures = gather_month(database, CONFIG, MAY, now=NOW)
    content = as_pdf(figures)
    text = text_of(content)
    for words in (figures.title, "Klinikum Nord", *(item.title for item in sections_of(figures)), "Weekly score"):
        assert words in text
    assert all(item.name in text for item in figures.scanners)
    assert "=tube replaced" in text
    assert as_pdf(figures) == content
    assert len(content) < 400_000


def test_no_report_names_a_patient(database):
    figures = gather_month(database, CONFIG, MAY, now=NOW)
    text = text_of(as_pdf(figures))
    assert [name for name in FAMILY_NAMES if f"{name}^" in text or f" {name} " in text] == []
    assert "P0000" not in text


@pytest.mark.parametrize("name", ["CT\x1b[2J\u202e", "螺旋CT 3号機", "Ö" * 80, "جهاز", "<b>CT</b>"])
def test_odd_names_of_scanners_are_drawn(database, name):
    figures = gather_month(database, CONFIG, MAY, "CT-A2", now=NOW)
    values = {field: getattr(figures, field) for field in figures.__slots__}
    one = figures.scanners[0]
    renamed = type(one)(**{field: getattr(one, field) for field in one.__slots__} | {"name": name})
    content = as_pdf(type(figures)(**values | {"scanner": name, "scanners": (renamed,), "site": name}))
    assert content.startswith(b"%PDF")
    assert "\x1b" not in text_of(content)


def test_the_workbook_has_a_sheet_for_each_table_and_no_formula(database):
    figures = gather_month(database, CONFIG, MAY, now=NOW)
    book = openpyxl.load_workbook(io.BytesIO(as_workbook(figures)))
    assert book.sheetnames == ["Summary", *(item.title[:31] for item in sections_of(figures))]
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert [cell.value for cell in cells if cell.data_type == "f"] == []
    assert "'=tube replaced" in [cell.value for cell in cells]
    heading, first, *_ = book["Scanners"].iter_rows(values_only=True)
    assert heading[:4] == ("Scanner", "Model", "Series", "Month before")
    assert first[2] == figures.scanners[0].series
    assert len(heading) == 6 + len(GRADE_ROWS)


@pytest.fixture
def qa(site, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(f"database_url: {site.config.database_url}\nspool_dir: spool\n")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", *arguments])
        code = run_command()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_command_writes_both_forms(qa, tmp_path):
    code, out, _ = qa("report", "--month", "2026-05", "--output", "may.pdf")
    assert (code, "May 2026" in out) == (0, True)
    assert qa("report", "--month", "2026-05", "--scanner", "CT-A2", "--output", "a2.XLSX")[0] == 0
    assert "CT-A2" in text_of((tmp_path / "may.pdf").read_bytes())
    assert openpyxl.load_workbook(tmp_path / "a2.XLSX")["Scanners"]["A2"].value == "CT-A2"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--month", "2026-05", "--output", "may.doc"), 2),
        (("--month", "may", "--output", "may.pdf"), 2),
        (("--month", "2026-05", "--scanner", "nobody", "--output", "may.pdf"), 4),
        (("--month", "2026-05", "--output", "missing/may.pdf"), 1),
    ],
)
def test_a_wrong_command_line_writes_nothing(qa, tmp_path, words, code):
    assert qa("report", *words)[0] == code
    assert [path.name for path in tmp_path.iterdir() if "may" in path.name] == []


def test_the_page_offers_months_and_scanners(site):
    client = logged_in(site, Role.REVIEWER)
    text = client.get("/reports?scanner=CT-A2").text
    assert "<option selected>CT-A2</option>" in text
    assert '<option value="2026-05" selected>May 2026</option>' in text
    pdf = client.get("/reports/monthly?month=2026-05&scanner=CT-A2&format=pdf")
    assert (pdf.status_code, pdf.headers["content-type"], pdf.content[:4]) == (200, "application/pdf", b"%PDF")
    book = client.get("/reports/monthly?month=2026-05&format=xlsx")
    assert "CT-B1" in [cell.value for cell in openpyxl.load_workbook(io.BytesIO(book.content))["Scanners"]["A"]]
    assert client.get("/reports/monthly?month=2026-55").status_code == 422
    assert client.get("/reports/monthly?month=2026-05&scanner=nobody").status_code == 404
    assert "report.export" in {row.event for row in site.audit.entries(limit=20)}


def test_a_viewer_sees_the_page_and_makes_no_report(site):
    client = logged_in(site, Role.VIEWER)
    assert client.get("/reports").status_code == 200
    assert client.get("/reports/monthly?month=2026-05").status_code == 403


class Clock:
    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


def scheduled(database, tmp_path, clock, send=None, **settings):
    mail = {"name": "physics", "host": "127.0.0.1", "port": 25, "security": "none", "sender": "node@x.example"}
    config = Config.model_validate(
        {"alerts": {"email": [mail | {"recipients": ["kim@x.example"]}]}, "monthly_report": settings}
    )
    return MonthlyReports(config, database, clock, *([] if send is None else [send]))


@pytest.fixture
def clock(database):
    with database.write() as connection:
        connection.execute(sa.text("DELETE FROM monthly_reports"))
    return Clock(dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC))


def test_each_file_is_written_once_when_its_day_has_come(database, tmp_path, clock):
    folder = tmp_path / "reports"
    reports = scheduled(database, tmp_path, clock, folder=folder, formats=["pdf", "xlsx"])
    assert (reports.run(), folder.exists()) == (0, False)
    clock.now += dt.timedelta(days=1)
    assert reports.run() == 1
    assert sorted(path.name for path in folder.iterdir()) == ["image-quality-2026-05.pdf", "image-quality-2026-05.xlsx"]
    (folder / "image-quality-2026-05.pdf").unlink()
    assert scheduled(database, tmp_path, clock, folder=folder, formats=["pdf", "xlsx"]).run() == 0
    assert not (folder / "image-quality-2026-05.pdf").exists()
    clock.now = dt.datetime(2026, 7, 2, 12, tzinfo=dt.UTC)
    assert reports.run() == 1
    assert (folder / "image-quality-2026-06.pdf").exists()


def test_each_scanner_has_its_own(database, tmp_path, clock):
    clock.now += dt.timedelta(days=1)
    assert scheduled(database, tmp_path, clock, folder=tmp_path / "r", each_scanner=True).run() == 10
    assert (tmp_path / "r" / "image-quality-2026-05-CT-A2.pdf").exists()
    assert file_name(MAY, "CT/1 ü", "pdf") != file_name(MAY, "CT_1 ü", "pdf")
    assert "/" not in file_name(MAY, "../../etc", "pdf")


def test_a_mail_goes_out_once_with_its_attachment(database, tmp_path, clock):
    clock.now += dt.timedelta(days=1)
    server = MailServer()
    try:
        mail = {
            "name": "physics", "host": "127.0.0.1", "port": server.port, "security": "none",
            "sender": "node@x.example", "recipients": ["kim@x.example"],
        }  # fmt: skip
        config = Config.model_validate({"alerts": {"email": [mail]}, "monthly_report": {"channels": ["physics"]}})
        reports = MonthlyReports(config, database, clock)
        assert (reports.run(), reports.run()) == (1, 0)
        (sent,) = server.mails
    finally:
        server.close()
    (attached,) = sent.iter_attachments()
    assert attached.get_filename() == "image-quality-2026-05.pdf"
    assert attached.get_content().startswith(b"%PDF")
    assert sent["Subject"] == "[DICOMQA] Image quality, May 2026"
    assert "series of 9 scanners" in sent.get_body().get_content()


def test_a_mail_that_is_not_taken_is_tried_later_under_the_same_id(database, tmp_path, clock):
    clock.now += dt.timedelta(days=1)
    ids, answers = [], [Transient("mail server is away"), None]

    def send(_channel, mail):
        ids.append(mail["Message-ID"])
        if (answer := answers.pop(0)) is not None:
            raise answer
        return "taken"

    reports = scheduled(database, tmp_path, clock, send, channels=["physics"])
    assert (reports.run(), reports.run()) == (0, 0)
    assert SentReports(database, clock).latest()[0].words == "mail server is away"
    clock.now += dt.timedelta(hours=1)
    assert (reports.run(), len(ids), len(set(ids))) == (1, 2, 1)


def test_a_folder_that_cannot_be_written_is_tried_later(database, tmp_path, clock):
    clock.now += dt.timedelta(days=1)
    (tmp_path / "file").write_text("no folder")
    reports = scheduled(database, tmp_path, clock, folder=tmp_path / "file" / "reports")
    assert reports.run() == 0
    (tmp_path / "file").unlink()
    clock.now += dt.timedelta(hours=1)
    assert reports.run() == 1


@pytest.mark.parametrize(
    "wrong", [{"channels": ["nobody"]}, {"formats": []}, {"formats": ["pdf", "pdf"]}, {"day": 31}, {"formats": ["doc"]}]
)
def test_a_wrong_section_is_refused(wrong):
    with pytest.raises(ValueError):
        Config.model_validate({"monthly_report": wrong})
