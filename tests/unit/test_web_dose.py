"""A scored CT with its dose report: page, API and log show CTDIvol, DLP and the measured SSDE side by side."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_qa_node.domain.dose import StoredDoseReport
from dicom_qa_node.domain.results import result_from_json, result_to_json
from dicom_qa_node.dose.report_reader import dose_report_of
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series, write
from dicom_qa_node.phantom.dose_reports import MadeEvent, dose_report
from dicom_qa_node.phantom.enhanced import enhanced_ct
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.score.volume_builder import scan_headers
from dicom_qa_node.web.site import Site
from tests.scored_series import add_series
from tests.web_site import bearer, logged_in, open_site, stranger

EVENT = "1.2.3.77.1"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = open_site(tmp_path)
    yield made
    made.database.close()


def scored(site: Site, tmp_path: Path, event: str = EVENT) -> tuple[str, str]:
    """Add a series whose images name an event; return the UIDs of study and series."""
    images = ct_series(5, 12, 96, "routine", spacing_mm=25)
    for image in images:
        image.IrradiationEventUID = event
    uid = add_series(site.config, site.database, tmp_path / "work", images)
    return str(images[0].StudyInstanceUID), uid


def receive(site: Site, study: str, *events: MadeEvent) -> None:
    report = dose_report_of(dose_report(study, events))
    at = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
    Registry(site.database).record([StoredDoseReport("dose_reports/a.dcm", "a" * 64, 9, at, "CT1", report)])


def test_dose_of_report_and_images_stand_beside_the_measured_one(site: Site, tmp_path: Path) -> None:
    study, uid = scored(site, tmp_path)
    client = logged_in(site)
    before = client.get(f"/series/{uid}").text
    assert "Not linked to a dose report: no dose report of the study has been received." in before
    receive(site, study, MadeEvent(EVENT, 7.77, 345.6), MadeEvent("1.2.3.77.2", 3.3))
    page = client.get(f"/series/{uid}").text
    assert "Linked by irradiation event UID" in page
    for value in ("7.77", "345.6", EVENT, "Dose report", "Image headers"):
        assert value in page
    api = stranger(site, **bearer(site)).get(f"/api/v1/series/{uid}").json()["dose"]
    assert (api["ctdi_vol_mgy"], api["dlp_mgy_cm"], api["source"]) == (7.77, 345.6, "report")
    measured = {item.name: item.value for item in QualityLog(site.database).entry(uid).result.measurements}
    assert api["ssde_mgy"] == measured["ssde"]
    (line,) = stranger(site, **bearer(site)).get("/api/v1/series").json()["items"]
    assert (line["ctdi_vol_mgy"], line["dlp_mgy_cm"], line["dose_source"]) == (7.77, 345.6, "report")
    assert line["ssde_mgy"] == measured["ssde"]


def test_a_series_of_another_event_keeps_the_dose_of_its_images(site: Site, tmp_path: Path) -> None:
    study, uid = scored(site, tmp_path)
    receive(site, study, MadeEvent("1.2.3.77.2", 3.3))
    page = logged_in(site).get(f"/series/{uid}").text
    assert "no dose report of the study holds the irradiation event that the images name" in page
    assert "3.30" not in page


def test_what_images_state_is_gathered_over_all_of_them(tmp_path: Path) -> None:
    images = ct_series(5, 6, 64, "routine", spacing_mm=40)
    for number, image in enumerate(images):
        image.IrradiationEventUID = EVENT if number else [EVENT, "1.2.3.77.9"]
        image.CTDIvol = 5.0 + number
    found = scan_headers(write(images, tmp_path)).dose
    assert found.event_uids == (EVENT, "1.2.3.77.9")
    assert found.ctdi_vol_range == (5.0, 10.0)
    assert "" < found.acquired_from <= found.acquired_until


def test_a_multi_frame_object_names_its_event_in_its_functional_groups(tmp_path: Path) -> None:
    image = enhanced_ct(ct_series(5, 6, 64, "routine", spacing_mm=40))
    shared = image.SharedFunctionalGroupsSequence[0]
    named = shared.IrradiationEventIdentificationSequence[0].IrradiationEventUID
    found = scan_headers(write([image], tmp_path)).dose
    assert found.event_uids == (named,)
    assert found.ctdi_vol_range is not None


def test_what_images_state_survives_the_log(site: Site, tmp_path: Path) -> None:
    _, uid = scored(site, tmp_path)
    entry = QualityLog(site.database).entry(uid)
    assert entry is not None
    assert entry.result.dose.event_uids == (EVENT,)
    assert result_from_json(result_to_json(entry.result)) == entry.result
