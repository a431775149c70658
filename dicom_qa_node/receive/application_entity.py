"""The application entity: pynetdicom's negotiation and server, wired to admission, the fast path and the spool."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import select
import selectors
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

from pydicom import config as pydicom_config
from pydicom.uid import UID
from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_qa_node.config import Config, Receive
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_qa_node.dicom_io.tls import RenewedContext, reason_of
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import AssociationEnd, AssociationStart
from dicom_qa_node.log import log_event
from dicom_qa_node.receive.admission import Admission, Applicant, ConnectionSlots
from dicom_qa_node.receive.fastpath.association import StreamingAssociation
from dicom_qa_node.receive.fastpath.pdata import BufferedSocket, OpenSink
from dicom_qa_node.receive.pending_connections import PendingConnection, PendingConnections
from dicom_qa_node.receive.refusals import Refusals
from dicom_qa_node.receive.services import (
    Operation,
    ServiceHandler,
    drop_unsolicited,
    serve_operation,
    supported_contexts,
)
from dicom_qa_node.receive.store_handler import Sender, StoreHandler
from dicom_qa_node.receive.store_status import handle_echo

__all__ = ["Listener", "ReceiveServer", "Services", "build_ae", "listen", "make_server"]

_LOGGER = logging.getLogger(__name__)
_BACKLOG = 128
_YIELD_S = 0.002


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket that the receiver processes share; what comes over TLS has its context in ``tls``."""

    socket: socket.socket
    tls: RenewedContext | None = None


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


