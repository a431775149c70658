"""Three thousand slices are judged within a bounded memory, and none is lost."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import cache

import numpy as np
import psutil
import pytest
from pydicom import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.slice_selection import salient_slices
from dicom_qa_node.score.volume_builder import build_volume, scan_headers
from tests.tiny_series import ct, write

pytestmark = [pytest.mark.full, pytest.mark.serial, pytest.mark.load]

SLICES, KINDS = 3000, 50
MOST_MB = 1000
"""As float32 the volume alone would be 3 GB."""


def pixels(index):
    rows, columns = np.indices((512, 512)) - 256
    body = (rows / 150) ** 2 + (columns / 200) ** 2 < 1
    return np.where(body, 1024 + 40 + index % KINDS, 24)


@cache
def compressed(kind):
    ds = ct(0, pixels=pixels(kind))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(RLELossless, generate_instance_uid=False)
    return ds.PixelData


def one(index):
    """RLE keeps these plain pictures small on disk."""
    ds = ct(index, ImagePositionPatient=[-200.0, -200.0, 0.5 * index], SliceThickness=0.5)
    ds.Rows, ds.Columns, ds.PixelData = 512, 512, compressed(index % KINDS)
    return ds


@pytest.fixture
def paths(tmp_path):
    return write(tmp_path, [one(index) for index in range(SLICES)], syntax=RLELossless)


@contextmanager
def resident_mb():
    """Give a list that holds at the end how many megabytes this process had at most."""
    process, done, most = psutil.Process(), threading.Event(), [0.0]

    def watch():
        while not done.is_set():
            most[0] = max(most[0], process.memory_info().rss / 2**20)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def test_three_thousand_slices_stay_within_bounded_memory(paths):
    with DecoderPool() as decoders, resident_mb() as most:
        volume = build_volume(scan_headers(paths).stacks[0], decoders)
        chosen = salient_slices(volume)
        found = measure(volume)
    assert len(volume.voxels) == SLICES
    assert len(chosen) == 7
    assert next(item.value for item in found if item.name == "slices_used") == SLICES
    for index in (0, 1234, SLICES - 1):
        assert np.array_equal(volume.voxels[index], pixels(index) - 1024.0)
    assert most[0] < MOST_MB, f"{most[0]:.0f} MB"
