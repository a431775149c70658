"""The PET part on five clinical PET/CT: clean ones diagnostic, degraded ones lower, corrupted ones withheld."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from dicom_qa_node.score.pet_part import rate_pet
from dicom_qa_node.score.physics.measurements import examine_pet
from dicom_qa_node.score.volume_builder import build_volumes
from training.degrade import fewer_counts

pytestmark = pytest.mark.realdata

PATIENTS = ("STS_003", "STS_007", "STS_029", "STS_035", "STS_046")
FRACTIONS = (1.0, 1 / 2, 1 / 4, 1 / 10, 1 / 20, 1 / 50)


@pytest.fixture(scope="module", params=PATIENTS)
def study(request, shared_data):
    root = shared_data / "dicom" / "petct" / request.param
    (pet,), (ct,) = (build_volumes(sorted((root / name).glob("*.dcm"))) for name in ("PET", "CT"))
    return pet, ct


def changed(pet, values):
    return replace(pet, voxels=np.ascontiguousarray(values, np.float32))


def score(pet, ct):
    rating = rate_pet(examine_pet(pet, ct), "")
    assert rating.withheld == "", rating.withheld
    return rating.part.score


def filtered(pet, fwhm_mm):
    return ndimage.gaussian_filter(np.asarray(pet.voxels), [fwhm_mm / 2.3548 / step for step in pet.spacing_mm])


def test_a_clinical_pet_is_diagnostic_and_plausible(study):
    assert score(*study) >= 2.5
    assert score(study[0], None) >= 2.5


def test_the_part_falls_with_the_counts(study):
    pet, ct = study
    rng = np.random.default_rng(7)
    values = np.asarray(pet.voxels)
    degraded = (values if f == 1 else fewer_counts(values, f, pet.spacing_mm, rng) for f in FRACTIONS)
    scores = [score(changed(pet, each), ct) for each in degraded]
    assert stats.spearmanr(FRACTIONS, scores)[0] >= 0.95
    assert scores[0] - scores[4] >= 0.8


def test_white_noise_and_a_filter_lower_it_clearly(study):
    pet, ct = study
    values, clean = np.asarray(pet.voxels), score(pet, ct)
    noisy = np.maximum(values * (1 + 0.6 * np.random.default_rng(8).standard_normal(values.shape)), 0)
    for worse in (noisy, filtered(pet, 8.0)):
        rating = rate_pet(examine_pet(changed(pet, worse), ct), "")
        assert clean - rating.part.score >= 0.8
        assert rating.part.interval[0] < 2.5
    assert score(changed(pet, filtered(pet, 12.0)), ct) < score(changed(pet, filtered(pet, 8.0)), ct)


def corruptions(values, rng):
    yield "zero", 0 * values
    yield "flat", np.where(values > np.median(values), 2.0, 0.0)
    yield "inverted", values.max() - values
    yield "voxels shuffled", rng.permuted(values.ravel()).reshape(values.shape)
    yield "slices shuffled", values[rng.permutation(len(values))]
    yield "left to right", values[:, :, ::-1]
    yield "front to back", values[:, ::-1]
    yield "head to feet", values[::-1]


def test_corrupted_ones_get_no_score_and_an_error(study):
    pet, ct = study
    for name, values in corruptions(np.asarray(pet.voxels), np.random.default_rng(9)):
        rating = rate_pet(examine_pet(changed(pet, values), ct), "")
        assert rating.withheld, name
        assert [(f.key, f.severity.value) for f in rating.findings] == [("pet_implausible", "error")], name
        assert rating.part.score <= 1.0, name


def test_the_pet_of_another_patient_is_mostly_not_plausible(study, shared_data):
    # Of 20 pairs, centred on each other, 19 are seen: a leg may lie wholly inside a larger one.
    pet, ct = study
    missed = []
    for name in PATIENTS:
        (other,) = build_volumes(sorted((shared_data / "dicom" / "petct" / name / "PET").glob("*.dcm")))
        if other.sop_instance_uids == pet.sop_instance_uids:
            continue
        placed = np.zeros_like(np.asarray(pet.voxels))
        size = [min(a, b) for a, b in zip(placed.shape, other.voxels.shape, strict=True)]
        here, there = (
            tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, size, strict=True))
            for shape in (placed.shape, other.voxels.shape)
        )
        placed[here] = other.voxels[there]
        missed += [] if rate_pet(examine_pet(changed(pet, placed), ct), "").withheld else [name]
    assert len(missed) <= 1
