"""The size curve finds the law that the values were made by, whatever outliers and gaps there are."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_qa_node.charts.size_curve import FEWEST, size_curve_of

RISE_PER_MM, USUAL = 0.0045, 12.0


def patients(generator, count, scatter=0.08):
    size = np.clip(generator.normal(300, 40, count), 180, 420)
    return size, USUAL * np.exp(RISE_PER_MM * (size - 300) + generator.normal(0, scatter, count))


def test_the_curve_is_within_five_percent_from_240_to_360_mm():
    generator = np.random.default_rng(1)
    at = np.array([240.0, 300.0, 360.0])
    truth = USUAL * np.exp(RISE_PER_MM * (at - 300))
    error = [np.abs(size_curve_of(*patients(generator, 100)).at(at) / truth - 1) for _ in range(200)]
    assert np.all(np.percentile(error, 95, axis=0) < 0.05)


def test_a_fifth_of_outliers_does_not_move_it():
    generator = np.random.default_rng(2)
    size, noise = patients(generator, 200)
    noise[::5] *= 3
    assert size_curve_of(size, noise).at(300.0) == pytest.approx(USUAL, rel=0.05)
    assert size_curve_of(size, noise).slope_per_mm == pytest.approx(RISE_PER_MM, abs=0.0007)


def test_residuals_are_free_of_size():
    size, noise = patients(np.random.default_rng(3), 400)
    left = size_curve_of(size, noise).residuals(size, noise)
    assert abs(np.corrcoef(size, left)[0, 1]) < 0.1
    assert np.std(left) == pytest.approx(0.08, rel=0.15)
    assert np.median(left) == pytest.approx(0, abs=1e-9)


def test_too_few_or_useless_values_give_no_curve():
    size, noise = patients(np.random.default_rng(4), FEWEST)
    assert size_curve_of(size, noise) is not None
    assert size_curve_of(size[1:], noise[1:]) is None
    assert size_curve_of(np.full(FEWEST, 300.0), noise) is None
    noise[3] = 0.0
    assert size_curve_of(size, noise) is None
    assert size_curve_of([], []) is None


def test_values_without_a_size_have_no_residual_and_do_not_count():
    size, noise = patients(np.random.default_rng(5), 80)
    size[:10] = np.nan
    noise[10:13] = [-1.0, 0.0, np.inf]
    curve = size_curve_of(size, noise)
    assert curve.count == 67
    left = curve.residuals(size, noise)
    assert np.isnan(left[:13]).all()
    assert np.isfinite(left[13:]).all()


def test_beyond_the_sizes_seen_the_curve_is_level():
    size, noise = patients(np.random.default_rng(6), 100)
    curve = size_curve_of(size, noise)
    assert curve.at(900.0) == curve.at(size.max())
    assert curve.at(50.0) == curve.at(size.min())
