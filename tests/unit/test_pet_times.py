"""Injection, scan start and decay reference agree between SUV and uptake time, in every form that headers have."""

from __future__ import annotations

import datetime as dt
import math

import pytest

from dicom_qa_node.score.pet_times import acquired_at, half_life_of, pet_times
from dicom_qa_node.score.suv import pet_scale, suv_factor
from tests.unit.made_headers import coded, header

F18_S = 6586.2
DAY = "20240501"
F18 = coded("77004003", "SCT", "^18^Fluorine")


def moment(clock, day=1):
    hour, minute, second = (int(part) for part in clock.split(":"))
    return dt.datetime(2024, 5, day, hour, minute, second)  # noqa: DTZ001


def pet(drug=None, **attributes):
    """A PET of 370 MBq of fluorine-18 in 74 kg, injected at 09:00, scanned at 10:00; Bq/ml corrected to the start."""
    injected = {
        "RadiopharmaceuticalStartTime": "090000",
        "RadionuclideTotalDose": 370e6,
        "RadionuclideHalfLife": F18_S,
        "RadionuclideCodeSequence": F18,
    } | (drug or {})
    usual = {
        "SeriesDate": DAY,
        "SeriesTime": "100000",
        "AcquisitionDate": DAY,
        "AcquisitionTime": "100000",
        "Units": "BQML",
        "DecayCorrection": "START",
        "PatientWeight": 74,
        "RadiopharmaceuticalInformationSequence": [
            header(**{keyword: value for keyword, value in injected.items() if value is not None})
        ],
    } | attributes
    return header(**{keyword: value for keyword, value in usual.items() if value is not None})


def uptake(ds, acquired=None, frames=()):
    return pet_times(ds, acquired or [acquired_at(ds)], frames).uptake_min


def elapsed_min(ds, acquired=None):
    """Minutes of decay that the SUV was computed with."""
    scale = pet_scale(ds, acquired or [acquired_at(ds)])
    assert scale.unit == "SUVbw", scale.findings
    whole = suv_factor(74, 370e6, F18_S, 0)
    return F18_S / 60 * _log2(scale.factors[0] / whole)


def _log2(value):
    return math.log2(value)


@pytest.mark.parametrize(
    ("drug", "attributes"),
    [
        ({}, {}),
        ({"RadiopharmaceuticalStartDateTime": "20240501090000"}, {}),
        # in UTC, with the zone of the header
        ({"RadiopharmaceuticalStartDateTime": "20240501070000+0000"}, {"TimezoneOffsetFromUTC": "+0200"}),
        ({"RadiopharmaceuticalStartDateTime": "20240501070000.000+0000", "RadiopharmaceuticalStartTime": None},
         {"TimezoneOffsetFromUTC": "+0200"}),
        # in UTC, and only the local Start Time shows the zone
        ({"RadiopharmaceuticalStartDateTime": "20240501140000+0000"}, {}),
        # in UTC without saying so
        ({"RadiopharmaceuticalStartDateTime": "20240501070000"}, {"TimezoneOffsetFromUTC": "+0200"}),
        # the offset is the local one
        ({"RadiopharmaceuticalStartDateTime": "20240501090000-0500", "RadiopharmaceuticalStartTime": None}, {}),
        # a date alone
        ({"RadiopharmaceuticalStartDateTime": "20240501"}, {}),
        # old forms of time and date
        ({"RadiopharmaceuticalStartTime": "09:00:00"}, {"SeriesDate": "2024.05.01", "SeriesTime": "10:00:00"}),
        ({"RadiopharmaceuticalStartTime": "90000"}, {}),
        # a half-life in minutes, or in hours
        ({"RadionuclideHalfLife": 109.77}, {}),
        ({"RadionuclideHalfLife": 109.77, "RadionuclideCodeSequence": None}, {}),
        ({"RadionuclideHalfLife": 1.8295}, {}),
    ],
)  # fmt: skip
def test_an_hour_is_an_hour_in_every_form_of_the_header(drug, attributes):
    ds = pet(drug, **attributes)
    assert uptake(ds) == pytest.approx(60.0)
    assert elapsed_min(ds) == pytest.approx(60.0, rel=1e-3)


