"""The measurements and findings of a series reach its result, with the limits of the configuration."""

from __future__ import annotations

import pytest

from dicom_qa_node.config import Config, parse_config
from dicom_qa_node.config.thresholds import FindingRules, Thresholds
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.phantom import ct_series, petct_study
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.pipeline import Options, score_series
from tests.stub_model import TinyScorer


@pytest.fixture(scope="module")
def ct_paths(tmp_path_factory):
    return write_phantom(ct_series(3, 12, 128, spacing_mm=6.0, centre_mm=-60.0), tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("petct")
    sizes = {"ct_slices": 20, "ct_rows": 128, "ct_spacing_mm": 6.0, "pet_rows": 64, "pet_pixel_mm": 8.0}
    images = petct_study(3, pet_spacing_mm=8.0, **sizes)
    return tuple(write_phantom(series, folder / name) for name, series in zip(("ct", "pet"), images, strict=True))


def names(result):
    return {found.name for found in result.measurements}


def keys(result):
    return [finding.key for finding in result.findings]


def test_ct_result_holds_every_measurement(ct_paths):
    result = score_series(ct_paths, scorer=TinyScorer()).result
    assert names(result) == {quantity.name for quantity in (*CT_QUANTITIES, *GEOMETRY_QUANTITIES)}
    assert "noise_high" not in keys(result)


def test_limits_of_the_configuration_decide(ct_paths):
    strict = Options(rules=FindingRules(limits=Thresholds(noise_hu=0.1)))
    result = score_series(ct_paths, scorer=TinyScorer(), options=strict).result
    assert "noise_high" in keys(result)


def test_pet_is_measured_with_its_ct_and_says_once_that_it_has_none(study):
    ct, pet = study
    paired = score_series(pet, pair_paths=ct, scorer=TinyScorer()).result
    alone = score_series(pet, scorer=TinyScorer()).result
    broken = score_series(pet, pair_paths=pet, scorer=TinyScorer()).result
    assert names(paired) == {quantity.name for quantity in (*PET_QUANTITIES, *GEOMETRY_QUANTITIES)}
    values = {found.name: found.value for found in paired.measurements}
    assert values["misregistration_contour"] < 3.0
    assert "petct_not_paired" not in keys(paired)
    assert keys(alone).count("petct_not_paired") == 1
    assert keys(broken).count("petct_not_paired") == 1


def test_one_slice_is_judged_and_measured(ct_paths, study):
    middle = ct_paths[len(ct_paths) // 2]
    result = score_series([middle], scorer=TinyScorer()).result
    assert result.score is not None
    assert [item.weight for item in result.slices] == [1.0]
    assert "single_slice" in keys(result)
    values = {found.name: found.value for found in result.measurements}
    assert values["global_noise_level"] > 0
    assert values["slices_used"] == 1
    ct, pet = study
    paired = score_series([pet[len(pet) // 2]], pair_paths=ct, scorer=TinyScorer()).result
    assert (paired.kind, paired.score) == (SeriesKind.PETCT, None)
    assert "pet_not_rated" in keys(paired)
    assert "pixels of 8.0 mm" in paired.why


def test_limits_are_read_from_the_configuration_file():
    text = "findings: {limits: {noise_hu: 30}, protocols: [{name: low dose, protocol: '*LD*', limits: {noise_hu: 60}}]}"
    options = Options.of(Config().score, parse_config(text).findings)
    assert options.rules.limits.noise_hu == 30
    assert options.rules.for_series(protocol="Chest LD").noise_hu == 60
