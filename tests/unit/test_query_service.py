"""The query/retrieve SCP in dialogues: statuses, hierarchy, negotiation, sequences, sub-operations, cancel."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_VERSION_NAME
from dicom_qa_node.query.service import REPORT_CLASSES, open_query_service
from tests.query_samples import CASES, PATIENT_FIND, STUDY_FIND, fill, identifier, images_of, serving

# pynetdicom does not close the socket of a connection that was refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

MOVE, GET = UID("1.2.840.10008.5.1.4.1.2.2.2"), UID("1.2.840.10008.5.1.4.1.2.2.3")
SR = REPORT_CLASSES[0]
FIRST, SECOND = CASES[0], CASES[1]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("filled")
    config = Config.model_validate(
        {"database_url": f"sqlite:///{folder}/q.db", "spool_dir": folder / "spool", "query": {"images": True}}
    )
    database = Database(config.database_url)
    database.upgrade()
    fill(config, database, CASES[:2])
    database.close()
    return config


@contextmanager
def node(config: Config, **query: Any) -> Iterator[int]:
    config = config.model_copy(update={"query": type(config.query).model_validate({"images": True} | query)})
    database = Database(config.database_url)
    with serving(config, database, open_query_service(config, database)) as port:
        yield port
    database.close()


@contextmanager
def talk(port: int, *classes: UID, handlers: Any = (), extra: Any = (), negotiation: Any = ()) -> Iterator[Association]:
    ae = AE("ASKER")
    ae.acse_timeout = ae.dimse_timeout = 20
    for sop_class in classes:
        ae.add_requested_context(sop_class)
    for sop_class in extra:
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, evt_handlers=list(handlers), ext_neg=list(negotiation) or None)
    assert assoc.is_established
    yield assoc
    if assoc.is_established:
        assoc.release()


def find(port: int, query: Dataset, model: UID = STUDY_FIND, **options: Any) -> list[tuple[int, Dataset | None]]:
    with talk(port, model, **options) as assoc:
        return [(int(status.Status), answer) for status, answer in assoc.send_c_find(query, model)]


@pytest.fixture(scope="module")
def port(filled: Config) -> Iterator[int]:
    with node(filled) as port:
        yield port


def test_an_unsupported_key_is_left_out_and_said(port):
    *matches, (end, _) = find(port, identifier("STUDY", StudyInstanceUID=None, PatientAge="040Y", PatientID="PAT-1"))
    assert end == 0
    ((status, answer),) = matches
    assert status == 0xFF01
    assert "PatientAge" not in answer
    assert answer.PatientID == "PAT-1"


def test_a_key_below_the_level_is_not_supported(port):
    *matches, _ = find(port, identifier("STUDY", StudyInstanceUID=None, SeriesNumber="1"))
    assert [status for status, _ in matches] == [0xFF01, 0xFF01]


@pytest.mark.parametrize(
    ("model", "query"),
    [
        (STUDY_FIND, identifier("PATIENT", PatientID="PAT-1")),
        (STUDY_FIND, identifier("NOTHING", StudyInstanceUID=None)),
        (STUDY_FIND, identifier("SERIES", SeriesInstanceUID=None)),
        (STUDY_FIND, identifier("SERIES", StudyInstanceUID=["1.2", "1.3"], SeriesInstanceUID=None)),
        (STUDY_FIND, identifier("IMAGE", StudyInstanceUID="1.2", SOPInstanceUID=None)),
        (PATIENT_FIND, identifier("STUDY", StudyInstanceUID=None)),
        (PATIENT_FIND, identifier("STUDY", StudyInstanceUID=None, PatientID="PAT*")),
    ],
)
def test_an_identifier_against_the_hierarchy(port, model, query):
    assert find(port, query, model) == [(0xA900, None)]


def test_a_query_without_a_level(port, caplog):
    query = Dataset()
    query.StudyInstanceUID = ""
    assert find(port, query) == [(0xA900, None)]
    (record,) = [record for record in caplog.records if record.msg == "find_refused"]
    assert record.qa_fields["status"] == "A900"


def test_a_query_without_keys_finds_everything_and_tells_nothing_of_it(port):
    *matches, last = find(port, identifier("STUDY"))
    assert last == (0x0000, None)
    assert len(matches) == 2
    told = {element.keyword for status, answer in matches for element in answer}
    assert {status for status, _ in matches} == {0xFF00}
    assert told <= {"QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability"}


def test_an_unknown_character_set(port):
    query = identifier("STUDY", StudyInstanceUID=None)
    query.add_new("SpecificCharacterSet", "CS", "ISO_IR 999")
    with pytest.warns(UserWarning, match="ISO_IR 999"):
        assert find(port, query) == [(0xC000, None)]


def test_an_identifier_of_garbage(port):
    from pynetdicom.dimse_primitives import C_FIND

    with talk(port, STUDY_FIND) as assoc:
        request = C_FIND()
        request.MessageID, request.Priority, request.AffectedSOPClassUID = 7, 2, STUDY_FIND
        request.Identifier = BytesIO(b"\x08\x00\x52\x00\xff\xff\xff\x7fSTUDY")
        assoc._reactor_checkpoint.clear()
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
        _, response = assoc.dimse.get_msg(block=True)
        assoc._reactor_checkpoint.set()
    assert response.Status == 0xC000


def test_a_query_of_huge_values_is_refused(port):
    assert find(port, identifier("STUDY", StudyInstanceUID=None, StudyDescription="*" * 9000))[0][0] == 0xC000


def test_concept_name_and_evidence_of_reports(port):
    wanted = {
        "StudyInstanceUID": FIRST.study_uid, "SOPInstanceUID": None, "CompletionFlag": "COMPLETE",
        "ConceptNameCodeSequence": {"CodeValue": "126000", "CodingSchemeDesignator": None},
    }  # fmt: skip
    *series, _ = find(
        port, identifier("SERIES", StudyInstanceUID=FIRST.study_uid, SeriesInstanceUID=None, Modality="SR")
    )
    uid = series[0][1].SeriesInstanceUID
    ((status, answer), _) = find(port, identifier("IMAGE", SeriesInstanceUID=uid, **wanted))
    assert status == 0xFF00
    (item,) = answer.ConceptNameCodeSequence
    assert (item.CodeValue, item.CodingSchemeDesignator) == ("126000", "DCM")
    assert "CodeMeaning" not in item
    wanted["ConceptNameCodeSequence"] = {"CodeValue": "18748-4"}
    assert find(port, identifier("IMAGE", SeriesInstanceUID=uid, **wanted)) == [(0, None)]


@pytest.mark.parametrize(("image", "found"), [(f"{FIRST.series_uid}.2", 1), ("1.2.3", 0)])
def test_reports_that_refer_to_an_image(port, image, found):
    query = identifier("IMAGE", SOPInstanceUID=None, CurrentRequestedProcedureEvidenceSequence={})
    reference, of_series = Dataset(), Dataset()
    reference.ReferencedSOPInstanceUID = image
    of_series.ReferencedSOPSequence = [reference]
    query.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence = [of_series]
    *matches, (end, _) = find(port, query, negotiation=[extended(STUDY_FIND, b"\1")])
    assert (len(matches), end) == (found, 0)


def extended(sop_class: UID, information: bytes) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = sop_class, information
    return item


def test_relational_queries_are_negotiated(port):
    query = identifier("SERIES", SeriesInstanceUID=None, Modality="SR")
    assert find(port, query)[0][0] == 0xA900
    *matches, _ = find(port, query, negotiation=[extended(STUDY_FIND, b"\1\1\1\0\0")])
    assert len(matches) == 2
    with talk(port, STUDY_FIND, negotiation=[extended(STUDY_FIND, b"\1\1\1\0\0")]) as assoc:
        assert assoc.acceptor.sop_class_extended == {STUDY_FIND: b"\1\1\0\0\0"}


@pytest.mark.parametrize(("negotiation", "found"), [([], ["PAT-1"]), ([b"\0\1"], ["PAT-1", "PAT-2"])])
def test_date_and_time_as_one_range_is_negotiated(port, negotiation, found):
    # From 5 January 07:00 to 6 January 08:15: by itself the time of the second study is out of the range.
    query = identifier("STUDY", StudyDate="20260105-20260106", StudyTime="070000-081500.5", PatientID=None)
    if not negotiation:
        query.StudyTime = "070000-075959"
    items = [extended(STUDY_FIND, information) for information in negotiation]
    *matches, _ = find(port, query, negotiation=items)
    assert [answer.PatientID for _, answer in matches] == found


def test_combined_range_crosses_midnight(port):
    query = identifier("STUDY", StudyDate="20260105-20260106", StudyTime="200000-090000", PatientID=None)
    *matches, _ = find(port, query, negotiation=[extended(STUDY_FIND, b"\0\1")])
    assert [answer.PatientID for _, answer in matches] == ["PAT-2"]
    assert find(port, query) == [(0, None)]


class Receiver:
    """A move destination that keeps what the requests say and answers with ``status``."""

    def __init__(self, status: int = 0, hold: threading.Event | None = None) -> None:
        self.originators: list[tuple[Any, Any]] = []
        self.arrived = threading.Event()
        self._status, self._hold = status, hold

    def store(self, event: evt.Event) -> int:
        request: Any = event.request
        originator = (request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID)
        self.originators.append(originator)
        self.implementation = event.assoc.requestor.implementation_version_name
        self.arrived.set()
        if self._hold is not None:
            self._hold.wait(10)
        return self._status

    @contextmanager
    def listening(self, *classes: UID) -> Iterator[dict[str, Any]]:
        ae = AE("MOVER")
        for sop_class in classes:
            ae.add_supported_context(sop_class, ExplicitVRLittleEndian)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)])
        assert server is not None
        try:
            yield {"ae_title": "MOVER", "host": "127.0.0.1", "port": server.server_address[1]}
        finally:
            server.shutdown()


def move(port: int, query: Dataset, **options: Any) -> list[tuple[Dataset, Dataset | None]]:
    with talk(port, MOVE, **options) as assoc:
        return list(assoc.send_c_move(query, "MOVER", MOVE, msg_id=42))


def of_study(case: Any = FIRST) -> Dataset:
    return identifier("STUDY", StudyInstanceUID=case.study_uid)


def test_move_counts_and_names_its_originator(filled):
    receiver = Receiver()
    with receiver.listening(CTImageStorage, SR) as destination, node(filled, destinations=[destination]) as port:
        *pending, (final, failed) = move(port, of_study())
    assert receiver.originators == [("ASKER", 42)] * 9
    assert receiver.implementation == IMPLEMENTATION_VERSION_NAME
    assert [status.NumberOfRemainingSuboperations for status, _ in pending] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0, 9, 0)
    assert failed is None


def test_move_warns_about_what_the_destination_does_not_take(filled):
    receiver = Receiver()
    with receiver.listening(CTImageStorage) as destination, node(filled, destinations=[destination]) as port:
        *_, (final, failed) = move(port, of_study())
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0xB000, 8, 1)
    assert str(failed.FailedSOPInstanceUIDList).startswith("2.25.")


def test_move_of_files_that_are_gone(filled, tmp_path):
    shutil.copytree(filled.spool_dir, tmp_path / "spool")
    for path in (tmp_path / "spool" / "instances").rglob("*.dcm"):
        path.unlink()
    config = filled.model_copy(update={"spool_dir": tmp_path / "spool"})
    with Receiver().listening(CTImageStorage, SR) as destination, node(config, destinations=[destination]) as port:
        *_, (final, failed) = move(port, of_study())
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0xB000, 1, 8)
    assert sorted(failed.FailedSOPInstanceUIDList) == [f"{FIRST.series_uid}.{n}" for n in range(1, 9)]


@pytest.mark.parametrize("status", [0xA700, 0xC000, 0x0110])
def test_move_refused_by_the_destination(filled, status):
    receiver = Receiver(status)
    with receiver.listening(CTImageStorage, SR) as destination, node(filled, destinations=[destination]) as port:
        *_, (final, failed) = move(port, of_study())
    assert (final.Status, final.NumberOfFailedSuboperations, len(failed.FailedSOPInstanceUIDList)) == (0xA702, 9, 9)


def test_move_with_warnings_is_a_warning(filled):
    receiver = Receiver(0xB007)
    with receiver.listening(CTImageStorage, SR) as destination, node(filled, destinations=[destination]) as port:
        *_, (final, _) = move(port, of_study())
    assert (final.Status, final.NumberOfWarningSuboperations) == (0xB000, 9)


def test_move_to_a_destination_that_is_away(filled, free_port):
    destination = {"ae_title": "MOVER", "host": "127.0.0.1", "port": free_port()}
    with node(filled, destinations=[destination]) as port:
        *pending, (final, failed) = move(port, of_study())
    assert not pending
    assert (final.Status, final.NumberOfFailedSuboperations, len(failed.FailedSOPInstanceUIDList)) == (0xA702, 9, 9)


def test_move_of_nothing_and_of_contradictions(filled, free_port):
    destination = {"ae_title": "MOVER", "host": "127.0.0.1", "port": free_port()}
    with node(filled, destinations=[destination]) as port:
        ((nothing, _),) = move(port, identifier("STUDY", StudyInstanceUID="1.2.3"))
        ((keyless, _),) = move(port, identifier("SERIES", StudyInstanceUID=FIRST.study_uid))
        ((orphan, _),) = move(port, identifier("SERIES", SeriesInstanceUID=FIRST.series_uid))
    assert (nothing.Status, nothing.NumberOfCompletedSuboperations) == (0, 0)
    assert (keyless.Status, orphan.Status) == (0xA900, 0xA900)


def test_move_is_cancelled(filled):
    hold = threading.Event()
    receiver = Receiver(hold=hold)
    with (
        receiver.listening(CTImageStorage, SR) as destination,
        node(filled, destinations=[destination]) as port,
        talk(port, MOVE) as assoc,
    ):
        responses = assoc.send_c_move(of_study(), "MOVER", MOVE, msg_id=42)
        assert receiver.arrived.wait(10)
        assoc.send_c_cancel(42, query_model=MOVE)
        # The peer's C-CANCEL lies in the node's queue before the first sub-operation may end.
        threading.Timer(0.5, hold.set).start()
        *_, (final, failed) = list(responses)
    assert final.Status == 0xFE00
    assert final.NumberOfRemainingSuboperations == 8
    assert failed is not None


def get(port: int, query: Dataset, *classes: UID) -> tuple[list[str], Dataset]:
    received: list[str] = []

    def store(event: evt.Event) -> int:
        received.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    roles = [build_role(sop_class, scp_role=True) for sop_class in classes]
    with talk(port, GET, handlers=[(evt.EVT_C_STORE, store)], extra=classes, negotiation=roles) as assoc:
        *_, (final, _) = list(assoc.send_c_get(query, GET))
    return received, final


def test_get_brings_back_what_was_negotiated(port):
    received, final = get(port, of_study(SECOND), SR)
    assert len(received) == 1
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0xB000, 1, 8)
    received, final = get(port, of_study(SECOND), SR, CTImageStorage)
    assert (len(received), final.Status) == (9, 0)


def test_reports_are_sent_but_never_received(port):
    ae = AE("ASKER")
    ae.add_requested_context(SR, ExplicitVRLittleEndian)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port)
    accepted = {context.abstract_syntax for context in assoc.accepted_contexts}
    assoc.release()
    assert accepted == {CTImageStorage}


def test_images_are_stored_while_queries_are_served(port):
    (image,) = images_of(CASES[2], 1)
    image.file_meta = Dataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with talk(port, STUDY_FIND, extra=[CTImageStorage]) as assoc:
        assert assoc.send_c_store(image).Status == 0
        query = identifier("STUDY", StudyInstanceUID=CASES[2].study_uid, ModalitiesInStudy=None)
        (_, answer), _ = list(assoc.send_c_find(query, STUDY_FIND))
    assert answer is not None
    assert answer.ModalitiesInStudy == "CT"
