"""The log and series pages in Chromium: main ways, keyboard only, narrow and wide, both themes, axe-core."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request

from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.reviews import Reviews
from dicom_qa_node.quality_log.search import LogSearch
from tests.conftest import poll_until
from tests.realistic_log import fill
from tests.scored_series import add_ct, add_petct

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def pictured(filled_site, tmp_path_factory) -> tuple[str, str]:
    """Return a CT and a PET/CT with pictures and a report; the CT's patient has a Japanese name."""
    work = tmp_path_factory.mktemp("work")
    ct = add_ct(filled_site.config, filled_site.database, work, name="Yamada^Tarou=山田^太郎=やまだ^たろう")
    return ct, add_petct(filled_site.config, filled_site.database, work)


def loaded(page: Page, selector: str) -> None:
    """Wait for a picture; Playwright's own waiting for a condition breaks the pages' content security policy."""
    poll_until(lambda: page.evaluate(f"document.querySelector('{selector}').naturalWidth > 0"), what=selector)


@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (360, "dark"), (1920, "light"), (1920, "dark")])
def test_the_log_fits_and_is_accessible(visit, accessible, fits, width, theme):
    page = visit("/log", width=width, theme=theme)
    assert page.locator("tbody tr").count() == 50
    fits(page)
    accessible(page)


@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1920, "light"), (1920, "dark")])
def test_a_series_fits_and_is_accessible(visit, accessible, fits, pictured, width, theme):
    for uid in pictured:
        page = visit(f"/series/{uid}", width=width, theme=theme)
        loaded(page, "[data-picture]")
        fits(page)
        accessible(page)


@pytest.mark.parametrize("path", ["/log?q=nothing-at-all", "/log?review=none&sort=deviation", "/reviews"])
def test_the_other_views_are_accessible(visit, accessible, fits, path):
    page = visit(path)
    fits(page)
    accessible(page)


def test_filters_stand_in_the_address_and_pages_follow(visit):
    page = visit("/log")
    page.select_option("#f-scanner", "CT-A2")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("scanner=CT-A2"))
    page.get_by_role("link", name="Score (0–4)").click()
    page.wait_for_url(re.compile("sort=score"))
    scores = [float(text) for text in page.locator(".c-score .figure").all_inner_texts()]
    assert scores == sorted(scores)
    page.get_by_role("link", name="Next").click()
    page.wait_for_url(re.compile("at="))
    assert float(page.locator(".c-score .figure").first.inner_text()) >= scores[-1]
    assert set(page.locator(".c-scanner").all_inner_texts()[1:]) == {"CT-A2\nNorthfield General"}
    page.get_by_role("link", name="Previous").click()
    page.wait_for_url(re.compile("at="))
    assert [float(text) for text in page.locator(".c-score .figure").all_inner_texts()] == scores


def test_the_log_works_without_scripts(visit):
    page = visit("/log", scripts=False)
    page.fill("#f-q", "garcia")
    page.press("#f-q", "Enter")
    page.wait_for_url(re.compile("q=garcia"))
    names = page.locator(".c-patient bdi").all_inner_texts()
    assert names
    assert all("Garcia" in name for name in names)


def test_names_of_every_script_are_shown(visit):
    page = visit("/log?q=山田")
    assert "Yamada Tarou 山田 太郎" in page.locator("tbody .c-patient").first.inner_text()
    for word, shown in (("hong", "洪 吉洞"), ("wang", "王 小东"), ("кузнецова", "Кузнецова Мария Ивановна")):
        page.goto(page.url.split("?")[0] + f"?q={word}")
        assert shown in page.locator("tbody .c-patient").first.inner_text()


def test_new_series_come_in_on_top_and_leave_the_focus(visit, filled_site):
    page = visit("/log")
    link = page.locator("tbody tr").nth(2).locator("a.opens")
    link.focus()
    before = link.get_attribute("href")
    fill(filled_site.database, 3, seed=9, until=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1), days=0)
    page.evaluate("window.qaLook()")
    page.wait_for_selector("tr.fresh")
    assert page.locator("tr.fresh").count() >= 3
    assert page.evaluate("document.activeElement.getAttribute('href')") == before
    assert "new series" in page.locator("#live").inner_text()


