"""Which event a series is linked to: by each rule, in whatever order report and series come, and never wrongly."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import sqlalchemy as sa

from dicom_qa_node.db import dose_tables as d
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.dose import (
    AcquisitionType,
    DoseHeader,
    DoseSource,
    IrradiationEvent,
    LinkRule,
    SeriesDose,
    StoredDoseReport,
)
from dicom_qa_node.domain.results import Measurement, ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.dose.linking import StudySeries, link
from dicom_qa_node.dose.records import record_dose_reports, record_series_dose
from dicom_qa_node.dose.report_reader import dose_report_of
from dicom_qa_node.dose.series_dose import dose_of
from dicom_qa_node.phantom.dose_reports import MadeEvent, dose_report

NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
STUDY, SERIES = "1.2.3", "1.2.3.1"
HEADER = DoseHeader(ctdi_vol_range=(8.0, 8.0), phantom_cm=32)


def event(key: str, ctdi: float | None = 8.0, protocol: str = "Abdomen", **more: object) -> IrradiationEvent:
    values = {"acquisition_type": AcquisitionType.SPIRAL, "phantom_cm": 32} | more
    return IrradiationEvent(key, key, protocol=protocol, ctdi_vol_mgy=ctdi, dlp_mgy_cm=320.0, **values)  # type: ignore[arg-type]


LOCALIZER = event("1.9.0", 0.14, "Topogram", acquisition_type=AcquisitionType.CONSTANT_ANGLE)


def series(header: DoseHeader = HEADER, protocol: str = "Abdomen", ctdi: float | None = 8.0) -> StudySeries:
    return StudySeries(SERIES, header, protocol, ctdi)


def linked(
    item: StudySeries, *events: IrradiationEvent, study: Sequence[StudySeries] = ()
) -> tuple[str | None, LinkRule | None]:
    found = link(item, events, study or [item])
    assert bool(found.reason) == (found.event_key is None)
    return found.event_key, found.rule


def test_the_uid_of_the_images_decides() -> None:
    named = series(replace(HEADER, event_uids=("1.9.2",)))
    assert linked(named, LOCALIZER, event("1.9.1"), event("1.9.2", 4.0, "Other")) == ("1.9.2", LinkRule.EVENT_UID)
    # Another event of the study is not taken in its place, though it is the only one and fits in everything.
    assert linked(named, event("1.9.1")) == (None, None)
    assert linked(series(replace(HEADER, event_uids=("1.9.1", "1.9.2"))), event("1.9.1")) == (None, None)
    assert linked(series(replace(HEADER, event_uids=("1.9.0",))), LOCALIZER, event("1.9.1")) == (None, None)
    twice = replace(event("1.9.2"), key="1.9.2#2")
    assert linked(named, event("1.9.2"), twice) == (None, None)


def test_the_only_event_that_is_no_localizer() -> None:
    assert linked(series(), LOCALIZER, event("1.9.1", 8.1)) == ("1.9.1", LinkRule.ONLY_EVENT)
    assert linked(series(DoseHeader(), ctdi=None), LOCALIZER, event("1.9.1")) == ("1.9.1", LinkRule.ONLY_EVENT)
    assert linked(series(), LOCALIZER) == (None, None)
    assert linked(series()) == (None, None)


def test_the_only_event_is_not_taken_where_it_does_not_fit() -> None:
    assert linked(series(), event("1.9.1", 12.0)) == (None, None)
    assert linked(series(), event("1.9.1", 8.0, phantom_cm=16)) == (None, None)
    modulated = series(replace(HEADER, ctdi_vol_range=(5.0, 14.0)))
    assert linked(modulated, event("1.9.1", 9.0)) == ("1.9.1", LinkRule.ONLY_EVENT)


def test_the_only_event_is_not_taken_for_two_acquisitions() -> None:
    def at(seconds: int) -> DoseHeader:
        begin = dt.datetime(2026, 11, 28, 10, 0) + dt.timedelta(seconds=seconds)  # noqa: DTZ001 - scanners state local times
        return replace(
            HEADER, acquired_from=begin.isoformat(), acquired_until=(begin + dt.timedelta(seconds=5)).isoformat()
        )

    arterial, portal, thin = series(at(0)), series(at(40)), series(at(2))
    assert linked(arterial, event("1.9.1"), study=[arterial, portal]) == (None, None)
    assert linked(arterial, event("1.9.1"), study=[arterial, thin])[0] == "1.9.1"


def test_protocol_and_ctdi_decide_between_several() -> None:
    chest, abdomen = event("1.9.1", 5.0, "Chest"), event("1.9.2", 8.3, " abdomen ")
    assert linked(series(), LOCALIZER, chest, abdomen) == ("1.9.2", LinkRule.PROTOCOL_AND_CTDI)
    assert linked(series(protocol="Chest"), chest, abdomen) == (None, None)
    assert linked(series(), chest, event("1.9.2", 8.5, "Abdomen")) == (None, None)
    assert linked(series(), abdomen, event("1.9.3", 8.1, "Abdomen")) == (None, None)
    assert linked(series(), abdomen, event("1.9.3", 8.1, "")) == (None, None)
    assert linked(series(), event("1.9.1", protocol=""), event("1.9.2", 5.0, protocol="")) == (None, None)
    assert linked(series(ctdi=None), chest, abdomen) == (None, None)
    assert linked(series(protocol=""), chest, abdomen) == (None, None)
    unknown_type = event("1.9.3", 5.0, "Spot", acquisition_type=AcquisitionType.UNKNOWN)
    assert linked(series(), abdomen, unknown_type) == ("1.9.2", LinkRule.PROTOCOL_AND_CTDI)


# -- in the database ---------------------------------------------------------------------------------------


@pytest.fixture
def database(any_database: Database) -> Database:
    return any_database


def stored(*events: MadeEvent, name: str = "r1", at: str = "120000", patient: str = "P1") -> StoredDoseReport:
    report = dose_report_of(
        dose_report(STUDY, events, sop_instance_uid=f"1.2.77.{int(hashlib.md5(name.encode()).hexdigest()[:8], 16)}",
                    content_time=at, patient_id=patient)
    )  # fmt: skip
    return StoredDoseReport(f"dose_reports/{name}.dcm", "a" * 64, 10, NOW, "CT1", report)


def add_report(database: Database, *items: StoredDoseReport) -> None:
    with database.write() as connection:
        record_dose_reports(connection, items, dt.timedelta())


def add_series(
    database: Database,
    uid: str = SERIES,
    *,
    protocol: str = "Abdomen",
    ctdi: float | None = 8.0,
    events: tuple[str, ...] = (),
    version: int = 1,
    patient: str = "P1",
    study: str = STUDY,
    size: float | None = None,
) -> None:
    facts = SeriesHeader(uid, study, "CT", protocol_name=protocol, patient_id=patient)
    names = (
        ("ctdi_vol", ctdi),
        ("dlp", None if ctdi is None else ctdi * 30),
        ("ssde", None if ctdi is None else 9.9),
        ("water_equivalent_diameter", size),
    )
    measured = tuple(Measurement(name, name, value, "mGy") for name, value in names)
    dose = DoseHeader(events, None if ctdi is None else (ctdi, ctdi), 32)
    result = SeriesResult(
        uid, "CT", SeriesKind.CT, None, None, None, (), measured, (), ModelRef("m", "1", "0" * 64), 1, dose=dose
    )
    at = {"state_since": NOW, "first_received_at": NOW, "last_received_at": NOW}
    row = {"series_instance_uid": uid, "study_instance_uid": study, "modality": "CT", "state": "SCORED", **at}
    with database.write() as connection:
        known = sa.select(t.series.c.version).where(t.series.c.series_instance_uid == uid)
        if connection.execute(known).first() is None:
            connection.execute(t.series.insert().values(**row, expected={}))
        record_series_dose(connection, facts, version, result, NOW)


def dose(database: Database, uid: str = SERIES) -> SeriesDose:
    with database.read() as connection:
        return dose_of(connection, [uid])[uid]


@pytest.mark.parametrize("report_first", [True, False])
def test_linking_works_whichever_comes_first(database: Database, report_first: bool) -> None:
    steps = [
        lambda: add_report(database, stored(MadeEvent("1.9.1", 8.2, 330.0))),
        lambda: add_series(database),
    ]
    for step in steps if report_first else reversed(steps):
        step()
    found = dose(database)
    assert (found.ctdi_vol_mgy, found.dlp_mgy_cm, found.phantom_cm) == (8.2, 330.0, 32)
    assert (found.source, found.event_uid, found.rule) == (DoseSource.REPORT, "1.9.1", LinkRule.ONLY_EVENT)
    assert (found.ssde_mgy, found.header_ctdi_vol_mgy) == (9.9, 8.0)


def test_a_series_without_a_report_has_the_dose_of_its_images(database: Database) -> None:
    add_series(database)
    found = dose(database)
    assert (found.ctdi_vol_mgy, found.source, found.event_uid) == (8.0, DoseSource.HEADER, "")
    assert found.reason == "no dose report of the study has been received"


def test_three_cumulative_reports_count_once(database: Database) -> None:
    events = [MadeEvent(f"1.9.{n}", 5.0 * n, 100.0 * n, f"Phase {n}") for n in (1, 2, 3)]
    reports = [stored(*events[: n + 1], name=f"r{n}", at=f"12000{n}") for n in range(3)]
    for order in itertools.permutations(reports):
        with database.write() as connection:
            connection.execute(d.dose_series.update().values(event_id=None))
            connection.execute(d.dose_events.delete())
            connection.execute(d.dose_reports.delete())
        for report in order:
            add_report(database, report)
        with database.read() as connection:
            rows = connection.execute(sa.select(d.dose_events).order_by(d.dose_events.c.event_uid)).all()
        assert [(row.event_uid, row.ctdi_vol_mgy, row.dlp_mgy_cm) for row in rows] == [
            ("1.9.1", 5.0, 100.0), ("1.9.2", 10.0, 200.0), ("1.9.3", 15.0, 300.0),
        ]  # fmt: skip
    add_series(database, ctdi=10.2, protocol="Phase 2")
    assert dose(database).dlp_mgy_cm == 200.0


def test_reports_with_different_events_add_up_to_all(database: Database) -> None:
    add_report(database, stored(MadeEvent("1.9.1", 5.0, protocol="Chest"), name="a"))
    add_series(database)
    assert dose(database).event_uid == ""
    add_report(database, stored(MadeEvent("1.9.2", 8.0, protocol="Abdomen"), name="b"))
    assert dose(database).event_uid == "1.9.2"


def test_a_later_event_takes_a_link_back_that_is_no_longer_certain(database: Database) -> None:
    add_report(database, stored(MadeEvent("1.9.1", 8.0), name="a"))
    add_series(database)
    assert dose(database).event_uid == "1.9.1"
    add_report(database, stored(MadeEvent("1.9.1", 8.0), MadeEvent("1.9.2", 8.1), name="b", at="120500"))
    found = dose(database)
    assert (found.event_uid, found.source) == ("", DoseSource.HEADER)
    assert found.reason == "2 events fit protocol and CTDIvol"


@pytest.mark.parametrize("corrected_first", [True, False])
def test_of_two_reports_on_one_event_the_later_written_counts(database: Database, corrected_first: bool) -> None:
    reports = [
        stored(MadeEvent("1.9.1", 7.9), name="first", at="120000"),
        stored(MadeEvent("1.9.1", 8.2), name="corrected", at="120100"),
    ]
    add_series(database)
    for report in reversed(reports) if corrected_first else reports:
        add_report(database, report)
    assert dose(database).ctdi_vol_mgy == 8.2


def test_the_same_report_again_changes_nothing(database: Database) -> None:
    report = stored(MadeEvent("1.9.1"))
    add_report(database, report, report)
    add_report(database, report)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(d.dose_events)).scalar_one() == 1
        assert connection.execute(sa.select(sa.func.count()).select_from(d.dose_reports)).scalar_one() == 1


def test_many_series_belong_to_one_event(database: Database) -> None:
    add_report(database, stored(MadeEvent("1.9.1", 8.0), MadeEvent("1.9.2", 8.0)))
    for number in range(3):
        add_series(database, f"{SERIES}.{number}", events=("1.9.2",))
    assert {dose(database, f"{SERIES}.{n}").event_uid for n in range(3)} == {"1.9.2"}


def test_a_report_of_another_patient_under_the_same_study_is_not_linked(database: Database) -> None:
    add_report(database, stored(MadeEvent("1.9.1"), patient="P2"))
    add_series(database)
    found = dose(database)
    assert (found.source, found.reason) == (DoseSource.HEADER, "the dose reports of the study name another patient")


def test_an_event_without_a_dose_leaves_that_of_the_images(database: Database) -> None:
    add_report(database, stored(MadeEvent("1.9.1", None, None)))
    add_series(database)
    found = dose(database)
    assert (found.event_uid, found.source, found.ctdi_vol_mgy) == ("1.9.1", DoseSource.HEADER, 8.0)


def test_where_the_images_state_no_dose_the_size_specific_one_is_that_of_the_report(database: Database) -> None:
    add_report(database, stored(MadeEvent("1.9.1", 10.0)))
    add_series(database, ctdi=None, size=300.0)
    found = dose(database)
    assert (found.ctdi_vol_mgy, found.header_ctdi_vol_mgy) == (10.0, None)
    # AAPM Report 204, 32 cm phantom at 30 cm: 1.23
    assert found.ssde_mgy == pytest.approx(12.3, abs=0.05)


def test_an_older_version_of_a_series_does_not_come_back(database: Database) -> None:
    add_series(database, ctdi=9.0, version=2)
    add_series(database, ctdi=8.0, version=1)
    assert dose(database).header_ctdi_vol_mgy == 9.0


def test_a_report_and_a_series_that_are_written_at_once_are_linked(database: Database) -> None:
    add_series(database, f"{SERIES}.9", study="1.2.4")
    begun, done = threading.Event(), threading.Event()

    def late_series() -> None:
        begun.wait(30)
        add_series(database)
        done.set()

    other = threading.Thread(target=late_series)
    other.start()
    with database.write() as connection:
        record_dose_reports(connection, [stored(MadeEvent("1.9.1", 8.2))], dt.timedelta())
        begun.set()
        # The series waits for this transaction: its study is held.
        assert not done.wait(0.3)
    other.join(30)
    assert dose(database).event_uid == "1.9.1"
