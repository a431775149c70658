"""Callers that were refused: kept for days, in bounds, and shown with an entry to copy."""

from __future__ import annotations

import datetime as dt

import pytest

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import RefusedCaller
from dicom_qa_node.flow.refused_callers import MOST_ROWS, RefusedCallers
from dicom_qa_node.flow.registry import Registry
from tests.web_site import logged_in, open_site

SCRIPT = "<script>1</script>"


def note(database: Database, calling: str = "CT2", reason: str = "not on the list", **change) -> None:
    row = {"host": "192.0.2.7", "calling_ae": calling, "called_ae": "DICOMQA", "reason": reason, "at": utc_now()}
    Registry(database).record([RefusedCaller(**row | change)])


def test_the_same_refusal_is_one_row_that_counts(any_database: Database) -> None:
    note(any_database)
    note(any_database, times=59, called_ae="OTHER")
    note(any_database, reason="too many associations")
    found = {row.reason: row for row in RefusedCallers(any_database).latest()}
    assert (found["not on the list"].times, found["not on the list"].called_ae) == (60, "OTHER")
    assert found["too many associations"].times == 1


def test_old_ones_leave_and_the_number_has_a_limit(any_database: Database) -> None:
    note(any_database, "OLD", at=utc_now() - dt.timedelta(days=8))
    assert RefusedCallers(any_database).latest() == []
    many = [
        RefusedCaller("192.0.2.7", f"X{number}", "", "r", utc_now() + dt.timedelta(milliseconds=number))
        for number in range(MOST_ROWS + 50)
    ]
    Registry(any_database).record(many)
    found = RefusedCallers(any_database).latest(10_000)
    assert len(found) == MOST_ROWS
    assert found[0].calling_ae == f"X{MOST_ROWS + 49}"


@pytest.mark.parametrize(
    ("title", "entry"),
    [("CT2", "- ae_title: 'CT2'\n  hosts: ['192.0.2.7']"), ("O'N", "- ae_title: 'O''N'\n  hosts: ['192.0.2.7']"),
     ("", ""), ("M?LLER", ""), ("(none)", "")],
)  # fmt: skip
def test_the_entry_to_copy(any_database: Database, title: str, entry: str) -> None:
    note(any_database, title)
    (row,) = RefusedCallers(any_database).latest()
    assert row.peers_entry == entry


def test_the_node_page_lists_them_as_text(tmp_path) -> None:
    site = open_site(tmp_path)
    note(site.database)
    note(site.database, SCRIPT[:16], SCRIPT)
    page = logged_in(site, Role.ADMIN).get("/node").text
    site.database.close()
    assert "Callers refused in the last seven days" in page
    assert "- ae_title: &#39;CT2&#39;" in page
    assert "192.0.2.7" in page
    assert SCRIPT not in page
