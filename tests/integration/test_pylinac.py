"""Generated phantoms through the real pylinac: their known values come out, the wrong phantom gives no verdict.

The environment is made once and kept in the user's cache; installing it needs the package index and 0.6 GB.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_qa_node.config import Phantoms
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.qc_phantoms import PhantomKind, QcOutcome
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.phantom.catphan import CATPHANS, WATER_HU, catphan_series, frequency_of_contrast
from dicom_qa_node.phantom.qc_ct import ACR_INSERTS_HU, CtPhantomForm, acr_ct_series, water_series
from dicom_qa_node.quality_control.phantom_quantities import quantities_of
from dicom_qa_node.quality_control.pylinac_environment import environment_of, install
from dicom_qa_node.score.phantom_series import PhantomLane
from dicom_qa_node.score.pipeline import Options, score_series
from tests.stub_model import TinyScorer

pytestmark = [pytest.mark.integration, pytest.mark.full]
INSTALL_S = 600.0


@pytest.fixture(scope="session")
def environment_dir() -> Path:
    """Return the folder of an environment with pylinac."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dicom-qa-node-tests" / "pylinac"
    try:
        environment_of(folder)
    except Misconfigured:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            install(folder, INSTALL_S)
        except Misconfigured as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"pylinac cannot be installed here: {error}")
    return folder


def analysed(tmp_path, images, kind, environment_dir, **more):
    paths = write_phantom(images, tmp_path / "series")
    settings = Phantoms.model_validate(
        {"analyse": [{"name": "it", "kind": kind}], "environment_dir": str(environment_dir), **more}
    )
    options = Options(phantoms=PhantomLane(settings))
    return score_series(paths, scorer=TinyScorer(), options=options).result


FORM = CtPhantomForm(
    spacing_mm=2.0, thickness_mm=2.0, noise_hu=2.0, cupping_hu=10.0, centre_mm=(4.0, -3.0), turn_deg=2.0
)
PIXEL_MM = FORM.fov_mm / FORM.rows
SMOOTHED_MM = 0.001 * 2 * math.pi * 47.0
"""pylinac smooths the profile of its circle of line pairs by a Gaussian of a thousandth of the circle."""


def cupped(hu: float, distance_mm: float, radius_mm: float) -> float:
    """Return the mean of a disc that was drawn with ``hu``; what is nearly air is left as it is."""
    square = distance_mm**2 + radius_mm**2 / 2
    return hu if hu < -500.0 else hu + FORM.cupping_hu * (square / 100.0**2 - 1.0)


@pytest.mark.parametrize("model", CATPHANS)
def test_every_catphan_gives_its_known_values(tmp_path, environment_dir, model):
    made = CATPHANS[model]
    result = analysed(tmp_path, catphan_series(model, FORM), f"catphan{model}", environment_dir)
    values = {item.name: item.value for item in result.measurements}
    found = {name.removeprefix("phantom_hu_") for name in values if name.startswith("phantom_hu_")} - {"centre"}
    assert found == set(made.inserts)
    for name, item in made.inserts.items():
        assert values[f"phantom_hu_{name}"] == pytest.approx(cupped(item.hu, item.distance_mm, 5.0), abs=2.0), name
    assert values["phantom_slice_thickness"] == pytest.approx(2.0, abs=0.05)
    assert values["phantom_thickness_error"] == pytest.approx(0.0, abs=0.05)
    assert ("phantom_line_distance" in values) is made.nodes
    assert values.get("phantom_line_distance", 50.0) == pytest.approx(50.0, abs=0.1)
    assert values["phantom_hu_centre"] == pytest.approx(cupped(WATER_HU, 0.0, 10.0), abs=1.0)
    apart = cupped(WATER_HU, 53.0, 10.0) - cupped(WATER_HU, 0.0, 10.0)
    assert values["phantom_edge_centre"] == pytest.approx(apart, abs=1.0)
    assert values["phantom_noise"] == pytest.approx(2.0, rel=0.15)
    smoothed = math.hypot(FORM.blur_mm, PIXEL_MM / math.sqrt(12), SMOOTHED_MM if made.line_pairs else 0.0)
    assert values["phantom_mtf50"] == pytest.approx(frequency_of_contrast(0.5, smoothed), rel=0.06)
    assert values.get("phantom_low_contrast_discs") == (None if made.discs_mm is None else 6.0)
    assert result.qc_phantom.outcome is QcOutcome.PASSED
    assert (result.model.name, result.score) == ("pylinac", None)
    assert set(values) <= {item.name for item in quantities_of(PhantomKind(f"catphan{model}"))}


def test_a_blurred_catphan_loses_resolution_as_it_was_blurred(tmp_path, environment_dir):
    form = replace(FORM, blur_mm=0.7)
    result = analysed(tmp_path, catphan_series("504", form), "catphan504", environment_dir)
    values = {item.name: item.value for item in result.measurements}
    smoothed = math.hypot(0.7, PIXEL_MM / math.sqrt(12), SMOOTHED_MM)
    assert values["phantom_mtf50"] == pytest.approx(frequency_of_contrast(0.5, smoothed), rel=0.06)


def test_an_acr_phantom_off_its_scale_is_outside(tmp_path, environment_dir):
    form = CtPhantomForm(spacing_mm=2.5, thickness_mm=2.5, offset_hu=15.0)
    result = analysed(tmp_path, acr_ct_series(form), "acr_ct", environment_dir)
    values = {item.name: item.value for item in result.measurements}
    for name, truth in ACR_INSERTS_HU.items():
        shift = 0.0 if name == "air" else 15.0
        assert values[f"phantom_hu_{name}"] == pytest.approx(truth + shift, abs=2.0)
    assert values["phantom_bb_distance"] == pytest.approx(100.0, abs=0.5)
    assert result.qc_phantom.outcome is QcOutcome.OUTSIDE


def test_another_phantom_is_not_analysed_with_the_words_of_pylinac(tmp_path, environment_dir):
    images = water_series(replace(CtPhantomForm(), spacing_mm=2.0, thickness_mm=2.0), slices=50)
    result = analysed(tmp_path, images, "catphan504", environment_dir)
    assert result.qc_phantom.outcome is QcOutcome.NOT_ANALYSED
    assert result.measurements == ()
    assert result.qc_phantom.remark.startswith("pylinac 3.49")
    assert "Error" in result.qc_phantom.remark