def test_an_empty_first_item_of_the_sequence_is_passed_over():
    ds = pet()
    ds.RadiopharmaceuticalInformationSequence = [header(), ds.RadiopharmaceuticalInformationSequence[0]]
    assert uptake(ds) == 60.0
    assert elapsed_min(ds) == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("attributes", "acquired", "frames", "minutes"),
    [
        # a late static image of a list mode that began at the injection
        ({"SeriesTime": "090000"}, ["10:01:00"], (), 61.0),
        # the same with the acquisition's time left at that of the list mode
        ({"SeriesTime": "090000", "ActualFrameDuration": 1_200_000}, ["9:00:00"], (4_250_000,), 60.94),
        # a processed series; the image was taken an hour after the injection
        ({"SeriesTime": "153000"}, ["10:00:00"], (), 60.0),
        # head first: the first slice of the volume was scanned last
        ({}, ["10:20:00", "10:10:00", "10:00:00"], (), 60.0),
        # over midnight
        ({"SeriesTime": "001500", "drug": {"RadiopharmaceuticalStartTime": "231500"}}, ["0:15:00"], (), 60.0),
    ],
)
def test_uptake_time_runs_to_the_first_acquisition(attributes, acquired, frames, minutes):
    drug = attributes.pop("drug", None)
    ds = pet(drug, **attributes)
    assert uptake(ds, [moment(time) for time in acquired], frames) == pytest.approx(minutes, abs=0.1)


def test_the_private_scan_time_of_ge_serves_suv_and_uptake_time():
    ds = pet(SeriesTime="153000", AcquisitionTime="120000")
    ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240501100000")
    assert uptake(ds) == 60.0
    assert elapsed_min(ds) == pytest.approx(60.0)


def test_the_injection_may_follow_the_start_of_a_list_mode_by_seconds():
    ds = pet({"RadiopharmaceuticalStartTime": "100010"}, AcquisitionTime="104000")
    assert uptake(ds) == pytest.approx(40 - 10 / 60)
    assert elapsed_min(ds) == pytest.approx(-10 / 60, rel=1e-2)
    dynamic = pet({"RadiopharmaceuticalStartTime": "100200"}, SeriesType=["DYNAMIC", "IMAGE"])
    assert uptake(dynamic) == 0.0
    assert elapsed_min(dynamic) == pytest.approx(-2, rel=1e-2)


def test_an_injection_minutes_after_the_start_of_a_static_scan_cannot_be():
    ds = pet({"RadiopharmaceuticalStartTime": "100300"})
    assert uptake(ds) is None
    assert "lies after the scan" in pet_scale(ds, [acquired_at(ds)]).findings[0].sentence


ZR89 = {"RadionuclideHalfLife": 282240.0, "RadionuclideCodeSequence": coded("63360001", "SCT"),
        "Radiopharmaceutical": "89Zr trastuzumab"}  # fmt: skip


def test_days_of_uptake_are_counted_where_the_date_is_given():
    ds = pet(ZR89 | {"RadiopharmaceuticalStartDateTime": "20240427090000"})
    assert uptake(ds) == 4 * 1440 + 60
    scale = pet_scale(ds, [acquired_at(ds)])
    assert scale.factors[0] == pytest.approx(suv_factor(74, 370e6, 282240.0, 4 * 86400 + 3600))


@pytest.mark.parametrize("start", [{}, {"RadiopharmaceuticalStartDateTime": "20240601090000"}])
def test_a_half_life_of_days_without_a_date_gives_no_suv_and_the_reason(start):
    ds = pet(ZR89 | start)
    times = pet_times(ds, [acquired_at(ds)])
    assert times.uptake_min is None
    scale = pet_scale(ds, [acquired_at(ds)])
    assert scale.unit == "BQML"
    for text in (times.missing, scale.findings[0].sentence):
        assert "(0018,1078)" in text
        assert "78 h" in text


