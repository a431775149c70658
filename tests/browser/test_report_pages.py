"""Backfill and monthly reports in the browser: forms without scripts, widths, themes, axe."""

from __future__ import annotations

import datetime as dt

import pytest

from dicom_qa_node.config import Backfill
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.backfill import BackfillRequest, FoundSeries
from dicom_qa_node.flow.backfill_runs import BackfillRuns

pytestmark = pytest.mark.browser
PAGES = ["/backfill", "/reports"]


@pytest.fixture(scope="module")
def runs(filled_site):
    """Two runs: one that waits for its archive, and one of which a series has failed."""
    sources = {"sources": [{"name": "vna", "host": "127.0.0.1", "ae_title": "VNA"}]}
    config = filled_site.config.model_copy(update={"backfill": Backfill.model_validate(sources)})
    filled_site.__dict__["config"] = config
    made = BackfillRuns(filled_site.database)
    day = dt.date(2026, 1, 1)
    for scanner in ("", "CT-A2"):
        number = made.start(BackfillRequest("vna", day, day, ("CT", "PT"), 30.0, scanner), by="ada")
        run = made.run(number)
        made.record_day(run, [FoundSeries(f"1.2.{number}.{item}", "1.2", "CT", day, 9) for item in range(4)])
        entry = made.take_next(run)
        while entry is not None and not made.run(number).failed:
            made.put_back(entry, "0xC001 answer to C-MOVE, 3 of 9 images failed", counts=True)
            entry = made.take_next(run)
        made.put_back(entry, "", counts=False)
    made.try_later(made.run(1), "vna: no connection to VNA at 127.0.0.1:104", 60.0)
    return made


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_and_are_accessible(visit, accessible, fits, runs, path, width, theme):
    page = visit(path, width=width, theme=theme)
    assert page.locator("h1").count() == 1
    fits(page)
    accessible(page)


def test_a_backfill_is_started_and_paused_without_scripts(visit, runs):
    page = visit("/backfill", scripts=False)
    page.fill("#b-since", "2026-01-01")
    page.fill("#b-scanner", "PET-C3")
    page.get_by_role("button", name="Start", exact=True).click()
    assert "is started" in page.locator(".notice.good").inner_text()
    page.get_by_role("button", name="Pause backfill 3").click()
    assert "PAUSED" in page.locator("#run-3").inner_text()


def test_a_report_is_downloaded(visit):
    page = visit("/reports", role=Role.REVIEWER)
    with page.expect_download() as found:
        page.get_by_role("button", name="PDF").click()
    assert found.value.suggested_filename.startswith("image-quality-")
