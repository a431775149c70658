"""Heat maps on demand in Chromium: asked for by a button, shown as the worker makes them, without a reload."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.score.heat_maps import RequestedHeatMaps
from tests.conftest import poll_until
from tests.scored_series import add_ct
from tests.unit.test_web_heat_maps import InUse

pytestmark = pytest.mark.browser
VIEWS = [(360, "light"), (360, "dark"), (1920, "light"), (1920, "dark")]


def picture_of(page, word: str) -> None:
    folder = os.environ.get("QA_SCREENSHOTS")
    if folder:
        page.locator("#slices").screenshot(path=str(Path(folder) / f"heat-{word}.png"))


def asked(site) -> RequestedHeatMaps:
    """Return a worker's part that has taken the request."""
    maps = RequestedHeatMaps(site.database, site.config.spool_dir, InUse())
    assert maps.step()
    return maps


@pytest.mark.parametrize(("width", "theme"), VIEWS)
def test_a_button_asks_and_the_maps_appear(visit, accessible, fits, filled_site, tmp_path, width, theme):
    seed = 50 + VIEWS.index((width, theme))
    uid = add_ct(filled_site.config, filled_site.database, tmp_path, seed=seed, scorer=InUse())
    page = visit(f"/series/{uid}?slice=3", role=Role.REVIEWER, width=width, theme=theme)
    toggle = page.get_by_role("button", name="Heat map", exact=True)
    page.locator(".strip [data-go='4']").click()
    assert toggle.is_disabled(), "slice 4 has no map yet"
    picture_of(page, f"possible-{width}-{theme}")
    page.get_by_role("button", name="Compute the missing heat maps").click()
    page.wait_for_url("**/series/*version=1&slice=4*")
    assert "no scoring worker is running" in page.locator("[data-heat-state]").inner_text().lower()
    accessible(page)
    fits(page)
    picture_of(page, f"waiting-{width}-{theme}")
    Heartbeats(filled_site.database).beat("score", "score-1@here", detail="idle")
    worker = asked(filled_site)
    poll_until(lambda: "while no series waits" in page.locator("[data-heat-state]").inner_text())
    while worker.step():
        pass
    poll_until(lambda: page.locator("[data-heat-state=ready]").count() == 1)
    assert page.get_by_role("button", name="missing heat maps").count() == 0
    poll_until(lambda: toggle.is_enabled())
    assert toggle.get_attribute("aria-pressed") == "true", "the map of the slice that is shown appears by itself"
    poll_until(lambda: page.evaluate("document.querySelector('[data-heat]').naturalWidth > 0"))
    accessible(page)
    fits(page)
    picture_of(page, f"ready-{width}-{theme}")
    Heartbeats(filled_site.database).gone("score-1@here")


def test_it_works_without_scripts(visit, filled_site, tmp_path):
    uid = add_ct(filled_site.config, filled_site.database, tmp_path, seed=60, scorer=InUse())
    page = visit(f"/series/{uid}", role=Role.REVIEWER, scripts=False)
    page.get_by_role("button", name="Compute the missing heat maps").click()
    assert "Reload the page" in page.locator("[data-heat-state]").inner_text()
    worker = asked(filled_site)
    while worker.step():
        pass
    page.reload()
    assert page.locator("[data-heat-state=ready]").count() == 1
