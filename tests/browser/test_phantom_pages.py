"""The pages of QC phantoms in the browser: they fit, axe finds nothing, and a decision is made by keyboard and form."""

from __future__ import annotations

import datetime as dt

import pytest

from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.quality_control.decisions import SubjectDecisions
from dicom_qa_node.quality_control.runs import PhantomRuns
from tests.phantom_runs import add_run, phantom_result

pytestmark = pytest.mark.browser
GOOD = {"phantom_hu_centre": 0.5, "phantom_noise": 5.0, "phantom_edge_centre": 1.0}
PHANTOMS = {
    "analyse": [
        {"name": "CT1-water", "kind": "water", "scanner": "CT1", "schedule": "workdays"},
        {"name": "CT1-catphan", "kind": "catphan504", "scanner": "CT1", "protocol": "QA*", "schedule": "weekly"},
    ]
}
PAGES = [
    "/phantoms",
    "/phantoms/charts/{scanner}?phantom=CT1-water",
    "/phantoms/tolerances?kind=catphan504",
    "/series/1.77.1",
]


@pytest.fixture(scope="module")
def scanner(filled_site):
    """Three weeks of a water phantom; returns the number of its scanner."""
    site, now = filled_site, filled_site.clock()
    phantoms = type(site.config.phantoms).model_validate(PHANTOMS)
    object.__setattr__(site, "config", site.config.model_copy(update={"phantoms": phantoms}))
    for number in range(15):
        moment = (now - dt.timedelta(days=20 - number)).replace(tzinfo=None, microsecond=0)
        centre = 6.2 if number == 9 else 0.3 * number
        uid = f"1.77.{number + 1}"
        add_run(
            site.database, uid, phantom_result(uid, GOOD | {"phantom_hu_centre": centre}, moment, phantom="CT1-water")
        )
    return PhantomRuns(site.database).charts()[0].scanner_id


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_and_are_accessible(visit, accessible, fits, scanner, path, width, theme):
    page = visit(path.format(scanner=scanner), width=width, theme=theme)
    assert page.locator("h1").count() == 1
    fits(page)
    accessible(page)


def test_a_person_marks_a_series_as_a_patient(visit, filled_site, scanner):
    page = visit("/series/1.77.2", role=Role.ADMIN)
    page.get_by_text("This is a patient").click()
    page.get_by_label("Why", exact=True).last.fill("a patient in the QC protocol")
    page.get_by_role("button", name="Score as a patient").click()
    page.wait_for_url("**done=subject")
    assert page.get_by_role("status").first.inner_text().startswith("Noted")
    assert SubjectDecisions(filled_site.database).latest("1.77.2").phantom is False
