"""The number of threads that an operator allows holds in every step of a scorer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import ClassVar

import numpy as np
import pytest
import torch

from dicom_qa_node.config import Config, Grades
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models import engines
from dicom_qa_node.models.engines import open_encoder
from dicom_qa_node.phantom import ct_series, write
from dicom_qa_node.score.image_files import write_images
from dicom_qa_node.score.inference import Scorer
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.score.threads import max_threads, set_max_threads
from dicom_qa_node.score.worker import run_worker
from tests.stub_model import TinyScorer


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the process as it was."""
    of_torch = torch.get_num_threads()
    yield
    set_max_threads(0)
    torch.set_num_threads(of_torch)


@pytest.mark.parametrize(("cores", "wanted", "expected"), [(1, 0, 1), (2, 0, 2), (64, 0, 4), (64, 1, 1), (2, 7, 7)])
def test_what_is_wanted_counts_else_the_cores(monkeypatch, cores, wanted, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    set_max_threads(wanted)
    assert max_threads() == expected


@pytest.mark.parametrize("count", [1, 3])
def test_no_step_takes_more_threads_than_are_allowed(monkeypatch, tmp_path, count):
    sizes: list[int] = []
    build = ThreadPoolExecutor.__init__

    def noted(pool: ThreadPoolExecutor, max_workers: int | None = None, *args: object, **options: object) -> None:
        build(pool, max_workers, *args, **options)
        sizes.append(pool._max_workers)

    monkeypatch.setattr(ThreadPoolExecutor, "__init__", noted)
    set_max_threads(count)
    paths = write(ct_series(3, 8, 64, spacing_mm=12.0), tmp_path / "series")
    verdict = score_series(paths, scorer=TinyScorer())
    write_images(verdict, tmp_path / "pictures", Grades())
    # Decoding, the features of the slices, network beside measurements, the measurements themselves, the pictures.
    assert len(sizes) == 5
    assert max(sizes) == count


class _NotedPool(ThreadPoolExecutor):
    """A pool that notes how many threads it was given."""

    sizes: ClassVar[list[int]] = []

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self.sizes.append(max_workers)


def test_the_network_takes_the_threads_that_are_allowed(monkeypatch):
    set_max_threads(3)
    scorer = Scorer.open("ms_iqa_small", "cpu")
    monkeypatch.setattr(engines, "ThreadPoolExecutor", noted := _NotedPool)
    noted.sizes.clear()
    scorer.score(np.full((8, 512, 512, 3), 90, np.uint8), "ct")
    assert noted.sizes == [3]


def test_onnx_runtime_starts_no_threads_of_its_own():
    before = threading.active_count(), len(os.listdir("/proc/self/task"))
    network = open_encoder("cpu")
    network.see(np.full((1, 256, 256, 3), 90, np.uint8), np.ones((1, 32, 32), np.float32))
    assert (threading.active_count(), len(os.listdir("/proc/self/task"))) == before


def test_a_worker_allows_what_is_configured(node_config: Config):
    config = node_config.model_copy(update={"score": node_config.score.model_copy(update={"threads": 3})})
    stop, seen = threading.Event(), []

    def open_scorer(config: Config, name: str) -> TinyScorer:
        seen.append(max_threads())
        stop.set()
        raise Misconfigured("not needed here")

    with closing(Database(config.database_url)) as database:
        database.upgrade()
        recycle = run_worker(config, database, stop, "score-1", say=lambda text: None, open_scorer=open_scorer)
    assert not recycle
    assert seen == [3]
