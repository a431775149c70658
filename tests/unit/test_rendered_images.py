"""The pictures kept beside a verdict give back the values of the images, on the picture's grid, with their place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dicom_qa_node.config import Grades
from dicom_qa_node.phantom import ct_series, pet_series, petct_study
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.score.image_files import write_images
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.score.volume_builder import build_volumes
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import INDEX, heat_name, read_manifest
from tests.stub_model import TinyScorer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("dicom_qa_node.score.pipeline.measure", lambda *_: ())


def _values(folder, layer):
    with Image.open(folder / layer.file) as image:
        return np.asarray(image).astype(np.float64) * layer.scale + layer.offset


def _as_seen(values, layer):
    unit = np.clip((values - layer.low) / (layer.high - layer.low), 0, 1)
    return np.rint(255 * (1 - unit if layer.inverted else unit))


def test_a_ct_slice_comes_back_to_the_unit_of_hounsfield(tmp_path):
    paths = write_phantom(ct_series(3, 16, 96, spacing_mm=12.0), tmp_path / "in")
    folder = tmp_path / "out"
    write_images(score_series(paths, scorer=TinyScorer()), folder, Grades())
    volume, manifest = build_volumes(paths)[0], read_manifest(folder)
    assert manifest.kind == "ct"
    assert len(manifest.slices) == 7
    for item in manifest.slices:
        (layer,) = item.layers
        assert (layer.unit, layer.step) == ("HU", 0.0)
        assert np.array_equal(_values(folder, layer), volume.voxels[item.index])
        assert volume.sop_instance_uids[item.index] == item.sop_instance_uid
        with Image.open(folder / item.display) as seen:
            assert np.abs(_as_seen(_values(folder, layer), layer) - np.asarray(seen.convert("L"))).max() <= 1
        assert item.pixel_spacing_mm == pytest.approx(volume.spacing_mm[1:])


def test_a_pet_alone_keeps_its_suv(tmp_path):
    paths = write_phantom(pet_series(3, 16, 64), tmp_path / "in")
    write_images(score_series(paths, scorer=TinyScorer()), tmp_path, Grades())
    volume, manifest = build_volumes(paths)[0], read_manifest(tmp_path)
    for item in manifest.slices:
        (layer,) = item.layers
        assert layer.unit == volume.unit
        assert np.abs(_values(tmp_path, layer) - volume.voxels[item.index]).max() <= layer.step * 1.01
        assert layer.step < 1e-3 * volume.voxels[item.index].max()


def test_a_fused_slice_keeps_both_layers_on_one_grid(tmp_path):
    ct, pet = petct_study(12, ct_slices=12, ct_rows=128, pet_rows=96)
    paths = write_phantom(pet, tmp_path / "pet")
    found = score_series(paths, pair_paths=write_phantom(ct, tmp_path / "ct"), scorer=TinyScorer())
    write_images(found, tmp_path, Grades())
    manifest = read_manifest(tmp_path)
    assert manifest.kind == "petct"
    for item in manifest.slices:
        hu, suv = (_values(tmp_path, layer) for layer in item.layers)
        assert hu.shape == suv.shape == (item.rows, item.columns)
        assert [layer.unit for layer in item.layers] == ["HU", "SUVbw"]
        assert -1100 <= hu.min() < -900
        assert 0 <= suv.min() < suv.max() < 100


def test_the_overview_marks_the_slices_head_up(tmp_path):
    paths = write_phantom(ct_series(3, 30, 96, spacing_mm=10.0), tmp_path / "in")
    write_images(score_series(paths, scorer=TinyScorer()), tmp_path, Grades())
    manifest = read_manifest(tmp_path)
    overview = manifest.overview
    with Image.open(tmp_path / overview.file) as image:
        assert image.size == (overview.columns, overview.rows)
        assert np.asarray(image).std() > 20
    heights = [item.position_mm for item in manifest.slices]
    marks = overview.marks
    assert np.all(np.diff(heights) * np.diff(marks) < 0)
    assert np.diff(marks) * overview.pixel_mm == pytest.approx(-np.diff(heights), abs=1e-6)
    assert 0 <= min(marks) <= max(marks) <= overview.rows


def test_a_folder_without_an_index_has_no_gallery(tmp_path):
    assert read_manifest(tmp_path / "nowhere") is None
    (tmp_path / INDEX).write_text("{")
    assert read_manifest(tmp_path) is None


def test_the_heat_map_of_a_slice_lies_beside_its_picture(tmp_path):
    layout = SpoolLayout(tmp_path)
    assert layout.heat_map_path("1.2.3", 2, 4) == layout.pictures("1.2.3", 2) / heat_name(4)
