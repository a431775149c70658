"""Rules of plausibility: each corruption of a PET breaks the rule that is made for it, a clean one breaks none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from dicom_qa_node.phantom import petct_study
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.phantom.volumes import correlated_noise
from dicom_qa_node.score.physics import pet_plausibility
from dicom_qa_node.score.physics.measurements import examine_pet
from dicom_qa_node.score.physics.patient_grid import patient_grid
from dicom_qa_node.score.physics.pet_body import body_on_pet
from dicom_qa_node.score.physics.pet_plausibility import PlausibilityRule as Rule
from dicom_qa_node.score.volume_builder import build_volumes
from tests.unit.synthetic_volumes import volume

SEED = 12


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return PET and CT of a generated trunk."""
    folder = tmp_path_factory.mktemp("plausible")
    ct, pet = petct_study(SEED, ct_slices=28, ct_rows=128, pet_rows=104)
    (ct_volume,), (pet_volume,) = (
        build_volumes(write_phantom(ct, folder / "ct")),
        build_volumes(write_phantom(pet, folder / "pet")),
    )
    return pet_volume, ct_volume


@pytest.fixture(scope="module")
def inside(study):
    """Return the body on the voxels of the PET."""
    pet, ct = study
    body, mask = body_on_pet(pet, patient_grid(pet, ct)), np.zeros(pet.voxels.shape, bool)
    for index, _, inner, _ in body.slices(pet):
        mask[index] = inner
    return ndimage.binary_dilation(mask, iterations=1)


def changed(pet, values):
    return replace(pet, voxels=np.ascontiguousarray(values, np.float32))


def broken(pet, ct=None):
    return [item.rule for item in examine_pet(pet, ct).broken]


def blocks(values, rng, size=8):
    """Return a volume whose cubes were put in another order."""
    mixed = values.copy()
    whole = [n // size * size for n in values.shape]
    corners = [
        (i, j, k) for i in range(0, whole[0], size) for j in range(0, whole[1], size) for k in range(0, whole[2], size)
    ]
    for place, (i, j, k) in zip(rng.permutation(len(corners)), corners, strict=True):
        a, b, c = corners[place]
        mixed[i : i + size, j : j + size, k : k + size] = values[a : a + size, b : b + size, c : c + size]
    return mixed


def shuffled_inside(values, inside, rng):
    mixed, body = values.copy(), values[inside]
    rng.shuffle(body)
    mixed[inside] = body
    return mixed


CORRUPTIONS: dict[str, tuple[Callable, Rule]] = {
    "zero": (lambda x, m, rng: 0 * x, Rule.NO_VALUES),
    "constant": (lambda x, m, rng: 0 * x + 3.0, Rule.NO_VALUES),
    "flat in the body": (lambda x, m, rng: np.where(m, 1.0, 0.0), Rule.NO_VALUES),
    "cut off at the median": (lambda x, m, rng: np.minimum(x, np.median(x[m])), Rule.NO_VALUES),
    "cut off at the 90th percentile": (lambda x, m, rng: np.minimum(x, np.percentile(x[m], 90)), Rule.SATURATED),
    "inverted": (lambda x, m, rng: x.max() - x, Rule.SATURATED),
    "flat with 10 % noise": (
        lambda x, m, rng: np.where(m, 1 + 0.1 * rng.standard_normal(x.shape), 0.02 * rng.random(x.shape)), Rule.FLAT
    ),
    "voxels shuffled in the body": (shuffled_inside, Rule.NO_STRUCTURE),
    "noise alone": (lambda x, m, rng: np.abs(rng.standard_normal(x.shape)), Rule.NO_STRUCTURE),
    "blocks shuffled": (lambda x, m, rng: blocks(x + 0.01 * rng.random(x.shape), rng), Rule.SEAMS),
    "slices shuffled": (lambda x, m, rng: x[rng.permutation(len(x))], Rule.SLICES_UNORDERED),
    "mirrored left to right": (lambda x, m, rng: x[:, :, ::-1], Rule.MIRRORED),
    "mirrored front to back": (lambda x, m, rng: x[:, ::-1], Rule.MIRRORED),
    "mirrored head to feet": (lambda x, m, rng: x[::-1], Rule.MIRRORED),
    "another place": (lambda x, m, rng: np.roll(x, 40, axis=2) + 0.01 * rng.random(x.shape), Rule.OUTSIDE_BODY),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_pet_breaks_its_rule(study, inside, name):
    pet, ct = study
    change, rule = CORRUPTIONS[name]
    found = broken(changed(pet, change(np.asarray(pet.voxels), inside, np.random.default_rng(1))), ct)
    assert rule in found


@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if "mirrored" not in n and n != "another place"])
def test_most_are_seen_without_a_ct(study, inside, name):
    pet, _ = study
    change, _ = CORRUPTIONS[name]
    assert broken(changed(pet, change(np.asarray(pet.voxels), inside, np.random.default_rng(1))))


