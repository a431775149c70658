"""Generated phantoms through the real pylinac: their known values come out, the wrong phantom gives no verdict.

The environment is made once and kept in the user's cache; installing it needs the package index and 0.6 GB.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_qa_node.config import Phantoms
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.qc_phantoms import QcOutcome
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.phantom.qc_ct import (
    ACR_INSERTS_HU,
    CATPHAN_INSERTS_HU,
    CtPhantomForm,
    acr_ct_series,
    catphan504_series,
    water_series,
)
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


def test_a_catphan_504_gives_its_known_values(tmp_path, environment_dir):
    result = analysed(tmp_path, catphan504_series(), "catphan504", environment_dir)
    values = {item.name: item.value for item in result.measurements}
    for name, truth in CATPHAN_INSERTS_HU.items():
        key = "poly" if name == "polystyrene" else name
        assert values[f"phantom_hu_{key}"] == pytest.approx(truth, abs=2.0)
    assert values["phantom_line_distance"] == pytest.approx(50.0, abs=0.1)
    assert values["phantom_slice_thickness"] == pytest.approx(1.0, abs=0.1)
    assert values["phantom_thickness_error"] == pytest.approx(0.0, abs=0.1)
    assert values["phantom_hu_centre"] == pytest.approx(5.0, abs=1.0)
    assert values["phantom_noise"] == pytest.approx(4.0, rel=0.15)
    assert 0.2 < values["phantom_mtf50"] < values["phantom_mtf10"] < 1.0
    assert result.qc_phantom.outcome is QcOutcome.PASSED
    assert (result.model.name, result.score) == ("pylinac", None)


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
