"""Asks archives for storage commitment (PS3.4 annex J, as SCU): a report counts when its archive has committed.

After the C-STORE goes an N-ACTION; the answer comes on that association within a moment, or later to the receiver, and
is found in the database. Trying again is left to the outbox.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from dicom_qa_node.config import DicomTarget
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.targets.base import Answer, Deferred, DeliveryItem, DeliveryTarget, Refused, classes_of
from dicom_qa_node.deliver.targets.dicom import FileKind, associate, contexts_for, kinds_of, peer_of, store_one_of
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.uids import derived_uid
from dicom_qa_node.flow.commitments import CommitRequest, CommitRequests
from dicom_qa_node.log import log_event
from dicom_qa_node.spool.storage_commitment import (
    CONTRADICTION,
    NOT_AN_INFORMATION,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    CommitStatus,
    decode_information,
    reason_given,
    request_of,
)

__all__ = ["CommittedPacs", "require_commitment"]

_LOGGER = logging.getLogger(__name__)

_REQUEST_COMMITMENT = 1
_PATIENCE_S = 2.0
_LOOK_S = 0.05
# The archive will say the same again (PS3.3 C.14.1.1): class/instance conflict, SOP class not supported.
_CLASS_NOT_SUPPORTED = 0x0122
_FOR_GOOD = frozenset({0x0119, _CLASS_NOT_SUPPORTED, CONTRADICTION})
# An archive that has failed so often to commit to a report fails again; each attempt sends it anew.
_MOST_FAILURES = 3
_NOT_NOW = frozenset({0x0110, 0x0213})


class CommittedPacs:
    """An archive that has a report only when it has committed to its storage (a ``DeliveryTarget``).

    Waiting is done between attempts: an attempt that finds no answer yet ends as deferred and sends nothing.
    """

    def __init__(
        self,
        target: DeliveryTarget,
        settings: DicomTarget,
        calling_ae: str,
        requests: CommitRequests,
        clock: Callable[[], dt.datetime] = utc_now,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._target = target
        self._name = settings.name
        self._peer = peer_of(settings, calling_ae)
        self._classes = classes_of(settings.sop_class)
        self._wait = dt.timedelta(seconds=settings.commitment_wait_s)
        self._requests = requests
        self._clock = clock
        self._patience_s = patience_s

    def send(self, shipment: DeliveryItem) -> Answer:
        """Send the report and ask for the commitment, unless that is under way; see `DeliveryTarget.send`."""
        report = shipment.report
        last = self._requests.latest(report.sop_instance_uid, self._name)
        # Either way: a request of the future was made before the clock of the host was set back.
        if last is not None and last.answered_at is None and abs(self._clock() - last.requested_at) < self._wait:
            raise Deferred("waiting for the storage commitment")
        if last is not None and last.answered_at is not None and last.failure_reason is None:
            return _accepted(last)
        answered = self._ask(shipment, last)
        if answered is None:
            raise Deferred("sent; waiting for the storage commitment")
        return _accepted(answered)

    def check(self) -> Answer:
        """Send a C-ECHO; see `DeliveryTarget.check`."""
        return self._target.check()

    def _ask(self, shipment: DeliveryItem, last: CommitRequest | None) -> CommitRequest | None:
        report, kinds = shipment.report, kinds_of(shipment, shipment.classes(self._classes))
        with associate(self._peer, [*contexts_for(kinds), build_context(PUSH_MODEL)]) as assoc:
            offered = [context for context in assoc.accepted_contexts if context.abstract_syntax == PUSH_MODEL]
            if not offered:
                raise Refused("the target does not offer storage commitment")
            if not any(context.as_scu for context in offered):
                raise Refused("the target does not take the role of SCP for storage commitment")
            form = _stored_form(shipment, kinds, last) or store_one_of(assoc, shipment, kinds).form or report
            assoc.bind(evt.EVT_N_EVENT_REPORT, self._on_event_report)
            moment = self._clock().isoformat()
            transaction_uid = derived_uid("commitment", self._name, report.sop_instance_uid, moment)
            self._requests.begin(transaction_uid, report.sop_instance_uid, self._name, form.sop_instance_uid)
            self._request(assoc, transaction_uid, form)
            answered = self._await_answer(assoc, report)
        if answered is not None and answered.failure_reason is not None:
            failures = self._requests.failures(report.sop_instance_uid, self._name)
            if failures >= _MOST_FAILURES:
                words = f"0x{answered.failure_reason:04X} storage commitment refused {failures} times"
                raise Refused(words)
        return answered

    def _request(self, assoc: Association, transaction_uid: str, form: ReportRef) -> None:
        information = request_of(transaction_uid, form.sop_class_uid, form.sop_instance_uid)
        try:
            status, _ = assoc.send_n_action(information, _REQUEST_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        except ValueError as error:
            self._requests.answer(transaction_uid, _CLASS_NOT_SUPPORTED)
            raise Refused("the target does not take requests for storage commitment") from error
        except (RuntimeError, OSError) as error:
            raise Deferred("the association ended before the storage commitment was asked for") from error
        if "Status" not in status:
            raise Deferred("no answer to the request for storage commitment")
        code = int(status.Status)
        if code:
            self._requests.answer(transaction_uid, code)
            words = f"0x{code:04X} answer to the request for storage commitment"
            raise (Deferred if code in _NOT_NOW else Refused)(words, str(status.get("ErrorComment", "")))

    def _await_answer(self, assoc: Association, report: ReportRef) -> CommitRequest | None:
        """Give the archive a moment to answer on this association."""
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline and assoc.is_established:
            last = self._requests.latest(report.sop_instance_uid, self._name)
            if last is not None and last.answered_at is not None:
                return last
            time.sleep(_LOOK_S)
        return None

    def _on_event_report(self, event: evt.Event) -> tuple[int, None]:
        try:
            request: Any = event.request
            information = decode_information(request.EventInformation, event.context.transfer_syntax)
            transaction_uid = str(information.TransactionUID)
            report_uid = self._requests.instance_of(transaction_uid)
            if report_uid is None:
                return int(CommitStatus.INVALID_ARGUMENT_VALUE), None
            self._requests.answer(transaction_uid, reason_given(information, report_uid))
        except NOT_AN_INFORMATION as error:
            log_event(
                _LOGGER, logging.WARNING, "commitment_not_understood", target=self._name, error=type(error).__name__
            )
            return int(CommitStatus.INVALID_ARGUMENT_VALUE), None
        except Exception:
            _LOGGER.exception("commitment_not_kept")
            return int(CommitStatus.PROCESSING_FAILURE), None
        return int(CommitStatus.SUCCESS), None


def _stored_form(shipment: DeliveryItem, kinds: Sequence[FileKind], last: CommitRequest | None) -> ReportRef | None:
    """Return what the archive has taken before a request that it left without an answer: it is not sent again."""
    if last is None or last.answered_at is not None:
        return None
    forms = (shipment.form(str(kind.sop_class)) for kind in kinds)
    return next((form for form in forms if form.sop_instance_uid == last.sop_instance_uid), None)


def require_commitment(target: DeliveryTarget, settings: object, calling_ae: str, database: Database) -> DeliveryTarget:
    """Return ``target`` as its settings want it: with storage commitment, or unchanged."""
    if isinstance(settings, DicomTarget) and settings.require_commitment:
        return CommittedPacs(target, settings, calling_ae, CommitRequests(database))
    return target


def _accepted(request: CommitRequest) -> Answer:
    if request.failure_reason is None:
        sent_uid = "" if request.sop_instance_uid == request.report_uid else request.sop_instance_uid
        return Answer("0x0000 Success, storage committed", sent_uid=sent_uid)
    words = f"0x{request.failure_reason:04X} storage commitment refused"
    if request.failure_reason == CONTRADICTION:
        words = "the target names the report both as stored and as failed in its storage commitment"
    raise (Refused if request.failure_reason in _FOR_GOOD else Deferred)(words)
