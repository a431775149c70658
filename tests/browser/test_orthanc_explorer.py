"""The plug-in in Debian's Orthanc: button and panel on the page of a series, with what the bridge wrote and no more."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from dicom_qa_node.config import Config
from dicom_qa_node.deliver.orthanc.report_codes import ReportedVerdict
from dicom_qa_node.deliver.orthanc.rest_client import orthanc_client
from dicom_qa_node.deliver.orthanc.series_marks import mark_series
from dicom_qa_node.deliver.send_files import files_below
from tests.peers.orthanc_archive import Archive
from tests.peers.orthanc_peer import OrthancPeer
from tests.report_samples import write_series

PLUGIN = "/usr/share/orthanc/plugins/libOrthancPython.so"
SCRIPT = Path(__file__).resolve().parents[2] / "integrations" / "orthanc" / "image_quality.py"
pytestmark = [
    pytest.mark.peers("Orthanc", PLUGIN),
    pytest.mark.browser,
    pytest.mark.skipif(not SCRIPT.exists(), reason="the source distribution does not hold the plug-in"),
]
SENTENCE = (
    "Limited by noise: 31 HU in the liver, 5–20 HU is usual; <img src=x onerror=document.title='broken'> & more dose."
)


@pytest.fixture
def archive(tmp_path, free_port, background, poll) -> Archive:
    """Return an Orthanc with the plug-in, one scored and one unscored series."""
    peer = OrthancPeer(free_port(), free_port())
    config = Config.model_validate({"orthanc": {"url": f"http://127.0.0.1:{peer.http_port}"}})
    plugin = {"Plugins": [PLUGIN], "PythonScript": str(SCRIPT)}
    running = Archive(tmp_path, peer, background, poll, config, plugin)
    running.start()
    for number in (1, 2):
        write_series(tmp_path / f"images{number}", number)
        running.add(files_below([tmp_path / f"images{number}"]))
    with orthanc_client(config.orthanc) as client:
        verdict = ReportedVerdict("1.2.3", 1.7, "limited", SENTENCE)
        mark_series(client, config, series_of(running, 1), verdict, b"%PDF-1.4 test", labels=False)
    return running


def series_of(archive: Archive, number: int) -> str:
    found = archive.ask("tools/find", {"Level": "Series", "Query": {"SeriesNumber": str(number)}})
    return str(found[0])


@pytest.fixture
def open_series(archive: Archive, browser: Browser) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 760})
    page = context.new_page()
    page.set_default_timeout(60_000)

    def visit(number: int) -> Page:
        # Explorer takes no notice of a series that takes the place of another in the same page.
        page.goto(f"http://127.0.0.1:{archive.peer.http_port}/app/explorer.html#lookup")
        page.wait_for_selector("#lookup-submit", state="visible")
        page.goto(
            f"http://127.0.0.1:{archive.peer.http_port}/app/explorer.html#series?uuid={series_of(archive, number)}"
        )
        page.wait_for_selector("#series-info li >> nth=3", state="visible")
        page.wait_for_load_state("networkidle")
        return page

    yield visit
    context.close()


def test_the_page_of_a_scored_series_has_button_and_panel(archive, open_series):
    page = open_series(1)
    button = page.locator("#image-quality-button")
    button.wait_for()
    assert button.inner_text() == "Quality 1.70: Limited quality"
    panel = page.locator("#image-quality-panel")
    assert not panel.is_visible()
    button.click()
    assert panel.is_visible()
    assert button.get_attribute("aria-expanded") == "true"
    # What a report quotes from a header is text, never markup.
    assert SENTENCE in panel.inner_text()
    assert panel.locator("img").count() == 0
    assert page.title() != "broken"
    address = panel.get_by_text("Summary page").get_attribute("href")
    with urllib.request.urlopen(f"http://127.0.0.1:{archive.peer.http_port}/app/{address}", timeout=20) as answer:
        assert (answer.headers["Content-Type"], answer.read(5)) == ("application/pdf", b"%PDF-")
    if folder := os.environ.get("QA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/orthanc_explorer.png")


def test_a_series_without_a_score_has_neither_also_after_one_that_has(open_series):
    open_series(1).locator("#image-quality-button").wait_for()
    page = open_series(2)
    assert page.locator("#image-quality-button").count() == 0
    assert page.locator("#image-quality-panel").count() == 0


def test_the_plug_in_is_separate_from_the_package():
    text = SCRIPT.read_text(encoding="utf-8")
    assert "import dicom_qa_node" not in text
    assert "from dicom_qa_node" not in text
    assert "GNU AFFERO GENERAL PUBLIC LICENSE" in (SCRIPT.parent / "LICENSE").read_text(encoding="utf-8")
