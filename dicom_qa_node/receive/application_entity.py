"""The application entity: pynetdicom's negotiation and server, wired to admission, the P-DATA path and the spool."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

from pydicom import config as pydicom_config
from pydicom.uid import UID
from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_qa_node.config import Config, Receive
from dicom_qa_node.dicom_io.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_qa_node.dicom_io.tls import RenewedContext
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import AssociationStart
from dicom_qa_node.log import log_event
from dicom_qa_node.receive.admission import Applicant
from dicom_qa_node.receive.pending_connections import PendingConnection, PendingConnections
from dicom_qa_node.receive.receive_path import uses_own_path
from dicom_qa_node.receive.received_association import ReceivedAssociation, Services
from dicom_qa_node.receive.services import drop_unsolicited, supported_contexts
from dicom_qa_node.receive.store_status import handle_echo

__all__ = ["Listener", "ReceiveServer", "build_ae", "listen", "make_server"]

_LOGGER = logging.getLogger(__name__)
_BACKLOG = 128
_YIELD_S = 0.002


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket that the receiver processes share; what comes over TLS has its context in ``tls``."""

    socket: socket.socket
    tls: RenewedContext | None = None


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
    association_class: type[ReceivedAssociation]
    # Imported when used: `fastpath.association` may not even load with a version of pynetdicom that it does not know.
    if uses_own_path(config.receive.own_pdata_path):
        from dicom_qa_node.receive.fastpath.association import StreamingAssociation

        association_class = StreamingAssociation
    else:
        from dicom_qa_node.receive.fallback import FallbackAssociation, handle_store, receive_in_files

        association_class = FallbackAssociation
        handlers.append((evt.EVT_C_STORE, handle_store))
        receive_in_files(services)
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
        association_class=association_class,
    )
    return cast(ReceiveServer, server)


class ReceiveServer(AssociationServer):
    """An ``AssociationServer`` on listening sockets that it did not open and shares with other processes."""

    request_queue_size = _BACKLOG

    def __init__(
        self,
        *args: Any,
        listeners: Sequence[Listener],
        services: Services,
        association_class: type[ReceivedAssociation],
        **kwargs: Any,
    ) -> None:
        self._listeners = listeners
        self.association_class = association_class
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
        kind = self.server.association_class
        assoc = kind(self.ae, self.server, self.request, self._seat, self._request_due, context)
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        # Copies, since negotiation may change the roles of one association.
        assoc.acceptor.supported_contexts = [copy(context) for context in self.server.contexts]
        assoc.requestor.address_info = self.remote
        for event, handlers in self.server._handlers.items():
            if isinstance(event, evt.InterventionEvent):
                assoc.bind(event, *cast(tuple[Any, ...], handlers))
            else:
                for handler in cast(list[tuple[Any, ...]], handlers):
                    assoc.bind(event, *handler)
        assoc.start()


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
