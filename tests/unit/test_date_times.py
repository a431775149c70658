"""Dates and times in the forms of PS3.5, in older ones and in ones that lost a zero; broken ones are not guessed."""

from __future__ import annotations

import datetime as dt

import pytest

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.dicom_io.date_times import parse_date, parse_datetime, parse_time, utc_offset
from tests.unit.made_headers import header

HOUR = dt.timedelta(hours=1)


@pytest.mark.parametrize("text", ["073100", "73100", "07:31:00", "7:31:00", "0731", "07:31", "073100.000", "73100.00 "])
def test_one_time_in_every_form(text):
    assert parse_time(text) == dt.time(7, 31)


def test_fraction_and_leap_second():
    assert parse_time("235960.5") == dt.time(23, 59, 59, 500000)
    assert parse_time("101500.123456789") == dt.time(10, 15, 0, 123456)


@pytest.mark.parametrize("text", ["", "7", "731", "250000", "076100", "07:61:00", "noon", "0731000", "-73100"])
def test_no_time_is_guessed(text):
    assert parse_time(text) is None


@pytest.mark.parametrize("text", ["20240501", "2024.05.01", "2024-05-01"])
def test_one_date_in_every_form(text):
    assert parse_date(text) == dt.date(2024, 5, 1)


@pytest.mark.parametrize("text", ["20240231", "", "240501", "2024.0501", "01052024"])
def test_no_date_is_guessed(text):
    assert parse_date(text) is None


@pytest.mark.parametrize(
    ("text", "offset"),
    [("+0200", 2 * HOUR), ("+02:00", 2 * HOUR), ("-0330", -3.5 * HOUR), ("0200", None), ("+9900", None)],
)
def test_offset_from_utc(text, offset):
    assert utc_offset(text) == offset


def test_a_datetime_has_the_parts_that_it_holds():
    assert parse_datetime("20240501") == (dt.date(2024, 5, 1), None, None)
    assert parse_datetime("20240501080000.25-0500") == (dt.date(2024, 5, 1), dt.time(8, 0, 0, 250000), -5 * HOUR)
    assert parse_datetime("2024-05-01T08:00:00") == (dt.date(2024, 5, 1), dt.time(8), None)
    assert parse_datetime("2024050199") is None


@pytest.mark.parametrize(
    ("value", "zone", "hour"),
    [("20240501080000+0000", "+0200", 10), ("20240501080000+0000", "", 8), ("20240501080000", "+0200", 8),
     ("20240501080000-0500", "+0100", 14), ("20240501080000+0000", "elsewhere", 8)],
)  # fmt: skip
def test_a_datetime_is_moved_to_the_zone_of_its_header(value, zone, hour):
    ds = header(AcquisitionDateTime=value, TimezoneOffsetFromUTC=zone)
    assert at.moment(ds, "AcquisitionDateTime") == dt.datetime(2024, 5, 1, hour)  # noqa: DTZ001


def test_several_values_where_one_belongs_are_no_number():
    assert at.number(header(KVP=["120", "140"]), "KVP") is None
    assert at.text(header(ConvolutionKernel=["Br40", "3"]), "ConvolutionKernel") == "Br40 3"
