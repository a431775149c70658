"""Phases, zones, tilts and projections: which slices of a series form one stack, and which get no grade."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pydicom.uid import generate_uid

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Severity
from dicom_qa_node.phantom import CtForm, Plane, ct_series, pet_series, write
from dicom_qa_node.phantom.enhanced import enhanced_ct
from dicom_qa_node.phantom.image_header import code
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.score.rules.evaluation import evaluate_rules
from dicom_qa_node.score.volume_builder import build_volumes
from tests.stub_model import TinyScorer
from tests.unit.synthetic_volumes import ct, values


@pytest.fixture(scope="module")
def images():
    return ct_series(7, 12, 96, spacing_mm=5.0, thickness_mm=5.0)


def copies(images, number):
    made = copy.deepcopy(list(images))
    for image in made:
        image.SOPInstanceUID = generate_uid(entropy_srcs=[image.SOPInstanceUID, str(number)])
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return made


def moved(image, by_mm):
    x, y, z = map(float, image.ImagePositionPatient)
    image.ImagePositionPatient = [x, y, round(z + by_mm, 4)]


def keys(findings):
    return {finding.key for finding in findings}


@pytest.mark.parametrize("apart_mm", [0.1, 0.2, 0.3, 2.5])
@pytest.mark.parametrize("phases", [2, 3])
def test_phases_a_little_apart_are_stacks_of_their_own(tmp_path, images, apart_mm, phases):
    made = []
    for phase in range(phases):
        for image in copies(images, phase):
            moved(image, phase * apart_mm / (phases - 1))
            image.AcquisitionNumber = phase + 1
            image.InstanceNumber = len(made) + 1
            made.append(image)
    volumes = build_volumes(write(made, tmp_path))
    assert [volume.stack_name for volume in volumes] == [f"acquisition {phase + 1}" for phase in range(phases)]
    assert all(len(volume.positions_mm) == 12 for volume in volumes)
    assert all(volume.spacing_mm[0] == pytest.approx(5.0) for volume in volumes)
    assert not keys(finding for volume in volumes for finding in volume.findings) & {"slices_missing", "gaps_uneven"}


def test_phases_without_acquisition_numbers_are_told_apart_by_their_order(tmp_path, images):
    made = []
    for phase in range(2):
        for image in copies(images, phase):
            moved(image, 0.2 * phase)
            image.InstanceNumber, image.AcquisitionTime = len(made) + 1, f"10{len(made):02d}00"
            image.PixelData = (image.pixel_array + 3 * phase).astype(np.int16).tobytes()
            made.append(image)
    volumes = build_volumes(write(made, tmp_path))
    assert [len(volume.positions_mm) for volume in volumes] == [12, 12]


def test_zones_with_their_own_thickness_miss_nothing(tmp_path, images):
    start = float(images[0].ImagePositionPatient[2])
    made = copies(images, 0)
    for index, image in enumerate(made):
        thin = index < 6
        image.SliceThickness = "2.5" if thin else "7.5"
        height = 2.5 * index if thin else 2.5 * 5 + 5.0 + 7.5 * (index - 6)
        image.ImagePositionPatient = [*image.ImagePositionPatient[:2], start + height]
    (volume,) = build_volumes(write(made, tmp_path))
    assert keys(volume.findings) == {"slice_zones"}
    found = {item.name: item for item in measure(volume)}
    assert found["missing_slices"].value == 0
    assert found["slice_thickness"].detail == "2.5 to 7.5 mm"
    assert "slices_missing" not in keys(evaluate_rules(volume, list(found.values())))


@pytest.mark.parametrize("announced", [2, 600])
def test_images_in_acquisition_accuse_nobody(tmp_path, images, announced):
    made = copies(images, 0)
    for image in made:
        image.ImagesInAcquisition = announced
    result = score_series(write(made, tmp_path), scorer=TinyScorer()).result
    assert not keys(result.findings) & {"incomplete", "slices_missing"}
    assert values(result.measurements)["completeness"] is None


def test_overlapping_slices_are_ordinary(tmp_path, images):
    made = copies(images, 0)
    for image in made:
        image.SliceThickness = "10"
    (volume,) = build_volumes(write(made, tmp_path))
    assert volume.findings == ()
    assert values(measure(volume))["uncovered_gap"] == -5.0


@pytest.mark.parametrize("marked", [True, False])
def test_a_rotating_projection_gets_no_grade(tmp_path, marked):
    first = pet_series(7, slices=12, rows=64, pixel_mm=8.0, spacing_mm=8.0)[0]
    made = []
    for view in range(36):
        (image,) = copies([first], view)
        angle = 2 * np.pi * view / 36
        image.ImageType = ["DERIVED", "SECONDARY", "MIP" if marked else "OTHER"]
        image.ImageOrientationPatient = [f"{np.cos(angle):.6f}", f"{np.sin(angle):.6f}", "0", "0", "0", "-1"]
        image.InstanceNumber = view + 1
        made.append(image)
    with pytest.raises(Permanent, match="36 projection images"):
        score_series(write(made, tmp_path), scorer=TinyScorer())


@pytest.mark.parametrize("plane", [Plane.CORONAL, Plane.SAGITTAL])
def test_reformats_of_another_plane_get_no_grade(tmp_path, plane):
    made = ct_series(5, 10, 64, spacing_mm=8.0, form=CtForm(plane=plane))
    result = score_series(write(made, tmp_path), scorer=TinyScorer()).result
    assert result.score is None
    assert "a reformat" in next(item.sentence for item in result.findings if item.key == "outside_domain")


def test_axial_reformats_get_no_grade(tmp_path, images):
    made = copies(images, 0)
    for image in made:
        image.ImageType = ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]
    result = score_series(write(made, tmp_path), scorer=TinyScorer()).result
    assert result.score is None
    assert "reformatted" in next(item.sentence for item in result.findings if item.key == "outside_domain")


def test_one_original_tilted_slice_is_not_a_reformat(tmp_path):
    made = ct_series(5, 3, 96, spacing_mm=9.0, form=CtForm(tilt_deg=20.0))[1:2]
    (volume,) = build_volumes(write(made, tmp_path))
    assert keys(volume.findings) == {"single_slice", "gantry_tilt"}


def test_enhanced_ct_measures_what_its_single_slices_do(tmp_path):
    images = ct_series(7, 12, 128, spacing_mm=8.0)
    (single,) = build_volumes(write(images, tmp_path / "single"))
    enhanced = enhanced_ct(images)
    # Enhanced Contrast/Bolus Module, PS3.3 C.7.6.4b: the agent as a code
    enhanced.ContrastBolusAgentSequence = code("44588005", "SCT", "Iodinated contrast agent")
    (volume,) = build_volumes(write([enhanced], tmp_path / "enhanced"))
    expected, found = values(measure(single)), values(measure(volume))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-6)), name
    assert found["tube_charge"] is not None
    assert found["ssde"] is not None


def test_bright_arcs_off_the_body_are_not_metal():
    made = ct(6, 10.0)
    y, x = np.ogrid[:320, :320]
    radius = np.hypot(y - 159.5, x - 159.5)
    made.voxels[:, (radius > 155) & (radius < 158) & (x + 0 * y > 200)] = 3071.0
    found = {item.name: item for item in measure(made)}
    assert found["metal_fraction"].value == 0.0
    assert "metal" not in keys(evaluate_rules(made, list(found.values())))
    made.voxels[:, 150:156, 150:156] = 3071.0
    again = {item.name: item for item in measure(made)}
    assert again["metal_fraction"].value > 0.05
    (said,) = (item for item in evaluate_rules(made, list(again.values())) if item.key == "metal")
    assert said.severity is Severity.INFO
