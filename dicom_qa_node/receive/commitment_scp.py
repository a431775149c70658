"""Storage commitment, push model (PS3.4 annex J): says what is durable in the spool, and takes answers of archives.

The file decides, not its row: rows may lag behind, and the file is what a promise is about. The answer to a request is
kept in the database before the request is accepted; it goes out on the same association if the peer keeps that open for
a moment, else the delivery worker's process sends it on one of its own (`deliver.commitment_scu`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context

from dicom_qa_node.domain.errors import NodeError, Transient
from dicom_qa_node.flow.commitments import CommitReplies, CommitRequests
from dicom_qa_node.log import log_event
from dicom_qa_node.receive.services import Operation
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.storage_commitment import (
    NOT_AN_INFORMATION,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    CommitItem,
    CommitStatus,
    decode_information,
    failure_reason,
    read_request,
    reason_given,
    report_of,
)

__all__ = ["CommitmentService"]

_LOGGER = logging.getLogger(__name__)

_REQUEST_COMMITMENT = 1
# A peer that wants the answer on its own association waits longer; one that does not has released it by then.
_PATIENCE_S = 0.5
_OWN_ASSOCIATION_AFTER_S = 5.0
_LOOK_S = 0.02

Response = tuple[int, Dataset | None]


class CommitmentService:
    """The storage commitment services of one receiver process (a ``ServiceHandler``)."""

    sends_images = False

    def __init__(
        self,
        layout: SpoolLayout,
        replies: CommitReplies,
        requests: CommitRequests,
        *,
        committing: bool = True,
        awaiting: bool = False,
    ) -> None:
        """``committing`` is False for a node that only takes the answers of archives, for which it is ``awaiting``."""
        self._committing = committing
        self._awaiting = awaiting
        self._layout = layout
        self._replies = replies
        self._requests = requests

    def contexts(self) -> list[PresentationContext]:
        """Return the context of the push model, in which either side may be the one that commits.

        Some archives bring their answers without negotiating their role (PS3.7 D.3.3.4): a node that waits for answers
        lets them in as if they were to ask, and refuses what they ask for.
        """
        context = build_context(PUSH_MODEL)
        # In pynetdicom's words the requestor's roles.
        context.scu_role, context.scp_role = self._committing or self._awaiting, True
        return [context]

    def handlers(self) -> Sequence[tuple[Any, Callable[[Event], Any]]]:
        """Return the handlers of N-ACTION and N-EVENT-REPORT."""
        return [(evt.EVT_N_ACTION, self.on_action), (evt.EVT_N_EVENT_REPORT, self.on_event_report)]

    def operations(self) -> Mapping[type, Operation]:
        """Return nothing: pynetdicom serves both."""
        return {}

    def prepare(self) -> None:
        """Do nothing; there is nothing to prepare."""

    def on_action(self, event: Event) -> Response:
        """Judge a request (``evt.EVT_N_ACTION``) and keep the answer; on Success it is durable."""
        request: Any = event.request
        if not self._committing:
            return int(CommitStatus.NO_SUCH_ACTION), None
        if request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
            return int(CommitStatus.NO_SUCH_OBJECT_INSTANCE), None
        if event.action_type != _REQUEST_COMMITMENT:
            return int(CommitStatus.NO_SUCH_ACTION), None
        try:
            transaction_uid, asked = read_request(
                decode_information(request.ActionInformation, event.context.transfer_syntax)
            )
            items = [CommitItem(*pair, failure_reason(self._layout, *pair)) for pair in asked]
            caller = event.assoc.requestor.ae_title.strip()
            self._replies.add(
                transaction_uid, caller, event.assoc.requestor.address, items, wait_s=_OWN_ASSOCIATION_AFTER_S
            )
        except NOT_AN_INFORMATION:
            return int(CommitStatus.INVALID_ARGUMENT_VALUE), None
        except NodeError as error:
            log_event(_LOGGER, logging.ERROR, "commitment_not_kept", reason=str(error))
            return int(CommitStatus.PROCESSING_FAILURE), None
        failed = sum(item.failure_reason is not None for item in items)
        log_event(_LOGGER, logging.INFO, "commitment_asked", calling_ae=caller, asked=len(items), failed=failed)
        threading.Thread(target=self._tell, args=(event.assoc, caller), name="commitment", daemon=True).start()
        return int(CommitStatus.SUCCESS), None

    def on_event_report(self, event: Event) -> Response:
        """Take an archive's answer (``evt.EVT_N_EVENT_REPORT``) to a request for one report."""
        try:
            request: Any = event.request
            information = decode_information(request.EventInformation, event.context.transfer_syntax)
            transaction_uid = str(information.TransactionUID)
            report_uid = self._requests.instance_of(transaction_uid)
            if report_uid is None:
                return int(CommitStatus.INVALID_ARGUMENT_VALUE), None
            reason = reason_given(information, report_uid)
            self._requests.answer(transaction_uid, reason)
        except NOT_AN_INFORMATION:
            return int(CommitStatus.INVALID_ARGUMENT_VALUE), None
        except Transient as error:
            log_event(_LOGGER, logging.ERROR, "commitment_not_kept", reason=str(error))
            return int(CommitStatus.PROCESSING_FAILURE), None
        log_event(_LOGGER, logging.INFO, "commitment_answered", report=report_uid, failure_reason=reason)
        return int(CommitStatus.SUCCESS), None

    def _tell(self, assoc: Association, caller: str) -> None:
        """Answer on the peer's association if it keeps that open."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if not assoc.is_established or not assoc.dul.is_alive():
                return
            time.sleep(_LOOK_S)
        try:
            for number, reply in enumerate(self._replies.pending(caller), 1):
                event_type, information = report_of(reply.transaction_uid, reply.items)
                status, _ = assoc.send_n_event_report(
                    information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE, msg_id=number
                )
                if status.get("Status") != 0:
                    return
                self._replies.mark_sent(reply, "told on its association")
        except (NodeError, RuntimeError, ValueError, OSError) as error:
            log_event(_LOGGER, logging.INFO, "commitment_waits", calling_ae=caller, error=type(error).__name__)
