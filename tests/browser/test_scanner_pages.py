"""Scanners, node and alerts in the browser: charts, keyboard, widths, themes, axe, print, without scripts."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvents
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.flow.node_statistics import NodeStatistics, TaskRun
from dicom_qa_node.ops.alert_evaluation import AlertEvaluator, update_charts

pytestmark = pytest.mark.browser
PAGES = ["/scanners", "/scanners/{drifting}", "/node", "/alerts"]


@pytest.fixture(scope="module")
def drifting(filled_site):
    """Charts, a service event and some alerts; returns the number of the scanner with a drift."""
    database, now = filled_site.database, filled_site.clock()
    update_charts(filled_site.config, database, AlertEvaluator(filled_site.config))(now)
    cards = {card.scanner.name: card for card in Scanners(database).overview()}
    number = cards["CT-A2"].scanner.scanner_id
    ServiceEvents(database).add(
        number, now - dt.timedelta(days=9), EventKind.CALIBRATION, "air calibration", author="ada"
    )
    Alerts(database).add(
        [
            NewAlert("a", "non-diagnostic", AlertSubject.GRADE, "non-diagnostic, score 0.71", "CT-A2", number, "1.2.3"),
            NewAlert("b", "node-trouble", AlertSubject.NODE, "disk degraded: 900 MB free", trouble="check disk"),
        ]
    )
    NodeStatistics(database).note_task_runs([TaskRun("sweep", 1.0, now, 0.02, now + dt.timedelta(seconds=1), "")])
    return number


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_and_are_accessible(visit, accessible, fits, drifting, path, width, theme):
    page = visit(path.format(drifting=drifting), width=width, theme=theme)
    assert page.locator("h1").count() == 1
    if "{" in path:
        page.wait_for_selector(".uplot")
    fits(page)
    accessible(page)


def test_charts_are_drawn_and_judged(visit, drifting):
    page = visit(f"/scanners/{drifting}")
    page.wait_for_selector("[data-chart=individuals] canvas")
    assert page.locator(".uplot").count() == 2
    assert page.locator("[data-chart] > .chart-svg").first.is_hidden()
    over = page.locator("[data-chart=individuals] .u-over")
    over.hover(position={"x": 200, "y": 80})
    assert re.search(r"score \d", page.locator("[data-chart=individuals] .legend").inner_text())
    page.emulate_media(media="print")
    assert page.locator("[data-chart] > .chart-svg").first.is_visible()


def test_a_click_on_a_point_opens_its_series(visit, drifting):
    page = visit(f"/scanners/{drifting}")
    page.wait_for_selector("[data-chart=individuals] canvas")
    page.locator("[data-chart=individuals] .u-over").click(position={"x": 300, "y": 80})
    page.wait_for_url(re.compile(r"/series/[0-9.]+"))


def test_without_scripts_the_server_draws(visit, drifting, fits):
    page = visit(f"/scanners/{drifting}", scripts=False)
    assert page.locator(".chart-svg").first.is_visible()
    assert page.locator(".chart-svg").count() == 3
    page.select_option("#points", "100")
    page.get_by_role("button", name="Show", exact=True).click()
    assert "points=100" in page.url
    fits(page)


def test_keyboard_alone_marks_an_event_and_chooses_a_baseline(visit, filled_site, drifting):
    page = visit(f"/scanners/{drifting}")
    page.focus("#at")
    page.keyboard.press("Tab")
    for _ in range(12):
        if page.evaluate("document.activeElement.id") == "text":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("tube <b>replaced</b>")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("#events"))
    assert "tube <b>replaced</b>" in page.locator("#events").inner_text()
    group = Scanners(filled_site.database).groups(drifting)[0]
    points = Scanners(filled_site.database).chart(group, points=5000).points
    page.fill("#first_day", points[0].at.date().isoformat())
    page.fill("#last_day", points[-1].at.date().isoformat())
    page.focus("#reason")
    page.keyboard.type("after service")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("#baseline"))
    assert "chosen by ada" in page.locator("#baseline").inner_text()


def test_what_a_viewer_may_not_is_not_offered(visit, drifting):
    page = visit(f"/scanners/{drifting}", role=Role.VIEWER)
    assert page.locator("#first_day").count() == 0
    assert page.locator("#text").count() == 0
    page = visit("/node", role=Role.VIEWER)
    assert page.get_by_text("Configuration as loaded").count() == 0
    page = visit("/alerts", role=Role.VIEWER)
    assert page.get_by_role("button", name=re.compile("Acknowledge")).count() == 0


def test_an_alert_is_acknowledged_by_keyboard(visit, filled_site, drifting):
    (number,) = Alerts(filled_site.database).add([NewAlert("c", "r", AlertSubject.NODE, "to be acknowledged")])
    page = visit("/alerts", role=Role.REVIEWER)
    page.focus(f"#note-{number}")
    page.keyboard.type("seen to")
    page.keyboard.press("Tab")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert Alerts(filled_site.database).alert(number).acknowledged_by == "rudi"
    assert "rudi" in page.locator("body").inner_text()


def test_the_node_page_refreshes_itself(visit, drifting):
    page = visit("/node")
    page.evaluate("document.querySelector('.tiles').id = 'old'")
    page.wait_for_selector("#old", state="detached", timeout=20_000)
    assert page.locator(".tiles").count() == 1
