"""Dose reports over the wire: accepted and durable, refused with a clear status, found again after a crash."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_qa_node.config import Config
from dicom_qa_node.db import dose_tables as d
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dose.series_dose import latest_reports
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom.dose_reports import MadeEvent, dose_report
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.receive.services import dose_report_contexts
from dicom_qa_node.spool.storage_commitment import failure_reason
from tests.integration.receive_peer import MakeReceiver, Receiver, association, receiver_fixture, store_bytes
from tests.unit.encoded_images import EXPLICIT, encoded

pytestmark = pytest.mark.integration
DOSE_SR, ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.22"
CLASSES = [str(context.abstract_syntax) for context in dose_report_contexts()]


@pytest.fixture
def make_receiver(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


def report(sop_class: str = DOSE_SR, *, uid: str = "", ctdi: float = 8.0) -> Dataset:
    event = MadeEvent("1.2.3.9.1", ctdi)
    return dose_report("1.2.3", [event], sop_class_uid=sop_class, sop_instance_uid=uid)


def send(receiver: Receiver, ds: Dataset, syntax: str = EXPLICIT) -> Dataset:
    sop_class = str(ds.SOPClassUID)
    with association(receiver, syntaxes=[syntax], sop_classes=CLASSES) as assoc:
        return store_bytes(assoc, encoded(ds, syntax), sop_class, str(ds.SOPInstanceUID), syntax)


def reports(receiver: Receiver) -> list[Any]:
    database = Database(receiver.config.database_url)
    try:
        return latest_reports(database)
    finally:
        database.close()


@pytest.mark.parametrize("own_path", ["auto", "off"])
def test_reports_of_every_class_and_encoding_are_stored(
    make_receiver: MakeReceiver, poll: Callable[..., Any], own_path: str
) -> None:
    receiver = make_receiver(own_pdata_path=own_path)
    sent = [
        (report(DOSE_SR), EXPLICIT),
        (report(ENHANCED_SR), ImplicitVRLittleEndian),
        (report(CLASSES[-1]), ExplicitVRBigEndian),
    ]
    for ds, syntax in sent:
        assert send(receiver, ds, syntax).Status == 0
        (path,) = receiver.layout.dose_reports_of(str(ds.SOPInstanceUID))
        assert dcmread(path).SOPInstanceUID == ds.SOPInstanceUID
        assert failure_reason(receiver.layout, str(ds.SOPClassUID), str(ds.SOPInstanceUID)) is None
    poll(lambda: len(reports(receiver)) == 3)
    assert {row.sop_instance_uid for row in reports(receiver)} == {str(ds.SOPInstanceUID) for ds, _ in sent}
    assert receiver.files() == []


def test_the_same_report_again_is_stored_once_and_other_content_beside_it(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver()
    first, second = report(uid="1.2.9"), report(uid="1.2.9", ctdi=9.0)
    for ds in (first, first, second):
        assert send(receiver, ds).Status == 0
    assert len(receiver.layout.dose_reports_of("1.2.9")) == 2
    poll(lambda: len(reports(receiver)) == 2)


def test_what_is_no_dose_report_is_refused_and_kept_in_quarantine(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver()
    other = report(ENHANCED_SR)
    other.ContentTemplateSequence[0].TemplateIdentifier = "1500"
    other.ConceptNameCodeSequence[0].CodeValue = "126000"
    answer = send(receiver, other)
    assert (answer.Status, answer.ErrorComment) == (
        0x0122, "structured report, but not a dose report (template 10011)",
    )  # fmt: skip
    without_study = report()
    del without_study.StudyInstanceUID
    assert send(receiver, without_study).Status == 0xC000
    with association(receiver, sop_classes=CLASSES) as assoc:
        ds = report()
        assert store_bytes(assoc, encoded(ds)[:-40], DOSE_SR, str(ds.SOPInstanceUID)).Status == 0xC000
        assert store_bytes(assoc, encoded(ds), DOSE_SR, "1.2.3.4.5").Status == 0x0117
    poll(lambda: len(list(receiver.layout.quarantine.glob("*.dcm"))) == 4)
    assert list(receiver.layout.dose_reports.iterdir()) == []


def test_a_report_whose_row_was_lost_is_found_in_the_spool(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver()
    assert send(receiver, report()).Status == 0
    poll(lambda: len(reports(receiver)) == 1)
    for worker in receiver.workers():
        worker.send_signal(signal.SIGKILL)
    receiver.stop()
    database = Database(receiver.config.database_url)
    try:
        with database.write() as connection:
            connection.execute(d.dose_events.delete())
            connection.execute(d.dose_reports.delete())
        found = reconcile(receiver.layout, Registry(database))
        assert (found.added, found.damaged) == (1, 0)
        with database.read() as connection:
            assert connection.execute(sa.select(d.dose_events.c.event_uid)).scalars().all() == ["1.2.3.9.1"]
        assert reconcile(receiver.layout, Registry(database)).added == 0
    finally:
        database.close()
