"""Measurements of real series are plausible, and the same from odd and from even slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.rules.evaluation import evaluate_rules
from dicom_qa_node.score.volume_builder import build_volumes
from tests.unit.synthetic_volumes import reasons, values

pytestmark = pytest.mark.realdata

CT_SERIES = ("C3L-00189_lungbase35", "C3N-00247_chest60", "C4KC-KiTS-00072_abd18", "ACRIN-FLT-Breast_013_petct_CT49")
PATIENTS = ("STS_003", "STS_007", "STS_029", "STS_035", "STS_046")
STABLE_10_PERCENT = (
    "global_noise_level", "noise_in_air", "snr", "skin_edge_f50", "nps_mean_frequency", "water_equivalent_diameter",
    "global_noise_index", "noise_correlation_width", "body_suv_mean", "ct_coverage",
)  # fmt: skip
STABLE_HU = {"hu_air": 4.0, "hu_fat": 5.0}


def read(folder):
    (volume,) = build_volumes(sorted(folder.glob("*.dcm")))
    return volume


@pytest.fixture(scope="module")
def ct_series(shared_data):
    return {name: read(shared_data / "dicom" / "ct" / name) for name in CT_SERIES}


@pytest.fixture(scope="module")
def petct(shared_data):
    root = shared_data / "dicom" / "petct"
    return {name: (read(root / name / "PET"), read(root / name / "CT")) for name in PATIENTS}


def every_second(volume, start):
    part = slice(start, None, 2)
    way = volume.direction[:, 0] * volume.spacing_mm[0] * start
    return replace(
        volume,
        voxels=volume.voxels[part],
        valid=None if volume.valid is None else volume.valid[part],
        positions_mm=volume.positions_mm[part],
        spacing_mm=(2 * volume.spacing_mm[0], *volume.spacing_mm[1:]),
        origin_mm=tuple(np.asarray(volume.origin_mm) + way),
        sop_instance_uids=volume.sop_instance_uids[part],
        sop_class_uids=volume.sop_class_uids[part],
        frame_numbers=volume.frame_numbers[part],
        origins_mm=None,
    )


def assert_stable(volume, paired_ct=None):
    odd, even = (values(measure(every_second(volume, start), paired_ct)) for start in (0, 1))
    for name in STABLE_10_PERCENT:
        if odd.get(name) is not None and even[name] is not None:
            assert odd[name] == pytest.approx(even[name], rel=0.10), name
    for name, most in STABLE_HU.items():
        if odd.get(name) is not None and even[name] is not None:
            assert odd[name] == pytest.approx(even[name], abs=most), name


@pytest.mark.parametrize("name", CT_SERIES)
def test_ct_is_plausible(ct_series, name):
    found = values(measure(ct_series[name]))
    assert -1010 < found["hu_air"] < -955
    assert -115 < found["hu_fat"] < -80
    assert 5.0 < found["global_noise_level"] < 100.0
    assert 0.15 < found["skin_edge_f50"] < 0.5
    assert found["streak_index"] < 0.3
    assert found["metal_fraction"] < 0.2
    assert found["tilt"] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("name", CT_SERIES)
def test_ct_is_the_same_from_odd_and_even_slices(ct_series, name):
    assert_stable(ct_series[name])


def test_sharp_kernels_show_more_noise_and_finer_edges(ct_series):
    soft, *sharp = (values(measure(ct_series[name])) for name in (CT_SERIES[2], *CT_SERIES[:2]))
    for found in sharp:
        assert found["global_noise_level"] > 2.0 * soft["global_noise_level"]
        assert found["skin_edge_f50"] > 1.2 * soft["skin_edge_f50"]


def test_whole_bodies_have_a_diameter_and_a_cut_one_has_none(ct_series):
    whole = values(measure(ct_series["C3L-00189_lungbase35"]))
    assert 250 < whole["water_equivalent_diameter"] < 400
    cut = measure(ct_series["C3N-00247_chest60"])
    assert "field cuts the body" in reasons(cut)["water_equivalent_diameter"]
    (finding,) = (found for found in evaluate_rules(ct_series["C3N-00247_chest60"], cut) if found.key == "truncated")
    assert "289 mm of the 500 mm" in finding.sentence


@pytest.mark.parametrize("name", PATIENTS)
def test_limb_petct_is_plausible_and_stable(petct, name):
    pet, ct = petct[name]
    found = measure(pet, ct)
    assert 0.3 < values(found)["body_suv_mean"] < 1.6
    assert 80.0 < values(found)["ct_coverage"] <= 100.0
    assert 4.0 < values(found)["activity_per_weight"] < 7.0
    assert "no lung" in reasons(found)["liver_cov"]
    assert "not seen from enough sides" in reasons(found)["misregistration_contour"]
    assert "misregistered" not in {finding.key for finding in evaluate_rules(pet, found, ct)}
    assert_stable(pet, ct)


def test_pet_without_suv_tags_is_measured_in_relative_units(shared_data):
    volume = read(shared_data / "dicom" / "pet" / "nema_iq_phantom")
    found = measure(volume)
    assert values(found)["global_noise_index"] > 0
    assert "no SUV" in reasons(found)["body_suv_mean"]
    assert_stable(volume)
