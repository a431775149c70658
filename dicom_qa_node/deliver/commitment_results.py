"""Tells peers what the node commits to (PS3.4 annex J, as SCP) when they did not wait on their own association."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable

from pynetdicom import build_role
from pynetdicom.presentation import build_context

from dicom_qa_node.config import Config, Deliver
from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.deliver.targets.dicom import Peer, associate
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.flow.commitments import CommitReplies, CommitReply
from dicom_qa_node.log import RateLimitedLog, log_event
from dicom_qa_node.spool.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, report_of

__all__ = ["CommitmentResultSender"]

_LOGGER = logging.getLogger(__name__)
_LOOK_S = 1.0


class CommitmentResultSender:
    """Tells peers in a thread of its own what the node commits to; peers without a port wait for their own call."""

    def __init__(self, config: Config, replies: CommitReplies, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._peers = {peer.ae_title.strip(): peer for peer in config.receive.peers if peer.port}
        self._calling_ae = config.ae_title
        self._settings: Deliver = config.deliver
        self._timeout_s = config.query.timeout_s
        self._replies = replies
        self._clock = clock
        self._told = RateLimitedLog(_LOGGER)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment-replies", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self, timeout_s: float = 5.0) -> None:
        """Stop after the reply that is being sent."""
        self._stop.set()
        self._thread.join(timeout_s)

    def step(self) -> int:
        """Try every due reply once and return how many were told."""
        return sum(self._tell(reply) for reply in self._replies.due() if not self._stop.is_set())

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.step()
            except NodeError as error:
                self._told.log(logging.WARNING, "commitment_replies_postponed", reason=str(error))
            except Exception:
                _LOGGER.exception("commitment_replies_failed")

    def _tell(self, reply: CommitReply) -> bool:
        age_s = (self._clock() - reply.created_at).total_seconds()
        try:
            self._send(reply)
        except (Refused, Deferred) as error:
            if age_s > self._settings.give_up_after_s:
                self._replies.mark_sent(reply, f"given up: {error}")
                log_event(_LOGGER, logging.ERROR, "commitment_given_up", calling_ae=reply.calling_ae)
            else:
                wait_s = backoff_s(reply.attempts + 1, self._settings.retry_first_s, self._settings.retry_max_s)
                self._replies.try_later(reply, str(error), wait_s)
                log_event(
                    _LOGGER, logging.WARNING, "commitment_not_told", calling_ae=reply.calling_ae, reason=error.status,
                    attempt=reply.attempts + 1, wait_s=round(wait_s, 1),
                )  # fmt: skip
            return False
        self._replies.mark_sent(reply, "told")
        log_event(_LOGGER, logging.INFO, "commitment_told", calling_ae=reply.calling_ae, asked=len(reply.items))
        return True

    def _send(self, reply: CommitReply) -> None:
        settings = self._peers.get(reply.calling_ae)
        if settings is None:
            raise Deferred("receive.peers names no port of this peer")
        tls = settings.tls if settings.tls.enabled else None
        peer = Peer(reply.host, settings.port, reply.calling_ae, self._calling_ae, self._timeout_s, tls)
        with associate(peer, [build_context(PUSH_MODEL)], [build_role(PUSH_MODEL, scp_role=True)]) as assoc:
            try:
                event_type, information = report_of(reply.transaction_uid, reply.items)
                status, _ = assoc.send_n_event_report(information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            except (RuntimeError, ValueError) as error:
                raise Deferred("the peer ended the association") from error
        if status.get("Status") != 0:
            raise Deferred(f"answered with {status.get('Status', 'nothing')}")
