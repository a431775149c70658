"""An archive that is down, slow, half-closing, aborting, full for hours: reports wait, and each comes once, in order.

Associations and sockets are real, the time between attempts is injected.
"""

from __future__ import annotations

import datetime as dt
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from dicom_qa_node.config import Config, Deliver, DicomTarget
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.delivery_worker import TargetWorker
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox, OutboxRow
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import report_pending
from tests.crash_helpers import Sockets
from tests.fault_proxy import FAULTS, Wire
from tests.report_samples import verdict, write_series
from tests.set_clock import HOUR_S, Host

# pynetdicom does not close a socket that never connected; it is gone at once.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

TIMEOUT_S = 1.0
SERIES = 2
SETTINGS = Deliver(retry_first_s=5, retry_max_s=900)


class Archive:
    """Keeps what comes, once each; answers what ``answers`` says (0x0111 to what it has)."""

    def __init__(self, port: int) -> None:
        self.arrived: Counter[str] = Counter()
        self.kept: list[str] = []
        self.answer, self._closed = 0x0000, False
        ae = AE("ARCHIVE")
        ae.add_supported_context(Comprehensive3DSRStorage, ExplicitVRLittleEndian)
        self._sockets = Sockets()
        handlers = [(evt.EVT_C_STORE, self._store), *self._sockets.handlers]
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def _store(self, event: evt.Event) -> int | Dataset:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.arrived[uid] += 1
        if self.answer:
            return self.answer
        if uid in self.kept:
            return 0x0111
        self.kept.append(uid)
        return 0x0000

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._server.shutdown()
            self._sockets.close()


class Node:
    """Reports of two series, the first in two versions, and the worker that sends them through a wire."""

    def __init__(self, folder: Path, wire: Wire) -> None:
        self.host = Host()
        self.database = Database(f"sqlite:///{folder}/q.db")
        self.database.upgrade()
        self.outbox = Outbox(self.database, clock=self.host)
        self.registry = Registry(self.database)
        target = {"kind": "dicom", "name": "pacs", "host": "127.0.0.1", "port": wire.port, "ae_title": "ARCHIVE"}
        self.config = Config.model_validate({"spool_dir": folder, "deliver": {"targets": [target]}})
        settings = DicomTarget.model_validate(target | {"timeout_s": TIMEOUT_S})
        pacs, never = open_target(settings, "NODE"), threading.Event()
        self._lane = TargetWorker("pacs", pacs, self.outbox, SETTINGS, folder, never, self.host)
        self.series = [self._reported(number) for number in range(1, SERIES + 1)]
        assert self.registry.rescore(self.series[0], actor="admin", at=self.host())
        self._judge(self.series[0])

    def _reported(self, number: int) -> str:
        stored = write_series(self.config.spool_dir, number, slices=1)
        self.registry.record(stored)
        (progress,) = self.registry.receiving()
        assert self.registry.complete(progress, reason="count", at=self.host())
        uid = stored[0].series.series_instance_uid
        self._judge(uid)
        return uid

    def _judge(self, uid: str) -> None:
        jobs = Jobs(self.database, clock=self.host)
        job = jobs.claim("w")
        assert job is not None
        assert jobs.finish(job, verdict(self.registry.instances(uid), slices=(), findings=()))
        assert report_pending(self.outbox, self.registry, self.config.spool_dir, self.config) == 1

    def rows(self) -> list[OutboxRow]:
        rows = [row for uid in self.series for row in self.outbox.deliveries_of(uid)]
        return sorted(rows, key=lambda row: row.delivery_id)

    def attempt(self) -> int:
        """Try what is due once and let the time pass to the next attempt; return how many were tried."""
        tried = 0
        while self._lane.step():
            tried += 1
        waiting = [row.next_attempt_at for row in self.rows() if row.state is DeliveryState.PENDING]
        if waiting:
            self.host.pass_(max(0.001, (max(waiting) - self.host()).total_seconds()))
        return tried


