"""One association of the receiver, whichever way its P-DATA is received: seat, TLS handshake, refusals, receipts."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import select
import socket
import ssl
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

import dicom_qa_node.dicom_io.pynetdicom_patches  # noqa: F401 - pynetdicom decodes what other implementations send
from dicom_qa_node.config import Receive
from dicom_qa_node.dicom_io.tls import reason_of
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import AssociationEnd
from dicom_qa_node.log import log_event
from dicom_qa_node.receive.admission import Admission, ConnectionSlots
from dicom_qa_node.receive.fastpath.pdata import BufferedSocket
from dicom_qa_node.receive.refusals import Refusals
from dicom_qa_node.receive.services import Operation, ServiceHandler, serve_operation
from dicom_qa_node.receive.store_handler import Sender, StoreHandler

__all__ = ["ReceivedAssociation", "Server", "Services"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What the associations of one receiver process work with; ``name`` identifies the receiver in the registry."""

    name: str
    settings: Receive
    intake: StoreHandler
    admission: Admission
    connection_slots: ConnectionSlots
    refusals: Refusals
    extra_services: Sequence[ServiceHandler] = ()

    def operations(self) -> dict[type, Operation]:
        """Return what the further services answer themselves, by the type of the request."""
        return {kind: operation for service in self.extra_services for kind, operation in service.operations().items()}


class Server(Protocol):
    """What an association needs of the server that accepted it."""

    services: Services
    operations: dict[type, Operation]


class ReceivedAssociation(Association):
    """One association with its seat, its identifier and its two receipts.

    How its P-DATA is received is left to the subclasses: `fastpath.association.StreamingAssociation` and
    `fallback.FallbackAssociation`.

    Parameters
    ----------
    request_due
        When its request has to be there, by the steady clock.
    """

    def __init__(
        self,
        ae: ApplicationEntity,
        server: Server,
        connection: socket.socket,
        seat: int,
        request_due: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._connection = connection
        self._tls = tls
        self.certificate = ""
        self.association_id = uuid.uuid4().hex
        self.services = server.services
        self.seat = seat
        self.admitted = False
        self._operations = server.operations
        super().__init__(ae, "acceptor")
        self._replace_provider(ae)
        self._server = cast(Any, server)
        self.name = f"AcceptorThread@{self.association_id}"
        self._transport = self._open_transport(connection)
        self.set_socket(self._transport)
        self._request_due = request_due
        left_s = max(0.1, request_due - time.monotonic())
        self._transport.time.start(left_s)
        # Until the request is there; `_on_requested` sets that of the other messages.
        self.acse_timeout = left_s

    def _replace_provider(self, ae: ApplicationEntity) -> None:
        """Use another upper layer than pynetdicom's, before it gets its connection."""

    def _open_transport(self, connection: socket.socket) -> BufferedSocket:
        return BufferedSocket(self, connection, self.services.settings.dimse_timeout_s)

    def run_reactor(self) -> None:
        """Serve the peer until the association ends, after the TLS handshake if there is to be one."""
        if self._tls is not None and not self._secured(self._tls):
            self._end_unserved()
            return
        try:
            super().run_reactor()
        finally:
            # An instance that is being stored when the association breaks belongs before its end.
            self.dul.kill_dul()
            if self.dul.is_alive():
                self.dul.join()
            self._end()

    def _end_unserved(self) -> None:
        """End an association before anything was read from its peer."""
        self._end()

    def _secured(self, context: ssl.SSLContext) -> bool:
        """Do the handshake in the association's own thread: a silent peer delays no other."""
        try:
            connection = context.wrap_socket(self._connection, server_side=True, do_handshake_on_connect=False)
            self._connection = self._transport.socket = connection
            self._shake_hands(connection)
            connection.settimeout(self.services.settings.dimse_timeout_s)
        except OSError as error:
            host = self.requestor.address
            self.services.refusals.note(reason_of(error), host, event="tls_refused")
            return False
        shown = connection.getpeercert(binary_form=True)
        self.certificate = hashlib.sha256(shown).hexdigest() if shown else ""
        return True

    def _shake_hands(self, connection: ssl.SSLSocket) -> None:
        """Do the handshake in the time that the association request has, however slowly the peer sends its bytes."""
        connection.settimeout(0)
        poll = select.poll()
        while True:
            try:
                return connection.do_handshake()
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            poll.register(connection.fileno(), wanted)
            left_s = self._request_due - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "the handshake took too long")

    def evict(self) -> None:
        """End a connection without an association whose seat is needed."""
        self.refused("its seat was needed by a listed peer", event="refused_caller")
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def message_time(self) -> tuple[float, float]:
        """Return how long a message may take, and the lowest rate of what it may take longer for."""
        settings = self.services.settings
        return settings.dimse_timeout_s, settings.min_rate_kb_s * 1000

    def refused(self, reason: str, *, event: str = "malformed", titles: tuple[str, str] | None = None) -> None:
        """Note that the peer was refused or dropped."""
        if titles is None and self.requestor.primitive is not None:
            sender = self.sender()
            titles = sender.calling_ae, sender.called_ae
        self.services.refusals.note(reason, self.requestor.address, *(titles or ("", "")), event=event)

    def _abort_blocking(self, block: bool = True) -> None:
        """End the association as the parent does; the log says so where the peer was silent for too long.

        What stands behind ``abort``, which the parent sets anew around event handlers.
        """
        if self.admitted and self.dul.idle_timer_expired():
            silent_s = self.services.settings.network_timeout_s
            log_event(_LOGGER, logging.INFO, "peer_silent", calling_ae=self.sender().calling_ae, silent_s=silent_s)
        super()._abort_blocking(block)

    def sender(self) -> Sender:
        """Return who sends, as the A-ASSOCIATE request said."""
        request = cast(A_ASSOCIATE, self.requestor.primitive)
        return Sender(request.calling_ae_title.strip(), request.called_ae_title.strip(), self.association_id)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Answer a request by a further service, or as the parent does."""
        # As in the parent: the service may send on this association, which waits for a pause of the reactor.
        self._is_paused = True
        self.dimse.cancel_req = {}
        context = self._accepted_cx.get(context_id)
        if not serve_operation(self._operations, self, msg, context):
            super()._serve_request(msg, context_id)
        self._is_paused = False

    def _end(self) -> None:
        """Close the connection and report the end."""
        if self.requestor.primitive is None and not self.is_aborted and time.monotonic() >= self._request_due:
            timeout_s = self.services.settings.request_timeout_s
            self.refused(f"no association request within {timeout_s:g} s", event="refused_caller")
        # pynetdicom leaves a socket open when the peer was the first to go.
        self._connection.close()
        self._transport.forget()
        self.services.connection_slots.leave(self.seat)
        if self.admitted:
            end = AssociationEnd(self.association_id, utc_now(), aborted=not self.is_released)
            self.services.intake.report(end)
