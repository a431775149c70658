"""One rule finds the CT of a PET among reformats, thin partial series, several kernels and Enhanced CT."""

from __future__ import annotations

import pytest

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.score.ct_selection import rank_ct_stacks
from dicom_qa_node.score.volume_builder import scan_headers, survey_each
from tests.tiny_series import ct, multiframe, pet, write

CORONAL = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]


def ct_slices(name, count=8, spacing=5.0, start=0.0, **elements):
    """A CT whose field is wide enough for a body, from ``start`` on; PETs here run from 0 to 35 mm."""
    usual = {
        "PixelSpacing": [30.0, 30.0],
        "SliceThickness": 5.0,
        "SeriesDescription": "CT",
        "ConvolutionKernel": "B30f",
    }
    return [
        ct(
            index,
            SeriesInstanceUID=f"1.2.{name}",
            SOPInstanceUID=f"1.2.{name}.{index + 1}",
            ImagePositionPatient=elements.get("ImagePositionPatient", [-300.0, -240.0, start + spacing * index]),
            **{keyword: value for keyword, value in (usual | elements).items() if keyword != "ImagePositionPatient"},
        )
        for index in range(count)
    ]


def coronal(name, count=40):
    made = ct_slices(name, count, ImageOrientationPatient=CORONAL, ImageType=["DERIVED", "SECONDARY", "REFORMATTED"])
    for index, ds in enumerate(made):
        ds.ImagePositionPatient = [-300.0, -240.0 + 5.0 * index, 35.0]
    return made


@pytest.fixture
def best(tmp_path):
    """Rank CT series for one PET; return the last component of their UIDs, and why there is none."""
    slices = [
        pet(i, PixelSpacing=[30.0, 30.0], SliceThickness=5.0, ImagePositionPatient=[-300.0, -240.0, 5.0 * i])
        for i in range(8)
    ]
    (stack,) = scan_headers(write(tmp_path / "pet", slices)).stacks

    def ranked(*series):
        paths = [path for n, one in enumerate(series) for path in write(tmp_path / f"ct{n}", one)]
        parts = [part for found in survey_each(paths) for part in found.stacks]
        order, reason = rank_ct_stacks(stack, parts)
        return [int(item.series_instance_uid.rsplit(".")[-1]) for item in order], reason

    return ranked


AC = ct_slices(10, SeriesDescription="CT AC 5.0")


def test_a_reformat_of_more_images_is_never_taken(best):
    assert best(coronal(11), AC) == ([10], "")


@pytest.mark.parametrize("image_type", [
    ["DERIVED", "SECONDARY", "MPR"], ["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "PROJECTION IMAGE"],
    ["DERIVED", "PRIMARY", "MIP"], ["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MPR"],
])  # fmt: skip
def test_localizers_reformats_and_projections_are_never_taken(best, image_type):
    other = ct_slices(11, 20, 2.0, ImageType=image_type)
    assert best(other, AC)[0] == [10]


def test_coverage_goes_before_the_number_of_images(best):
    lung = ct_slices(11, 30, 0.5, start=20.0, SliceThickness=0.5, ConvolutionKernel="B70f")
    assert best(lung, AC)[0] == [10, 11]


def test_of_two_kernels_the_soft_one_is_taken_whatever_the_thickness(best):
    lung = ct_slices(9, ConvolutionKernel="Bl57")
    thin = ct_slices(11, 36, 1.0, SliceThickness=1.0, ConvolutionKernel="B80f")
    assert best(lung, thin, AC)[0][0] == 10


def test_of_two_soft_ones_that_for_attenuation_correction_is_taken(best):
    assert best(ct_slices(9, SeriesDescription="CT diagnostic"), AC)[0] == [10, 9]


def test_of_two_alike_the_thickness_nearest_to_the_pet_decides(best):
    thin = ct_slices(9, 36, 1.0, SliceThickness=1.0)
    assert best(thin, ct_slices(10))[0] == [10, 9]


def test_a_small_field_of_view_loses(best):
    small = ct_slices(9, PixelSpacing=[15.0, 15.0], SeriesDescription="CT AC small")
    assert best(small, ct_slices(10))[0] == [10, 9]


def test_an_original_goes_before_a_derived_series(best):
    derived = ct_slices(9, ImageType=["DERIVED", "PRIMARY", "AXIAL"], SeriesDescription="CT AC 5.0")
    assert best(derived, ct_slices(10))[0] == [10, 9]
    # but an archive's compressed copy is better than nothing
    assert best(derived)[0] == [9]


def test_enhanced_ct_is_a_candidate_like_any_other(best):
    frames = ct_slices(10)
    made = multiframe(frames, SeriesInstanceUID="1.2.10", SOPInstanceUID="1.2.10.1", SliceThickness=None)
    lung = ct_slices(11, 30, 0.5, start=20.0, SliceThickness=0.5, ConvolutionKernel="B70f")
    assert best(lung, [made])[0] == [10, 11]


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"FrameOfReferenceUID": "1.9.9"}, "Frame of Reference"),
        ({"StudyInstanceUID": "1.9.9"}, "another study"),
        ({"ImageOrientationPatient": CORONAL}, "another plane"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "reformatted"),
    ],
)
def test_why_a_ct_cannot_be_fused_is_named(best, elements, reason):
    order, why = best(ct_slices(11, 1, **elements))
    assert order == []
    assert reason in why


def test_the_order_of_the_files_does_not_matter(best):
    twin = ct_slices(9, SeriesDescription="CT AC 5.0")
    assert best(AC, twin)[0] == best(twin, AC)[0]


def test_a_series_that_cannot_be_scored_is_passed_over(tmp_path):
    (broken,) = ct_slices(11, 1, PixelSpacing=None)
    found = survey_each([*write(tmp_path / "a", [broken]), *write(tmp_path / "b", AC)])
    assert [item.series_instance_uid for item in found] == ["1.2.10"]
    with pytest.raises(Permanent):
        survey_each(write(tmp_path / "c", [broken]))