@pytest.fixture
def archive(free_port) -> Iterator[tuple[Archive, int]]:
    port = free_port()
    made = Archive(port)
    yield made, port
    made.close()


@pytest.fixture
def wire(archive) -> Iterator[Wire]:
    made = Wire(archive[1])
    yield made
    made.close()


@pytest.fixture
def node(tmp_path, wire) -> Iterator[Node]:
    made = Node(tmp_path, wire)
    yield made
    made.database.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_association_is_tried_again_and_the_report_comes_once(node: Node, wire, archive, fault):
    pacs, _ = archive
    wire.fault = fault
    begun, waits = time.monotonic(), []
    for attempt in (1, 2):
        now = node.host()
        # A later version waits behind the one before it.
        assert node.attempt() == SERIES
        waits.append((node.host() - now).total_seconds())
        rows = node.rows()
        assert [(row.state, row.attempts) for row in rows] == [
            (DeliveryState.PENDING, attempt), (DeliveryState.PENDING, attempt), (DeliveryState.PENDING, 0),
        ]  # fmt: skip
    took_s = (time.monotonic() - begun) / wire.connections
    said = Counter(row.last_answer for row in node.rows() if row.attempts)
    stored_before = len(pacs.kept)
    wire.fault = ""
    while any(row.state is not DeliveryState.DELIVERED for row in node.rows()):
        assert node.attempt()
    uids = [row.report.sop_instance_uid for row in node.rows()]
    again = pacs.arrived.total() - len(pacs.arrived)
    print(
        f"{fault}: {wire.connections} associations, {took_s:.1f} s each while it failed, waits {waits}, said {said}; "
        f"kept {len(pacs.kept)} of {len(uids)} reports, {again} came again under the UID they have"
    )
    assert stored_before == (SERIES if fault.startswith("stored") else 0)
    assert sorted(pacs.kept) == sorted(uids)
    assert pacs.kept.index(uids[0]) < pacs.kept.index(uids[2])
    assert [row.attempts for row in node.rows()] == [3, 3, 1]
    assert 3.75 <= waits[0] <= 6.25
    assert 7.5 <= waits[1] <= 12.5
    assert all(node.registry.series(uid).state is SeriesState.DELIVERED for uid in node.series)
    # However the archive behaves, an attempt ends.
    assert took_s < 10 * TIMEOUT_S


@pytest.mark.parametrize("answer", [0xA700, 0x0110, None])
def test_an_archive_that_takes_nothing_for_hours_is_asked_ever_less(node: Node, wire, archive, answer):
    pacs, port = archive
    if answer is None:
        pacs.close()
    else:
        pacs.answer = answer
    hours, begun = 3, node.host()
    times: list[dt.datetime] = []
    while node.host() - begun < dt.timedelta(hours=hours):
        times.append(node.host())
        assert node.attempt() == SERIES
    pauses = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    tried = [row.attempts for row in node.rows()]
    print(f"{answer}: {hours} h, attempts {tried}, pauses {pauses[0]:.0f} s to {max(pauses):.0f} s, {pacs.arrived}")
    assert tried == [len(times), len(times), 0]
    assert max(pauses) <= SETTINGS.retry_max_s
    # Ten doublings, then at least three quarters of the longest wait each.
    assert len(times) <= 10 + hours * HOUR_S / (0.6 * SETTINGS.retry_max_s)
    assert pacs.kept == []
    if answer is None:
        pacs = Archive(port)
    else:
        pacs.answer = 0x0000
    try:
        while any(row.state is not DeliveryState.DELIVERED for row in node.rows()):
            assert node.attempt()
        uids = [row.report.sop_instance_uid for row in node.rows()]
        assert sorted(pacs.kept) == sorted(uids)
        assert pacs.kept.index(uids[0]) < pacs.kept.index(uids[2])
        if answer is None:
            assert set(pacs.arrived.values()) == {1}
        assert [row.attempts for row in node.rows()] == [tried[0] + 1, tried[1] + 1, 1]
    finally:
        pacs.close()
