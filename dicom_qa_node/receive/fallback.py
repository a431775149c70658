"""C-STORE received by pynetdicom itself: each data set in a file of its own, then by the same handler into the spool.

pynetdicom writes the file (``STORE_RECV_CHUNKED_DATASET``) in the folder of this process in ``spool/incoming``; the
handler of ``evt.EVT_C_STORE`` copies it to a `store_handler.StoreHandler`, so every promise about what Success means
holds. Slower than `fastpath`, and an object is written twice. What pynetdicom decides before a handler runs differs:

- a request without a usable SOP Instance UID, and a file system without any space left, end the association without
  Success where `fastpath` answers 0117 and A700;
- malformed PDUs end the association, but not always with an answer or a log line;
- a message above 4 MiB beside C-STORE ends the association, where `fastpath` reads past it and answers with a failure;
- silence between two PDUs of a message is limited by ``network_timeout_s`` instead of ``dimse_timeout_s``.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import _config as pynetdicom_config
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from dicom_qa_node.dicom_io.pynetdicom_patches import limit_messages
from dicom_qa_node.receive.fastpath.command_sets import StoreRequest
from dicom_qa_node.receive.fastpath.pdata import BufferedSocket
from dicom_qa_node.receive.received_association import ReceivedAssociation, Services
from dicom_qa_node.receive.store_status import Answer, Status, answer_for
from dicom_qa_node.spool.layout import make_private

__all__ = ["FallbackAssociation", "handle_store", "receive_in_files"]

_COPY_BYTES = 256 * 1024
_LARGEST_PDU = 16 * 1024 * 1024 + 6
# Preamble, "DICM" and the element (0002,0000) that gives the length of the rest of the File Meta Information.
_META_LENGTH_AT, _META_START = 140, 144


def receive_in_files(services: Services) -> None:
    """Have pynetdicom write data sets to a folder in the spool, and delete what a killed process left there."""
    folder = services.intake.writer.layout.incoming / services.name
    make_private(folder)
    for path in folder.iterdir():
        path.unlink()
    # pynetdicom names its files by this module; the folder for temporary files of the system may be in memory.
    tempfile.tempdir = str(folder)
    pynetdicom_config.STORE_RECV_CHUNKED_DATASET = True


def handle_store(event: Event) -> Dataset:
    """Serve ``evt.EVT_C_STORE``: the data set is durable in the spool before its status is returned."""
    assoc, request = cast(ReceivedAssociation, event.assoc), cast(C_STORE, event.request)
    path = getattr(request, "_dataset_path", None)
    wanted = StoreRequest(
        message_id=int(request.MessageID or 0),
        sop_class_uid=str(request.AffectedSOPClassUID or ""),
        sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
        has_data_set=path is not None,
    )
    sink = assoc.services.intake.open(wanted, str(event.context.transfer_syntax), assoc.sender())
    try:
        for piece in _data_set(path) if path is not None else ():
            sink.write(piece)
    except OSError as error:
        sink.abandon()
        return _status(answer_for(error))
    return _status(sink.finish())


def _data_set(path: Path) -> Iterator[bytes]:
    """Yield the data set of a file in pieces, as its bytes were received."""
    with path.open("rb") as file:
        file.seek(_META_LENGTH_AT)
        file.seek(_META_START + int.from_bytes(file.read(4), "little"))
        while piece := file.read(_COPY_BYTES):
            yield piece


def _status(answer: Answer) -> Dataset:
    status = Dataset()
    status.Status = int(answer.status)
    if answer.comment:
        status.ErrorComment = answer.comment
    return status


class _TimedSocket(BufferedSocket):
    """A `BufferedSocket` that limits the time of each message and the length of each PDU."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Read ``nr_bytes``, or fewer if the peer closes, is too slow, or announces a PDU that is too large."""
        assoc = cast(ReceivedAssociation, self.assoc)
        if nr_bytes > _LARGEST_PDU:
            assoc.refused(f"a PDU is {nr_bytes} bytes long")
            return bytearray()
        waits_for_request = assoc.requestor.primitive is None
        if not waits_for_request and assoc.dimse.message is None:
            self.time.start(*assoc.message_time())
        received = super().recv(nr_bytes)
        if self.time.exceeded:
            words = "the association request" if waits_for_request else "a message"
            assoc.refused(f"{words} came too slowly", event="peer_too_slow")
        return received


class FallbackAssociation(ReceivedAssociation):
    """An accepted association that is received by pynetdicom's own upper layer."""

    def _open_transport(self, connection: socket.socket) -> BufferedSocket:
        limit_messages(self)
        return _TimedSocket(self, connection, self.services.settings.dimse_timeout_s)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Answer as the parent does, but a C-STORE of another SOP class than that of its context by a status."""
        try:
            if isinstance(msg, C_STORE) and self._is_of_another_class(msg, context_id):
                self._answer_store(msg, context_id)
            else:
                super()._serve_request(msg, context_id)
        finally:
            _delete_file_of(msg)

    def _is_of_another_class(self, request: C_STORE, context_id: int) -> bool:
        context = self._accepted_cx.get(context_id)
        return context is not None and request.AffectedSOPClassUID != context.abstract_syntax

    def _answer_store(self, request: C_STORE, context_id: int) -> None:
        answer: Any = C_STORE()
        answer.MessageIDBeingRespondedTo = request.MessageID
        answer.AffectedSOPClassUID = request.AffectedSOPClassUID
        answer.AffectedSOPInstanceUID = request.AffectedSOPInstanceUID
        answer.Status = int(Status.SOP_CLASS_NOT_SUPPORTED)
        answer.ErrorComment = "SOP class is not that of the presentation context"
        self.dimse.send_msg(answer, context_id)

    def _end(self) -> None:
        """Delete the files of data sets that the end of the association has cut off."""
        with contextlib.suppress(queue.Empty):
            while True:
                _delete_file_of(self.dimse.msg_queue.get_nowait()[1])
        _delete_file_of(self.dimse.message)
        super()._end()


def _delete_file_of(message: Any) -> None:
    """Delete the file that pynetdicom made for a message or primitive, which it leaves behind if that is not served."""
    path = getattr(message, "_dataset_path", None) or getattr(message, "_data_set_path", None)
    if path is not None:
        path.unlink(missing_ok=True)
