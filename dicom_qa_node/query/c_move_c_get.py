"""The C-MOVE and C-GET SCP (PS3.4 C.4.2, C.4.3): stored files go out as they are, one sub-operation each.

pynetdicom's own service decodes every object, encodes it again and names the wrong move originator (PS3.7 9.1.1.1.8),
so the sub-operations are counted and answered here, with its messages and its associations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext

from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.index.catalogue import HeldInstance
from dicom_qa_node.index.find import find_instances
from dicom_qa_node.log import log_event
from dicom_qa_node.query.c_find import is_gone
from dicom_qa_node.query.holdings import Holdings
from dicom_qa_node.query.identifiers import MismatchedIdentifier, UnreadableIdentifier, read_identifier
from dicom_qa_node.query.sop_classes import Status, negotiated
from dicom_qa_node.query.sub_operations import Outcome, Unreachable, associate, send_file

__all__ = ["serve_get", "serve_move"]

_LOGGER = logging.getLogger(__name__)

# The counters of a response are unsigned shorts (PS3.7 9.1.4.1).
_MOST_SUB_OPERATIONS = 65_535
_COMMENT_LENGTH = 64

Send = Callable[[HeldInstance, int], Outcome]


class _Refused(Exception):
    """The request ends with this status before any sub-operation."""

    def __init__(self, status: Status, comment: str) -> None:
        self.status = status
        super().__init__(comment)


@dataclass(slots=True)
class _Progress:
    """The counters of PS3.7 table 9.1-3 and the UIDs of what failed."""

    remaining: int
    completed: int = 0
    failed: int = 0
    warned: int = 0
    failed_uids: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome, uid: str) -> None:
        """Count one sub-operation that has ended."""
        self.remaining -= 1
        if outcome is Outcome.FAILED:
            self.failed += 1
            self.failed_uids.append(uid)
        elif outcome is Outcome.WARNING:
            self.warned += 1
        else:
            self.completed += 1

    @property
    def final(self) -> Status:
        """The status when every sub-operation has ended."""
        if not self.failed and not self.warned:
            return Status.SUCCESS
        return Status.WARNING_SUB_OPERATIONS if self.completed or self.warned else Status.UNABLE_TO_PERFORM


class _Conversation:
    """The responses to one C-MOVE or C-GET request."""

    def __init__(self, assoc: Association, request: C_MOVE | C_GET, context: PresentationContext) -> None:
        self.assoc, self.request = assoc, request
        self.syntax = UID(context.transfer_syntax[0])
        self.message_id: int = request.MessageID or 0
        self._context_id = context.context_id or 0

    @property
    def cancelled(self) -> bool:
        """Whether the peer has sent a C-CANCEL for this request."""
        return self.assoc.dimse.cancel_req.pop(self.message_id, None) is not None

    def respond(self, status: Status, progress: _Progress | None = None, comment: str = "") -> None:
        """Send one response with the counters that its status calls for."""
        response: Any = type(self.request)()
        response.MessageIDBeingRespondedTo = self.request.MessageID
        response.AffectedSOPClassUID = self.request.AffectedSOPClassUID
        response.Status = int(status)
        if comment:
            response.ErrorComment = comment[:_COMMENT_LENGTH]
        if progress is not None:
            _set_counters(response, progress, with_remaining=status in (Status.PENDING, Status.CANCEL))
            if status not in (Status.PENDING, Status.SUCCESS):
                response.Identifier = self._failed_list(progress.failed_uids)
        self.assoc.dimse.send_msg(response, self._context_id)

    def _failed_list(self, uids: Sequence[str]) -> BytesIO:
        dataset = Dataset()
        dataset.FailedSOPInstanceUIDList = list(uids) or None
        syntax = self.syntax
        encoded = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        return BytesIO(encoded or b"")


def serve_move(assoc: Association, request: C_MOVE, context: PresentationContext, holdings: Holdings) -> None:
    """Answer one C-MOVE request: send what it names to a configured destination."""
    talk = _Conversation(assoc, request, context)
    with _answering(talk, "moved"):
        destination = holdings.destinations.get((request.MoveDestination or "").strip())
        if destination is None:
            raise _Refused(Status.DESTINATION_UNKNOWN, "the move destination is not configured")
        instances = _selected(talk, holdings)
        if not instances:
            talk.respond(Status.SUCCESS, _Progress(0))
            return
        originator = (assoc.requestor.ae_title.strip(), talk.message_id)
        try:
            with associate(destination, holdings, instances) as target:
                send = _sender(target, holdings, originator)
                _run(talk, instances, send)
        except Unreachable as error:
            progress = _Progress(0, failed=len(instances), failed_uids=[item.sop_instance_uid for item in instances])
            talk.respond(Status.UNABLE_TO_PERFORM, progress, str(error))
            log_event(_LOGGER, logging.WARNING, "destination_unreachable", destination=destination.ae_title)


def serve_get(assoc: Association, request: C_GET, context: PresentationContext, holdings: Holdings) -> None:
    """Answer one C-GET request: send what it names on the same association."""
    talk = _Conversation(assoc, request, context)
    with _answering(talk, "got"):
        instances = _selected(talk, holdings)
        if not instances:
            talk.respond(Status.SUCCESS, _Progress(0))
            return
        _run(talk, instances, _sender(assoc, holdings, None))


@contextmanager
def _answering(talk: _Conversation, event: str) -> Iterator[None]:
    try:
        yield
    except _Refused as error:
        talk.respond(error.status, comment=str(error))
        log_event(_LOGGER, logging.WARNING, "retrieve_refused", status=f"{error.status:04X}", reason=str(error))
    except NodeError as error:
        talk.respond(Status.UNABLE_TO_COUNT, comment="the catalogue cannot be read now")
        log_event(_LOGGER, logging.ERROR, "retrieve_failed", operation=event, reason=str(error))
    except Exception:
        _LOGGER.exception("retrieve_failed")
        talk.respond(Status.UNABLE_TO_PROCESS, comment="internal error, see the log of the node")


def _selected(talk: _Conversation, holdings: Holdings) -> list[HeldInstance]:
    options = negotiated(talk.assoc, talk.request.AffectedSOPClassUID or "")
    try:
        identifier = read_identifier(
            talk.request.Identifier, talk.syntax, options.model, relational=options.relational, retrieve=True
        )
    except MismatchedIdentifier as error:
        raise _Refused(Status.IDENTIFIER_MISMATCH, str(error)) from error
    except UnreadableIdentifier as error:
        raise _Refused(Status.UNABLE_TO_PROCESS, str(error)) from error
    holdings.indexer.catch_up()
    found = list(islice(find_instances(holdings.catalogue, identifier), _MOST_SUB_OPERATIONS + 1))
    if len(found) > _MOST_SUB_OPERATIONS:
        raise _Refused(Status.UNABLE_TO_COUNT, f"more than {_MOST_SUB_OPERATIONS} instances")
    return found


def _sender(assoc: Association, holdings: Holdings, originator: tuple[str, int] | None) -> Send:
    def send(instance: HeldInstance, message_id: int) -> Outcome:
        return send_file(assoc, instance, holdings.layout.absolute(instance.path), message_id, originator)

    return send


def _run(talk: _Conversation, instances: Sequence[HeldInstance], send: Send) -> None:
    progress = _Progress(len(instances))
    for number, instance in enumerate(instances, 1):
        if is_gone(talk.assoc):
            _log(talk, progress, "requester gone")
            return
        if talk.cancelled:
            talk.respond(Status.CANCEL, progress)
            _log(talk, progress, "cancelled")
            return
        progress.count(send(instance, number), instance.sop_instance_uid)
        if progress.remaining:
            talk.respond(Status.PENDING, progress)
    talk.respond(progress.final, progress)
    _log(talk, progress, "complete")


def _set_counters(response: Any, progress: _Progress, *, with_remaining: bool) -> None:
    if with_remaining:
        response.NumberOfRemainingSuboperations = progress.remaining
    response.NumberOfCompletedSuboperations = progress.completed
    response.NumberOfFailedSuboperations = progress.failed
    response.NumberOfWarningSuboperations = progress.warned


def _log(talk: _Conversation, progress: _Progress, how: str) -> None:
    log_event(
        _LOGGER, logging.INFO, "retrieved", operation=type(talk.request).__name__, how=how,
        calling_ae=talk.assoc.requestor.ae_title, completed=progress.completed, failed=progress.failed,
        warned=progress.warned, remaining=progress.remaining,
    )  # fmt: skip
