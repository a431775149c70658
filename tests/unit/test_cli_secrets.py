"""What commands print is safe to pass on: no password, no cell that a spreadsheet would run."""

from __future__ import annotations

import pytest

from dicom_qa_node.cli.quality import _as_cell
from dicom_qa_node.cli.settings import _without_password


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://qa:s3cr:et@db.example/qa", "postgresql://qa:***@db.example/qa"),
        ("postgresql://qa@db.example/qa", "postgresql://qa@db.example/qa"),
        ("sqlite:////var/lib/qa.db", "sqlite:////var/lib/qa.db"),
    ],
)
def test_password_of_the_database_is_hidden(address, shown):
    assert _without_password(address) == shown


@pytest.mark.parametrize(
    ("value", "cell"), [("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("CT7", "CT7"), (-1.5, -1.5), ("", "")]
)
def test_cells_are_no_formulas(value, cell):
    assert _as_cell(value) == cell
