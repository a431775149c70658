"""A CT that is not in HU is recognised from its images, with the cause; phantoms and children are in HU."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest

from dicom_qa_node.domain.results import Severity
from dicom_qa_node.phantom import ct_series, write
from dicom_qa_node.phantom.known_values import known_noise_volume
from dicom_qa_node.score.physics.hu_scale import ScaleFault, check_hu_scale
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.score.rescale_type import ct_unit
from dicom_qa_node.score.rules.evaluation import evaluate_rules
from dicom_qa_node.score.volume_builder import build_volumes
from tests.stub_model import TinyScorer
from tests.unit.synthetic_volumes import ct, ellipse, reasons, values, volume

FAULTS = {
    "intercept lost": (lambda hu: hu + 1024, ScaleFault.OFFSET, "lost Rescale Intercept"),
    "intercept of 1000 lost": (lambda hu: hu + 1000, ScaleFault.OFFSET, "lost Rescale Intercept"),
    "intercept lost, air clipped": (lambda hu: np.maximum(hu + 1024, 0), ScaleFault.OFFSET, "lost Rescale Intercept"),
    "intercept doubled": (lambda hu: hu - 1024, ScaleFault.OFFSET, "applied twice"),
    "2048 too high": (lambda hu: hu + 2048, ScaleFault.OFFSET, "HU too high"),
    "300 too high": (lambda hu: hu + 300, ScaleFault.OFFSET, "HU too high"),
    "slope doubled": (lambda hu: 2 * (hu + 1024) - 1024, ScaleFault.SLOPE, "Rescale Slope"),
    "slope of 10": (lambda hu: 10 * hu, ScaleFault.SLOPE, "Rescale Slope"),
    "slope of a half": (lambda hu: 0.5 * (hu + 1024) - 1024, ScaleFault.SLOPE, "Rescale Slope"),
    "negatives cut": (lambda hu: np.maximum(hu, 0), ScaleFault.NEGATIVES, "negative values were cut off"),
    "soft-tissue window": (lambda hu: np.clip(hu, -160, 240), ScaleFault.WINDOW, "below -160 HU and above 240 HU"),
    "lung window": (lambda hu: np.clip(hu, -1350, 150), ScaleFault.WINDOW, "above 150 HU"),
    "bone window": (lambda hu: np.clip(hu, -500, 1300), ScaleFault.WINDOW, "below -500 HU"),
    "screen": (lambda hu: np.rint((np.clip(hu, -160, 240) + 160) / 400 * 255), ScaleFault.WINDOW, "of a display"),
    "unsigned": (lambda hu: np.where(hu < 0, hu + 65536, hu), ScaleFault.SIGN, "Pixel Representation"),
}


@pytest.fixture(scope="module", params=[(7, 256, 400.0, -20.0), (11, 256, 500.0, 30.0), (3, 200, 360.0, -120.0)])
def patient(request, tmp_path_factory):
    """Generated patients of several sizes, levels and fields."""
    seed, rows, fov_mm, centre_mm = request.param
    images = ct_series(seed, 12, rows, spacing_mm=8.0, thickness_mm=5.0, fov_mm=fov_mm, centre_mm=centre_mm)
    return build_volumes(write(images, tmp_path_factory.mktemp("patient")))[0]


def test_a_patient_in_hu_is_in_hu(patient):
    found = check_hu_scale(patient)
    assert found.fault is None
    assert found.proven


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_cause(patient, name):
    change, fault, cause = FAULTS[name]
    voxels = np.asarray(change(np.asarray(patient.voxels)), np.float32)
    found = check_hu_scale(replace(patient, voxels=voxels, valid=voxels > -1500))
    assert found.fault is fault, found
    assert cause in found.sentence
    assert found.evidence
    if fault is ScaleFault.OFFSET:
        stated = float(re.search(r"about (\d+) HU", found.sentence)[1])
        assert stated == pytest.approx(abs(change(np.array([-600.0]))[0] + 600.0), abs=60)


@pytest.mark.parametrize("name", ["intercept lost", "2048 too high", "slope doubled", "soft-tissue window"])
def test_a_body_that_fills_the_field_shows_it_too(patient, name):
    middle = np.s_[:, 96:160, 90:166] if patient.voxels.shape[1] == 256 else np.s_[:, 70:130, 66:134]
    inside = np.asarray(patient.voxels)[middle]
    assert check_hu_scale(replace(patient, voxels=inside)).fault is None
    change, *_ = FAULTS[name]
    found = check_hu_scale(replace(patient, voxels=np.asarray(change(inside), np.float32)))
    assert found.fault is not None, found


@pytest.mark.parametrize("material_hu", [0.0, -90.0, 20.0, 120.0])
@pytest.mark.parametrize("noise_hu", [4.0, 40.0])
def test_a_phantom_of_one_material_is_in_hu(material_hu, noise_hu):
    rng = np.random.default_rng(5)
    disc = ellipse(256, 1.2, (100.0, 100.0))
    made = np.repeat((disc * (material_hu + 1000.0) - 1000.0)[None], 4, axis=0)
    phantom = volume(made + rng.normal(0, noise_hu, made.shape).astype(np.float32), (3.0, 1.2, 1.2))
    assert check_hu_scale(phantom).fault is None
    assert "hu_scale_off" not in {finding.key for finding in evaluate_rules(phantom, measure(phantom))}


def test_a_water_phantom_that_fills_the_field_is_in_hu():
    water = np.random.default_rng(1).normal(0.0, 12.0, (4, 128, 128)).astype(np.float32)
    assert check_hu_scale(volume(water)).fault is None


@pytest.mark.parametrize("fat_mm", [1.5, 3.0, 4.0])
def test_the_thin_fat_of_a_small_child_is_no_error_of_the_scale(fat_mm):
    child = ct(6, 14.0, pixel_mm=0.8, half_mm=(48.0, 62.0), fat_mm=fat_mm, skin_mm=1.5, blur_mm=1.0)
    assert check_hu_scale(child).fault is None
    assert "hu_scale_off" not in {finding.key for finding in evaluate_rules(child, measure(child))}


def test_fat_that_is_off_with_the_scale_is_still_said():
    made = ct(6, 8.0)
    stretched = replace(made, voxels=np.where(made.voxels > -600, made.voxels - 45.0, made.voxels))
    found = {finding.key: finding for finding in evaluate_rules(stretched, measure(stretched))}
    assert "fat" in found["hu_scale_off"].evidence


def test_a_known_volume_is_in_hu():
    known = known_noise_volume(10, slices=4)
    assert check_hu_scale(volume(known.voxels, known.spacing_mm)).fault is None


@pytest.fixture(scope="module")
def images():
    return ct_series(7, 12, 192, spacing_mm=8.0, thickness_mm=5.0)


def test_a_series_with_a_lost_intercept_gets_no_score_and_no_false_cause(images, tmp_path):
    lost = copy.deepcopy(images)
    for image in lost:
        image.PixelData = np.clip(image.pixel_array.astype(int) + 1024, 0, None).astype(np.uint16).tobytes()
        image.PixelRepresentation, image.RescaleIntercept = 0, "0"
    result = score_series(write(lost, tmp_path), scorer=TinyScorer()).result
    said = {finding.key: finding for finding in result.findings}
    assert result.score is None
    assert said["hu_scale_off"].severity is Severity.ERROR
    assert "lost Rescale Intercept (0028,1052)" in said["hu_scale_off"].sentence
    assert not said.keys() & {"truncated", "no_body", "noise_high", "metal", "photon_starvation"}
    assert "CT numbers are off" in reasons(result.measurements)["global_noise_level"]


@pytest.mark.parametrize("spelt", ["Hounsfield Units", "HOUNSFIELD", "hu", "H.U.", "HU ", "Houndsfield Unit", ""])
def test_spellings_of_hounsfield_units(images, tmp_path, spelt):
    written = copy.deepcopy(images)
    for image in written:
        image.RescaleType = spelt
    (made,) = build_volumes(write(written, tmp_path))
    assert made.unit == "HU"
    assert "unit_unexpected" not in {finding.key for finding in made.findings}


def test_other_quantities_keep_their_name():
    assert [ct_unit(text) for text in ("Z_EFF", "ED", "HU_MOD", "US")] == ["Z_EFF", "ED", "HU_MOD", "US"]


def test_unspecified_values_of_an_original_ct_are_judged_by_the_image(images, tmp_path):
    written = copy.deepcopy(images)
    for image in written:
        image.RescaleType = "US"
    (made,) = build_volumes(write(written, tmp_path / "hu"))
    assert made.unit == "HU"
    for image in written:
        image.RescaleIntercept = "700"
    (shifted,) = build_volumes(write(written, tmp_path / "shifted"))
    assert shifted.unusable
    for image in written:
        image.RescaleIntercept, image.ImageType = "0", ["DERIVED", "SECONDARY", "AXIAL"]
    (derived,) = build_volumes(write(written, tmp_path / "derived"))
    assert "unit_unexpected" in {finding.key for finding in derived.findings}


def test_scores_stay_for_a_series_in_hu(images, tmp_path):
    result = score_series(write(images, tmp_path), scorer=TinyScorer()).result
    assert result.score is not None
    assert values(result.measurements)["hu_air"] == pytest.approx(-1000, abs=10)
