from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, Origin, open_envelope
from dicom_qa_node.domain.uids import derived_uid
from dicom_qa_node.spool.disk_space import SpoolFull
from dicom_qa_node.spool.incoming import Outcome, SpoolWriter, stored_instance
from dicom_qa_node.spool.layout import SpoolLayout
from tests.unit.encoded_images import EXPLICIT, ct, encoded

NOW = dt.datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    layout = SpoolLayout(tmp_path / "spool")
    layout.create()
    return layout


@pytest.fixture
def writer(layout: SpoolLayout) -> SpoolWriter:
    return SpoolWriter(layout, clock=lambda: NOW)


def origin_of(ds: Any, syntax: str = EXPLICIT) -> Origin:
    return Origin(str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax, "SCANNER", "DICOMQA", "a" * 32)


def left_over(layout: SpoolLayout) -> list[Path]:
    return [path for path in layout.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("syntax", [EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", DEFLATED])
def test_a_kept_object_is_a_part_10_file_with_the_bytes_as_received(
    layout: SpoolLayout, writer: SpoolWriter, syntax: str
) -> None:
    ds = ct()
    data = encoded(ds, syntax)
    incoming = writer.begin(origin_of(ds, syntax))
    for start in range(0, len(data), 100):
        incoming.write(memoryview(data)[start : start + 100])
    facts = incoming.facts()
    kept = incoming.keep()
    path = layout.absolute(kept.path)
    assert kept.outcome is Outcome.NEW
    assert path.read_bytes().endswith(data)
    read = pydicom.dcmread(path)
    assert read.SOPInstanceUID == ds.SOPInstanceUID
    assert read.PixelData == ds.PixelData
    meta = read.file_meta
    assert meta.TransferSyntaxUID == syntax
    assert meta.SourceApplicationEntityTitle == "SCANNER"
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    envelope = open_envelope(path.read_bytes())
    assert envelope.origin == origin_of(ds, syntax)
    assert envelope.checksum == kept.checksum
    assert kept.checksum.received_at == NOW
    assert (kept.checksum.sha256, kept.checksum.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    record = stored_instance(kept, origin_of(ds, syntax), facts, facts.series())
    assert (record.sop_instance_uid, record.association_id, record.conflict) == (ds.SOPInstanceUID, "a" * 32, False)
    assert not list(layout.incoming.iterdir())


def store(writer: SpoolWriter, ds: Any) -> Any:
    incoming = writer.begin(origin_of(ds))
    incoming.write(encoded(ds))
    return incoming.keep()


def test_the_same_bytes_again_are_stored_once(layout: SpoolLayout, writer: SpoolWriter) -> None:
    ds = ct()
    first, second = store(writer, ds), store(writer, ds)
    assert second.outcome is Outcome.DUPLICATE
    assert second.path == first.path
    assert left_over(layout) == [layout.absolute(first.path)]


def test_other_bytes_under_a_stored_uid_are_kept_apart(layout: SpoolLayout, writer: SpoolWriter) -> None:
    ds = ct()
    first = store(writer, ds)
    before = layout.absolute(first.path).read_bytes()
    ds.InstanceNumber = 99
    second, again = store(writer, ds), store(writer, ds)
    assert (second.outcome, again.outcome) == (Outcome.CONFLICT, Outcome.DUPLICATE)
    assert again.path == second.path != first.path
    assert layout.absolute(first.path).read_bytes() == before
    assert layout.absolute(second.path).read_bytes().endswith(encoded(ds))


def test_the_order_of_the_promise(layout: SpoolLayout, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary file, write, fsync, name, fsync of the folder: nothing else is durable on every file system."""
    steps: list[str] = []

    def spy(name: str, call: Callable[..., Any], describe: Callable[..., str]) -> None:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            steps.append(f"{name} {describe(*args)}")
            return call(*args, **kwargs)

        monkeypatch.setattr(os, name, wrapped)

    def kind(descriptor: int, *_: Any) -> str:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return "folder" if path.is_dir() else path.parent.name

    spy("write", os.write, kind)
    spy("pwrite", os.pwrite, kind)
    spy("fsync", os.fsync, kind)
    spy("link", os.link, lambda source, target: target.parent.parent.name)
    store(writer, ct())
    assert steps == [
        "write incoming",
        "write incoming",
        "pwrite incoming",
        "fsync incoming",
        "link instances",
        "fsync folder",
    ]


@pytest.mark.parametrize("call", ["open", "write", "pwrite", "fsync", "link"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_at_any_step_is_named_and_leaves_nothing(
    layout: SpoolLayout, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    ds = ct()
    with monkeypatch.context() as patch:
        if call == "write":
            incoming = writer.begin(origin_of(ds))
            patch.setattr(os, "write", full)
            with pytest.raises(SpoolFull):
                incoming.write(encoded(ds))
            incoming.discard()
        elif call == "open":
            patch.setattr(os, "open", full)
            with pytest.raises(SpoolFull):
                writer.begin(origin_of(ds))
        else:
            patch.setattr(os, call, full)
            incoming = writer.begin(origin_of(ds))
            incoming.write(encoded(ds))
            with pytest.raises(SpoolFull):
                incoming.keep()
            incoming.discard()
    assert left_over(layout) == []
    assert store(writer, ds).outcome is Outcome.NEW


def test_short_writes_are_continued(layout: SpoolLayout, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:37]))
    ds = ct()
    assert layout.absolute(store(writer, ds).path).read_bytes().endswith(encoded(ds))


def test_a_refused_object_lies_in_quarantine_with_its_reason(layout: SpoolLayout, writer: SpoolWriter) -> None:
    origin = Origin("1.2", "../../../tmp/evil", EXPLICIT, "SCANNER", "DICOMQA", "b" * 32)
    incoming = writer.begin(origin)
    incoming.write(b"not a data set")
    with pytest.raises(BrokenDataSet):
        incoming.facts()
    held = incoming.quarantine("not a data set")
    path = layout.absolute(held.path)
    assert path.parent == layout.quarantine
    assert path.read_bytes().endswith(b"not a data set")
    notice = json.loads(path.with_suffix(".json").read_text())
    assert notice["reason"] == "not a data set"
    assert notice["calling_ae"] == "SCANNER"
    assert held.at == NOW
    assert not list(layout.incoming.iterdir())


def test_an_object_without_a_byte_is_broken(writer: SpoolWriter) -> None:
    incoming = writer.begin(origin_of(ct()))
    with pytest.raises(BrokenDataSet, match="empty"):
        incoming.facts()
    incoming.discard()
    incoming.discard()


def test_an_unsealed_file_says_so(layout: SpoolLayout, writer: SpoolWriter) -> None:
    incoming = writer.begin(origin_of(ct()))
    incoming.write(b"1234")
    (part,) = layout.incoming.iterdir()
    assert open_envelope(part.read_bytes()).checksum is None
    incoming.discard()


@pytest.mark.parametrize("data", [b"", b"x" * 500, bytes(128) + b"DICM" + b"\xff" * 300])
def test_a_foreign_file_has_no_envelope(data: bytes) -> None:
    with pytest.raises(BrokenDataSet):
        open_envelope(data)


def test_the_implementation_uid_never_changes() -> None:
    assert derived_uid("dicom-qa-node", "implementation") == IMPLEMENTATION_CLASS_UID
    assert len(IMPLEMENTATION_CLASS_UID) <= 64
