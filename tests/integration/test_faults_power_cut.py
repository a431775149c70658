"""A power cut behind any file operation of receiving and reporting leaves a spool that recovers."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.series import Quarantined, Receipt, StoredInstance
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.incoming import SpoolWriter, StoredFile
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.result_archive import read_result_archive, result_archives
from tests.power_cut import Cut, Recorder
from tests.received_series import Carrier, Ticking
from tests.report_samples import T0
from tests.unit.encoded_images import EXPLICIT, ct, encoded

pytestmark = pytest.mark.integration


class Rows:
    """Takes the place of the registry, whose rows are lost."""

    def __init__(self) -> None:
        self.rows: dict[str, Receipt] = {}

    def record(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            assert isinstance(receipt, StoredInstance | Quarantined)
            self.rows.setdefault(receipt.path, receipt)

    def known_paths(self, paths: Sequence[str]) -> set[str]:
        return {path for path in paths if path in self.rows}


def offer(writer: SpoolWriter, ds: Dataset) -> StoredFile:
    origin = Origin(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, "CT1", "DICOMQA", "c" * 32)
    incoming = writer.begin(origin)
    incoming.write(encoded(ds))
    return incoming.keep()


@pytest.fixture
def layout(tmp_path) -> SpoolLayout:
    layout = SpoolLayout(tmp_path / "spool")
    layout.create()
    return layout


def test_every_cut_while_receiving_keeps_what_was_acknowledged(layout, tmp_path, monkeypatch):
    images = [ct(rows=4) for _ in range(3)]
    used = [layout.instance(str(ds.SOPInstanceUID)).parent.name for ds in images]
    # Looking into 256 folders for every cut would take minutes.
    monkeypatch.setattr(SpoolLayout, "shards", lambda self: (self.instances / name for name in sorted(set(used))))
    other = ct(rows=4, SOPInstanceUID=images[0].SOPInstanceUID)
    refused = ct(rows=4)
    acknowledged: list[tuple[int, Dataset]] = []
    recorder = Recorder(layout.root)
    with monkeypatch.context() as patch:
        recorder.start(patch)
        writer = SpoolWriter(layout, Ticking(T0))
        for ds in (*images, images[1], other):
            offer(writer, ds)
            acknowledged.append((len(recorder.log) - 1, ds))
        incoming = writer.begin(Origin(str(refused.SOPClassUID), "1.2.3", EXPLICIT, "CT1", "QA", "d" * 32))
        incoming.write(encoded(refused))
        incoming.quarantine("another instance than the request named")
        broken_off = writer.begin(Origin(str(refused.SOPClassUID), "1.2.4", EXPLICIT, "CT1", "QA", "e" * 32))
        broken_off.write(encoded(refused))
        broken_off.discard()
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    counted = dict.fromkeys(("cuts", "acknowledged", "rows", "damaged"), 0)
    for number, cut in enumerate(recorder.cuts()):
        folder = tmp_path / f"cut{number}"
        SpoolLayout(folder).create()
        cut.write(folder)
        kept = [ds for step, ds in acknowledged if step <= cut.step]
        _recovers(SpoolLayout(folder), cut, kept, [*images, other], counted)
        shutil.rmtree(folder)
    print(f"{len(recorder.log)} operations, {counted}")
    assert counted["cuts"] > 3 * len(recorder.log)
    assert counted["damaged"] == 0, "a final name was durable before its bytes"


def _recovers(
    layout: SpoolLayout, cut: Cut, kept: Sequence[Dataset], sent: Sequence[Dataset], counted: dict[str, int]
) -> None:
    rows = Rows()
    found = reconcile(layout, rows)
    counted["cuts"] += 1
    counted["damaged"] += found.damaged
    held = _held(layout, rows)
    for ds in kept:
        assert encoded(ds) in held, (cut.step, cut.after)
    assert set(held) <= {encoded(ds) for ds in sent}, (cut.step, cut.after)
    counted["acknowledged"] += len(kept)
    counted["rows"] += len(rows.rows)
    # The scanner sends again what was not acknowledged, and everything is as if nothing had happened.
    writer = SpoolWriter(layout)
    for ds in sent:
        offer(writer, ds)
    rows = Rows()
    reconcile(layout, rows)
    assert sorted(_held(layout, rows)) == sorted(encoded(ds) for ds in sent), (cut.step, cut.after)
    conflicts = [item for item in rows.rows.values() if isinstance(item, StoredInstance) and item.conflict]
    assert len(conflicts) == 1
    assert not list(layout.incoming.glob("*.part"))


def _held(layout: SpoolLayout, rows: Rows) -> list[bytes]:
    stored = [item for item in rows.rows.values() if isinstance(item, StoredInstance)]
    return [layout.absolute(item.path).read_bytes()[-item.size_bytes :] for item in stored]


def test_every_cut_while_reporting_keeps_what_has_its_row(tmp_path, node_config, monkeypatch):
    """The row is written last: from then on report and result archive are whole, before that they are made again."""
    with closing(Database(node_config.database_url)) as database:
        database.upgrade()
        node = Carrier(node_config, database, tmp_path, Ticking(T0))
        images = node.images(1)
        node.receive(images)
        node.score(str(images[0].SeriesInstanceUID))
        reports = node_config.spool_dir / "reports"
        reports.mkdir(mode=0o700)
        recorder = Recorder(reports)
        with monkeypatch.context() as patch:
            recorder.start(patch)
            assert node.report() == 1
        report = node.outbox.report(str(images[0].SeriesInstanceUID))
    whole = (node_config.spool_dir / report.path).read_bytes()
    name = Path(report.path).relative_to("reports").as_posix()
    counted = dict.fromkeys(("cuts", "whole", "partial"), 0)
    last = len(recorder.log) - 1
    for number, cut in enumerate(recorder.cuts()):
        spool = tmp_path / f"cut{number}"
        cut.write(spool / "reports")
        counted["cuts"] += 1
        found = list(itertools.chain(result_archives(spool)))
        for path in found:
            # A result archive that can be read stands for a report that is whole.
            try:
                archive = read_result_archive(path)
            except Permanent:
                counted["partial"] += 1
                continue
            assert cut.files[name] == whole
            assert archive.report == report
            counted["whole"] += 1
        if cut.step == last:
            assert cut.files[name] == whole
            assert len(found) == 1
    print(f"{len(recorder.log)} operations, {counted}")
    assert counted["partial"] == 0
    assert counted["whole"] > 0
