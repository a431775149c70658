"""Image after image, with everything else that reaches an open port: nothing is lost, and the node does not grow.

The short run belongs to every test run, the longer one to ``-m load``; ``benchmarks/soak.py`` does a million.
"""

from __future__ import annotations

import argparse
import csv
import os
import threading
from pathlib import Path

import pytest

from benchmarks.soak import PROCESSES, growth_mb, in_registry, in_spool, soak
from dicom_qa_node.config import load_config

pytestmark = [pytest.mark.full, pytest.mark.serial, pytest.mark.integration]

#: A process that reaches its size late in the first tens of thousands of images must still not pass for a leak.
MOST_GROWTH_MB = 20


def arguments(folder: Path, images: int) -> argparse.Namespace:
    return argparse.Namespace(
        images=images, clients=3, per_series=30, every_s=1.0, csv=folder / "soak.csv", figure=folder / "soak.png"
    )


@pytest.mark.parametrize("images", [1200, pytest.param(60_000, marks=pytest.mark.load)])
def test_every_acknowledged_image_is_kept_among_rude_peers(tmp_path: Path, images: int) -> None:
    images = int(os.environ.get("QA_SOAK_IMAGES", images))
    assert soak(tmp_path, arguments(tmp_path, images), threading.Event())
    config = load_config(tmp_path / "config.yaml")
    assert in_registry(config) == in_spool(config)
    assert in_spool(config).count == images
    with (tmp_path / "soak.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows[-1]["images"] == images
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    if images >= 50_000:
        assert {name: growth_mb(rows, name) for name in PROCESSES if growth_mb(rows, name) > MOST_GROWTH_MB} == {}
    # A lost file does not go unnoticed.
    next(config.spool_dir.glob("instances/*/*.dcm")).unlink()
    assert in_registry(config) != in_spool(config)


class _AfterTheFirst(threading.Event):
    """Is set once the spool in ``folder`` has an image."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def is_set(self) -> bool:
        return any(self._folder.glob("spool/instances/*/*.dcm"))


def test_sending_ends_early_and_counts_what_was_sent(tmp_path: Path) -> None:
    assert soak(tmp_path, arguments(tmp_path, 100_000), _AfterTheFirst(tmp_path))
    assert 0 < in_spool(load_config(tmp_path / "config.yaml")).count < 50_000
