"""What docs/alerts.md promises of the drift rule, simulated with the functions that the node judges by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.drift_rates import SERIES, agrees_with_judge, independent, of_patients
from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.config import Charts

ALERTS = Path(__file__).parents[2] / "docs/alerts.md"
BASELINES = (50, 100, 200, 1000)


@pytest.mark.parametrize("baseline", BASELINES)
def test_at_most_a_twentieth_of_unchanged_charts_alarms_within_500_series(baseline):
    assert independent(baseline, 4000).alarmed <= 0.05
    # The limits are not so wide that nothing would ever be told.
    assert independent(baseline, 500, shift_sigma=1.75).alarmed == 1.0


@pytest.mark.parametrize("larger_mm", [0.0, 25.0])
def test_larger_patients_alone_are_no_drift(larger_mm):
    assert of_patients(50, 300, larger_mm=larger_mm).alarmed <= 0.06
    assert of_patients(200, 100, larger_mm=larger_mm).alarmed <= 0.06


def test_fifteen_percent_more_noise_is_told_within_fifteen_series():
    for baseline in (50, 200):
        found = of_patients(baseline, 150, noisier=1.15, series=100)
        assert found.alarmed == 1.0
        assert found.median <= 15


def test_the_simulation_is_of_the_rule_that_charts_and_alarms_use():
    assert agrees_with_judge()
    defaults = Charts()
    assert ChartRules() == ChartRules(
        defaults.baseline_points, defaults.ewma_weight, defaults.ewma_width, defaults.drift_run
    )


def test_the_documentation_states_rates_that_hold():
    """Every share in the table of the page is at most 5 %, and the first row is what comes out now."""
    lines = [
        line
        for line in ALERTS.read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and "alarm within 500" in line
    ]
    shares = [[float(share) for share in re.findall(r"([\d.]+) %", line)] for line in lines]
    assert len(shares) == 3
    assert all(share <= 5.0 for row in shares for share in row)
    for baseline, share in zip(BASELINES, shares[0], strict=True):
        assert 100 * independent(baseline, 4000, seed=2).alarmed == pytest.approx(share, abs=1.5)
    assert str(SERIES) in lines[0]
