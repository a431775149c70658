"""Quality and dose in the browser: plots, widths, themes, axe, keyboard, print."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from dicom_qa_node.charts.quality_and_dose import QualityAndDose
from dicom_qa_node.charts.reference_levels import ReferenceLevelStore, proposed_level
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.web.site import Site
from tests.browser.conftest import cookies_of, serving
from tests.web_site import open_site

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def filled_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a site over three months of three scanners, with a level of the busiest stratum."""
    site = open_site(tmp_path_factory.mktemp("life"), login_per_minute=10_000, api_per_minute=100_000)
    importlib.import_module("tests.realistic_life").live(site.database, 1200)
    reader = QualityAndDose(site.database)
    scanner = reader.scanners()[0][0]
    chosen = reader.chosen(reader.strata(scanner)[0].label, scanner)
    assert chosen is not None
    for quantity in ("global_noise_level", "ssde"):
        level = proposed_level(chosen.points, quantity)
        assert level is not None
        ReferenceLevelStore(site.database).freeze(
            chosen.stratum.groups[0][0], level, limit=level.limit, reason="after acceptance", author="ada"
        )
    yield site
    site.database.close()


@pytest.fixture(scope="session")
def address(filled_site: Site) -> Iterator[str]:
    with serving(filled_site) as found:
        yield found


@pytest.fixture(scope="session")
def logins(browser: Browser, address: str) -> dict[Role, Any]:
    return cookies_of(browser, address)


@pytest.fixture(scope="module")
def place(filled_site: Site) -> str:
    """Return the address of the busiest stratum of a scanner."""
    reader = QualityAndDose(filled_site.database)
    scanner = reader.scanners()[0][0]
    return f"/dose?scanner={scanner}&stratum={reader.strata(scanner)[0].label.replace(' ', '%20')}"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("whole", [True, False])
def test_the_page_fits_and_is_accessible(visit, accessible, fits, place, width, theme, whole):
    page = visit("/dose" if whole else place, width=width, theme=theme)
    assert page.locator("svg.plot").count() == 4
    fits(page)
    accessible(page)


def test_a_click_on_a_dot_opens_its_series(visit, place):
    page = visit(place)
    page.locator("svg.plot circle").last.click(force=True)
    page.wait_for_url(re.compile(r"/series/[0-9.]+"))


def test_without_scripts_the_filter_works(visit, place, fits):
    page = visit(place, scripts=False)
    page.select_option("#dose", "ssde")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url(re.compile("dose=ssde"))  # and until the page is whole: counting does not wait
    assert page.locator("svg.plot text.title", has_text="SSDE (mGy)").count() == 2
    fits(page)