def test_a_ct_sent_as_pet_is_seen(study):
    pet, ct = study
    grid = patient_grid(pet, ct)
    hu = body_on_pet(pet, grid).hu
    assert hu.shape == pet.voxels.shape
    found = broken(changed(pet, np.maximum(hu + 1000.0, 0.0)), ct)
    assert {Rule.LIKE_CT, Rule.FLAT} & set(found)


CLEAN: dict[str, Callable] = {
    "as it is": lambda x, spacing, rng: x,
    "in other units": lambda x, spacing, rng: 4321.0 * x,
    "a twentieth of the counts": lambda x, spacing, rng: np.maximum(
        x * (1 + 0.35 * correlated_noise(x.shape, 5.0, spacing, rng)), 0
    ),
    "60 % white noise": lambda x, spacing, rng: np.maximum(x * (1 + 0.6 * rng.standard_normal(x.shape)), 0),
    "a filter of 12 mm": lambda x, spacing, rng: ndimage.gaussian_filter(x, [12 / 2.3548 / step for step in spacing]),
    "a hot lesion": lambda x, spacing, rng: x + 40.0 * (np.indices(x.shape).sum(0) % 97 == 0) * (x > 1),
}


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("with_ct", [True, False])
def test_poor_quality_is_not_implausible(study, name, with_ct):
    pet, ct = study
    values = CLEAN[name](np.asarray(pet.voxels), pet.spacing_mm, np.random.default_rng(2))
    assert broken(changed(pet, values), ct if with_ct else None) == []


def test_rules_of_structure_leave_at_most_one_point_and_the_others_none():
    kept = {Rule.OUTSIDE_BODY, Rule.MIRRORED, Rule.LUNGS, Rule.SEAMS, Rule.SLICES_UNORDERED}
    assert {rule for rule in Rule if rule.ceiling == 1.0} == kept
    assert {rule.ceiling for rule in set(Rule) - kept} == {0.0}


def test_a_pet_without_a_body_cannot_be_checked():
    rng = np.random.default_rng(3)
    air = volume(rng.random((6, 20, 20)).astype(np.float32) * 1e-6, (3.0, 4.0, 4.0), unit="SUVbw")
    lonely = replace(air, voxels=np.where(np.indices((6, 20, 20)).sum(0) == 20, 5.0, air.voxels).astype(np.float32))
    examined = examine_pet(lonely, None)
    assert examined.broken or "cannot be checked" in examined.unchecked


def test_ratio_of_variances_is_one_for_shuffled_values():
    rng = np.random.default_rng(4)
    places = np.argwhere(np.ones((12, 40, 40), bool)).astype(np.int32)
    values = rng.random(len(places)).astype(np.float32)
    noise = pet_plausibility.block_variance_ratio(values, places, (3.0, 4.0, 4.0))
    shaped = pet_plausibility.block_variance_ratio(values + places[:, 1], places, (3.0, 4.0, 4.0))
    assert noise == pytest.approx(1.0, abs=0.25)
    assert shaped > 100


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0.5), (10.0, 1.0), (-10.0, 0.0)])
def test_probability_above_is_the_area_under_the_curve(shift, expected):
    rng = np.random.default_rng(5)
    these, those = rng.random(4000).astype(np.float32) + shift, rng.random(3000).astype(np.float32)
    assert pet_plausibility.probability_above(these, those) == pytest.approx(expected, abs=0.03)