def build_ae(config: Config) -> ApplicationEntity:
    """Return the application entity of the receiver."""
    ae = ApplicationEntity(config.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = config.receive.max_pdu_bytes
    # Admission counts over all processes; pynetdicom's own limit, per process, must never be the first.
    ae.maximum_associations = config.receive.max_associations + 1
    ae.acse_timeout = config.receive.acse_timeout_s
    ae.dimse_timeout = config.receive.dimse_timeout_s
    ae.network_timeout = config.receive.network_timeout_s
    ae.supported_contexts = supported_contexts()
    return ae


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket that the receiver processes share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def make_server(config: Config, listeners: Sequence[Listener], services: Services) -> ReceiveServer:
    """Return the server of one receiver process on the shared ``listeners``."""
    # pynetdicom's handlers for its debug log format every PDU even when nothing is logged.
    pynetdicom_config.LOG_HANDLER_LEVEL = "none"
    # pynetdicom checks each UID of a request itself; pydicom's second check of the 256 in a usual one takes 5 ms.
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    ae = build_ae(config)
    handlers = [handler for service in services.extra_services for handler in service.handlers()]
    server = ae.make_server(
        listeners[0].socket.getsockname()[:2],
        evt_handlers=[
            (evt.EVT_C_ECHO, handle_echo),
            (evt.EVT_REQUESTED, _on_requested),
            (evt.EVT_ACCEPTED, _on_accepted),
            *handlers,
        ],
        server_class=ReceiveServer,
        # Given here because an AE drops the roles of its contexts.
        contexts=supported_contexts(services.extra_services),
        listeners=listeners,
        services=services,
    )
    return cast(ReceiveServer, server)


class ReceiveServer(AssociationServer):
    """An ``AssociationServer`` on listening sockets that it did not open and shares with other processes."""

    request_queue_size = _BACKLOG

    def __init__(self, *args: Any, listeners: Sequence[Listener], services: Services, **kwargs: Any) -> None:
        self._listeners = listeners
        self.services = services
        self.operations = services.operations()
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Use the first listener instead of the socket that ``TCPServer`` made."""
        if self.socket is not None:
            self.socket.close()
        self.socket = self._listeners[0].socket
        self.server_address = self.socket.getsockname()

    def shutdown_request(self, request: Any) -> None:
        """End a connection in both directions: a thread that still reads from it shall notice."""
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
        request.close()

    def serve_until(self, stopped: Callable[[], bool], every_s: float = 0.25) -> None:
        """Accept connections until ``stopped`` says so."""
        refusals, timeout_s = self.services.refusals, self.services.settings.request_timeout_s
        with selectors.DefaultSelector() as selector:
            pending = PendingConnections(
                selector, timeout_s, self._begin, lambda host, reason: refusals.note(reason, host)
            )
            for listener in self._listeners:
                selector.register(listener.socket, selectors.EVENT_READ, listener)
            while not stopped():
                for key, _ in selector.select(pending.wait_s(every_s)):
                    if isinstance(key.data, PendingConnection):
                        pending.readable(key.data)
                    else:
                        self._let_idle_sibling_take_it()
                        self._accept(key.data, pending)
                pending.tick()
                refusals.tick()
                self._close_evicted()
                self.service_actions()
            pending.close()

    def _let_idle_sibling_take_it(self) -> None:
        held = self.services.connection_slots.by_process()
        if held and held[os.getpid()] > min(held.values()):
            time.sleep(_YIELD_S)

    def _accept(self, listener: Listener, pending: PendingConnections[Listener]) -> None:
        try:
            request, address = listener.socket.accept()
        except OSError as error:
            # EAGAIN: another process took it. ECONNABORTED: the peer has gone already.
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                log_event(_LOGGER, logging.ERROR, "accept_failed", error=errno.errorcode.get(error.errno or 0, ""))
                time.sleep(_YIELD_S)
            return
        pending.add(request, address, listener, any_byte=listener.tls is not None)

    def _begin(self, pending: PendingConnection[Listener]) -> None:
        """Give a connection whose association request begins to arrive a seat and an association."""
        request, host = pending.socket, pending.host
        seat = self.services.connection_slots.take(host, known=self.services.admission.knows(host))
        if seat is None:
            self.services.refusals.note("too many connections without an association", host)
            self.shutdown_request(request)
            return
        try:
            _tune(request, self.services.settings)
            _ReceiveHandler(request, pending.address, self, seat, pending)
        except Exception:
            _LOGGER.exception("connection_failed")
            self.services.connection_slots.leave(seat)
            self.shutdown_request(request)

    def _close_evicted(self) -> None:
        """Close the connections whose seats a listed peer was given."""
        evicted = self.services.connection_slots.evicted()
        for assoc in self.active_associations if evicted else ():
            if isinstance(assoc, ReceivedAssociation) and assoc.seat in evicted:
                assoc.evict()


class _ReceiveHandler(RequestHandler):
    """Makes the association of one connection (the parent's method names the classes that it makes)."""

    server: ReceiveServer

    def __init__(
        self,
        request: socket.socket,
        address: Any,
        server: ReceiveServer,
        seat: int,
        pending: PendingConnection[Listener],
    ) -> None:
        self._seat = seat
        self._tls = pending.listener.tls
        self._request_due = pending.deadline
        super().__init__(request, address, server)

    def handle(self) -> None:
        """Start the association; it runs in threads of its own."""
        context = self._tls.current() if self._tls is not None else None
        assoc = ReceivedAssociation(self.ae, self.server, self.request, self._seat, self._request_due, context)
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.acceptor.supported_contexts = deepcopy(self.server.contexts)
        assoc.requestor.address_info = self.remote
        for event, handlers in self.server._handlers.items():
            if isinstance(event, evt.InterventionEvent):
                assoc.bind(event, *cast(tuple[Any, ...], handlers))
            else:
                for handler in cast(list[tuple[Any, ...]], handlers):
                    assoc.bind(event, *handler)
        assoc.start()


class ReceivedAssociation(StreamingAssociation):
    """One association with its seat, its identifier and its two receipts.

    ``request_due`` is when its request has to be there, by the steady clock.
    """

    def __init__(
        self,
        ae: ApplicationEntity,
        server: ReceiveServer,
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
        super().__init__(ae, self._open_sink, self._end)
        self._server = server
        self.name = f"AcceptorThread@{self.association_id}"
        self._transport = BufferedSocket(self, connection, self.services.settings.dimse_timeout_s)
        self.set_socket(self._transport)
        self._request_due = request_due
        left_s = max(0.1, request_due - time.monotonic())
        self._transport.time.start(left_s)
        # Until the request is there; `_on_requested` sets that of the other messages.
        self.acse_timeout = left_s

    def run_reactor(self) -> None:
        """Serve the peer until the association ends, after the TLS handshake if there is to be one."""
        if self._tls is None or self._secured(self._tls):
            super().run_reactor()
        else:
            self.end_unserved()

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

    def _open_sink(self, assoc: Association) -> OpenSink:
        intake = self.services.intake
        return lambda request, syntax: intake.open(request, syntax, self.sender())

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

    def _end(self, assoc: Association) -> None:
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


def _on_requested(event: Event) -> None:
    """Admit or reject before anything is negotiated (``evt.EVT_REQUESTED``)."""
    assoc = cast(ReceivedAssociation, event.assoc)
    sender = assoc.sender()
    host = assoc.requestor.address
    assoc.acse_timeout = assoc.services.settings.acse_timeout_s
    context = str(cast(A_ASSOCIATE, assoc.requestor.primitive).application_context_name or "")
    applicant = Applicant(sender.calling_ae, sender.called_ae, host, assoc.seat, assoc.certificate, context)
    rejection = assoc.services.admission.decide(applicant)
    if rejection is None:
        # Reported before the peer can send anything, so that it precedes every instance of the association.
        start = AssociationStart(assoc.association_id, sender.calling_ae, host, assoc.services.name, utc_now())
        assoc.admitted = True
        assoc.services.intake.report(start)
        drop_unsolicited(assoc)
        return
    assoc.refused(rejection.why, event="rejected")
    assoc.acse.send_reject(rejection.result, rejection.source, rejection.reason)
    assoc.kill()


def _on_accepted(event: Event) -> None:
    """Tell of a peer that proposes nothing that the node takes (``evt.EVT_ACCEPTED``)."""
    if not event.assoc.accepted_contexts:
        proposed = event.assoc.rejected_contexts
        names = ", ".join(sorted({UID(str(context.abstract_syntax)).name for context in proposed})[:3])
        reason = f"none of the {len(proposed)} proposed presentation contexts is supported: {names}"
        cast(ReceivedAssociation, event.assoc).refused(reason, event="nothing_in_common")


def _tune(connection: socket.socket, settings: Receive) -> None:
    """Send answers at once, notice dead peers, and never wait for ever inside a PDU."""
    connection.setblocking(True)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds, rest = divmod(settings.dimse_timeout_s, 1)
    timeval = struct.pack("@ll", int(seconds), int(rest * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