def test_the_worst_slice_shows_on_focus_and_hover_and_goes_by_escape(visit, pictured):
    page = visit(f"/log?q={pictured[0]}")
    link = page.locator("tbody a.opens")
    link.focus()
    page.wait_for_selector("#thumb:not([hidden])")
    assert page.evaluate("document.querySelector('#thumb img').naturalWidth") > 50
    page.keyboard.press("Escape")
    assert page.locator("#thumb").is_hidden()
    page.locator("#f-q").focus()
    link.hover()
    page.wait_for_selector("#thumb:not([hidden])")


def test_slices_change_zoom_and_keep_their_address_by_keyboard(visit, pictured):
    page = visit(f"/series/{pictured[1]}")
    stage, picture = page.locator("[data-stage]"), page.locator("[data-picture]")
    stage.focus()
    page.keyboard.press("0")
    for _ in range(7):
        page.keyboard.press(".")
    assert "slice=" in page.url
    first = picture.get_attribute("src")
    page.keyboard.press(".")
    assert picture.get_attribute("src") != first
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert "scale(2.25)" in picture.get_attribute("style")
    page.keyboard.press("ArrowRight")
    assert "translate" in picture.get_attribute("style")
    page.keyboard.press("0")
    assert "scale(1)" in picture.get_attribute("style")
    page.get_by_role("link", name="PET hot").press("Enter")
    assert picture.get_attribute("src").endswith("look=hot")
    loaded(page, "[data-picture]")
    page.locator(".strip a").first.press("Enter")
    page.get_by_role("button", name="Heat map").press("Enter")
    loaded(page, "[data-heat]")


def test_a_review_is_signed_by_keyboard_alone(visit, pictured, filled_site):
    page = visit(f"/series/{pictured[0]}", role=Role.REVIEWER)
    page.get_by_label("I agree").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.type("1 poor")
    page.keyboard.press("Tab")
    page.keyboard.type("noise")
    page.keyboard.press("Tab")
    page.keyboard.type("Too noisy for small lesions.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("done=review"))
    said = Reviews(filled_site.database).of(pictured[0])[-1]
    assert (said.agrees, said.score, said.reason, said.comment) == (False, 1.0, "noise", "Too noisy for small lesions.")
    assert page.get_by_text("Too noisy for small lesions.").is_visible()


def test_an_administrator_parks_after_a_question(visit, filled_site):
    row = LogSearch(filled_site.database).page(LogQuery()).rows[9]
    page = visit(f"/series/{row.facts.series_instance_uid}")
    page.locator("summary", has_text="Park…").press("Enter")
    page.locator("#reason-park").fill("wrong table height")
    page.get_by_role("button", name="Park now").press("Enter")
    page.wait_for_url(re.compile("done=park"))
    assert page.get_by_text("wrong table height").first.is_visible()
    assert page.locator("summary", has_text="Release…").count() == 1


def test_the_first_paint_is_light(visit, pictured):
    for path in ("/log", "/log?sort=score", f"/series/{pictured[0]}"):
        page = visit("/account")
        page.route("**/*", lambda route: route.continue_())  # which switches the browser's cache off
        finished: list[Request] = []
        page.on("requestfinished", lambda asked, finished=finished: finished.append(asked))
        page.goto(page.url.replace("/account", path), wait_until="load")
        blocking = [asked for asked in finished if asked.resource_type in ("document", "stylesheet", "script")]
        sizes = {asked.url: asked.sizes()["responseBodySize"] for asked in blocking}
        assert {asked.resource_type for asked in blocking} == {"document", "stylesheet", "script"}
        assert sum(sizes.values()) < 100_000, sizes


def test_it_prints_without_the_controls(visit, pictured, tmp_path: Path):
    page = visit(f"/series/{pictured[0]}")
    page.emulate_media(media="print")
    assert page.locator(".actions-bar").is_hidden()
    assert page.locator("h1").is_visible()
