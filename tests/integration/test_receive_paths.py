"""The node's own P-DATA path and pynetdicom's give the same answers and leave the same spool."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pynetdicom
import pytest
from pydicom.uid import UID, CTImageStorage, MRImageStorage
from pynetdicom.association import Association

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.dicom_io.part10 import checksum_in, open_envelope
from dicom_qa_node.receive.receive_path import KNOWN_RELEASES, uses_own_path
from dicom_qa_node.receive.services import STORAGE_CLASSES, TRANSFER_SYNTAXES
from tests.integration.receive_peer import MakeReceiver, Receiver, association, receiver_fixture, store, store_bytes
from tests.integration.test_receive_associations import _store_command
from tests.integration.test_receive_store import encapsulated, refused
from tests.unit.encoded_images import EXPLICIT, ct, encoded

pytestmark = pytest.mark.integration
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
NATIVE = ("1.2.840.10008.1.2", EXPLICIT, BIG_ENDIAN, DEFLATED)


@pytest.fixture
def make_receiver(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


@dataclass(frozen=True)
class Send:
    """One C-STORE: data set, SOP class and instance of the request, presentation context."""

    name: str
    data: bytes
    sop_class: str
    sop_instance: str
    syntax: str = EXPLICIT
    context_class: str = ""


def sends() -> list[Send]:
    """Return stores of every kind of outcome; the same each time."""
    rng = np.random.default_rng(7)
    found = []
    for number, syntax in enumerate(map(str, TRANSFER_SYNTAXES)):
        ds = ct(SOPClassUID=STORAGE_CLASSES[number % len(STORAGE_CLASSES)], SOPInstanceUID=f"1.2.3.{number}")
        data = encoded(ds, syntax if syntax in NATIVE else EXPLICIT)
        if UID(syntax).is_encapsulated and syntax != DEFLATED:
            data = encapsulated(data, rng.bytes(999))
        found.append(Send(UID(syntax).name, data, str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax))
    ds = ct(SOPInstanceUID="1.2.3.1000", InstanceNumber=1)
    large = ct(SOPInstanceUID="1.2.3.1001", rows=512)
    conflict = ct(SOPInstanceUID="1.2.3.1000", InstanceNumber=77, SeriesInstanceUID=ds.SeriesInstanceUID)
    plain = str(ds.SOPClassUID)
    found += [
        Send("large", encoded(large), plain, "1.2.3.1001"),
        Send("first", encoded(ds), plain, "1.2.3.1000"),
        Send("duplicate", encoded(ds), plain, "1.2.3.1000"),
        Send("conflict", encoded(conflict), plain, "1.2.3.1000"),
        Send("class of another context", encoded(ds), str(MRImageStorage), "1.2.3.1002", context_class=plain),
    ]
    found += [Send(name, data, of_class, uid) for name, (data, of_class, uid, _) in refused().items()]
    return found


def outcomes(receiver: Receiver, wanted: Sequence[Send]) -> dict[str, tuple[int, str]]:
    """Send everything, each syntax on an association of its own; return status and Error Comment."""
    found = {}
    for syntax in dict.fromkeys(item.syntax for item in wanted):
        with association(receiver, syntaxes=[syntax], sop_classes=STORAGE_CLASSES) as assoc:
            for item in (item for item in wanted if item.syntax == syntax):
                context = item.context_class or item.sop_class
                answer = store_bytes(assoc, item.data, context, item.sop_instance, syntax, claimed=item.sop_class)
                found[item.name] = (answer.Status, answer.get("ErrorComment", ""))
    return found


def spool_contents(receiver: Receiver) -> dict[str, list[tuple[Any, ...]]]:
    """Return what each folder of the spool holds, without what differs by nature (times, associations, names)."""
    layout = receiver.layout
    found = {}
    for folder in (layout.instances, layout.conflicts, layout.quarantine):
        files = []
        for path in sorted(folder.rglob("*.dcm")):
            content = path.read_bytes()
            envelope = open_envelope(content)
            assert envelope.checksum is not None
            origin, seal = envelope.origin, envelope.checksum
            name = path.name if folder != layout.quarantine else ""
            files.append(
                (name, origin.sop_class_uid, origin.sop_instance_uid, origin.transfer_syntax_uid, origin.calling_ae,
                 origin.called_ae, seal.sha256, seal.size_bytes, content[envelope.data_start :])
            )  # fmt: skip
        found[folder.name] = sorted(files)
    return found


def connection_of(assoc: Association) -> socket.socket:
    transport = assoc.dul.socket
    assert transport is not None
    assert transport.socket is not None
    return transport.socket


def left_in_incoming(receiver: Receiver) -> list[Path]:
    return [path for path in receiver.layout.incoming.rglob("*") if path.is_file()]


def test_both_paths_give_the_same_answers_and_the_same_spool(
    tmp_path: Path, node_config: Config, poll: Callable[..., Any]
) -> None:
    wanted = sends()
    by_path = {}
    for setting in ("on", "off"):
        config = node_config.model_copy(
            update={
                "spool_dir": tmp_path / setting / "spool",
                "database_url": f"sqlite:///{tmp_path / setting / 'node.db'}",
            }
        )
        (tmp_path / setting).mkdir()
        for make in receiver_fixture(tmp_path / setting, config):
            receiver = make(own_pdata_path=setting)
            try:
                statuses = outcomes(receiver, wanted)
                poll(lambda receiver=receiver: not left_in_incoming(receiver))
                with receiver.registry() as registry:
                    held = poll(
                        lambda registry=registry: len(rows := registry.quarantined()) == len(refused()) and rows
                    )
                assert receiver.stop() == 0
                by_path[setting] = statuses, spool_contents(receiver), sorted(row.reason for row in held)
            finally:
                receiver.kill()
    statuses, contents, _ = by_path["on"]
    assert (statuses["duplicate"][0], statuses["conflict"][0]) == (0, 0)
    assert statuses["class of another context"][0] == 0x0122
    assert {name: status for name, (status, _) in statuses.items() if name in refused()} == {
        name: status for name, (*_, status) in refused().items()
    }
    assert (len(contents["instances"]), len(contents["conflicts"])) == (len(TRANSFER_SYNTAXES) + 2, 1)
    for there, here in zip(by_path["on"], by_path["off"], strict=True):
        assert there == here


def test_the_fallback_records_series_and_ends_associations(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver(own_pdata_path="off")
    ds = ct(rows=64)
    with association(receiver) as assoc:
        assert store(assoc, ds).Status == 0
        (path,) = receiver.files()
        assert path.read_bytes().endswith(encoded(ds)), "durable before Success"
        assert checksum_in(path.read_bytes()) is not None
    (row,) = poll(lambda: receiver.rows(ds.SeriesInstanceUID))
    assert row.calling_ae == "SCANNER"
    with receiver.registry() as registry:
        poll(lambda: [item.open_associations for item in registry.receiving()] == [0])
    assert receiver.stop() == 0


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_full_disk_is_a700_and_nothing_is_kept(make_receiver: MakeReceiver, setting: str) -> None:
    receiver = make_receiver(fault="disk-full", own_pdata_path=setting)
    ds = ct(rows=64)
    with association(receiver) as assoc:
        assert store(assoc, ds).Status == 0xA700
        assert not receiver.files()
        (receiver.folder / "disk-has-room").touch()
        assert store(assoc, ds).Status == 0


def test_an_abort_inside_an_object_leaves_no_file_in_the_fallback(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver(own_pdata_path="off")
    ds = ct(rows=256)
    with association(receiver) as assoc:
        half = struct.pack(">BBLLBB", 4, 0, 106, 102, 1, 0) + bytes(100)
        connection = connection_of(assoc)
        connection.sendall(_store_command(ds, b"") + half)
        poll(lambda: left_in_incoming(receiver))
        connection.sendall(half[:60])
        connection.shutdown(socket.SHUT_RDWR)
    poll(lambda: not left_in_incoming(receiver))
    assert not receiver.files()


def test_a_killed_receiver_leaves_no_file_after_its_next_start(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver(own_pdata_path="off")
    half = struct.pack(">BBLLBB", 4, 0, 106, 102, 1, 0) + bytes(100)
    with association(receiver) as assoc:
        connection_of(assoc).sendall(_store_command(ct(rows=256), b"") + half)
        poll(lambda: left_in_incoming(receiver))
        receiver.kill()
    assert left_in_incoming(receiver)
    receiver.start()
    assert not left_in_incoming(receiver)


def test_a_peer_that_drips_is_dropped_by_the_fallback(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver(own_pdata_path="off", dimse_timeout_s=1.0, min_rate_kb_s=1000)
    drop = struct.pack(">BBLLBB", 4, 0, 7, 3, 1, 0) + b"x"
    with association(receiver) as assoc:
        connection = connection_of(assoc)
        connection.sendall(_store_command(ct(rows=256), b""))

        def dropped() -> bool:
            try:
                connection.sendall(drop)
            except OSError:
                return True
            return "peer_too_slow" in receiver.log.read_text()

        poll(dropped)
    poll(lambda: not left_in_incoming(receiver))


@pytest.mark.parametrize("version", ["3.1.0", "2.9.1", "4.0.0.dev0", "30.0.1"])
def test_an_unknown_version_of_pynetdicom_is_a_warning_and_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    monkeypatch.setattr(pynetdicom, "__version__", version)
    with caplog.at_level(logging.INFO):
        assert not uses_own_path("auto")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "own_pdata_path_unavailable" in record.getMessage() + str(vars(record))
    assert version in record.getMessage() + str(vars(record))
    caplog.clear()
    assert uses_own_path("on")
    assert not uses_own_path("off")
    assert not caplog.records


def test_the_installed_pynetdicom_is_a_known_one(caplog: pytest.LogCaptureFixture) -> None:
    assert ".".join(pynetdicom.__version__.split(".")[:2]) in KNOWN_RELEASES
    assert uses_own_path("auto")
    assert not caplog.records


def test_an_unknown_version_is_in_the_log_of_a_receiver_that_still_receives(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver(fault="unknown-pynetdicom")
    ds = ct()
    with association(receiver, sop_classes=[CTImageStorage]) as assoc:
        assert store(assoc, ds).Status == 0
    assert len(receiver.files()) == 1
    receiver.stop()
    log = receiver.log.read_text()
    assert "event=own_pdata_path_unavailable" in log
    assert "pynetdicom=3.99.0" in log


@pytest.mark.parametrize(("written", "read"), [("off", "off"), ("on", "on"), ('"off"', "off"), ("auto", "auto")])
def test_on_and_off_need_no_quotes_in_yaml(tmp_path: Path, written: str, read: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"receive:\n  own_pdata_path: {written}\n")
    assert load_config(path).receive.own_pdata_path == read


def test_an_unusable_uid_in_the_request_ends_the_association_of_the_fallback_without_success(
    make_receiver: MakeReceiver, poll: Callable[..., Any]
) -> None:
    receiver = make_receiver(own_pdata_path="off")
    ds = ct()
    with association(receiver) as assoc:
        assert store_bytes(assoc, encoded(ds), str(ds.SOPClassUID), "1." * 40 + "1").get("Status") != 0
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == 0
    assert len(receiver.files()) == 1
    poll(lambda: not left_in_incoming(receiver))
