"""Login, account, users and audit in Chromium: by keyboard alone, narrow and wide, light and dark, without scripts."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from dicom_qa_node.domain.accounts import Role
from tests.web_site import NAMES, PASSWORD

pytestmark = pytest.mark.browser
PAGES = ["/account", "/users", "/audit", "/node/connections/new", "/nowhere"]


def test_login_by_keyboard_alone(visit, accessible):
    page = visit("/login?next=/account", role=None)
    assert page.evaluate("document.activeElement.id") == "name"
    page.keyboard.type(NAMES[Role.VIEWER])
    page.keyboard.press("Tab")
    page.keyboard.type("not the password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    assert page.evaluate("document.activeElement.id") == "password"
    accessible(page)
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/account")


def test_skip_link_leads_to_the_content(visit):
    page = visit("/account")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("path", ["/login", *PAGES])
def test_pages_are_accessible_and_fit(path, width, theme, visit, accessible, fits):
    page = visit(path, role=None if path == "/login" else Role.ADMIN, width=width, theme=theme)
    expect(page.locator("h1")).to_have_count(1)
    accessible(page)
    fits(page)


def test_theme_switch_stays(visit):
    page = visit("/account", theme="light")
    dark = "getComputedStyle(document.documentElement).colorScheme"
    assert page.evaluate(dark) == "light"
    with page.expect_response("**/theme"):
        page.get_by_label("Theme").select_option("dark")
    assert page.evaluate(dark) == "dark"
    page.reload()
    assert page.evaluate(dark) == "dark"


def test_without_scripts_everything_works(visit):
    page = visit("/account", role=Role.VIEWER, scripts=False)
    page.get_by_label("Theme").select_option("dark")
    page.get_by_role("button", name="Set").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.get_by_label("What it is for").fill("no scripts")
    page.get_by_role("button", name="Make a token").click()
    expect(page.get_by_label("Token", exact=True)).to_have_value(re.compile("^qan_"))
    page.get_by_role("button", name="Revoke no scripts").click()
    expect(page.get_by_role("button", name="Revoke no scripts")).to_have_count(0)


def test_an_invited_user_chooses_a_password_and_comes_in(visit, browser, address):
    page = visit("/users")
    page.get_by_label("Login name").fill("noa")
    page.get_by_label("Full name").fill("Noa <b>Bold</b>")
    page.get_by_label("Role", exact=True).select_option("reviewer")
    page.get_by_role("button", name="Add", exact=True).click()
    link = page.get_by_label("One-time link").input_value()
    assert link.startswith(address)
    guest = browser.new_context().new_page()
    guest.goto(link)
    guest.get_by_label("Password", exact=True).fill("slow copper river")
    guest.get_by_label("The same password again").fill("slow copper river")
    guest.keyboard.press("Enter")
    guest.wait_for_url(re.compile(r"/(log|node|account)"))
    expect(guest.get_by_role("link", name="Noa <b>Bold</b>")).to_be_visible()
    page.goto("/users")
    page.get_by_role("button", name="Take away noa").click()
    guest.reload()
    guest.wait_for_url("**/login*")
    guest.context.close()


def test_role_of_a_user_by_keyboard(visit, filled_site):
    filled_site.accounts.add("ben", Role.VIEWER, "Ben")
    page = visit("/users")
    page.get_by_label("Role of ben", exact=True).focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Role of ben", exact=True)).to_have_value("reviewer")
    page.wait_for_function("performance.getEntriesByType('navigation').length > 0")
    page.goto("/audit?event=account.role")
    expect(page.locator("tbody")).to_contain_text("ben")


def test_audit_filters_stand_in_the_address(visit):
    page = visit("/audit")
    page.get_by_label("Who").fill("ada")
    page.get_by_label("What").select_option("login")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/audit?*actor=ada*event=login*")
    words = page.locator("tbody th").all_inner_texts()
    assert words
    assert set(words) == {"login"}
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "login" in download.value.path().read_text()


def test_first_paint_is_light(visit):
    page = visit("/users")
    sizes = page.evaluate(
        "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
        ".reduce((sum, entry) => sum + entry.transferSize, 0)"
    )
    assert 1_000 < sizes < 100_000


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_entry_of_a_new_pacs_is_shown(width, theme, visit, accessible, fits):
    page = visit("/node/connections/new", role=Role.ADMIN, width=width, theme=theme)
    page.get_by_label("What it is").select_option("pacs")
    page.get_by_label("AE title").fill("PACS2")
    page.get_by_label("Address", exact=True).fill("pacs.example")
    page.get_by_label("Name of the target").fill("pacs2")
    page.get_by_role("button", name="Show the entry").click()
    expect(page.get_by_label("Entry for deliver.targets")).to_contain_text("ae_title: PACS2")
    accessible(page)
    fits(page)
