"""PET measurements recover a known truth, move in the right direction, and say where they do not apply."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from scipy import ndimage

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.phantom.known_values import known_misregistration, known_pet_liver
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.physics.pet_liver import Liver, liver_measurements
from dicom_qa_node.score.physics.pet_noise import correlation_fwhm
from tests.unit.synthetic_volumes import Slicewise, reasons, scanned, values, volume


def pet_of(known, unit="SUVbw", **elements):
    return volume(known.voxels, known.spacing_mm, SeriesKind.PT, unit, **elements)


def true_liver(known):
    depth = ndimage.distance_transform_edt(known.liver, sampling=known.spacing_mm)
    centres = np.argwhere(depth > 20.0)
    return Liver(centres[:: len(centres) // 12][:12].astype(float), 1.0)


@pytest.mark.parametrize("cov", [0.03, 0.08, 0.15, 0.3])
def test_liver_cov_is_the_known_one(cov):
    known = known_pet_liver(cov)
    found = values(liver_measurements(pet_of(known), true_liver(known)))
    assert found["liver_cov"] == pytest.approx(100 * cov, rel=0.10)
    assert found["liver_snr"] == pytest.approx(1 / cov, rel=0.10)
    assert found["liver_suv_mean"] == pytest.approx(known.suv, rel=0.03)


def test_global_noise_index_rises_with_the_noise():
    indices = [values(measure(pet_of(known_pet_liver(cov))))["global_noise_index"] for cov in (0.03, 0.08, 0.15, 0.3)]
    assert indices == sorted(indices)
    assert indices[3] == pytest.approx(10 * indices[0], rel=0.15)


@pytest.mark.parametrize("fwhm_mm", [5.0, 7.0, 9.0])
def test_correlation_width_is_the_width_of_the_filter(fwhm_mm):
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((16, 96, 96)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, fwhm_mm / 2.3548 / np.array([3.0, 2.5, 2.5]))
    uniform = np.zeros_like(smooth)
    uniform[:, 10:86, 10:86] = 1.0
    made = volume(uniform * (2.0 + 0.2 * smooth / smooth.std()), (3.0, 2.5, 2.5), SeriesKind.PT, "SUVbw")
    assert values(measure(made))["noise_correlation_width"] == pytest.approx(fwhm_mm, abs=1.0)


def test_correlation_width_of_white_and_of_endlessly_smooth_noise():
    assert correlation_fwhm(1.0, 4.0) == 0.0
    assert correlation_fwhm(0.25, 4.0) is None


@pytest.fixture(scope="module")
def petct():
    """CT and PET of one generated patient, the PET shifted up, back and left by some mm."""

    def make(*shift_mm):
        ct, pet = known_misregistration(shift_mm)
        return scanned(pet, SeriesKind.PT, "SUVbw"), scanned(ct, SeriesKind.CT, "HU")

    return make


@pytest.mark.parametrize(
    "shift_mm", [(0, 0, 0), (-10, 0, 0), (6, 0, 0), (20, 0, 0), (0, 12, 0), (0, 0, -15), (8, 5, -5)], ids=str
)
def test_misregistration_is_the_known_shift(petct, shift_mm):
    found = {m.name: m for m in measure(*petct(*shift_mm))}
    up, back, left = shift_mm
    assert found["misregistration_dome"].value == pytest.approx(abs(up), abs=2.0)
    assert found["misregistration_contour"].value == pytest.approx(np.hypot(back, left), abs=2.0)
    if abs(up) > 2:
        assert ("above" if up > 0 else "below") in found["misregistration_dome"].detail


def test_liver_is_found_on_the_ct(petct):
    found = values(measure(*petct(0, 0, 0)))
    assert 5.0 < found["liver_cov"] < 15.0
    assert found["liver_suv_mean"] == pytest.approx(2.2, rel=0.08)
    assert found["ct_coverage"] == 100.0


def test_registration_is_the_same_for_another_grid_and_orientation(petct):
    pet, ct = petct(10, 0, 0)
    plain = values(measure(pet, ct))
    axes = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    last = len(ct.voxels) - 1, 0, ct.voxels.shape[2] - 1
    origin = np.add(ct.origin_mm, (last[2] * ct.spacing_mm[2], 0.0, last[0] * ct.spacing_mm[0]))
    flipped = replace(
        ct,
        voxels=ct.voxels[::-1, :, ::-1],
        direction=axes,
        origin_mm=tuple(origin),
        positions_mm=-ct.positions_mm[::-1],
    )
    turned = values(measure(pet, flipped))
    for name in ("misregistration_dome", "misregistration_contour", "liver_cov", "ct_coverage"):
        assert turned[name] == pytest.approx(plain[name], abs=0.01)


def test_ct_of_a_part_of_the_body_covers_that_part(petct):
    pet, ct = petct(0, 0, 0)
    half = replace(
        ct, voxels=ct.voxels[12:], positions_mm=ct.positions_mm[12:], origin_mm=(*ct.origin_mm[:2], ct.positions_mm[12])
    )
    (covered,) = (found for found in measure(pet, half) if found.name == "ct_coverage")
    assert covered.value == pytest.approx(50.0, abs=6.0)
    shared, whole = (float(word) for word in re.findall(r"(\d+) mm", covered.detail))
    assert shared == pytest.approx(ct.positions_mm[-1] - ct.positions_mm[12], abs=2 * pet.spacing_mm[0])
    assert whole == pytest.approx(np.ptp(pet.positions_mm), abs=2 * pet.spacing_mm[0])
    elsewhere = replace(
        ct, positions_mm=ct.positions_mm + 900.0, origin_mm=(*ct.origin_mm[:2], ct.origin_mm[2] + 900.0)
    )
    said = reasons(measure(pet, elsewhere))
    assert said["misregistration_contour"] == "the CT shows another part of the body"


def test_without_ct_there_is_no_liver_and_no_registration(petct):
    pet, _ = petct(0, 0, 0)
    said = reasons(measure(pet))
    assert "located on the CT" in said["liver_cov"]
    assert said["misregistration_dome"] == "no CT of this frame of reference"


def test_limb_has_no_liver():
    axis = (np.arange(80) - 40) * 4.0
    inside = np.hypot(axis[:, None], axis[None, :]) < 70.0
    rng = np.random.default_rng(2)
    ct = np.where(inside, 50.0, -1000.0)[None] + rng.normal(0, 5, (30, 80, 80))
    uptake = np.where(inside, 0.6, 0.0)[None] * (1 + 0.1 * rng.standard_normal((30, 80, 80)))
    spacing = (4.0, 4.0, 4.0)
    made = volume(uptake.astype(np.float32), spacing, SeriesKind.PT, "SUVbw")
    found = measure(made, volume(ct.astype(np.float32), spacing))
    assert "no lung" in reasons(found)["liver_cov"]
    assert reasons(found)["misregistration_dome"] == "no lung in the field"
    assert values(found)["misregistration_contour"] == pytest.approx(0.0, abs=1.0)


def test_outline_seen_from_one_side_gives_no_shift(petct):
    pet, ct = petct(0, 10, 0)
    half = replace(pet, voxels=pet.voxels[:, :, :64])
    said = reasons(measure(half, ct))
    assert said["misregistration_contour"] == "the body's outline is not seen from enough sides"


def test_relative_values_give_noise_but_no_suv(petct):
    pet, ct = petct(0, 0, 0)
    relative = replace(pet, voxels=pet.voxels * np.float32(5321.0), unit="relative")
    found, plain = measure(relative, ct), values(measure(pet, ct))
    for name in ("liver_cov", "global_noise_index", "misregistration_dome", "misregistration_contour"):
        assert values(found)[name] == pytest.approx(plain[name], rel=0.01)
    assert {"liver_suv_mean", "body_suv_mean", "suv_max"} <= reasons(found).keys()


def test_body_suv_is_the_mean_over_the_body():
    known = known_pet_liver(0.05)
    found = values(measure(pet_of(known)))
    body = known.voxels[known.voxels > 0.3].mean()
    assert found["body_suv_mean"] == pytest.approx(body, rel=0.05)
    assert found["suv_max"] == pytest.approx(known.voxels.max())


def test_largest_suv_also_stands_by_lean_mass_and_by_surface():
    made = volume(np.full((2, 16, 16), 4.0, np.float32), (4.0, 4.0, 4.0), SeriesKind.PT, "SUVbw")
    ratios = {"SUVlbm": 0.75, "SUVbsa": 0.25}
    said = {m.name: m.detail for volume in (made, replace(made, suv_ratios=ratios)) for m in measure(volume)}
    assert said["suv_max"] == "SUVbsa 1.00 cm2/ml, SUVlbm 3.00 g/ml"
    assert next(m for m in measure(made) if m.name == "suv_max").detail == ""


def tracer(**elements):
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Sequence([item])


def protocol(**elements):
    usual = {"SeriesDate": "20250102", "SeriesTime": "101500", "PatientWeight": 80.0}
    made = volume(np.ones((2, 16, 16), np.float32), (4.0, 4.0, 4.0), SeriesKind.PT, "SUVbw", **{**usual, **elements})
    return measure(made)


@pytest.mark.parametrize(
    ("injection", "minutes"),
    [
        ({"RadiopharmaceuticalStartDateTime": "20250102091500"}, 60.0),
        ({"RadiopharmaceuticalStartTime": "091000.000"}, 65.0),
        # the date was shifted by de-identification, the time was kept
        ({"RadiopharmaceuticalStartDateTime": "19990101091500", "RadiopharmaceuticalStartTime": "091500"}, 60.0),
    ],
)
def test_uptake_time(injection, minutes):
    found = protocol(RadiopharmaceuticalInformationSequence=tracer(**injection))
    assert values(found)["uptake_time"] == minutes


def test_uptake_time_over_midnight():
    injection = tracer(RadiopharmaceuticalStartTime="234500")
    found = protocol(SeriesTime="004500", RadiopharmaceuticalInformationSequence=injection)
    assert values(found)["uptake_time"] == 60.0


def test_uptake_time_that_cannot_be_is_not_given():
    injection = tracer(RadiopharmaceuticalStartDateTime="20250102111500")
    assert "60 min after" in reasons(protocol(RadiopharmaceuticalInformationSequence=injection))["uptake_time"]


@pytest.mark.parametrize("dose", [3.2e8, 320.0])
def test_activity_per_weight_in_bq_and_where_the_tag_holds_mbq(dose):
    found = values(protocol(RadiopharmaceuticalInformationSequence=tracer(RadionuclideTotalDose=dose)))
    assert found["administered_activity"] == pytest.approx(320.0)
    assert found["activity_per_weight"] == pytest.approx(4.0)


def test_counts():
    found = values(
        protocol(
            ActualFrameDuration=120000,
            PrimaryPromptsCountsAccumulated=4000000,
            SecondaryCountsAccumulated=1000000,
            ScatterFractionFactor=0.35,
        )
    )
    assert found["frame_duration"] == 120.0
    assert found["prompt_counts"] == 4e6
    assert found["randoms_fraction"] == 25.0
    assert found["scatter_fraction"] == pytest.approx(35.0)


def test_missing_tags_are_named():
    said = reasons(protocol(PatientWeight=None, SeriesTime=""))
    assert "(0018,1074)" in said["activity_per_weight"]
    assert "no time" in said["uptake_time"]
    assert "(0054,1310)" in said["prompt_counts"]


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 5, 7), (4, 40, 300)])
def test_odd_shapes_and_no_uptake_are_no_error(shape):
    empty = volume(np.zeros(shape, np.float32), (4.0, 4.0, 4.0), SeriesKind.PT, "SUVbw")
    ct = volume(np.full(shape, -1000.0, np.float32), (4.0, 4.0, 4.0))
    assert reasons(measure(empty, ct))["global_noise_index"]
    noisy = replace(empty, voxels=np.random.default_rng(0).exponential(1.0, shape).astype(np.float32))
    assert measure(noisy, ct)


def test_large_series_is_read_slice_by_slice():
    known = known_pet_liver(0.1, slices=12, rows=64, pixel_mm=6.0)
    plain = pet_of(known)
    sliced = replace(plain, voxels=Slicewise(plain.voxels))
    assert values(measure(sliced)) == values(measure(plain))
