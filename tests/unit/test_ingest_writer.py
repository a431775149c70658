from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from dicom_qa_node.db.engine import DamagedDatabase
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.domain.series import AssociationEnd, Quarantined, Receipt
from dicom_qa_node.receive import ingest_writer as module
from dicom_qa_node.receive.ingest_writer import IngestWriter


def receipt(number: int) -> Quarantined:
    return Quarantined(f"quarantine/{number}.dcm", "test", "CT1", "1.2.3", utc_now())


class Registry:
    """Records batches, or fails as it is told."""

    def __init__(self) -> None:
        self.batches: list[list[Receipt]] = []
        self.failures: list[Exception] = []
        self.refused: set[str] = set()

    def record(self, receipts: Sequence[Receipt]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if any(getattr(item, "path", "") in self.refused for item in receipts):
            raise ValueError("a constraint")
        self.batches.append(list(receipts))

    @property
    def paths(self) -> list[str]:
        return [getattr(item, "path", "end") for batch in self.batches for item in batch]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    monkeypatch.setattr(module, "_COLLECT_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_order_is_kept_and_stopping_records_what_waits() -> None:
    registry = Registry()
    recorder = IngestWriter(registry.record)
    recorder.start()
    for number in range(50):
        recorder.report(receipt(number))
    assert recorder.stop(5)
    assert registry.paths == [f"quarantine/{number}.dcm" for number in range(50)]


@pytest.mark.usefixtures("quick")
def test_the_end_of_an_association_does_not_wait(poll: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLLECT_S", 60.0)
    registry = Registry()
    recorder = IngestWriter(registry.record)
    recorder.start()
    recorder.report(receipt(1))
    recorder.report(AssociationEnd("a", utc_now()))
    poll(lambda: registry.paths == ["quarantine/1.dcm", "end"], timeout_s=5)
    assert recorder.stop(5)


@pytest.mark.usefixtures("quick")
def test_a_database_that_is_away_is_asked_again() -> None:
    registry = Registry()
    registry.failures = [Transient("locked")] * 3
    recorder = IngestWriter(registry.record)
    recorder.start()
    recorder.report(receipt(1))
    recorder.report(receipt(2))
    threading.Event().wait(0.2)
    assert recorder.stop(5)
    assert registry.paths == ["quarantine/1.dcm", "quarantine/2.dcm"]


@pytest.mark.usefixtures("quick")
def test_one_receipt_that_is_refused_does_not_take_the_others_with_it() -> None:
    registry = Registry()
    registry.refused = {"quarantine/1.dcm"}
    recorder = IngestWriter(registry.record)
    recorder.start()
    for number in range(3):
        recorder.report(receipt(number))
    assert recorder.stop(5)
    assert registry.paths == ["quarantine/0.dcm", "quarantine/2.dcm"]


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_is_remembered_as_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    recorder = IngestWriter(Registry().record)
    for number in range(3):
        recorder.report(receipt(number))
    assert recorder.missed


@pytest.mark.usefixtures("quick")
def test_preparation_comes_first_and_again_until_it_works() -> None:
    registry = Registry()
    calls: list[int] = []

    def prepare() -> None:
        calls.append(len(registry.batches))
        if len(calls) < 3:
            raise Transient("locked")

    recorder = IngestWriter(registry.record, prepare)
    recorder.report(receipt(1))
    recorder.start()
    threading.Event().wait(0.1)
    assert recorder.stop(5)
    assert calls == [0, 0, 0]
    assert registry.paths == ["quarantine/1.dcm"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("failure", [Transient("locked"), DamagedDatabase("malformed")])
def test_a_database_that_fails_a_hundred_times_gets_it_all_and_is_told_of_once(
    failure: Exception, poll: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry()
    registry.failures = [failure] * 100
    recorder = IngestWriter(registry.record)
    recorder.start()
    for number in range(10):
        recorder.report(receipt(number))
    poll(lambda: len(registry.paths) == 10)
    assert recorder.stop(5)
    assert not recorder.missed
    assert [record.message for record in caplog.records] == ["record_postponed"]


@pytest.mark.usefixtures("quick")
def test_what_is_too_much_for_one_batch_goes_in_the_next_without_waiting(
    poll: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COLLECT_S", 60.0)
    monkeypatch.setattr(module, "_LONGEST_COLLECT_S", 60.0)
    monkeypatch.setattr(module, "_LARGEST_BATCH", 10)
    registry = Registry()
    recorder = IngestWriter(registry.record)
    for number in range(24):
        recorder.report(receipt(number))
    recorder.report(AssociationEnd("a", utc_now()))
    recorder.start()
    poll(lambda: len(registry.paths) == 25, timeout_s=5)
    assert [len(batch) for batch in registry.batches] == [10, 10, 5]
    assert recorder.idle
    assert recorder.stop(5)


@pytest.mark.usefixtures("quick")
def test_the_longer_recording_takes_the_more_receipts_share_it(
    poll: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COLLECT_S", 0.0)
    monkeypatch.setattr(module, "_LONGEST_COLLECT_S", 60.0)
    seconds = count(0.0, 30.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    registry = Registry()
    again = threading.Event()

    def record(receipts: Sequence[Receipt]) -> None:
        registry.record(receipts)
        if len(registry.batches) > 1:
            again.set()

    recorder = IngestWriter(record)
    recorder.start()
    recorder.report(receipt(0))
    poll(lambda: registry.batches)
    for number in range(1, 10):
        recorder.report(receipt(number))
    assert not again.wait(0.3), "the first took 30 s, so the next may wait for a minute"
    recorder.report(AssociationEnd("a", utc_now()))
    assert again.wait(5), "which the end of an association does not"
    assert [len(batch) for batch in registry.batches] == [1, 10]
    assert recorder.stop(5)
