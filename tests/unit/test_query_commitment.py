"""Storage commitment in dialogues: what is judged how, where answers go, and when a report counts as delivered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt

from dicom_qa_node.config import Config, DicomTarget
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.commitment_results import CommitmentResultSender
from dicom_qa_node.deliver.commitment_scu import CommittedPacs
from dicom_qa_node.deliver.delivery_worker import run_delivery_worker
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import CLASSES, Deferred, DeliveryItem, Refused
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.states import DeliveryState
from dicom_qa_node.flow.commitments import CommitReplies, CommitRequests
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.receive.commitment_scp import CommitmentService
from dicom_qa_node.report.sop_class_conversion import as_form, form_uid
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.storage_commitment import (
    CONTRADICTION,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    CommitItem,
    request_of,
)
from tests.query_samples import CASES, fill, images_of, keep, serving
from tests.report_samples import shipped

# pynetdicom does not close the socket of a connection that was refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

SR = UID("1.2.840.10008.5.1.4.1.1.88.34")


@pytest.fixture
def config(tmp_path) -> Config:
    return Config.model_validate({"database_url": f"sqlite:///{tmp_path}/q.db", "spool_dir": tmp_path / "spool"})


@pytest.fixture
def database(config) -> Iterator[Database]:
    database = Database(config.database_url)
    database.upgrade()
    yield database
    database.close()


def service(config: Config, database: Database, **options: bool) -> CommitmentService:
    layout = SpoolLayout(config.spool_dir)
    return CommitmentService(layout, CommitReplies(database), CommitRequests(database), **options)


class Scanner:
    """A peer that asks for commitment and keeps what it is told."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.reports: list[tuple[int, Dataset]] = []

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        self.told.set()
        return 0, None

    def ask(self, port: int, *pairs: tuple[str, str], wait_s: float = 0, **changes: Any) -> int:
        """Send an N-ACTION, stay for ``wait_s`` at most, and return the status."""
        information = Dataset()
        information.TransactionUID = changes.get("transaction", generate_uid())
        information.ReferencedSOPSequence = [request_of("1.2", *pair).ReferencedSOPSequence[0] for pair in pairs]
        ae = AE("SCANNER")
        ae.add_requested_context(PUSH_MODEL)
        assoc = ae.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)])
        assert assoc.is_established
        action, instance = changes.get("action", 1), changes.get("instance", PUSH_MODEL_INSTANCE)
        status, _ = assoc.send_n_action(changes.get("information", information), action, PUSH_MODEL, instance)
        self.told.wait(wait_s)
        assoc.release()
        return int(status.Status)

    @contextmanager
    def listening(self) -> Iterator[int]:
        ae = AE("SCANNER")
        ae.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def reasons(report: Dataset) -> dict[str, int]:
    return {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in report.get("FailedSOPSequence") or ()}


def test_a_peer_that_waits_is_told_on_its_association(config, database):
    held = keep(config.spool_dir, images_of(CASES[0])[0])
    scanner, unknown = Scanner(), generate_uid()
    pairs = [(held.sop_class_uid, held.sop_instance_uid), (held.sop_class_uid, unknown)]
    with serving(config, database, service(config, database)) as port:
        assert scanner.ask(port, *pairs, wait_s=10) == 0
    ((event_type, report),) = scanner.reports
    assert event_type == 2
    assert [str(item.ReferencedSOPInstanceUID) for item in report.ReferencedSOPSequence] == [held.sop_instance_uid]
    assert reasons(report) == {unknown: 0x0112}
    assert CommitReplies(database).pending("SCANNER") == []


