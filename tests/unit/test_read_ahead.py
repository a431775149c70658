"""What is read while a series arrives is what would be read afterwards; what is wrong with an image is said as ever."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.score import read_ahead, volume_builder
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.read_ahead import ReadAhead
from dicom_qa_node.score.volume_builder import ImagesAhead, build_volume, scan_headers
from dicom_qa_node.spool.layout import SpoolLayout

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
SLICES = 6


class Arriving:
    """A spool and a registry that images come into, and a worker's reading ahead."""

    def __init__(self, folder: Path, database: Database, decoders: DecoderPool) -> None:
        self.registry, self.decoders, self.spool = Registry(database), decoders, folder / "spool"
        self.layout = SpoolLayout(self.spool)
        self.layout.create()
        self._count = 0

    def reader(self, worker: int = 0, workers: int = 1) -> ReadAhead:
        reader = ReadAhead(self.registry, self.spool, self.decoders, worker, workers)
        reader.step()
        return reader

    def files(self, name: str, compressed: bool = False) -> list[Path]:
        paths = write_phantom(list(ct_series(1, slices=SLICES, rows=64)), self.spool / "instances" / name)
        for path in paths if compressed else ():
            ds = dcmread(path)
            ds.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
            ds.save_as(path)
        return sorted(paths)

    def arrive(self, uid: str, paths: list[Path], conflict: bool = False) -> None:
        facts = SeriesHeader(uid, "1.2", "CT", frame_of_reference_uid="1.9")
        self._count += len(paths)
        self.registry.record(
            [
                StoredInstance(
                    sop_instance_uid=f"{uid}.{self._count}.{number}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                    transfer_syntax_uid="1.2.840.10008.1.2.1", path=self.layout.relative(path), sha256="0",
                    size_bytes=1, received_at=T0, calling_ae="A", association_id="a", series=facts, conflict=conflict,
                )
                for number, path in enumerate(paths)
            ]
        )  # fmt: skip


@pytest.fixture
def arriving(tmp_path: Path) -> Iterator[Arriving]:
    with closing(Database(f"sqlite:///{tmp_path}/q.db")) as database, DecoderPool(1) as decoders:
        database.upgrade()
        yield Arriving(tmp_path, database, decoders)


def read_all(reader: ReadAhead) -> None:
    while reader.step():
        pass


@pytest.mark.parametrize("compressed", [False, True])
def test_a_series_that_was_read_ahead_gives_the_same_volume_without_reading_it_again(arriving, monkeypatch, compressed):
    paths, reader = arriving.files("a", compressed), arriving.reader()
    arriving.arrive("1.2.3", paths)
    read_all(reader)
    ahead = reader.take("1.2.3")
    assert set(ahead.headers) == set(paths)
    assert set(ahead.frames) == (set(paths) if compressed else set())
    plain = scan_headers(paths)
    expected = build_volume(plain.stacks[0], arriving.decoders)
    monkeypatch.setattr(volume_builder, "_contents", None)
    if compressed:
        monkeypatch.setattr(arriving.decoders, "decode", None)
    found = scan_headers(paths, ahead.headers)
    assert found == plain
    volume = build_volume(found.stacks[0], arriving.decoders, decoded=ahead.frames)
    assert np.array_equal(volume.voxels, expected.voxels)
    assert volume.sop_instance_uids == expected.sop_instance_uids
    assert reader.take("1.2.3") == ImagesAhead()


def test_images_from_before_conflicts_and_files_that_are_gone_are_left_to_the_scoring(arriving):
    before, odd, gone = arriving.files("a"), arriving.files("b"), arriving.files("c")
    arriving.arrive("1.2.3", before)
    reader = arriving.reader()
    arriving.arrive("1.2.4", odd, conflict=True)
    arriving.arrive("1.2.5", gone)
    gone[0].unlink()
    read_all(reader)
    assert not reader.take("1.2.3").headers
    assert not reader.take("1.2.4").headers
    assert set(reader.take("1.2.5").headers) == set(gone[1:])


def test_a_complete_series_is_not_read_ahead(arriving):
    paths, reader = arriving.files("a"), arriving.reader()
    arriving.arrive("1.2.3", paths)
    (progress,) = arriving.registry.receiving()
    assert arriving.registry.complete(progress, reason="test")
    read_all(reader)
    assert not reader.take("1.2.3").headers


def test_a_picture_that_cannot_be_decoded_is_named_when_the_series_is_scored(arriving):
    paths, reader = arriving.files("a", compressed=True), arriving.reader()
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[: len(data) - 600] + bytes(600))
    arriving.arrive("1.2.3", paths)
    read_all(reader)
    ahead = reader.take("1.2.3")
    assert paths[2] not in ahead.frames
    volume = build_volume(scan_headers(paths, ahead.headers).stacks[0], arriving.decoders, decoded=ahead.frames)
    assert "slices_undecodable" in {finding.key for finding in volume.findings}


def test_each_series_is_read_by_one_of_several_workers(arriving):
    readers = [arriving.reader(number, 3) for number in range(3)]
    uids = [f"1.2.{number}" for number in range(100, 109)]
    paths = arriving.files("a")
    for uid, path in zip(uids, [*paths, *arriving.files("b")], strict=False):
        arriving.arrive(uid, [path])
    for reader in readers:
        read_all(reader)
    counts = [[len(reader.take(uid).headers) for uid in uids] for reader in readers]
    assert [sum(column) for column in zip(*counts, strict=True)] == [1] * len(uids)
    assert all(sum(row) for row in counts)


def test_memory_is_bounded(arriving, monkeypatch):
    paths, reader = arriving.files("a", compressed=True), arriving.reader()
    monkeypatch.setattr(read_ahead, "_MOST_FRAME_BYTES", 3 * 64 * 64 * 2)
    monkeypatch.setattr(read_ahead, "_MOST_SERIES", 1)
    arriving.arrive("1.2.3", paths)
    read_all(reader)
    arriving.arrive("1.2.4", arriving.files("b", compressed=True))
    read_all(reader)
    assert not reader.take("1.2.3").headers
    assert len(reader.take("1.2.4").frames) == 3


def test_headers_are_bounded_over_all_series(arriving, monkeypatch):
    first, second, reader = arriving.files("a"), arriving.files("b"), arriving.reader()
    monkeypatch.setattr(read_ahead, "_MOST_SLICES", SLICES + 2)
    arriving.arrive("1.2.3", first)
    arriving.arrive("1.2.4", second)
    read_all(reader)
    assert not reader.take("1.2.3").headers
    assert len(reader.take("1.2.4").headers) == SLICES


def test_one_long_series_keeps_to_the_bound(arriving, monkeypatch):
    paths, reader = arriving.files("a"), arriving.reader()
    monkeypatch.setattr(read_ahead, "_MOST_SLICES", 4)
    arriving.arrive("1.2.3", paths)
    read_all(reader)
    assert len(reader.take("1.2.3").headers) == 4
