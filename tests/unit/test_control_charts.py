"""Control charts against worked examples of the textbooks they are taken from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_qa_node.charts.control_charts import (
    Limits,
    Rule,
    distribution,
    drift,
    drift_width,
    ewma,
    ewma_limits,
    limits_of,
    marks_of,
    violations,
)

# NIST/SEMATECH e-Handbook 6.3.2.2: flow rate of ten batches.
NIST_FLOW = [49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1]
# Montgomery, individuals chart: mortgage loan cost of weeks 1 to 20.
MONTGOMERY_COST = [
    310, 288, 297, 298, 307, 303, 294, 297, 308, 306, 294, 299, 297, 299, 314, 295, 293, 306, 301, 304,
]  # fmt: skip
# NIST 6.3.2.4: EWMA with lambda 0.3, target 50, s 2.0539.
NIST_EWMA_IN = [
    52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5, 49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6,
    52.1,
]  # fmt: skip
NIST_EWMA_OUT = [
    50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33, 50.11, 49.36, 49.52, 50.05, 49.38, 49.92,
    50.73, 51.23, 51.94, 51.99,
]  # fmt: skip
# Montgomery, EWMA example (lambda 0.1, L 2.7, target 10, sigma 1): the first 20 in control, then a mean of 11.
MONTGOMERY_EWMA_IN = [
    9.45, 7.99, 9.29, 11.66, 12.16, 10.18, 8.04, 11.46, 9.20, 10.34, 9.03, 11.47, 10.51, 9.40, 10.08, 9.37, 10.62,
    10.31, 8.52, 10.84, 10.90, 9.33, 12.29, 11.50, 10.60, 11.08, 10.38, 11.62, 11.31, 10.52,
]  # fmt: skip
MONTGOMERY_EWMA_OUT = [
    9.945, 9.7495, 9.70355, 9.8992, 10.1253, 10.1307, 9.92167, 10.0755, 9.98796, 10.0232, 9.92384, 10.0785, 10.1216,
    10.0495, 10.0525, 9.98426, 10.0478, 10.074, 9.91864, 10.0108, 10.0997, 10.0227, 10.2495, 10.3745, 10.3971, 10.4654,
    10.4568, 10.5731, 10.6468, 10.6341,
]  # fmt: skip
UNIT = Limits(0.0, 1.0, 100)


def test_individuals_limits_of_the_nist_handbook():
    limits = limits_of(NIST_FLOW)
    assert limits.centre == pytest.approx(50.81)
    assert limits.sigma * 1.128 == pytest.approx(1.8778, abs=1e-4)
    assert limits.upper == pytest.approx(55.8041, abs=1e-3)
    assert limits.lower == pytest.approx(45.8159, abs=1e-3)


def test_individuals_limits_of_montgomery():
    limits = limits_of(MONTGOMERY_COST)
    assert limits.centre == pytest.approx(300.5)
    assert limits.sigma * 1.128 == pytest.approx(7.79, abs=0.005)
    assert (limits.upper, limits.lower) == (pytest.approx(321.22, abs=0.01), pytest.approx(279.78, abs=0.01))


def test_ewma_of_the_nist_handbook():
    assert ewma(NIST_EWMA_IN, 50.0, 0.3) == pytest.approx(NIST_EWMA_OUT, abs=0.0051)
    lower, upper = ewma_limits(Limits(50.0, 2.0539, 20), 1000, 0.3, 3.0)
    assert (upper[-1], lower[-1]) == (pytest.approx(52.5884, abs=1e-4), pytest.approx(47.4115, abs=2e-4))


def test_ewma_of_montgomery_with_the_exact_variance():
    assert ewma(MONTGOMERY_EWMA_IN, 10.0, 0.1) == pytest.approx(MONTGOMERY_EWMA_OUT, abs=6e-5)
    lower, upper = ewma_limits(Limits(10.0, 1.0, 20), 30, 0.1, 2.7)
    assert (upper[0], lower[0]) == (pytest.approx(10.27), pytest.approx(9.73))
    assert (upper[1], lower[1]) == (pytest.approx(10.36, abs=0.005), pytest.approx(9.64, abs=0.005))
    assert (upper[-1], lower[-1]) == (pytest.approx(10.62, abs=0.005), pytest.approx(9.38, abs=0.005))


def test_drift_is_the_run_at_the_end_of_montgomerys_example():
    limits = Limits(10.0, 1.0, 10**9)
    found = drift(MONTGOMERY_EWMA_IN, limits, weight=0.1, width=2.7, run=2)
    assert (found.first, found.side) == (28, 1)
    assert found.shift_sigma == pytest.approx(0.6341, abs=1e-4)
    assert drift(MONTGOMERY_EWMA_IN, limits, weight=0.1, width=2.7, run=3) is None
    assert drift(MONTGOMERY_EWMA_IN[:20], limits, weight=0.1, width=2.7, run=1) is None


def test_an_outlier_is_no_drift():
    values = [0.0] * 40 + [9.0] + [0.0] * 3
    assert drift(values, UNIT, weight=0.1, width=2.7, run=8) is None
    assert drift([0.0] * 40 + [2.0] * 20, UNIT, weight=0.1, width=2.7, run=8) is not None


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([0, 0, 3.1], Rule.BEYOND_3_SIGMA),
        ([0, 2.1, 0.5, 2.1], Rule.TWO_OF_THREE_BEYOND_2_SIGMA),
        ([1.1, 1.1, 0.5, 1.1, 1.1], Rule.FOUR_OF_FIVE_BEYOND_1_SIGMA),
        ([0.1] * 8, Rule.EIGHT_ON_ONE_SIDE),
    ],
)
def test_each_western_electric_rule_on_both_sides(values, rule):
    for side in (1, -1):
        found = violations([side * value for value in values], UNIT)
        assert [(v.index, v.rule, v.side) for v in found] == [(len(values) - 1, rule, side)]


@pytest.mark.parametrize(
    "values",
    [[0, 0, 2.9], [2.1, -2.1, 0.5], [2.1, 0.5, 0.5, 2.1], [1.1, 1.1, -1.1, 1.1, 0.5], [0.1] * 7, [0.1, -0.1] * 8],
)
def test_no_rule_is_broken_by_less(values):
    assert violations(values, UNIT) == []


def test_the_strongest_rule_names_the_point():
    found = violations([2.5, 2.5, 3.5], UNIT)
    assert [v.rule for v in found] == [Rule.TWO_OF_THREE_BEYOND_2_SIGMA, Rule.BEYOND_3_SIGMA]


def test_nothing_is_judged_without_a_baseline_or_spread():
    assert limits_of([]) is None
    assert limits_of([1.0]) is None
    assert violations([1.0, 2.0], Limits(1.0, 0.0, 5)) == []
    assert drift([1.0] * 50, Limits(0.0, 0.0, 5), weight=0.1, width=2.7, run=2) is None


def test_distribution_of_known_values():
    found = distribution(list(range(1, 102)))
    assert (found.count, found.p5, found.q1, found.median, found.q3, found.p95) == (101, 6, 26, 51, 76, 96)
    assert (found.mean, found.iqr) == (51, 50)
    assert distribution([]) is None


def _slow_rules(values: list[float]) -> list[tuple[int, int, int]]:
    found = []
    for i, value in enumerate(values):
        for rule, window, needed, sigmas in ((1, 1, 1, 3), (2, 3, 2, 2), (3, 5, 4, 1), (4, 8, 8, 0)):
            for side in (1, -1):
                last = values[max(0, i - window + 1) : i + 1]
                if side * value > sigmas and sum(side * v > sigmas for v in last) >= needed:
                    found.append((i, rule, side))
    firsts = {}
    for i, rule, side in found:
        firsts.setdefault(i, (i, rule, side))
    return list(firsts.values())


@given(st.lists(st.floats(-4, 4), max_size=60))
def test_rules_agree_with_their_definition_counted_one_by_one(values):
    assert [(v.index, v.rule.value, v.side) for v in violations(values, UNIT)] == _slow_rules(values)


def test_the_limits_of_a_drift_widen_with_the_uncertainty_of_the_baseline():
    widths = [drift_width(300, count, weight=0.1, width=3.0)[-1] for count in (20, 50, 200, 10**9)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(3.0 * np.sqrt(0.1 / 1.9), rel=1e-6)
    # Student's t with 0.61 x 49 degrees of freedom at the probability of 3 sigma is 3.271 (scipy.stats.t.ppf).
    assert widths[1] == pytest.approx(3.271 * np.sqrt(0.1 / 1.9 + 1 / 50), rel=0.003)


def test_a_drift_is_one_span_and_not_a_mark_for_each_point():
    generator = np.random.default_rng(3)
    values = np.concatenate([generator.standard_normal(60), generator.standard_normal(234) + 3.0])
    marks = marks_of(values, Limits(0.0, 1.0, 50), weight=0.1, width=3.0, run=8)
    (span,) = marks.spans
    assert span.side == 1
    assert 55 <= span.first <= 70
    assert span.last == 293
    assert len(marks.points) < 15
    assert not [found for found in marks.points if span.first <= found.index <= span.last]


def test_points_that_go_on_breaking_a_rule_are_marked_once():
    # 1.2 sigma for twelve points: a drift is not known yet, the rules see four of five, and eight on one side.
    values = [0.1, -0.1] * 6 + [1.2] * 12
    marks = marks_of(values, Limits(0.0, 1.0, 50), weight=0.1, width=3.0, run=8)
    assert [found.index for found in marks.points] == [15]
    # Each point beyond three sigma counts.
    assert len(marks_of([0.0, 5.0, -5.0, 5.0], Limits(0.0, 1.0, 50), weight=0.1, width=3.0, run=8).points) == 3


def test_limits_of_the_logarithm_are_of_percent():
    generator = np.random.default_rng(4)
    limits = limits_of(12.0 * np.exp(generator.normal(0, 0.08, 4000)), log=True)
    assert limits.centre == pytest.approx(12.0, rel=0.01)
    assert limits.sigma == pytest.approx(0.08, rel=0.05)
    assert limits.distance([limits.at(2.0)])[0] == pytest.approx(2.0)
    assert np.isnan(limits.distance([0.0, -1.0])).all()
    assert limits.relative_shift(np.log(1.15) / limits.sigma) == pytest.approx(0.15)