def test_the_file_counts_and_not_the_row(config, database):
    image = images_of(CASES[0])[0]
    held = keep(config.spool_dir, image)
    broken = keep(config.spool_dir, images_of(CASES[0])[1])
    (config.spool_dir / broken.path).write_bytes(b"nothing")
    scanner = Scanner()
    pairs = [
        (held.sop_class_uid, held.sop_instance_uid),
        ("1.2.840.10008.5.1.4.1.1.4", held.sop_instance_uid),
        (held.sop_class_uid, broken.sop_instance_uid),
        (held.sop_class_uid, "../../etc/passwd"),
    ]
    with serving(config, database, service(config, database)) as port:
        assert scanner.ask(port, *pairs[:1], wait_s=10) == 0
        assert scanner.reports.pop()[0] == 1
        scanner.told.clear()
        assert scanner.ask(port, *pairs[1:3], wait_s=10) == 0
    assert reasons(scanner.reports.pop()[1]) == {held.sop_instance_uid: 0x0119, broken.sop_instance_uid: 0x0110}


def test_a_peer_that_left_is_told_on_a_new_association(config, database, poll):
    held = keep(config.spool_dir, images_of(CASES[0])[0])
    scanner = Scanner()
    with serving(config, database, service(config, database)) as port:
        assert scanner.ask(port, (held.sop_class_uid, held.sop_instance_uid)) == 0
    (reply,) = CommitReplies(database).pending("SCANNER")
    with scanner.listening() as back:
        peers = {"peers": [{"ae_title": "SCANNER", "port": back}]}
        known = config.model_copy(update={"receive": type(config.receive).model_validate(peers)})
        CommitReplies(database).try_later(reply, "", -1)
        assert CommitmentResultSender(known, CommitReplies(database)).step() == 1
    ((event_type, report),) = scanner.reports
    assert (event_type, report.TransactionUID) == (1, reply.transaction_uid)
    assert CommitReplies(database).pending("SCANNER") == []


def test_an_answer_that_nobody_takes_is_tried_again_and_given_up(config, database, free_port, caplog):
    replies = CommitReplies(database)
    peers = {"peers": [{"ae_title": "SCANNER", "port": free_port()}]}
    known = config.model_copy(update={"receive": type(config.receive).model_validate(peers)})
    replies.add("1.2.3", "SCANNER", "127.0.0.1", [CommitItem("1.2", "1.3")])
    replies.add("1.2.4", "OTHER", "127.0.0.1", [CommitItem("1.2", "1.3")])
    assert CommitmentResultSender(known, replies).step() == 0
    told = [record.qa_fields for record in caplog.records if record.msg == "commitment_not_told"]
    assert {line["calling_ae"]: line["reason"] for line in told} == {
        "SCANNER": f"no connection to SCANNER at 127.0.0.1:{known.receive.peers[0].port}",
        "OTHER": "receive.peers names no port of this peer",
    }
    assert replies.due() == []
    assert [reply.attempts for reply in replies.pending("SCANNER") + replies.pending("OTHER")] == [1, 1]
    late = replies.pending("SCANNER")[0].created_at.replace(year=2100)
    later = CommitReplies(database, clock=lambda: late)
    assert CommitmentResultSender(known, later, clock=lambda: late).step() == 0
    assert later.pending("SCANNER") == later.pending("OTHER") == []


def test_bad_requests_have_their_statuses(config, database):
    scanner = Scanner()
    pair = (str(CTImageStorage), "1.2.3")
    no_items = Dataset()
    no_items.TransactionUID = "1.2.3"
    with serving(config, database, service(config, database)) as port:
        assert scanner.ask(port, pair, action=2) == 0x0123
        assert scanner.ask(port, pair, instance=UID("1.2.3")) == 0x0112
        assert scanner.ask(port) == 0x0115
        assert scanner.ask(port, pair, information=no_items) == 0x0115
    assert CommitReplies(database).pending("SCANNER") == []


def test_a_node_that_commits_to_nothing_is_no_provider(config, database):
    with serving(config, database, service(config, database, committing=False)) as port:
        ae = AE("SCANNER")
        ae.add_requested_context(PUSH_MODEL)
        assoc = ae.associate("127.0.0.1", port)
        assert not assoc.is_established


