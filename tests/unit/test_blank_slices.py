"""Slices without an image are named with their places and touch nothing; a series of them gets no score."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from dicom_qa_node.domain.results import Severity
from dicom_qa_node.phantom import ct_series, pet_series, write
from dicom_qa_node.phantom.irregular_series import another_acquisition
from dicom_qa_node.score.blank_slices import is_blank, is_cut_short
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.score.volume_builder import build_volumes
from tests.stub_model import TinyScorer
from tests.unit.synthetic_volumes import reasons, values

SLICES = 24


@pytest.fixture(scope="module")
def ct_images():
    return ct_series(7, SLICES, 128, spacing_mm=5.0, thickness_mm=5.0)


@pytest.fixture(scope="module")
def pet_images():
    return pet_series(7, slices=12, rows=64, pixel_mm=8.0, spacing_mm=8.0)


def filled(images, indices, value=0):
    """Copies of the images, those of ``indices`` of one stored value."""
    made = copy.deepcopy(list(images))
    for index in indices:
        stored = made[index].pixel_array
        made[index].PixelData = np.full_like(stored, value).tobytes()
    return made


def scored(images, folder):
    return score_series(write(images, folder), scorer=TinyScorer()).result


def finding(result, key):
    return next((item for item in result.findings if item.key == key), None)


@pytest.mark.parametrize("value", [0, -1024, 3000])
def test_a_blank_ct_gets_no_score_and_an_error(tmp_path, ct_images, value):
    result = scored(filled(ct_images, range(SLICES), value), tmp_path)
    said = finding(result, "images_blank")
    assert result.score is None
    assert said.severity is Severity.ERROR
    assert "All 24 slices are empty or cut short" in said.sentence
    assert finding(result, "truncated") is None
    withheld = reasons(result.measurements)
    assert "the images are empty" in withheld["global_noise_level"]
    assert "the images are empty" in withheld["water_equivalent_diameter"]
    assert values(result.measurements)["ctdi_vol"] is None
    assert values(result.measurements)["tube_voltage"] == 120.0


@pytest.mark.parametrize("value", [0, 8000])
def test_a_blank_pet_gets_no_score_and_an_error(tmp_path, pet_images, value):
    result = scored(filled(pet_images, range(len(pet_images)), value), tmp_path)
    assert result.score is None
    assert finding(result, "images_blank").severity is Severity.ERROR
    assert "the images are empty" in reasons(result.measurements)["body_suv_mean"]


def test_a_slope_of_zero_is_named(tmp_path, ct_images):
    images = copy.deepcopy(ct_images)
    for image in images:
        image.RescaleSlope = "0"
    result = scored(images, tmp_path)
    assert result.score is None
    assert "Rescale Slope (0028,1053) is 0" in finding(result, "images_blank").sentence


@pytest.mark.parametrize("blank", [(0, 1, 2), (21, 22, 23), (3, 11, 12), (5,)])
@pytest.mark.parametrize("value", [0, -1024])
def test_a_few_blank_slices_leave_the_measurements_of_the_others(tmp_path, ct_images, blank, value):
    (volume,) = build_volumes(write(filled(ct_images, blank, value), tmp_path / "some"))
    rest = [image for index, image in enumerate(ct_images) if index not in blank]
    (others,) = build_volumes(write(rest, tmp_path / "rest"))
    said = {item.key: item for item in volume.findings}
    assert said["slices_blank"].severity is Severity.WARNING
    assert f"{len(blank)} of 24 slices are empty or cut short" in said["slices_blank"].sentence
    assert len(said["slices_blank"].sop_instance_uids) == len(blank)
    assert "slices_missing" not in said
    assert "gaps_uneven" not in said
    assert volume.sop_instance_uids == others.sop_instance_uids
    found, expected = values(measure(volume)), values(measure(others))
    assert found["global_noise_level"] == expected["global_noise_level"] > 5.0
    assert found["water_equivalent_diameter"] == expected["water_equivalent_diameter"]
    assert found["missing_slices"] == 0


def test_their_places_are_named(tmp_path, ct_images):
    (volume,) = build_volumes(write(filled(ct_images, (3, 4, 5, 9)), tmp_path))
    said = next(item for item in volume.findings if item.key == "slices_blank")
    assert "slices 4 to 6, 10" in said.sentence
    assert f"{float(ct_images[9].ImagePositionPatient[2]):.1f}" in said.evidence
    assert said.sop_instance_uids[3] == ct_images[9].SOPInstanceUID


def test_blank_slices_are_never_judged(tmp_path, ct_images):
    result = scored(filled(ct_images, range(7)), tmp_path)
    blank = {image.SOPInstanceUID for image in ct_images[:7]}
    assert result.score is not None
    assert not blank & {item.sop_instance_uid for item in result.slices}


@pytest.mark.parametrize("count", [8, 9, 20])
def test_a_third_of_blank_slices_leaves_no_score(tmp_path, ct_images, count):
    result = scored(filled(ct_images, range(SLICES - count, SLICES), -1024), tmp_path)
    said = finding(result, "images_blank")
    assert result.score is None
    assert said.severity is Severity.ERROR
    assert f"{count} of 24 slices are empty or cut short" in said.sentence


def test_slices_of_padding_are_blank(tmp_path, ct_images):
    images = filled(ct_images, (10,), -2000)
    for image in images:
        image.add_new(0x00280120, "SS", -2000)
    images[11].PixelData = np.where(np.indices((128, 128))[0] < 1, 40, -2000).astype(np.int16).tobytes()
    (volume,) = build_volumes(write(images, tmp_path))
    said = next(item for item in volume.findings if item.key == "slices_blank")
    assert "slices 11 to 12" in said.sentence


def test_a_blank_phase_leaves_the_series_without_a_score(tmp_path, ct_images):
    second = another_acquisition(ct_images)
    result = scored([*ct_images, *filled(second, range(SLICES))], tmp_path)
    assert result.score is None
    assert finding(result, "images_blank").severity is Severity.ERROR


def test_what_is_blank():
    image = np.zeros((64, 64), np.float32)
    assert is_blank(image)
    assert is_blank(image, np.zeros((64, 64), bool))
    image[5, 7] = 3.0
    assert not is_blank(image)
    large = np.zeros((512, 512), np.float32)
    large[100, 100:110] = 9.0
    assert is_blank(large)
    large[100:120, 100:110] = 9.0
    assert not is_blank(large)
    mask = np.ones((512, 512), bool)
    mask[100:120, 100:110] = False
    assert is_blank(large, mask)


@pytest.mark.parametrize("rows", [slice(70, None), slice(None, 50)])
@pytest.mark.parametrize("value", [0, -1024])
def test_slices_cut_off_in_the_body_are_left_out(tmp_path, ct_images, rows, value):
    images = copy.deepcopy(ct_images)
    for image in images[10:13]:
        stored = image.pixel_array.copy()
        stored[rows] = value
        image.PixelData = stored.tobytes()
    (volume,) = build_volumes(write(images, tmp_path))
    said = next(item for item in volume.findings if item.key == "slices_blank")
    assert "slices 11 to 13" in said.sentence
    assert len(volume.positions_mm) == SLICES - 3


def test_a_body_that_ends_in_air_or_padding_is_not_cut_off(ct_images):
    assert not any(is_cut_short(image.pixel_array) for image in ct_images)
    body = np.random.default_rng(2).normal(40.0, 9.0, (128, 128)).round()
    body[:20] = -2000
    assert is_cut_short(body)
    assert not is_cut_short(body, body > -1500)
