from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from dicom_qa_node.dicom_io.instance_header import read_instance_header
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.series import Quarantined, Receipt, StoredInstance
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.spool.incoming import SpoolWriter, stored_instance
from dicom_qa_node.spool.layout import SpoolLayout
from tests.unit.encoded_images import EXPLICIT, ct, encoded


class Registry:
    """Knows what it was given."""

    def __init__(self) -> None:
        self.rows: dict[str, Receipt] = {}

    def record(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            assert isinstance(receipt, StoredInstance | Quarantined)
            self.rows.setdefault(receipt.path, receipt)

    def known_paths(self, paths: Iterable[str]) -> set[str]:
        return {path for path in paths if path in self.rows}


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    layout = SpoolLayout(tmp_path)
    layout.create()
    return layout


def store(layout: SpoolLayout, ds: object = None) -> StoredInstance:
    ds = ds or ct()
    origin = Origin(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, "CT1", "DICOMQA", "c" * 32)  # type: ignore[attr-defined]
    data = encoded(ds)  # type: ignore[arg-type]
    incoming = SpoolWriter(layout).begin(origin)
    incoming.write(data)
    return stored_instance(incoming.keep(), origin, read_instance_header(data, 0, EXPLICIT))


def test_rows_are_rebuilt_as_they_were(layout: SpoolLayout) -> None:
    ds = ct()
    stored = [store(layout) for _ in range(5)] + [store(layout, ds)]
    ds.InstanceNumber = 50
    stored.append(store(layout, ds))
    registry = Registry()
    result = reconcile(layout, registry)
    assert registry.rows == {item.path: item for item in stored}
    assert (result.files, result.added, result.damaged) == (7, 7, 0)
    assert [item.conflict for item in stored].count(True) == 1
    assert reconcile(layout, registry).added == 0


def test_what_has_a_row_is_left_alone(layout: SpoolLayout) -> None:
    known, lost = store(layout), store(layout)
    registry = Registry()
    registry.record([known])
    assert reconcile(layout, registry).added == 1
    assert set(registry.rows) == {known.path, lost.path}


def test_refused_objects_get_their_row_too(layout: SpoolLayout) -> None:
    incoming = SpoolWriter(layout).begin(Origin("1.2", "x", EXPLICIT, "CT1", "QA", "d" * 32))
    incoming.write(b"nonsense")
    held = incoming.quarantine("nonsense")
    registry = Registry()
    result = reconcile(layout, registry)
    assert registry.rows == {held.path: held}
    assert (result.added, result.damaged) == (1, 0)


def test_a_notice_with_a_nul_can_be_recorded(layout: SpoolLayout) -> None:
    incoming = SpoolWriter(layout).begin(Origin("1.2", "1.2\x003", EXPLICIT, "CT1", "QA", "d" * 32))
    incoming.write(b"nonsense")
    held = incoming.quarantine("nonsense")
    registry = Registry()
    reconcile(layout, registry)
    assert registry.rows == {held.path: dataclasses.replace(held, sop_instance_uid="1.2\ufffd3")}


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-10], lambda data: data[:-10] + bytes(10), lambda data: b"x" * 200]
)
def test_a_damaged_file_is_put_in_quarantine_not_in_a_series(layout: SpoolLayout, damage: object) -> None:
    item = store(layout)
    path = layout.absolute(item.path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    registry = Registry()
    assert reconcile(layout, registry).damaged == 1
    (row,) = registry.rows.values()
    assert isinstance(row, Quarantined)
    assert "damaged" in row.reason
    assert not path.exists()
    assert layout.absolute(row.path).exists()
    assert reconcile(layout, registry).added == 0


def test_abandoned_parts_go_and_living_ones_stay(layout: SpoolLayout) -> None:
    living = SpoolWriter(layout).begin(Origin("1.2", "1.2.3", EXPLICIT, "CT1", "QA", "d" * 32))
    abandoned = layout.new_part()
    abandoned.write_bytes(b"half")
    newborn = layout.new_part()
    newborn.touch()
    # A lock of this process does not keep itself out, so the reconciling process is another one.
    pid = os.fork()
    if pid == 0:
        os._exit(0 if reconcile(layout, Registry()).parts == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not abandoned.exists()
    assert newborn.exists()
    assert len(list(layout.incoming.iterdir())) == 2
    living.discard()


def test_only_what_changed_is_looked_at(layout: SpoolLayout) -> None:
    for _ in range(3):
        store(layout)
    newest = max(path.stat().st_mtime for path in layout.instances.rglob("*"))
    assert reconcile(layout, Registry(), newest + 10).files == 0
    assert reconcile(layout, Registry(), newest - 60).files == 3
