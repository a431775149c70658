"""What every answer of a PACS means, over real associations on loopback."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset

from dicom_qa_node.config import Config, DicomTarget
from dicom_qa_node.deliver.echo import echo_target
from dicom_qa_node.deliver.send_files import Peer, files_below, send_files
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import Answer, Deferred, Refused
from dicom_qa_node.deliver.targets.dicom import associate, contexts_for, file_kind
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.report.report_builder import build_report
from dicom_qa_node.report.sr_document import SOP_CLASS_UID, ReportRequest
from tests import raw_association as raw
from tests.report_samples import T0, shipped, verdict, write_series

pytestmark = [
    pytest.mark.integration,
    # pynetdicom leaves the closing of a socket that never connected to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

Archive = Callable[..., int]


@pytest.fixture
def archive(free_port) -> Iterator[Archive]:
    """Return ``archive(on_store, contexts, prepare)``: a storage SCP that answers as the test wants."""
    servers = []

    def start(
        on_store: Callable[[Any], Any] = lambda event: 0x0000,
        contexts: tuple[tuple[str, list[str]], ...] = ((Comprehensive3DSRStorage, [ExplicitVRLittleEndian]),),
        prepare: Callable[[AE], None] = lambda ae: None,
        handlers: tuple[Any, ...] = (),
    ) -> int:
        ae = AE("ARCHIVE")
        for abstract, syntaxes in contexts:
            ae.add_supported_context(abstract, syntaxes)
        prepare(ae)
        events = [(evt.EVT_C_STORE, on_store), (evt.EVT_C_ECHO, lambda event: 0x0000), *handlers]
        port = free_port()
        servers.append(ae.start_server(("127.0.0.1", port), block=False, evt_handlers=events))
        return port

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, ReportRef]:
    spool = tmp_path_factory.mktemp("spool")
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    instances = write_series(spool, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)
    result = verdict(instances, findings=())
    path = spool / "report.dcm"
    path.write_bytes(build_report(ReportRequest(result, 1, T0), instances, spool, Config()))
    uid = str(dcmread(path).SOPInstanceUID)
    return path, ReportRef(uid, SOP_CLASS_UID, "2.25.9", result.series_instance_uid, 1, "report.dcm", T0)


def pacs(port: int, timeout_s: float = 5.0, ae_title: str = "ARCHIVE") -> Any:
    settings = DicomTarget(name="pacs", host="127.0.0.1", port=port, ae_title=ae_title, timeout_s=timeout_s)
    return open_target(settings, "NODE")


def answering(code: int, comment: str) -> Callable[[Any], Any]:
    status = Dataset()
    status.Status = code
    if comment:
        status.ErrorComment = comment
    return lambda event: status


@pytest.mark.parametrize(
    ("code", "comment", "words"),
    [
        (0x0000, "", "0x0000 Success"),
        (0x0107, "", "0x0107 Warning, attribute list error"),
        (0x0111, "have it", "0x0111 Duplicate SOP instance, the target has it: have it"),
        (0x0116, "", "0x0116 Warning, attribute value out of range"),
        (0xB000, "name changed", "0xB000 Warning, coercion of data elements: name changed"),
        (0xB006, "", "0xB006 Warning, elements discarded"),
        (0xB007, "", "0xB007 Warning, data set does not match SOP class"),
        (0xB123, "kept all the same", "0xB123 Warning: kept all the same"),
        (0xBFFF, "", "0xBFFF Warning"),
        (0x0001, "", "0x0001 Warning"),
    ],
)
def test_accepted_and_warned_reports_are_delivered(archive, report, code, comment, words):
    answer = pacs(archive(answering(code, comment))).send(shipped(*report))
    assert isinstance(answer, Answer)
    assert str(answer) == words


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (0xA700, Deferred, "0xA700 Out of resources: disk full"),
        (0xA702, Deferred, "0xA702 Out of resources: disk full"),
        (0x0110, Deferred, "0x0110 Processing failure: disk full"),
        (0x0213, Deferred, "0x0213 Resource limitation: disk full"),
        (0xA900, Refused, "0xA900 Data Set Does Not Match SOP Class: disk full"),
        (0xC000, Refused, "0xC000 Cannot Understand: disk full"),
        (0xC123, Refused, "0xC123 Cannot Understand: disk full"),
        (0x0122, Refused, "0x0122 SOP Class Not Supported: disk full"),
        (0x0124, Refused, "0x0124 Not Authorised: disk full"),
    ],
)
def test_failures_are_deferred_or_refused_with_the_words_of_the_target(archive, report, code, kind, words):
    with pytest.raises(kind) as caught:
        pacs(archive(answering(code, "disk full"))).send(shipped(*report))
    assert str(caught.value).lower() == words.lower()
    assert "disk full" not in caught.value.status


def test_bytes_arrive_as_they_lie_in_the_file(archive, report):
    received = []

    def keep(event):
        received.append((event.request.AffectedSOPInstanceUID, event.request.DataSet.getvalue()))
        return 0x0000

    path, reference = report
    pacs(archive(keep)).send(shipped(path, reference))
    _, offset = split_dataset(path)
    assert received == [(reference.sop_instance_uid, path.read_bytes()[offset:])]


def test_node_says_what_it_is(archive):
    seen = []

    def on_requested(event):
        seen.append((event.assoc.requestor.implementation_class_uid, event.assoc.requestor.implementation_version_name))

    port = archive(
        prepare=lambda ae: ae.add_supported_context("1.2.840.10008.1.1"), handlers=((evt.EVT_REQUESTED, on_requested),)
    )
    pacs(port).check()
    assert seen == [(IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)]


def test_archive_with_the_default_syntax_only_gets_the_same_report(archive, report):
    received = []

    def keep(event):
        received.append(event.dataset)
        return 0x0000

    path, reference = report
    port = archive(keep, ((Comprehensive3DSRStorage, [ImplicitVRLittleEndian]),))
    assert str(pacs(port).send(shipped(path, reference))) == "0x0000 Success"
    original = dcmread(path)
    assert received[0].PatientName == original.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert received[0].to_json() == original.to_json()


def test_refused_sop_class_is_permanent(archive, report):
    port = archive(contexts=(("1.2.840.10008.5.1.4.1.1.2", [ExplicitVRLittleEndian]),))
    with pytest.raises(Refused, match="does not accept Comprehensive 3D SR Storage"):
        pacs(port).send(shipped(*report))


def test_unknown_titles_are_permanent_and_a_busy_archive_is_not(archive, report):
    port = archive(prepare=lambda ae: setattr(ae, "require_called_aet", True))
    with pytest.raises(Refused, match=r"association rejected: Called AE title not recognised"):
        pacs(port, ae_title="OTHER").send(shipped(*report))
    picky = archive(prepare=lambda ae: setattr(ae, "require_calling_aet", ["SOMEBODY"]))
    with pytest.raises(Refused, match=r"association rejected: Calling AE title not recognised"):
        pacs(picky).send(shipped(*report))
    busy = archive(prepare=lambda ae: setattr(ae, "maximum_associations", 1))
    peer = Peer("127.0.0.1", busy, "ARCHIVE", "NODE", 5)
    with (
        associate(peer, contexts_for([file_kind(report[0])])),
        pytest.raises(Deferred, match=r"association rejected: Local limit exceeded"),
    ):
        pacs(busy).send(shipped(*report))


def test_association_is_released_after_each_report(archive, report, poll):
    released: list[Any] = []
    target = pacs(archive(handlers=((evt.EVT_RELEASED, released.append),)))
    target.send(shipped(*report))
    poll(lambda: len(released) == 1)


def test_absent_archive_is_tried_later(free_port, report):
    with pytest.raises(Deferred, match=r"no connection to ARCHIVE at 127\.0\.0\.1"):
        pacs(free_port()).send(shipped(*report))
    unknown = DicomTarget(name="pacs", host="pacs.invalid", port=104, ae_title="ARCHIVE", timeout_s=2)
    with pytest.raises(Deferred, match=r"no connection to ARCHIVE at pacs\.invalid"):
        open_target(unknown, "NODE").send(shipped(*report))


def test_silent_listener_is_given_up_in_time(report):
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Deferred, match="without an answer"):
        pacs(listener.getsockname()[1], timeout_s=0.5).send(shipped(*report))


def test_connection_that_the_target_resets_is_closed_at_once(report):
    def reset(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=reset, args=[listener])
        thread.start()
        before = len(os.listdir("/proc/self/fd"))
        # The error holds what failed, as it does in a debugger or a log: the socket must not wait for its end.
        with pytest.raises(Deferred, match="without an answer") as caught:
            pacs(listener.getsockname()[1], timeout_s=5).send(shipped(*report))
        thread.join()
        assert caught.value.__traceback__ is not None
        assert len(os.listdir("/proc/self/fd")) == before


def test_archive_that_aborts_or_stays_silent_in_the_middle_is_tried_later(archive, report):
    def abort(event):
        event.assoc.abort()
        return 0x0000

    with pytest.raises(Deferred, match="ended the association or did not answer"):
        pacs(archive(abort)).send(shipped(*report))
    released = threading.Event()

    def hang(event):
        released.wait(10)
        return 0x0000

    with pytest.raises(Deferred, match="ended the association or did not answer"):
        pacs(archive(hang), timeout_s=0.5).send(shipped(*report))
    released.set()


def test_small_messages_do_not_wait_for_acknowledgements(archive, report):
    peer = Peer("127.0.0.1", archive(), "ARCHIVE", "NODE", 5)
    with associate(peer, contexts_for([file_kind(report[0])])) as assoc:
        assert assoc.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_echo_asks_a_target_by_its_name(archive, free_port, tmp_path):
    port = archive(contexts=(("1.2.840.10008.1.1", [ImplicitVRLittleEndian]),))
    targets = [
        {"kind": "dicom", "name": "pacs", "host": "127.0.0.1", "port": port, "ae_title": "ARCHIVE"},
        {"kind": "dicom", "name": "down", "host": "127.0.0.1", "port": free_port(), "ae_title": "ARCHIVE"},
        {"kind": "folder", "name": "shelf", "path": tmp_path / "shelf"},
    ]
    config = Config.model_validate({"deliver": {"targets": targets}})
    assert str(echo_target(config, "pacs")) == "0x0000 Success"
    assert str(echo_target(config, "shelf")) == "writable"
    with pytest.raises(Deferred, match="no connection"):
        echo_target(config, "down")
    with pytest.raises(Misconfigured, match=r"no target is called 'other'; deliver.targets has: down, pacs, shelf"):
        echo_target(config, "other")


def test_send_streams_files_and_names_what_did_not_go(archive, tmp_path):
    received = []

    def keep(event):
        received.append(event.request.AffectedSOPInstanceUID)
        return 0xC000 if received[-1].endswith(".3") else 0x0000

    opened: list[Any] = []
    port = archive(
        keep,
        (("1.2.840.10008.5.1.4.1.1.2", [ExplicitVRLittleEndian]),),
        handlers=((evt.EVT_ACCEPTED, opened.append),),
    )
    images = write_series(tmp_path, 1, slices=5)
    write_series(tmp_path, 2, "PT", slices=1)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "DICOMDIR").write_text("")
    files = files_below([tmp_path])
    steps: list[tuple[int, int]] = []
    peer = Peer("127.0.0.1", port, "ARCHIVE", "NODE", 5)
    summary = send_files(files, peer, lambda done, total: steps.append((done, total)))
    assert sorted(received) == [item.sop_instance_uid for item in images]
    assert summary.sent == 4
    reasons = sorted(words for _, words in summary.failed)
    assert reasons[0].startswith("0xC000")
    assert "does not accept Positron Emission Tomography" in reasons[1]
    assert [path.name for path, _ in summary.skipped] == ["notes.txt"]
    assert steps[-1] == (7, 7)
    assert len(opened) == 1


def test_send_to_nobody_says_so(free_port, tmp_path):
    write_series(tmp_path, slices=1)
    with pytest.raises(Deferred, match="no connection"):
        send_files(files_below([tmp_path]), Peer("127.0.0.1", free_port(), "ANY", "NODE", 1))


def test_file_that_ends_early_is_named(tmp_path):
    for content in (b"", b"x" * 200, bytes(128) + b"DICM"):
        path = tmp_path / "broken.dcm"
        path.write_bytes(content)
        with pytest.raises(Refused, match="not a DICOM Part 10 file"):
            file_kind(path)
    assert dcmread(BytesIO((tmp_path / write_series(tmp_path, slices=1)[0].path).read_bytes())).Modality == "CT"


class _Flood(threading.Thread):
    """A target that accepts the association and answers a C-STORE with a message, or one PDU, that does not end."""

    def __init__(self, pdu: bytes, times: int, *, association_too: bool = True) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pdu, self._times, self._association = pdu, times, association_too
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            try:
                raw.answer(connection)
                if self._association:
                    accepted = raw.item(0x21, struct.pack(">BBBB", 1, 0, 0, 0) + raw.item(0x40, raw.EXPLICIT.encode()))
                    connection.sendall(raw.request(kind=2, contexts=[accepted]))
                    raw.answer(connection)
                for _ in range(self._times):
                    connection.sendall(self._pdu)
                    self.sent += len(self._pdu)
            except (OSError, EOFError):
                return


def _long_pdu(kind: int) -> bytes:
    return struct.pack(">BBL", kind, 0, 1 << 30) + bytes(1 << 20)


@pytest.mark.parametrize(
    ("flood", "most_mb"),
    [
        (lambda: _Flood(_long_pdu(4) + bytes(200 << 20), 1), 0),
        (lambda: _Flood(_long_pdu(2) + bytes(200 << 20), 1, association_too=False), 0),
        (lambda: _Flood(raw.p_data(0, bytes(1 << 19)), 400), 40),
        (lambda: _Flood(raw.p_data(1, bytes(1 << 19)), 400), 40),
        (lambda: _Flood(raw.p_data(0, b"") * 50_000, 300), 100),
    ],
    ids=["one PDU", "one A-ASSOCIATE-AC", "one data set", "one command set", "fragments without a byte"],
)
def test_a_target_that_sends_without_end_is_left_before_it_fills_the_memory(report, flood, most_mb):
    target = flood()
    target.start()
    before = peak_kb()
    with pytest.raises(Deferred):
        pacs(target.port).send(shipped(*report))
    # What the kernel took for a connection that is closed is the peer's matter.
    assert target.sent <= most_mb << 20
    # The flood itself is built in this process before.
    assert (peak_kb() - before) >> 10 < 24


def peak_kb() -> int:
    """Return the most memory of this process since this was called last."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0])
