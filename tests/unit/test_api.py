"""The Python interface: the same results as the command line, from one import that stays light."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom.uid import Comprehensive3DSRStorage

import dicom_qa_node as qa
from dicom_qa_node.cli.app import run
from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.phantom import petct_study, write


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    ct, pet = petct_study(3, ct_slices=10, ct_rows=128, pet_rows=64)
    write(ct, folder / "ct")
    write(pet, folder / "pet")
    return folder


@pytest.fixture(scope="module")
def model():
    return qa.open_model(device="cpu")


@pytest.fixture(scope="module")
def scored(study, model):
    return qa.score_series(study / "ct", model=model)


def without_times(entry):
    return {key: value for key, value in entry.items() if key not in ("timings_ms", "picture")}


def test_result_equals_that_of_the_command(study, scored, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dicom-qa-node", "score", str(study / "ct"), "--json"])
    assert run() == 0
    entry = json.loads(capsys.readouterr().out)[0]
    assert without_times(json.loads(json.dumps(scored.to_dict()))) == without_times(entry)


def test_result_is_typed(scored):
    low, high = scored.interval
    assert low <= scored.score <= high
    assert scored.grade.split("–")[0] in ("diagnostic", "limited", "non-diagnostic")
    assert scored.images.shape[0] == len(scored.result.slices)
    assert scored.images.dtype == np.uint8
    assert scored.measurements["global_noise_level"].unit


def test_folder_of_a_pet_and_its_ct_is_fused(study, model):
    assert qa.score_series(study, model=model).result.kind == "petct"
    alone = qa.score_series(study / "pet", model=model)
    fused = qa.score_series(study / "pet", ct_paths=study / "ct", model=model)
    assert (alone.result.kind, fused.result.kind) == ("pt", "petct")


def test_volume_and_measurements_agree_with_the_score(study, scored):
    volume = qa.load_series(study / "ct")
    assert volume.unit == "HU"
    assert volume.voxels.shape[0] == 10
    measured = qa.measure(volume)
    assert measured["global_noise_level"].value == scored.measurements["global_noise_level"].value


def test_report_is_a_structured_report_that_highdicom_reads(scored, tmp_path):
    document = qa.build_report(scored)
    document.save_as(tmp_path / "report.dcm")
    read = srread(tmp_path / "report.dcm")
    assert read.SOPClassUID == Comprehensive3DSRStorage
    assert read.StudyInstanceUID == document.StudyInstanceUID


def test_several_series_and_none_are_refused(study, tmp_path):
    ct, _ = petct_study(4, ct_slices=2, ct_rows=64, pet_rows=32)
    write(ct, tmp_path / "other")
    with pytest.raises(Permanent, match="2 series instead of one: CT"):
        qa.load_series([study / "ct", tmp_path / "other"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(Permanent, match="no DICOM series"):
        qa.load_series(tmp_path / "empty")
    with pytest.raises(Permanent, match="no stack 'arterial'"):
        qa.load_series(study / "ct", stack="arterial")
    with pytest.raises(Misconfigured, match="no model"):
        qa.open_model("nothing")


def test_physics_works_on_arrays():
    hu = np.random.default_rng(1).normal(40, 12, (128, 128)).astype(np.float32)
    assert np.median(qa.image_metrics.noise_map_hu(hu, 0.8)) == pytest.approx(12, rel=0.03)


def test_models_are_listed():
    cards = qa.list_models()
    assert [card.name for card in cards] == sorted(card.name for card in cards)
    assert any(card.measured is not None for card in cards)


def test_import_is_light():
    script = (
        "import sys, dicom_qa_node as qa; qa.score_series; "
        "print({'torch', 'SimpleITK', 'highdicom', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "set()"
    with pytest.raises(AttributeError, match="nothing"):
        _ = qa.nothing
    assert set(qa.__all__) <= set(dir(qa))