class Archive:
    """An archive that takes reports and answers as told, on the same association or not at all."""

    def __init__(
        self, outcome: int | None = None, *, answer: bool = True, status: int = 0, contradicts: bool = False
    ) -> None:
        self.stored = 0
        self.contradicts = contradicts
        self.statuses: list[int] = []
        self.asked: list[Dataset] = []
        self.outcome, self.answer, self.status = outcome, answer, status

    def on_store(self, event: evt.Event) -> int:
        self.stored += 1
        return 0

    def on_action(self, event: evt.Event) -> tuple[int, None]:
        self.asked.append(event.action_information)
        if self.answer and not self.status:
            threading.Thread(target=self._tell, args=(event.assoc, event.action_information)).start()
        return self.status, None

    def _tell(self, assoc: Any, asked: Dataset) -> None:
        kind = 1 if self.outcome is None else 2
        status, _ = assoc.send_n_event_report(self.report(asked), kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        self.statuses.append(status.get("Status"))

    def report(self, asked: Dataset) -> Dataset:
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        if self.outcome is None:
            report.ReferencedSOPSequence = asked.ReferencedSOPSequence
        else:
            report.FailedSOPSequence = asked.ReferencedSOPSequence
            report.FailedSOPSequence[0].FailureReason = self.outcome
            if self.contradicts:
                report.ReferencedSOPSequence = request_of("1.2", *_pair(asked)).ReferencedSOPSequence
        return report

    @contextmanager
    def listening(self, *, commits: bool = True, sop_class: str = SR) -> Iterator[int]:
        ae = AE("PACS")
        ae.add_supported_context(sop_class, ExplicitVRLittleEndian)
        if commits:
            ae.add_supported_context(PUSH_MODEL)
        handlers: list[Any] = [(evt.EVT_C_STORE, self.on_store), (evt.EVT_N_ACTION, self.on_action)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _pair(asked: Dataset) -> tuple[str, str]:
    (item,) = asked.ReferencedSOPSequence
    return str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)


@pytest.fixture
def report(config, database) -> ReportRef:
    wanted = {"targets": [target(104).model_dump()]}
    fill(config.model_copy(update={"deliver": type(config.deliver).model_validate(wanted)}), database, CASES[:1])
    found = Outbox(database).report(CASES[0].series_uid)
    assert found is not None
    return found


def target(port: int) -> DicomTarget:
    return DicomTarget(
        kind="dicom", name="pacs", host="127.0.0.1", port=port, ae_title="PACS", timeout_s=5.0, require_commitment=True
    )


def pacs(database: Database, port: int, patience_s: float = 5.0) -> CommittedPacs:
    settings = target(port)
    return CommittedPacs(
        open_target(settings, "NODE"), settings, "NODE", CommitRequests(database), patience_s=patience_s
    )


def test_committed_on_the_same_association(config, database, report):
    archive = Archive()
    with archive.listening() as port:
        answer = pacs(database, port).send(shipped(config.spool_dir / report.path, report))
        again = pacs(database, port).send(shipped(config.spool_dir / report.path, report))
    assert str(answer) == str(again) == "0x0000 Success, storage committed"
    assert archive.stored == len(archive.asked) == 1


def test_commitment_is_asked_for_the_form_that_was_sent(config, database, report):
    archive, enhanced = Archive(), CLASSES["enhanced"]
    shipment = DeliveryItem(config.spool_dir, report, convert=lambda ref, cls: as_form(config.spool_dir, ref, cls))
    with archive.listening(sop_class=enhanced) as port:
        answers = [pacs(database, port).send(shipment) for _ in range(2)]
    uid = form_uid(report.sop_instance_uid, enhanced)
    assert [(str(answer), answer.sent_uid) for answer in answers] == [("0x0000 Success, storage committed", uid)] * 2
    (asked,) = archive.asked
    (reference,) = asked.ReferencedSOPSequence
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (enhanced, uid)
    assert archive.stored == 1


def test_no_answer_yet_waits_and_sends_nothing_twice(config, database, report):
    archive = Archive(answer=False)
    path = config.spool_dir / report.path
    with archive.listening() as port:
        for words in ("sent; waiting for the storage commitment", "waiting for the storage commitment"):
            with pytest.raises(Deferred, match=f"^{words}$"):
                pacs(database, port, 0.1).send(shipped(path, report))
        assert archive.stored == 1
        _report_from_archive(config, database, archive)
        assert str(pacs(database, port).send(shipped(path, report))) == "0x0000 Success, storage committed"
    assert archive.stored == 1
    (row,) = Outbox(database).rows([DeliveryState.PENDING])
    assert (row.next_attempt_at - row.created_at).total_seconds() > 0


def _report_from_archive(config: Config, database: Database, archive: Archive) -> None:
    """Send the answer to the node's own port, in the archive's role of the one that commits."""
    with serving(config, database, service(config, database, committing=False)) as port:
        ae = AE("PACS")
        ae.add_requested_context(PUSH_MODEL)
        assoc = ae.associate("127.0.0.1", port, ext_neg=[build_role(PUSH_MODEL, scp_role=True)])
        assert assoc.is_established
        unknown = Dataset()
        unknown.TransactionUID = "1.2.3"
        for information, expected in ((unknown, 0x0115), (archive.report(archive.asked[0]), 0)):
            status, _ = assoc.send_n_event_report(information, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            assert status.Status == expected
        assoc.release()


def test_too_long_without_an_answer_asks_again(config, database, report):
    archive = Archive(answer=False)
    path = config.spool_dir / report.path
    with archive.listening() as port:
        with pytest.raises(Deferred):
            pacs(database, port, 0.1).send(shipped(path, report))
        (last,) = [CommitRequests(database).latest(report.sop_instance_uid, "pacs")]
        assert last is not None
        late = last.requested_at.replace(year=2100)
        settings, requests = target(port), CommitRequests(database, clock=lambda: late)
        later = CommittedPacs(open_target(settings, "N"), settings, "N", requests, lambda: late, patience_s=0.1)
        with pytest.raises(Deferred, match=r"^sent"):
            later.send(shipped(path, report))
    # The archive has taken the report: only the question is asked again.
    assert (archive.stored, len(archive.asked)) == (1, 2)
    assert len({asked.TransactionUID for asked in archive.asked}) == 2


@pytest.mark.parametrize(("reason", "kind"), [(0x0112, Deferred), (0x0213, Deferred), (0x0122, Refused)])
def test_an_archive_that_does_not_commit(config, database, report, reason, kind):
    archive = Archive(reason)
    with archive.listening() as port, pytest.raises(kind, match=f"0x{reason:04X} storage commitment refused"):
        pacs(database, port).send(shipped(config.spool_dir / report.path, report))
    archive.outcome = None
    with archive.listening() as port:
        assert pacs(database, port).send(shipped(config.spool_dir / report.path, report))
    assert archive.stored == 2


@pytest.mark.parametrize(("status", "kind"), [(0x0110, Deferred), (0x0213, Deferred), (0x0122, Refused)])
def test_an_archive_that_does_not_take_the_request(config, database, report, status, kind):
    with Archive(status=status).listening() as port, pytest.raises(kind, match=f"0x{status:04X} answer"):
        pacs(database, port).send(shipped(config.spool_dir / report.path, report))


def test_an_archive_without_storage_commitment(config, database, report):
    archive = Archive()
    with archive.listening(commits=False) as port, pytest.raises(Refused, match="does not offer"):
        pacs(database, port).send(shipped(config.spool_dir / report.path, report))
    assert archive.stored == 0


def test_a_report_that_is_named_as_stored_and_as_failed_is_refused_once_for_all(config, database, report):
    archive = Archive(0x0110, contradicts=True)
    shipment = shipped(config.spool_dir / report.path, report)
    with archive.listening() as port, pytest.raises(Refused, match="both as stored and as failed"):
        pacs(database, port).send(shipment)
    assert (archive.stored, len(archive.asked), archive.statuses) == (1, 1, [0])
    last = CommitRequests(database).latest(report.sop_instance_uid, "pacs")
    assert last is not None
    assert last.failure_reason == CONTRADICTION


def run_worker(config: Config, database: Database, port: int, until: Callable[[], object], poll: Any) -> None:
    """Run the delivery worker with its targets until something holds, and an attempt longer."""
    deliver = {"targets": [target(port).model_dump()], "retry_first_s": 0.05, "retry_max_s": 0.1}
    config = config.model_copy(update={"deliver": type(config.deliver).model_validate(deliver)})
    stop = threading.Event()
    worker = threading.Thread(target=run_delivery_worker, args=(config, database, stop), daemon=True)
    worker.start()
    try:
        poll(until, 30)
    finally:
        stop.set()
        worker.join(30)


@pytest.mark.parametrize(
    ("archive", "listening", "words", "stored"),
    [
        (Archive(0x0110, contradicts=True), {}, "both as stored and as failed", 1),
        (Archive(0x0110), {}, "0x0110 storage commitment refused 3 times", 3),
        (Archive(), {"commits": False}, "the target does not offer storage commitment", 0),
    ],
    ids=["contradiction", "failure again and again", "no service"],
)
def test_what_an_archive_does_not_commit_to_is_parked_with_one_line_and_not_sent_for_ever(
    config, database, report, poll, caplog, archive, listening, words, stored
):
    with archive.listening(**listening) as port:
        rows = lambda: Outbox(database).rows([DeliveryState.PARKED])  # noqa: E731
        run_worker(config, database, port, rows, poll)
        (row,) = rows()
        # Another round of the worker finds nothing to do.
        before = archive.stored
        run_worker(config, database, port, lambda: True, poll)
    assert words in row.last_answer
    assert archive.stored == before == stored
    told = [record for record in caplog.records if record.levelno >= logging.ERROR and words in str(record.qa_fields)]
    assert len(told) == 1, [getattr(record, "qa_fields", record.msg) for record in caplog.records]


def roleless_answer(port: int, information: Dataset, kind: int = 1) -> int | None:
    """Bring an archive's answer on an association in which it has negotiated no role; None where it is not let in."""
    ae = AE("PACS")
    ae.add_requested_context(PUSH_MODEL)
    assoc = ae.associate("127.0.0.1", port)
    if not assoc.is_established:
        return None
    # pynetdicom would refuse to send it itself.
    for context in assoc.accepted_contexts:
        context._as_scu = context._as_scp = True
    status, _ = assoc.send_n_event_report(information, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assoc.release()
    return int(status.Status)


def test_an_archive_that_negotiates_no_role_brings_its_answer_all_the_same(config, database, report):
    archive = Archive(answer=False)
    shipment = shipped(config.spool_dir / report.path, report)
    with archive.listening() as port, pytest.raises(Deferred):
        pacs(database, port, 0.1).send(shipment)
    waits = service(config, database, committing=False, awaiting=True)
    with serving(config, database, waits) as port:
        assert roleless_answer(port, archive.report(archive.asked[0])) == 0
        # It is let in to answer, and nothing is promised to it.
        assert Scanner().ask(port, (str(CTImageStorage), "1.2.3")) == 0x0123
    with archive.listening() as port:
        assert str(pacs(database, port).send(shipment)) == "0x0000 Success, storage committed"
    assert archive.stored == 1
    with serving(config, database, service(config, database, committing=False)) as port:
        assert roleless_answer(port, archive.report(archive.asked[0])) is None


@pytest.mark.parametrize("count", [100, 20_000])
def test_an_answer_that_is_costly_to_read_is_refused_where_the_node_asks(config, database, report, count):
    archive = Archive()
    whole = archive.report

    def swollen(asked: Dataset) -> Dataset:
        information = whole(asked)
        for number in range(count):
            information.add_new((0x0009, 0x1000 + number), "LO", "")
        return information

    archive.report = swollen
    with archive.listening() as port, pytest.raises(Deferred, match="waiting for the storage commitment"):
        pacs(database, port, 5.0).send(shipped(config.spool_dir / report.path, report))
    assert archive.statuses == [0x0115]
    last = CommitRequests(database).latest(report.sop_instance_uid, "pacs")
    assert last is not None
    assert last.answered_at is None
