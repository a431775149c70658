"""Review queue, comparison, saved views and notifications in Chromium: keys, wheel, drag, no scripts, axe-core."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from playwright.sync_api import Page

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.quality_log.review_queue import QueueScope, ReviewQueue
from dicom_qa_node.quality_log.reviews import Reviews
from tests.conftest import poll_until
from tests.scored_series import add_ct
from tests.web_site import NAMES

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def two_series(filled_site, tmp_path_factory) -> list[str]:
    work = tmp_path_factory.mktemp("two")
    site = filled_site
    return [add_ct(site.config, site.database, work / f"{seed}", seed=seed, slices=12) for seed in (21, 22)]


def shown(page: Page) -> str:
    """Return the UID of the series that the queue shows."""
    address = page.locator("[data-agree-form]").get_attribute("action") or ""
    return address.split("/")[2]


def waiting(site, limit: int = 4) -> list[str]:
    rudi = site.accounts.named(NAMES[Role.REVIEWER])
    since = site.clock() - dt.timedelta(days=site.config.web.review_days)
    items = ReviewQueue(site.database).page(QueueScope.OPEN, rudi.account_id, since=since, limit=limit)
    return [item.row.facts.series_instance_uid for item in items]


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_the_queue_fits_and_is_accessible(visit, accessible, fits, two_series, width, theme):
    for path in ("/review", f"/review?series={two_series[0]}"):
        page = visit(path, role=Role.REVIEWER, width=width, theme=theme)
        fits(page)
        accessible(page)


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light"), (1280, "dark")])
def test_the_comparison_fits_and_is_accessible(visit, accessible, fits, two_series, width, theme):
    page = visit(f"/series/{two_series[0]}/compare?with={two_series[1]}", role=Role.REVIEWER, width=width, theme=theme)
    drawn(page)
    fits(page)
    accessible(page)


def test_the_median_is_missing_accessibly(visit, accessible, fits, two_series):
    page = visit(f"/series/{two_series[0]}/compare?with=median", role=Role.REVIEWER)
    assert page.get_by_text("There is no second series").is_visible()
    fits(page)
    accessible(page)


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_notifications_are_read_one_by_one(visit, accessible, fits, filled_site, two_series, width, theme):
    rudi = filled_site.accounts.named(NAMES[Role.REVIEWER])
    ReviewQueue(filled_site.database).assign(two_series[1], rudi.account_id, by="ada", note="Is the motion too much?")
    for number in range(2):
        occasion = f"{width} {theme} {number}"
        Alerts(filled_site.database).add([NewAlert(occasion, "node", AlertSubject.NODE, f"disk degraded, {occasion}")])
    page = visit("/notifications", role=Role.REVIEWER, width=width, theme=theme)
    fits(page)
    accessible(page)
    unread = page.locator("tr.unread").count()
    assert unread == int(page.locator(".bell-count").inner_text()) >= 3
    page.locator("tr.unread", has_text="motion too much").get_by_role("button").click()
    poll_until(lambda: page.locator("tr.unread").count() == unread - 1, what="one read")
    page.get_by_role("button", name="Mark all as read").click()
    poll_until(lambda: page.locator("tr.unread").count() == 0, what="all read")
    assert page.locator(".bell-count").count() == 0


def test_keys_walk_agree_and_score(visit, filled_site):
    first, second, third, _ = waiting(filled_site)
    page = visit("/review", role=Role.REVIEWER)
    assert shown(page) == first
    page.keyboard.press("j")
    page.wait_for_url(re.compile(f"series={second}"))
    page.keyboard.press("k")
    page.wait_for_url(re.compile(f"series={first}"))
    page.keyboard.press("a")
    page.wait_for_url(re.compile("said=agree"))
    assert shown(page) == second
    assert Reviews(filled_site.database).of(first)[-1].agrees
    page.keyboard.press("0")
    assert page.locator('[name="score"]:checked').get_attribute("value") == "0"
    page.keyboard.press("c")
    page.keyboard.type("a j 3 in words are no keys")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("said=disagree"))
    review = Reviews(filled_site.database).of(second)[-1]
    assert (review.agrees, review.score, review.comment) == (False, 0.0, "a j 3 in words are no keys")
    assert shown(page) == third


def test_keys_are_listed_and_can_be_turned_off(visit, filled_site):
    first = waiting(filled_site)[0]
    page = visit("/review", role=Role.REVIEWER)
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("a")
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").is_hidden()
    page.locator("[data-keys-switch]").uncheck()
    page.locator("h1").click()
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.reload()
    assert not page.locator("[data-keys-switch]").is_checked()
    page.keyboard.press("a")
    assert shown(page) == first
    assert Reviews(filled_site.database).of(first) == []


def test_the_queue_works_without_scripts(visit, filled_site):
    first, second, *_ = waiting(filled_site)
    page = visit("/review", role=Role.REVIEWER, scripts=False)
    assert page.locator("kbd").first.is_hidden()
    page.get_by_role("radio", name="4").check(force=True)
    page.fill("#comment", "Fine for its question.")
    page.get_by_role("button", name="Sign own score").click()
    page.wait_for_url(re.compile("said="))
    assert Reviews(filled_site.database).of(first)[-1].score == 4.0
    assert shown(page) == second


def drawn(page: Page) -> None:
    """Wait until both canvases show a slice."""
    script = "[...document.querySelectorAll('[data-canvas]')].every((one) => !one.hidden && one.width > 1)"
    poll_until(lambda: page.evaluate(script), timeout_s=60, what="both slices")


def grey(page: Page, side: int) -> float:
    return float(
        page.evaluate(
            """(side) => {
                const canvas = document.querySelectorAll('[data-canvas]')[side];
                const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
                let sum = 0;
                for (let i = 0; i < data.length; i += 4) sum += data[i];
                return sum / (data.length / 4);
            }""",
            side,
        )
    )


def place(page: Page, side: int) -> float:
    text = page.locator("[data-text]").nth(side).inner_text()
    return float(re.search(r"(-?[\d.]+) mm", text)[1])


def test_two_series_scroll_together_by_wheel_and_keys(visit, two_series):
    page = visit(f"/series/{two_series[0]}/compare?with={two_series[1]}", role=Role.REVIEWER)
    drawn(page)
    before = place(page, 0), place(page, 1)
    page.locator("[data-screen]").nth(0).hover()
    page.mouse.wheel(0, 120)
    poll_until(lambda: place(page, 0) != before[0], what="the wheel to scroll")
    assert place(page, 0) > before[0]
    assert place(page, 1) - before[1] == pytest.approx(place(page, 0) - before[0], abs=0.2)
    page.locator("[data-linked]").uncheck()
    there = place(page, 1)
    page.locator("[data-screen]").nth(0).focus()
    page.keyboard.press("Home")
    assert page.locator("[data-text]").nth(0).inner_text().startswith("1 of 12")
    assert place(page, 1) == there


def test_dragging_and_presets_change_the_window_of_both(visit, two_series):
    page = visit(f"/series/{two_series[0]}/compare?with={two_series[1]}", role=Role.REVIEWER)
    drawn(page)
    before = grey(page, 0), grey(page, 1)
    page.get_by_role("button", name="Lung").click()
    lung = grey(page, 0), grey(page, 1)
    assert lung[0] > before[0] + 5
    assert lung[1] > before[1] + 5
    page.get_by_role("button", name="Invert").click()
    assert grey(page, 0) == pytest.approx(255 - lung[0], abs=0.01)
    page.get_by_role("button", name="Reset").click()
    assert grey(page, 0) == pytest.approx(before[0], abs=0.01)
    box = page.locator("[data-screen]").nth(1).bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 40, steps=4)
    page.mouse.up()
    assert grey(page, 0) > before[0]
    assert "Centre -40, width 400 HU" in page.locator("[data-window-text]").inner_text()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert re.fullmatch(r"-?\d+ HU", page.locator("[data-value]").nth(1).inner_text())


def test_the_comparison_works_without_scripts(visit, two_series):
    page = visit(f"/series/{two_series[0]}/compare?with={two_series[1]}", role=Role.REVIEWER, scripts=False)
    for side in (0, 1):
        assert page.locator("[data-still]").nth(side).evaluate("one => one.naturalWidth") == 96
    page.get_by_role("link", name="Lung").click()
    page.wait_for_url(re.compile("window=lung"))
    page.get_by_role("link", name="Higher").click()
    page.wait_for_url(re.compile(r"at=0\.55.*window=lung"))


def test_a_view_is_saved_and_opened(visit, accessible):
    page = visit("/log?grade=limited&sort=score", role=Role.REVIEWER)
    page.locator("summary", has_text="Save view").click()
    accessible(page)
    page.get_by_label("Name of this view").fill("Limited, worst first")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_load_state()
    link = page.get_by_role("link", name="Limited, worst first").first
    assert link.get_attribute("aria-current") == "true"
    page.goto(page.url.split("?")[0])
    page.get_by_role("link", name="Limited, worst first").first.click()
    page.wait_for_url(re.compile("grade=limited"))


def test_a_measurement_explains_itself(visit, accessible, two_series):
    page = visit(f"/series/{two_series[0]}", role=Role.REVIEWER)
    detail = page.locator("details.how", has_text="global noise level is measured").first
    detail.locator("summary").press("Enter")
    assert detail.get_by_text("Usual in general").is_visible()
    accessible(page)


def test_pictures_are_cropped_and_shown_whole(visit, two_series):
    page = visit(f"/series/{two_series[0]}", role=Role.REVIEWER)
    width = "document.querySelector('[data-picture]').naturalWidth"
    poll_until(lambda: page.evaluate(width) > 0, what="the slice")
    cropped = page.evaluate(width)
    assert cropped < 96
    page.get_by_role("link", name="Whole image").click()
    poll_until(lambda: page.evaluate(width) == 96, what="the whole image")
    assert "field=whole" in page.url


def test_a_printed_page_names_whom_and_what_it_shows(visit, two_series):
    for path, word in ((f"/series/{two_series[0]}", "accession"), ("/log", "Quality log of")):
        page = visit(path, role=Role.REVIEWER)
        page.emulate_media(media="print")
        assert word in page.locator(".print-head").inner_text()
        assert page.locator("header.bar").is_hidden()
