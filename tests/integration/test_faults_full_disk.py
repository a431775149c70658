"""The disk is full at one operation after another, from arrival to delivery: each is said, undone and made up for."""

from __future__ import annotations

import datetime as dt
import errno
import io
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.delivery_worker import TargetWorker
from dicom_qa_node.deliver.targets.folder import Folder
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.report.sr_document import SOP_CLASS_UID
from dicom_qa_node.spool.disk_space import SpoolFull
from dicom_qa_node.spool.incoming import SpoolWriter, stored_instance
from tests.received_series import Carrier, Ticking
from tests.report_samples import verdict
from tests.unit.encoded_images import EXPLICIT, encoded

pytestmark = pytest.mark.integration

_CALLS = ("write", "pwrite", "fsync", "link", "rename", "mkdir")
S = SeriesState


@dataclass
class Disk:
    """Counts what needs space and fails the ``full_at``-th of these operations (from 1; 0: none)."""

    full_at: int = 0
    done: list[str] = field(default_factory=list)

    def need(self, operation: str) -> None:
        self.done.append(operation)
        if len(self.done) == self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        for name in _CALLS:
            patch.setattr(os, name, self._watched(name, getattr(os, name)))
        patch.setattr(os, "open", self._opening(os.open))
        patch.setattr(io, "open", self._opening_file(io.open))
        patch.setattr(Database, "write", self._transaction(Database.write))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            self.need(name)
            return call(*arguments, **named)

        return watched

    def _opening(self, call: Callable[..., int]) -> Callable[..., int]:
        def opening(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & os.O_CREAT:
                self.need("open")
            return call(path, flags, *rest, **named)

        return opening

    def _opening_file(self, call: Callable[..., Any]) -> Callable[..., Any]:
        disk = self

        def opening(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if not set(mode) & set("wxa"):
                return call(file, mode, *rest, **named)
            disk.need("open file")
            opened = call(file, mode, *rest, **named)

            class Filling:
                def write(self, data: bytes) -> int:
                    disk.need("write file")
                    return int(opened.write(data))

                def __getattr__(self, name: str) -> Any:
                    return getattr(opened, name)

                def __enter__(self) -> Filling:
                    return self

                def __exit__(self, *_: object) -> None:
                    opened.close()

            return Filling()

        return opening

    def _transaction(self, call: Callable[[Database], Any]) -> Callable[[Database], Any]:
        @contextmanager
        def transaction(database: Database) -> Iterator[sa.Connection]:
            with call(database) as connection:
                yield connection
                try:
                    self.need("commit")
                except OSError as error:
                    raise Transient("database: database or disk is full") from error

        return transaction


@dataclass
class Way:
    """The steps of one series; each may be called again until it works."""

    node: Carrier
    images: list[Dataset]
    target: Folder
    said: list[str] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return str(self.images[0].SeriesInstanceUID)

    def steps(self) -> list[Callable[[], None]]:
        return [*(lambda ds=ds: self._receive(ds) for ds in self.images), self._score, self._report, self._deliver]

    def again_until_done(self, step: Callable[[], None]) -> int:
        """Return how often the step failed; only in the words of a full disk."""
        for failures in range(3):
            try:
                step()
            except Transient as error:
                self.said.append(str(error))
            else:
                return failures
        pytest.fail(f"still failing: {self.said}")

    def _receive(self, ds: Dataset) -> None:
        origin = Origin(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, "CT1", "DICOMQA", "c" * 32)
        incoming = SpoolWriter(self.node.layout, self.node.clock).begin(origin)
        try:
            incoming.write(encoded(ds))
            facts = incoming.facts()
            kept = incoming.keep()
        except SpoolFull:
            incoming.discard()
            raise
        self.node.registry.record([stored_instance(kept, origin, facts)])

    def _score(self) -> None:
        registry, jobs = self.node.registry, Jobs(self.node.database, clock=self._later)
        for progress in registry.receiving():
            registry.complete(progress, reason="quiet", at=self._later())
        job = jobs.claim("test")
        assert job is not None
        assert job.series_instance_uid == self.uid
        assert jobs.finish(job, verdict(registry.instances(self.uid)))

    def _report(self) -> None:
        self.node.report()
        assert self.node.registry.series(self.uid).state is not S.SCORED

    def _deliver(self) -> None:
        outbox = Outbox(self.node.database, clock=self._later)
        spool, never = self.node.config.spool_dir, threading.Event()
        assert TargetWorker("copy", self.target, outbox, self.node.config.deliver, spool, never).step()
        (row,) = outbox.deliveries_of(self.uid)
        if row.state is not DeliveryState.DELIVERED:
            assert row.state is DeliveryState.PENDING
            raise Transient(row.last_answer)

    def _later(self) -> dt.datetime:
        """Let leases run out and pauses pass."""
        self.node.clock.now += dt.timedelta(minutes=5)
        return self.node.clock()


@pytest.fixture
def node(tmp_path, node_config: Config) -> Iterator[Carrier]:
    settings = node_config.model_dump(mode="json", exclude_defaults=True)
    settings["deliver"]["targets"] = [{"name": "copy", "kind": "folder", "path": str(tmp_path / "out")}]
    with closing(Database(node_config.database_url)) as database:
        database.upgrade()
        yield Carrier(Config.model_validate(settings), database, tmp_path, Ticking(utc_now()))


def test_a_full_disk_at_every_operation_delays_and_loses_nothing(node, tmp_path, monkeypatch):
    target = Folder(tmp_path / "out", SOP_CLASS_UID)
    node.layout.create()
    operations, count, said = [], 0, []
    for number in itertools.count():
        way = Way(node, node.images(number + 1, slices=1), target)
        disk = Disk(full_at=number)
        with monkeypatch.context() as patch:
            disk.watch(patch)
            failures = sum(way.again_until_done(step) for step in way.steps())
        if number > len(disk.done):
            break
        operations = operations or disk.done
        assert failures <= 1
        assert failures == 0 or number > 0
        count += failures
        said += way.said
        _check(node, way, tmp_path)
    print(f"{len(operations)} operations, {count} failed: {Counter(operations)}; said: {Counter(said)}")
    # To make a folder that is there needs no space.
    assert count >= len(operations) - operations.count("mkdir") - 1
    assert not list(node.layout.incoming.iterdir())
    assert not list((tmp_path / "out").glob(".*"))
    assert len(list((tmp_path / "out").glob("*.dcm"))) == QualityLog(node.database).count()


def _check(node: Carrier, way: Way, tmp_path: Path) -> None:
    row = node.registry.series(way.uid)
    assert (row.state, row.version, row.received, row.conflicts) == (S.DELIVERED, 1, len(way.images), 0)
    for item, ds in zip(node.registry.instances(way.uid), way.images, strict=True):
        assert (node.config.spool_dir / item.path).read_bytes().endswith(encoded(ds))
    report = node.outbox.report(way.uid)
    sent = tmp_path / "out" / f"{report.sop_instance_uid}.dcm"
    assert sent.read_bytes() == (node.config.spool_dir / report.path).read_bytes()
    assert all("space" in words or "full" in words for words in way.said), way.said
