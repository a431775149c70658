"""Thousands of damaged real files: assembly ends with a volume or a plain refusal, never a crash, a hang or a flood."""

from __future__ import annotations

import random
import time

import psutil
import pytest

from dicom_qa_node.errors import Permanent
from dicom_qa_node.score.assemble import read, survey
from dicom_qa_node.score.decoders import Decoders
from dicom_qa_node.score.slices import salient_slices

pytestmark = [pytest.mark.load, pytest.mark.realdata]

FILES = 5000
LONGEST_S = 30.0
MOST_MB = 2500


def damaged(data, rng):
    """Return a file with one kind of damage: bits, lengths, an early end, inserted, zeroed or exchanged bytes."""
    b, head = bytearray(data), min(len(data), 4000)
    kind = rng.choice(("bits", "header", "lengths", "cut", "insert", "zero", "swap"))
    if kind in ("bits", "header"):
        for _ in range(rng.randint(1, 60)):
            b[rng.randrange(132, len(b) if kind == "bits" else head)] = rng.randrange(256)
    elif kind == "lengths":
        at = rng.randrange(140, head - 4)
        b[at : at + 4] = rng.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 4, b"\xff\xff\0\0"))
    elif kind == "cut":
        del b[rng.randrange(len(b)) :]
    elif kind == "insert":
        at = rng.randrange(132, len(b))
        b[at:at] = rng.randbytes(rng.randint(1, 40))
    elif kind == "zero":
        at, count = rng.randrange(132, len(b)), rng.randint(1, 400)
        b[at : at + count] = bytes(count)
    else:
        i, j, count = rng.randrange(132, head), rng.randrange(132, head), rng.randint(4, 80)
        b[i : i + count], b[j : j + count] = b[j : j + count], b[i : i + count]
    return bytes(b)


def test_damaged_files_end_with_a_volume_or_a_refusal(shared_data, tmp_path):
    rng = random.Random(20260105)
    files = sorted((shared_data / "dicom").rglob("*.dcm"))
    compressed = sorted((shared_data / "dicom" / "transfer_syntaxes").glob("*.dcm"))
    path, process, outcomes = tmp_path / "x.dcm", psutil.Process(), {"volume": 0, "refused": 0}
    with Decoders(count=2) as decoders:
        for number in range(FILES):
            source = rng.choice(compressed if number % 2 else files)
            path.write_bytes(damaged(source.read_bytes(), rng))
            begin = time.monotonic()
            try:
                salient_slices(read(survey([path]).parts[0], decoders))
                outcomes["volume"] += 1
            except Permanent:
                outcomes["refused"] += 1
            assert time.monotonic() - begin < LONGEST_S, f"file {number}, from {source.name}"
            assert process.memory_info().rss < MOST_MB << 20, f"file {number}, from {source.name}"
    assert min(outcomes.values()) > FILES / 20, outcomes
