"""Thousands of damaged real files: assembly ends with a volume or a plain refusal, never a crash, a hang or a flood.

``QA_FUZZ_SEED`` chooses other damage, ``QA_FUZZ_FILES`` how many files.
"""

from __future__ import annotations

import os
import random
import time

import psutil
import pytest

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.slice_selection import salient_slices
from dicom_qa_node.score.volume_builder import build_volume, scan_headers
from tests.conftest import seed_of
from tests.load.mutations import damaged

pytestmark = [pytest.mark.full, pytest.mark.serial, pytest.mark.load, pytest.mark.realdata]

FILES = int(os.environ.get("QA_FUZZ_FILES", "5000"))
LONGEST_S = 30.0
MOST_MB = 2500


def test_damaged_files_end_with_a_volume_or_a_refusal(shared_data, tmp_path):
    rng = random.Random(seed_of("QA_FUZZ_SEED"))
    files = sorted((shared_data / "dicom").rglob("*.dcm"))
    compressed = sorted((shared_data / "dicom" / "transfer_syntaxes").glob("*.dcm"))
    path, process, outcomes = tmp_path / "x.dcm", psutil.Process(), {"volume": 0, "refused": 0}
    with DecoderPool(count=2) as decoders:
        for number in range(FILES):
            source = rng.choice(compressed if number % 2 else files)
            path.write_bytes(damaged(source.read_bytes(), rng))
            begin = time.monotonic()
            try:
                salient_slices(build_volume(scan_headers([path]).stacks[0], decoders))
                outcomes["volume"] += 1
            except Permanent:
                outcomes["refused"] += 1
            assert time.monotonic() - begin < LONGEST_S, f"file {number}, from {source.name}"
            assert process.memory_info().rss < MOST_MB << 20, f"file {number}, from {source.name}"
    assert min(outcomes.values()) > FILES / 20, outcomes
