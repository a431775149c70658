"""The physics as functions of arrays: their examples hold, and they give what the node reports for a series."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

from dicom_qa_node.score.physics import image_metrics
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.web.series_comparison import trends_of
from tests.unit.synthetic_volumes import ct, values

WITH_EXAMPLES = [
    "dicom_io.date_times", "score.pet_times", "score.pet_units", "score.suv", "score.physics.image_metrics",
    "score.physics.ct_dose_and_protocol", "score.physics.ct_noise_power_spectrum", "score.physics.ct_resolution",
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_hold(name):
    module = importlib.import_module(f"dicom_qa_node.{name}")
    tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert tried.attempted > 0
    assert tried.failed == 0


def test_functions_of_arrays_give_what_a_series_reports():
    made = ct(slices=6, noise_hu=12.0)
    reported = values(measure(made))
    pixel_mm = made.spacing_mm[1:]
    slices = [np.asarray(image) for image in made.voxels]
    assert image_metrics.global_noise_level_hu(slices, pixel_mm) == pytest.approx(
        reported["global_noise_level"], rel=1e-6
    )
    diameters = [image_metrics.water_equivalent_diameter_mm(image, pixel_mm) for image in slices]
    assert np.mean(diameters) == pytest.approx(reported["water_equivalent_diameter"], rel=1e-3)
    edges = [found for image in slices if (found := image_metrics.skin_edge_f50(image, pixel_mm)) is not None]
    assert not edges or np.median(edges) < 0.5 / pixel_mm[0]


def test_slices_without_soft_tissue_have_no_noise_level():
    assert image_metrics.global_noise_level_hu([np.full((64, 64), -1000.0, np.float32)], (1.0, 1.0)) is None


@pytest.mark.parametrize(
    ("register", "name", "value", "shown"),
    [
        (GEOMETRY_QUANTITIES, "uncovered_gap", 2.2e-14, 0.0),
        (GEOMETRY_QUANTITIES, "uncovered_gap", -3e-14, 0.0),
        (GEOMETRY_QUANTITIES, "slice_spacing", 2.4999999998, 2.5),
        (CT_QUANTITIES, "motion_edge_index", 1.23456789, 1.23456789),
    ],
)
def test_lengths_are_rounded_to_what_is_measured(register, name, value, shown):
    assert str(register.value(name, value).value) == str(shown)


@pytest.mark.parametrize(("value", "percentile"), [(5.0, 50.0), (4.0, 0.0), (6.0, 100.0)])
def test_equal_values_count_by_half_in_a_percentile(value, percentile):
    payload = '{"measurements": [{"name": "slice_thickness", "value": 5.0}]}'
    (trend,) = trends_of([GEOMETRY_QUANTITIES.value("slice_thickness", value)], [payload] * 12)
    assert trend.percentile == percentile
