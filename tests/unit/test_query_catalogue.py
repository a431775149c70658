"""The catalogue gives its pages in order, once each, however many there are."""

from __future__ import annotations

import json
import time

import pytest
from pynetdicom import AE

from dicom_qa_node.config import Config
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.index.catalogue import Catalogue, Level, Narrowing, ReportHeader
from dicom_qa_node.index.find import find_entities
from dicom_qa_node.index.matching import Identifier, Key
from dicom_qa_node.query.holdings import open_holdings
from dicom_qa_node.query.service import QueryService
from tests.query_samples import STUDY_FIND, identifier, serving
from tests.unit.test_store_flow import T0, instance

COUNT = 3000


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('many')}/q.db")
    database.upgrade()
    series = [SeriesHeader(f"1.3.{n}", f"1.2.{n // 2}", "CT", patient_id=f"P{n // 4}") for n in range(20)]
    Registry(database).record([instance(1, facts) for facts in series])
    with database.write() as connection:
        rows = [
            {
                "series_instance_uid": f"1.4.{n}", "state": "REPORTED", "state_since": T0, "expected": {},
                "first_received_at": T0, "last_received_at": T0,
            }
            for n in range(COUNT)
        ]  # fmt: skip
        connection.execute(t.series.insert(), rows)
        reports = [ReportRef(f"2.25.{n}", "1.88", f"2.26.{n}", f"1.4.{n}", 1, f"r/{n}", T0) for n in range(COUNT)]
        connection.execute(t.reports.insert(), [{k: getattr(r, k) for k in ReportRef.__slots__} for r in reports])
    yield database
    database.close()


def header(report: ReportRef, layout: int = 1) -> ReportHeader:
    number = int(report.sop_instance_uid.split(".")[-1])
    facts = {
        "PatientID": f"Q{number // 3}", "StudyInstanceUID": f"1.9.{number // 3}", "Modality": "SR",
        "SeriesInstanceUID": report.report_series_uid, "PatientName": f"Doe^{number}", "StudyDate": "20260105",
    }  # fmt: skip
    return ReportHeader(
        report.sop_instance_uid, layout, facts["PatientID"], facts["StudyInstanceUID"], facts["SeriesInstanceUID"],
        "", "20260105", "1.2.840.10008.1.2.1", facts, json.dumps({}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def catalogue(database):
    catalogue = Catalogue(database, images=True)
    while waiting := catalogue.unindexed(1000):
        catalogue.index([header(report) for report in waiting])
    return catalogue


def every(catalogue: Catalogue, level: Level, limit: int = 200) -> list[str]:
    keys: list[str] = []
    while page := catalogue.page(level, Narrowing(), keys[-1] if keys else "", limit):
        assert len(page) <= limit
        keys += [key for key, _ in page]
    return keys


def test_pages_hold_every_entity_once(catalogue):
    studies = every(catalogue, Level.STUDY)
    assert len(studies) == COUNT // 3 + 10
    assert studies == sorted(set(studies))
    assert len(every(catalogue, Level.SERIES, 500)) == COUNT + 20
    assert len(every(catalogue, Level.PATIENT)) == COUNT // 3 + 5


def test_without_images_there_are_reports_only(database, catalogue):
    reports = Catalogue(database)
    studies = every(reports, Level.STUDY)
    assert len(studies) == len(set(studies)) == COUNT // 3
    assert len(reports.instances(Narrowing(), "", 9999)) == COUNT
    assert len(catalogue.instances(Narrowing(), "", 9999)) == COUNT + 20


def test_an_entity_comes_with_all_its_series(catalogue):
    ((_, held),) = catalogue.page(Level.STUDY, Narrowing({"study_instance_uid": ["1.9.7"]}), "")
    assert {series.series_instance_uid for series in held} == {"2.26.21", "2.26.22", "2.26.23"}


def test_another_layout_is_read_again(database, catalogue):
    assert catalogue.unindexed() == []
    newer = Catalogue(database, layout=2)
    assert len(newer.unindexed(50)) == 50


def test_search_gives_what_fits_without_reading_ahead(catalogue, monkeypatch):
    pages = []
    page = catalogue.page
    monkeypatch.setattr(catalogue, "page", lambda *args: pages.append(args) or page(*args))
    keys = {"PatientName": Key(0x00100010, "PatientName", "PN", ("doe^*",))}
    found = find_entities(catalogue, Identifier("STUDY", keys, (), False))
    for _ in range(10):
        next(found)
    assert len(pages) == 1
    assert sum(1 for _ in found) == COUNT // 3 - 10


def test_dates_narrow_and_old_spellings_are_looked_at(database):
    narrow = Narrowing(study_dates=("20260106", "~"))
    assert Catalogue(database).page(Level.STUDY, narrow, "") == []
    assert len(Catalogue(database).page(Level.STUDY, Narrowing(study_dates=("20260105", "20260105")), "")) == 200


def test_thousands_of_matches_and_a_cancel(database, catalogue, tmp_path):
    config = Config.model_validate({"database_url": str(database.url), "spool_dir": tmp_path / "spool"})
    holdings = open_holdings(config, database)
    with serving(config, database, QueryService(holdings, images=False)) as port:
        ae = AE("ASKER")
        ae.dimse_timeout = 30
        ae.add_requested_context(STUDY_FIND)
        assoc = ae.associate("127.0.0.1", port)
        query = identifier("STUDY", StudyInstanceUID=None, PatientName="DOE*")
        start = time.perf_counter()
        found = [answer.StudyInstanceUID for status, answer in assoc.send_c_find(query, STUDY_FIND) if answer]
        assert time.perf_counter() - start < 30
        assert len(found) == len(set(found)) == COUNT // 3
        ends = []
        for number, (status, _) in enumerate(assoc.send_c_find(query, STUDY_FIND, msg_id=9)):
            if number == 5:
                assoc.send_c_cancel(9, query_model=STUDY_FIND)
            ends.append(status.Status)
        assoc.release()
    assert ends[-1] == 0xFE00
    assert len(ends) < COUNT // 3
