"""``score PATH…``: the offline verdict by the worker's own code, and a plain reason where there is none."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from dicom_qa_node.cli.app import run
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.models.registry import DEFAULT_CT_MODEL, card_of
from dicom_qa_node.phantom import ct_series, petct_study, write
from dicom_qa_node.score.threads import max_threads, set_max_threads


@pytest.fixture
def qa(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_QA_NODE_CONFIG", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", *map(str, arguments)])
        code = run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Write a PET/CT study in one folder; returns the folder and the UIDs of CT and PET."""
    folder = tmp_path_factory.mktemp("study")
    ct, pet = petct_study(3, ct_slices=10, ct_rows=128, pet_rows=64)
    write([*pet, *ct], folder)
    return folder, str(ct[0].SeriesInstanceUID), str(pet[0].SeriesInstanceUID), str(ct[0].PatientName)


def test_json_has_one_verdict_per_series(qa, study, tmp_path):
    folder, ct, pet, patient = study
    code, out, _ = qa("score", folder, "--json", "--pictures", tmp_path / "pictures")
    assert code == ExitCode.OK, out
    found = {entry["series_instance_uid"]: entry for entry in json.loads(out)}
    assert {uid: entry["kind"] for uid, entry in found.items()} == {ct: "ct", pet: "petct"}
    assert found[pet]["pair_series_uid"] == ct
    for entry in found.values():
        card = card_of(DEFAULT_CT_MODEL if entry["kind"] == "ct" else "ms_iqa_small")
        low, high = entry["interval"]
        assert 0 <= low <= entry["score"] <= high <= 4
        assert entry["grade"] in ("diagnostic", "limited", "non-diagnostic")
        assert entry["model"] == {"name": card.name, "version": card.version, "sha256": card.sha256}
        assert len(entry["slices"]) == 7
        assert {"sop_instance_uid", "index", "score", "weight"} <= set(entry["slices"][0])
        assert sum(item["weight"] for item in entry["slices"]) == pytest.approx(1, abs=1e-3)
        assert {"name", "value", "unit"} <= set(entry["measurements"][0])
        assert isinstance(entry["findings"], list)
        assert np.ptp(np.asarray(Image.open(entry["picture"]))) > 100
    assert patient not in out


def test_the_same_files_give_the_same_verdict_in_any_order(qa, study):
    folder, _, _, _ = study
    files = sorted(folder.iterdir())
    first = {entry["series_instance_uid"]: entry for entry in json.loads(qa("score", folder, "--json")[1])}
    other = {entry["series_instance_uid"]: entry for entry in json.loads(qa("score", *reversed(files), "--json")[1])}
    for uid, entry in first.items():
        assert other[uid] | {"timings_ms": None} == entry | {"timings_ms": None}


def test_what_cannot_be_scored_has_a_reason_and_the_rest_is_scored(qa, tmp_path):
    images = ct_series(4, slices=8, rows=64)
    write(images, tmp_path / "in" / "ct")
    mr = ct_series(5, slices=1, rows=64)
    mr[0].Modality, mr[0].SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"
    mr[0].file_meta.MediaStorageSOPClassUID = mr[0].SOPClassUID
    write(mr, tmp_path / "in" / "mr")
    (tmp_path / "in" / "cut.dcm").write_bytes(next((tmp_path / "in" / "ct").iterdir()).read_bytes()[:300])
    code, out, _ = qa("score", tmp_path / "in", "--json")
    assert code == ExitCode.FAILED
    entries = json.loads(out)
    assert [entry.get("file", "").rpartition("/")[2] for entry in entries if not entry["series_instance_uid"]] == [
        "cut.dcm"
    ]
    by_uid = {entry["series_instance_uid"]: entry for entry in entries}
    assert by_uid[str(mr[0].SeriesInstanceUID)]["error"]
    assert "internal error" not in by_uid[str(mr[0].SeriesInstanceUID)]["error"]
    assert by_uid[str(images[0].SeriesInstanceUID)]["score"] is not None


def test_the_table_names_score_and_reason(qa, study):
    folder, ct, _, _ = study
    code, out, _ = qa("score", folder)
    assert code == ExitCode.OK
    assert ct in out
    assert "] " in out


@pytest.mark.parametrize("name", ["none", "empty"])
def test_nothing_to_score_is_not_found(qa, tmp_path, name):
    (tmp_path / "empty").mkdir()
    code, _, err = qa("score", tmp_path / name)
    assert code == ExitCode.NOT_FOUND
    assert err.startswith("error: ")


def test_the_threads_of_the_configuration_hold_here_too(qa, study, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "config.yaml").write_text("score: {threads: 3, models_dir: weights}\n")
    try:
        assert qa("--config", tmp_path / "config.yaml", "score", study[0])[0] != ExitCode.OK
        assert max_threads() == 3
    finally:
        set_max_threads(0)


def test_a_missing_model_scores_nothing(qa, study, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "config.yaml").write_text("score: {models_dir: weights}\n")
    code, out, err = qa("score", study[0], "--json")
    assert (code, out) == (ExitCode.MISCONFIGURED, "")
    assert "weights" in err


def test_pictures_without_a_path_is_a_usage_error(qa):
    assert qa("score", "--json")[0] == ExitCode.USAGE
