"""The readers of public data sets and of one's own series, on tiny files of the same layout."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import prepare_dicom, prepare_kadid, prepare_ldctiqac
from training.pool import read_pool


def _run(module: object, monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, options)])
    module.main()  # type: ignore[attr-defined]


def _anatomy(seed: int, side: int = 128) -> np.ndarray:
    """A disc with organs of its own, values in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    picture = np.where((x - 64) ** 2 + (y - 64) ** 2 < 55**2, 0.45, 0.0)
    for _ in range(8):
        cx, cy = rng.integers(20, 108, 2)
        picture[(x - cx) ** 2 + (y - cy) ** 2 < rng.integers(8, 22) ** 2] = rng.uniform(0, 1)
    return picture.astype(np.float32)


def _ldct(folder: Path, labels: str, seeds: range, versions: int = 5) -> dict[str, int]:
    (folder / "image").mkdir(parents=True)
    scores, truth = {}, {}
    rng = np.random.default_rng(7)
    order = rng.permutation(len(seeds) * versions)
    for place, number in enumerate(order):
        seed, version = seeds[number // versions], number % versions
        noisy = np.clip(_anatomy(seed) + rng.normal(0, 0.02 * (1 + version), (128, 128)), 0, 1)
        name = f"{place:04}.tif"
        Image.fromarray(noisy.astype(np.float32)).save(folder / "image" / name)
        scores[name] = 4.0 - 0.6 * version
        truth[name] = seed
    (folder / labels).write_text(json.dumps(scores))
    return truth


def test_ldctiqac_groups_the_versions_of_one_slice_and_keeps_the_test_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = _ldct(tmp_path / "train", "train.json", range(6))
    _ldct(tmp_path / "test", "test.json", range(20, 22))
    out = tmp_path / "pools" / "ldctiqac"
    options = ("--source", tmp_path / "train", "--test", tmp_path / "test", "--out", out)
    _run(prepare_ldctiqac, monkeypatch, *options)
    pool, test = read_pool(out), read_pool(out.with_name("ldctiqac_test"))
    slices = {row.source: row.slice_id for row in pool.rows}
    assert len(set(slices.values())) == 6
    for seed in set(truth.values()):
        assert len({slices[name] for name, own in truth.items() if own == seed}) == 1
    assert {row.score for row in pool.rows} == {4.0, 3.4, 2.8, 2.2, 1.6}
    assert not {row.group for row in pool.rows} & {row.group for row in test.rows}
    assert len(test.rows) == 10
    assert pool.images.shape == (30, 128, 128, 1)


@pytest.mark.parametrize(("text", "said"), [("[1, 2]", "does not map"), ('{"a.tif": 5}', "not within"), ("{}", "no")])
def test_ldctiqac_names_a_wrong_label_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        prepare_ldctiqac.read_scores(tmp_path / "train.json")


def test_ldctiqac_refuses_pictures_that_are_not_shares(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 900, np.float32)).save(tmp_path / "hu.tif")
    with pytest.raises(ValueError, match="values in 0 to 1"):
        prepare_ldctiqac.read_picture(tmp_path / "hu.tif")


def _kadid(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    lines = ["dist_img,ref_img,dmos,var"]
    rng = np.random.default_rng(3)
    for reference in (1, 2, 3):
        for level, dmos in ((1, 4.57), (5, 1.0)):
            name = f"I{reference:02}_01_{level:02}.png"
            Image.fromarray(rng.integers(0, 255, (384, 512, 3), np.uint8)).save(folder / "images" / name)
            lines.append(f"{name},I{reference:02}.png,{dmos},0.5")
    (folder / "dmos.csv").write_text("\n".join(lines) + "\n")


def test_kadid_stretches_scores_and_groups_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _kadid(tmp_path / "kadid")
    _run(prepare_kadid, monkeypatch, "--source", tmp_path / "kadid", "--out", tmp_path / "pool", "--references", 2)
    pool = read_pool(tmp_path / "pool")
    assert [row.group for row in pool.rows] == ["kadid/I01"] * 2 + ["kadid/I02"] * 2
    assert [row.score for row in pool.rows[:2]] == [pytest.approx(3.57), 0.0]
    assert {row.kind for row in pool.rows} == {"natural"}


def test_kadid_names_a_missing_column_and_a_score_off_its_scale(tmp_path: Path) -> None:
    (tmp_path / "dmos.csv").write_text("dist_img,dmos\na,1\n")
    with pytest.raises(ValueError, match="ref_img"):
        prepare_kadid.read_table(tmp_path / "dmos.csv", None)
    with pytest.raises(ValueError, match="1 to 5"):
        prepare_kadid.score_of(0.2)


def test_own_series_become_a_pool_without_identifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_series(tmp_path / "dicom" / "long", 15, "SECRET-1", "1.2.3.1")
    _write_series(tmp_path / "dicom" / "short", 3, "SECRET-2", "1.2.3.2")
    (tmp_path / "dicom" / "notes.txt").write_text("no DICOM")
    monkeypatch.setattr(prepare_dicom, "ct_rows", _first_versions)
    _run(prepare_dicom, monkeypatch, "--source", tmp_path / "dicom", "--out", tmp_path / "pool")
    assert "1.2.3.2 is left out: 3 slices" in capsys.readouterr().err
    pool = read_pool(tmp_path / "pool")
    assert len({row.group for row in pool.rows}) == 1
    with (tmp_path / "pool" / "table.csv").open(newline="") as stream:
        text = " ".join(value for record in csv.reader(stream) for value in record)
    assert "SECRET" not in text
    assert "1.2.3" not in text


def _first_versions(series: object, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Spare the test the projections: the reader is under test, not the physics."""
    from training.pool import Row

    for index, hu in enumerate(series.voxels[:3]):  # type: ignore[attr-defined]
        picture = np.clip((hu + 135) / 350 * 255, 0, 255).astype(np.uint8)[..., None]
        yield picture, Row("x", f"{series.name}/{index}", "ct", "simulated", 3.7, {"dose": 0.0})  # type: ignore[attr-defined]


def _write_series(folder: Path, count: int, patient: str, uid: str) -> None:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir(parents=True)
    for index in range(count):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{uid}.{index}"
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = patient, f"{uid}.8", uid
        ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 5 * index], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.8], 5
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.Rows = ds.Columns = 32
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.PixelData = np.full((32, 32), 1064, np.uint16).tobytes()
        ds.save_as(folder / f"{index}.dcm", enforce_file_format=True)
