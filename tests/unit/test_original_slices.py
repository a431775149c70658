"""Slices of the images in the spool, read by a child process: right values, within bounds, unharmed by broken files."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless, RLELossless

from dicom_qa_node.phantom import ct_series, petct_study, write
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.volume_builder import build_volumes
from dicom_qa_node.web import original_slices
from dicom_qa_node.web.original_slices import OriginalSlices, SeriesFiles, Unreadable


@pytest.fixture(scope="module")
def reader():
    reader = OriginalSlices()
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> SeriesFiles:
    images = ct_series(3, 9, 64, "routine", spacing_mm=10)
    return SeriesFiles.of(write(images, tmp_path_factory.mktemp("ct")))


def values(given) -> np.ndarray:
    return np.frombuffer(gzip.decompress(given.packed), "<i2").reshape(given.rows, given.columns) * given.scale


def test_slices_are_those_of_the_volume(reader, ct):
    (stack,) = reader.stacks(ct)
    with DecoderPool(1) as pool:
        (volume,) = build_volumes([Path(path) for path in ct.paths], pool)
    assert (stack.unit, stack.kind) == ("HU", "ct")
    assert stack.positions == pytest.approx(volume.positions_mm, abs=0.01)
    assert stack.normal == pytest.approx((0, 0, 1))
    for index in (0, 4, 8):
        expected = np.asarray(volume.voxels[index])
        assert np.abs(values(reader.slice(ct, 0, index)) - expected).max() <= 0.5, index


def test_a_pet_comes_as_suv(reader, tmp_path):
    _, pet = petct_study(12, ct_slices=8, ct_rows=64, pet_rows=48)
    paths = SeriesFiles.of(write(pet, tmp_path))
    (stack,) = reader.stacks(paths)
    with DecoderPool(1) as pool:
        (volume,) = build_volumes([Path(path) for path in paths.paths], pool)
    assert (stack.unit, stack.kind, stack.low, stack.high) == ("SUVbw", "pt", 0.0, 6.0)
    middle = len(stack.positions) // 2
    expected = np.asarray(volume.voxels[middle])
    assert np.abs(values(reader.slice(paths, 0, middle)) - expected).max() <= expected.max() / 32767 + 1e-6


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_compressed_slices_are_decoded(reader, ct, tmp_path, syntax):
    paths = []
    for source in ct.paths:
        ds = dcmread(source)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(tmp_path / Path(source).name)
        paths.append(tmp_path / Path(source).name)
    paths = SeriesFiles.of(paths)
    assert reader.stacks(paths) == reader.stacks(ct)
    for index in (0, 5):
        assert np.array_equal(values(reader.slice(paths, 0, index)), values(reader.slice(ct, 0, index)))


def test_a_window_becomes_grey(reader, ct):
    given = reader.slice(ct, 0, 4)
    hu = values(given)
    with Image.open(io.BytesIO(given.png(-160, 240))) as image:
        grey = np.asarray(image)
    with Image.open(io.BytesIO(given.png(-160, 240, invert=True))) as image:
        inverse = np.asarray(image)
    assert np.array_equal(grey, np.rint(np.clip((hu + 160) / 400, 0, 1) * 255))
    assert set(np.unique(grey.astype(int) + inverse)) == {255}


@pytest.mark.parametrize(("stack", "index"), [(0, 9), (0, -1), (1, 0)])
def test_what_is_not_there_is_said(reader, ct, stack, index):
    with pytest.raises(Unreadable, match="no such slice"):
        reader.slice(ct, stack, index)


def test_files_without_images_are_said(reader, tmp_path):
    odd = tmp_path / "odd.dcm"
    odd.write_bytes(b"\0" * 400)
    with pytest.raises(Unreadable, match="no slices"):
        reader.stacks(SeriesFiles.of([odd]))


def test_a_slice_cut_short_does_not_hurt_the_others(reader, ct, tmp_path):
    broken = [tmp_path / Path(path).name for path in ct.paths]
    for path, source in zip(broken, ct.paths, strict=True):
        path.write_bytes(Path(source).read_bytes())
    broken[4].write_bytes(broken[4].read_bytes()[:-4000])
    paths = SeriesFiles.of(broken)
    (stack,) = reader.stacks(paths)
    place = next(n for n in range(9) if _broken(reader, paths, n))
    assert [n for n in range(9) if not _broken(reader, paths, n)] == [n for n in range(9) if n != place]
    assert len(stack.positions) == 9


def _broken(reader: OriginalSlices, paths: SeriesFiles, index: int) -> bool:
    try:
        return reader.slice(paths, 0, index).rows != 64
    except Unreadable:
        return True


def test_a_child_that_ends_is_started_again(ct):
    reader = OriginalSlices()
    reader.stacks(ct)
    reader._child.kill()
    reader._child.wait()
    assert reader.slice(ct, 0, 2).rows == 64
    reader.close()


def test_a_child_that_takes_too_long_is_killed(ct, monkeypatch):
    monkeypatch.setattr(original_slices, "_OPEN_S", 0.001)
    reader = OriginalSlices()
    with pytest.raises(Unreadable, match="more than"):
        reader.stacks(ct)
    assert reader._child is None
    reader.close()


def test_a_series_of_too_many_images_is_not_opened(reader, ct):
    with pytest.raises(Unreadable, match="at most"):
        reader.stacks(SeriesFiles(ct.paths * 1000, 0))


def test_what_is_kept_stays_within_its_budget(ct, monkeypatch):
    monkeypatch.setattr(original_slices, "_KEPT_BYTES", 20_000)
    reader = OriginalSlices()
    for index in range(9):
        reader.slice(ct, 0, index)
    assert sum(len(item.packed) for item in reader._slices.values()) == reader._bytes <= 20_000
    assert len(reader._slices) < 9
    reader.close()


def test_an_exchanged_image_is_read_again(reader, ct, tmp_path):
    paths = [tmp_path / Path(path).name for path in ct.paths]
    for path, source in zip(paths, ct.paths, strict=True):
        path.write_bytes(Path(source).read_bytes())
    before = values(reader.slice(SeriesFiles.of(paths), 0, 4))
    ds = dcmread(paths[4])
    ds.PixelData = (np.frombuffer(ds.PixelData, np.int16) + 100).astype(np.int16).tobytes()
    ds.save_as(paths[4])
    changed = [values(reader.slice(SeriesFiles.of(paths), 0, index)) for index in range(9)]
    assert any(np.array_equal(one, before + 100) for one in changed)


def test_files_that_are_gone_are_left_out(tmp_path):
    assert SeriesFiles.of([tmp_path / "none.dcm"]).paths == ()
