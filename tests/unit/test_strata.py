"""What may stand on one chart, when a series was acquired, and how it was reconstructed."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from pydicom import Dataset

from dicom_qa_node.charts.strata import Stratum, stratum_of, thickness_class
from dicom_qa_node.dicom_io.headers import tolerant
from dicom_qa_node.domain.acquisition_parameters import Acquisition, Reconstruction, Sharpness, acquired_at
from dicom_qa_node.domain.results import Measurement, SeriesKind
from dicom_qa_node.domain.scanner_names import derived_name, names_nothing
from dicom_qa_node.score.acquisition_facts import acquisition_of, reconstruction_of

SCORED = dt.datetime(2026, 3, 29, 10, tzinfo=dt.UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def header(**values: object) -> Dataset:
    made = Dataset()
    with tolerant():
        for name, value in values.items():
            setattr(made, name, value)
    return made


def local(*numbers: int) -> dt.datetime:
    """Return a time at a scanner, as headers give it."""
    return dt.datetime(*numbers)  # noqa: DTZ001


def quantity(name: str, value: float | None) -> Measurement:
    return Measurement(name, name, value, "1")


def test_kernel_reconstruction_and_thickness_part_the_charts_of_a_protocol():
    facts = Acquisition(reconstruction=Reconstruction.ITERATIVE, slice_thickness_mm=2.9)
    soft = stratum_of("ct", " Thorax  Routine ", [quantity("kernel_sharpness", 0.0)], facts)
    assert soft == Stratum("Thorax Routine", Sharpness.SOFT, Reconstruction.ITERATIVE, "3 mm")
    assert soft.label == "Thorax Routine · soft kernel · iterative · 3 mm"
    sharp = stratum_of("ct", "Thorax Routine", [quantity("kernel_sharpness", 1.0)], facts)
    assert sharp.label != soft.label


def test_what_is_not_known_is_left_out_so_that_older_results_keep_their_chart():
    assert stratum_of("ct", "Thorax", [], None).label == "Thorax"
    assert stratum_of("ct", "  ", [], None).label == "(no protocol)"
    assert stratum_of("ct", "Thorax", [quantity("slice_thickness", 5.0)], None).label == "Thorax · 5 mm"
    assert stratum_of("ct", "Thorax", [quantity("kernel_sharpness", None)], None).kernel is Sharpness.UNKNOWN


def test_a_pet_has_no_kernel():
    facts = Acquisition(reconstruction=Reconstruction.ITERATIVE, slice_thickness_mm=3.0)
    found = stratum_of(SeriesKind.PETCT, "FDG", [quantity("kernel_sharpness", 1.0)], facts)
    assert (found.kernel, found.label) == (Sharpness.UNKNOWN, "FDG · iterative · 3 mm")


@pytest.mark.parametrize(
    ("thickness", "name"),
    [(0.5, "0.5 mm"), (0.6, "0.625 mm"), (1, "1 mm"), (2.4, "2.5 mm"), (3.27, "3 mm"), (5.0, "5 mm"), (20, "thick"),
     (0.0, ""), (-1.0, ""), (float("nan"), ""), (None, "")],
)  # fmt: skip
def test_a_thickness_belongs_to_the_nearest_nominal_one(thickness, name):
    assert thickness_class(thickness) == name


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"AcquisitionDate": "20260301", "AcquisitionTime": "101112.5"}, "2026-03-01T10:11:12.5"),
        ({"AcquisitionDate": "20261301", "SeriesDate": "20260302", "SeriesTime": "0700"}, "2026-03-02T07:00"),
        ({"StudyDate": "20260303"}, "2026-03-03T00:00"),
        ({"AcquisitionDateTime": "20260304120000", "StudyDate": "20260303"}, "2026-03-04T12:00"),
    ],
)  # fmt: skip
def test_the_first_date_that_can_be_read_is_that_of_the_acquisition(values, wanted):
    assert acquisition_of(header(**values), SeriesKind.CT).at == dt.datetime.fromisoformat(wanted)
    assert acquisition_of(header(), SeriesKind.CT).at is None


def test_the_offset_is_the_headers_else_that_of_the_date_and_time():
    assert acquisition_of(header(TimezoneOffsetFromUTC="-0500"), SeriesKind.CT).utc_offset_min == -300
    assert acquisition_of(header(AcquisitionDateTime="20260304120000+0200"), SeriesKind.CT).utc_offset_min == 120
    assert acquisition_of(header(AcquisitionDateTime="20260304120000"), SeriesKind.CT).utc_offset_min is None


def test_times_without_an_offset_are_in_the_zone_of_the_site_through_summer_time():
    winter, summer = local(2026, 3, 28, 12), local(2026, 3, 29, 11)
    assert acquired_at(Acquisition(winter), None, SCORED, BERLIN) == dt.datetime(2026, 3, 28, 11, tzinfo=dt.UTC)
    assert acquired_at(Acquisition(summer), None, SCORED, BERLIN) == dt.datetime(2026, 3, 29, 9, tzinfo=dt.UTC)
    assert acquired_at(Acquisition(winter, 300), None, SCORED, BERLIN) == dt.datetime(2026, 3, 28, 7, tzinfo=dt.UTC)


def test_times_that_cannot_be_are_passed_over():
    study = local(2026, 3, 20, 8)
    wanted = study.replace(tzinfo=dt.UTC)
    for wrong in (local(1970, 1, 1), local(2031, 1, 1)):
        assert acquired_at(Acquisition(wrong), study, SCORED, dt.UTC) == wanted
        assert acquired_at(Acquisition(wrong), None, SCORED, dt.UTC) == SCORED
    # A clock some hours fast: before its scoring all the same.
    assert acquired_at(Acquisition(SCORED.replace(tzinfo=None) + dt.timedelta(hours=3)), None, SCORED, dt.UTC) == SCORED
    assert acquired_at(None, study, SCORED, dt.UTC) == wanted


FBP, ITERATIVE = Reconstruction.FBP, Reconstruction.ITERATIVE
DEEP, UNKNOWN = Reconstruction.DEEP_LEARNING, Reconstruction.UNKNOWN


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, UNKNOWN),
        ({"ReconstructionAlgorithm": "FILTER_BACK_PROJ"}, FBP),
        ({"ReconstructionAlgorithm": "ITERATIVE"}, ITERATIVE),
        ({"ReconstructionAlgorithm": "ITERATIVE", "ConvolutionKernel": "AiCE BODY"}, DEEP),
        ({"Manufacturer": "SIEMENS", "ConvolutionKernel": "B30f"}, FBP),
        ({"Manufacturer": "SIEMENS", "ConvolutionKernel": ["I30f", "3"]}, ITERATIVE),
        ({"Manufacturer": "Siemens Healthineers", "ConvolutionKernel": ["Br40d", "3"]}, ITERATIVE),
        ({"Manufacturer": "Siemens Healthineers", "ConvolutionKernel": "Br40d"}, FBP),
        ({"Manufacturer": "Philips", "ConvolutionKernel": "B", "SeriesDescription": "Abd iDose4"}, ITERATIVE),
        ({"Manufacturer": "CANON_MEC", "ConvolutionKernel": "FC18", "SeriesDescription": "AIDR 3D"}, ITERATIVE),
        ({"Manufacturer": "CANON_MEC", "ConvolutionKernel": "FIRST BODY"}, ITERATIVE),
        ({"Manufacturer": "CANON_MEC", "ConvolutionKernel": "FC18", "SeriesDescription": "first phase"}, UNKNOWN),
        ({"Manufacturer": "GE MEDICAL SYSTEMS", "ConvolutionKernel": "STANDARD"}, UNKNOWN),
        ({"SeriesDescription": "Veolia site"}, UNKNOWN),
    ],
)
def test_the_reconstruction_is_what_the_header_names(values, wanted):
    assert reconstruction_of(header(**values), SeriesKind.CT) is wanted


def test_private_attributes_name_the_reconstruction():
    made = header(Manufacturer="GE MEDICAL SYSTEMS")
    block = made.private_block(0x0053, "GEHC_CT_ADVAPP_001", create=True)
    block.add_new(0x43, "SH", "40")
    assert reconstruction_of(made, SeriesKind.CT) is ITERATIVE
    block.add_new(0x42, "LO", "DLIR-H")
    assert reconstruction_of(made, SeriesKind.CT) is DEEP


@pytest.mark.parametrize(
    ("method", "wanted"),
    [("OSEM2D 4i8s", ITERATIVE), ("PSF+TOF 4i5s", ITERATIVE), ("VPFXS", ITERATIVE), ("3D-RP", FBP), ("", UNKNOWN)],
)
def test_the_reconstruction_of_a_pet_is_its_method(method, wanted):
    assert reconstruction_of(header(ReconstructionMethod=method), SeriesKind.PT) is wanted


@pytest.mark.parametrize("name", ["", " ", "0", "000", "-", "<none>", "UNKNOWN", "unknown", "N/A", "localhost"])
def test_names_that_name_nothing_are_replaced(name):
    assert names_nothing(name)
    assert derived_name(name, "Altair", "Vega 64", "31877") == "Vega 64 31877"
    assert derived_name(name, "Altair", "", "0") == "Altair"
    assert derived_name(name, "", name, "") == "unknown"


@pytest.mark.parametrize("name", ["CT1", "1", "Raum 0", "CTAWP00001", "α"])
def test_names_that_name_something_stay(name):
    assert derived_name(f" {name} ", "Altair", "Vega 64", "31877") == name