def test_a_half_life_of_another_nuclide_gives_no_suv():
    ds = pet({"RadionuclideHalfLife": 4062.0})
    assert half_life_of(ds)[0] is None
    assert "not that of F-18" in pet_scale(ds, [acquired_at(ds)]).findings[0].sentence


def test_a_converted_half_life_is_named():
    scale = pet_scale(pet({"RadionuclideHalfLife": 109.77}), [moment("10:00:00")])
    assert [finding.key for finding in scale.findings] == ["header_unit_converted"]
    assert "minutes" in scale.findings[0].sentence


@pytest.mark.parametrize(("weight", "named"), [(0.07, "0.07"), (74000, "74000")])
def test_an_impossible_weight_gives_no_suv(weight, named):
    assert named in pet_scale(pet(PatientWeight=weight), [moment("10:00:00")]).findings[0].sentence


def test_two_injections_of_different_activity_give_no_suv():
    ds = pet()
    first = ds.RadiopharmaceuticalInformationSequence[0]
    second = header(RadionuclideTotalDose=100e6, RadiopharmaceuticalStartTime="091000")
    ds.RadiopharmaceuticalInformationSequence = [first, second]
    assert "2 doses" in pet_scale(ds, [acquired_at(ds)]).findings[0].sentence


def test_a_time_without_its_date_takes_that_of_the_series_or_the_next():
    assert acquired_at(pet(AcquisitionDate=None, AcquisitionTime="101500")) == moment("10:15:00")
    assert acquired_at(pet(AcquisitionDate=None, SeriesTime="235000", AcquisitionTime="000500")) == moment("0:05:00", 2)


@pytest.mark.parametrize(
    ("units", "factor"),
    [("BQML", 1), ("Bq/ml", 1), ("KBQML", 1e3), ("kBq/ml", 1e3), ("kBq/cc", 1e3), ("GML", None), ("g/ml", None),
     ("{SUVbw}g/ml", None), ("g/mL{SUVbw}", None), ("SUV", None)],
)  # fmt: skip
def test_units_in_every_spelling(units, factor):
    scale = pet_scale(pet(Units=units), [moment("10:00:00")])
    whole = suv_factor(74, 370e6, F18_S, 3600)
    assert scale.unit == "SUVbw"
    assert scale.factors[0] == pytest.approx(1.0 if factor is None else factor * whole)


@pytest.mark.parametrize(
    ("units", "by_weight"),
    # 80 kg, 1.80 m, male: lean mass 62.716 kg (James), 61.67 kg (Janmahasatian); surface 1.9964 m2
    [("g/ml{SUVlbm}", 80 / 62.716), ("{SUVlbm}g/ml", 80 / 62.716), ("{SUVlbm(James128)}g/ml", 80 / 62.716),
     ("{SUVlbm(Janma)}g/ml", 80 / 61.67), ("cm2/ml{SUVbsa}", 80 / 19.964), ("CM2ML", 80 / 19.964)],
)  # fmt: skip
def test_suv_by_other_sizes_come_back_to_weight(units, by_weight):
    ds = pet(Units=units, PatientWeight=80, PatientSize=1.8, PatientSex="M")
    assert pet_scale(ds, [moment("10:00:00")]).factors[0] == pytest.approx(by_weight, rel=1e-3)


@pytest.mark.parametrize(
    ("units", "named"), [("{SUVibw}g/ml", "IBW"), ("PCNT", "PCNT"), ("MLMINML", "MLMINML"), ("{cps}", "{cps}")]
)
def test_a_unit_that_suv_cannot_come_from_is_named(units, named):
    assert named in pet_scale(pet(Units=units), []).findings[0].sentence
