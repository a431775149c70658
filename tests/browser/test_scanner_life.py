"""Scanners over three months in the browser: lights, causes, one-click baselines, names; both themes, narrow, print."""

from __future__ import annotations

import re

import pytest

from dicom_qa_node.charts.naming import Naming
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.domain.accounts import Role
from tests.browser.conftest import cookies_of, serving
from tests.realistic_life import live
from tests.web_site import open_site

pytestmark = pytest.mark.browser
PATHS = ("/scanners", "/scanners/names", "/scanners/{number}")


@pytest.fixture(scope="module")
def filled_site(tmp_path_factory):
    """Return a site with three scanners and three months of life, in place of the common one."""
    site = open_site(tmp_path_factory.mktemp("life"), login_per_minute=10_000, api_per_minute=100_000)
    live(site.database, series=1500, seed=1)
    yield site
    site.database.close()


@pytest.fixture(scope="module")
def address(filled_site):
    """Return the address of its server."""
    with serving(filled_site) as found:
        yield found


@pytest.fixture(scope="module")
def logins(browser, address):
    """Return the cookies of one login per role."""
    return cookies_of(browser, address)


@pytest.fixture(scope="module")
def noisy(filled_site):
    """Return the number of the scanner whose noise rose."""
    cards = {card.scanner.name: card for card in Scanners(filled_site.database).overview()}
    return cards["Orbit One B-6120"].scanner.scanner_id


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("path", PATHS)
def test_pages_fit_and_are_accessible(visit, accessible, fits, noisy, path, width, theme):
    page = visit(path.format(number=noisy), width=width, theme=theme)
    assert page.locator("h1").count() == 1
    fits(page)
    accessible(page)


def test_each_scanner_has_a_light_in_words_and_its_grades(visit):
    page = visit("/scanners")
    lights = page.locator(".light").all_inner_texts()
    assert len(lights) == 4
    assert all(re.fullmatch(r"\d+ drift alarms?|no drift|too few \(\d+ of 50\)|many non-diagnostic", x) for x in lights)
    assert page.locator(".grades").first.inner_text().startswith("diagnostic")


def test_the_page_opens_on_what_drifts_and_names_the_cause(visit, noisy):
    page = visit(f"/scanners/{noisy}")
    page.wait_for_selector("[data-chart=individuals] canvas")
    words = page.locator(".alarm-list").first.inner_text()
    assert re.search(r"Image chain: Global noise level rose by 1\d %", words)
    assert page.locator("#quantity").input_value() == "global_noise_level"
    assert "at a patient size of" in page.locator("main").inner_text()
    assert "drift upwards from" in page.locator("[data-chart=individuals] .legend").inner_text()
    page.emulate_media(media="print")
    assert page.locator("rect.drift").first.is_visible()


def test_the_order_of_scoring_is_a_choice(visit, noisy):
    page = visit(f"/scanners/{noisy}?by=scored")
    assert page.locator("#by").input_value() == "scored"
    page.select_option("#by", "acquired")
    page.wait_for_url(re.compile("by=acquired"))


def test_a_drift_is_accepted_and_a_scanner_merged_in_the_page(visit, filled_site, noisy):
    page = visit(f"/scanners/{noisy}", role=Role.REVIEWER)
    before = page.locator(".alarm-list").first.locator("li").count()
    page.get_by_role("button", name="Accept: new baseline from here").first.click()
    page.wait_for_url(re.compile("#baseline"))
    assert "accepted" in page.locator("#baseline").inner_text() or page.get_by_text("Too few to tell a drift").count()
    assert before >= 1
    page = visit("/scanners/names", role=Role.REVIEWER)
    page.get_by_label("Name of Orbit One B-6120").fill("Room 7")
    page.get_by_label("Name of Orbit One B-6120").press("Enter")
    page.get_by_role("rowheader", name="Room 7").wait_for()
    page.select_option("[aria-label='Scan 80 is the same scanner as']", label="ROOM3")
    page.locator("form", has=page.get_by_label("Scan 80 is the same scanner as")).get_by_role("button").click()
    page.get_by_text("merged").wait_for()
    assert [item.part_of is not None for item in Naming(filled_site.database).scanners().values()].count(True) == 1


def test_a_viewer_is_offered_no_change(visit, noisy):
    page = visit("/scanners/names", role=Role.VIEWER)
    assert page.locator("main form").count() == 0
    page = visit(f"/scanners/{noisy}", role=Role.VIEWER)
    assert page.get_by_role("button", name="Accept").count() == 0
