"""The axis of the weekly chart: round values between the ends, months below."""

from __future__ import annotations

import datetime as dt

import pytest

from dicom_qa_node.charts.control_charts import Distribution
from dicom_qa_node.charts.scanners import Week
from dicom_qa_node.web.chart_drawing import HEIGHT, WIDTH, round_values, weeks_picture


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (2.1, 3.4, [2.2, 2.4, 2.6, 2.8, 3.0, 3.2, 3.4]),
        (-1010, -990, [-1010, -1005, -1000, -995, -990]),
        (0.155, 0.1552, [0.155, 0.15505, 0.1551, 0.15515, 0.1552]),
        (5, 5, [5]),
        (0, 0, [0]),
        (3.01, 3.02, [3.01, 3.012, 3.014, 3.016, 3.018, 3.02]),
    ],
)
def test_values_are_round_and_lie_between_the_ends(low, high, values):
    assert round_values(low, high) == pytest.approx(values)


def test_the_weekly_chart_has_both_axes():
    first = dt.date(2026, 1, 5)
    weeks = [
        Week(first + dt.timedelta(weeks=n), Distribution(9, 1.0, 2.0 + n / 100, 2.5 + n / 100, 3.0 + n / 100, 4.0, 2.5))
        for n in range(60)
    ]
    picture = weeks_picture(weeks)
    assert picture is not None
    assert [mark.label for mark in picture.scale] == ["2", "2.5", "3", "3.5"]
    assert all(0 <= mark.at <= HEIGHT for mark in picture.scale)
    assert picture.days[0].label == "Jan 2026"
    assert len(picture.days) <= 8
    assert all(0 <= mark.at <= WIDTH for mark in picture.days)
