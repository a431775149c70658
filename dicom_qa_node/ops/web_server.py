"""The role ``web``: serves the node's pages by uvicorn and gives them what they show."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured, NodeError
from dicom_qa_node.log import log_event
from dicom_qa_node.ops.first_start import offer_setup_link
from dicom_qa_node.ops.health import HealthReport, HealthSnapshot, Level, ModelCheck, assess, gather, time_of
from dicom_qa_node.ops.heartbeat import HeartbeatSender
from dicom_qa_node.ops.metrics import NodeCollector, exposition
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Actions, Explanation, Site

__all__ = ["LiveNode", "measurement_explanations", "run_web"]

_LOGGER = logging.getLogger(__name__)
_NEEDED_TO_RECEIVE = ("database", "spool", "disk", "role receive")


class LiveNode:
    """The node as its pages see it (a ``web.app.NodeView``)."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config, self._database = config, database
        self._model = ModelCheck(config)
        self._collector = NodeCollector(config, self.look, database)

    def look(self) -> tuple[HealthSnapshot, HealthReport]:
        """Gather and judge now."""
        facts = gather(self._config, self._database, self._model)
        return facts, assess(facts, self._config, time_of(facts, self._database))

    def health(self) -> HealthReport:
        """Return the state of the node."""
        return self.look()[1]

    def ready(self) -> tuple[bool, str]:
        """Return whether the node can receive, and why not."""
        checks = self.health().checks
        bad = [c for c in checks if c.name in _NEEDED_TO_RECEIVE and c.level is Level.FAILED]
        return not bad, "; ".join(f"{check.name}: {check.detail}" for check in bad)

    def metrics(self) -> bytes:
        """Return the metrics as Prometheus text."""
        return exposition(self._collector)


def run_web(config: Config, database: Database, stop: threading.Event, heartbeat: HeartbeatSender) -> None:
    """Serve until ``stop`` is set.

    Raises
    ------
    Misconfigured
        The address cannot be listened on.
    """
    listener = _listen(config.web.host, config.web.port)
    site = Site(config, database, LiveNode(config, database), actions_of(config))
    settings = uvicorn.Config(
        create_app(site),
        http=HeadersInTime,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        # `web.middleware` decides whose X-Forwarded-* is believed.
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=200,
        ssl_certfile=config.web.tls_certificate,
        ssl_keyfile=config.web.tls_key,
    )
    _load(settings)
    server = _Server(settings, stop)
    heartbeat.start()
    where = f"{config.web.host}:{listener.getsockname()[1]}"
    log_event(_LOGGER, logging.INFO, "web_listening", address=where)
    offer_setup_link(config, site.accounts, listener.getsockname()[1])
    _note(site, "application.start")
    server.run(sockets=[listener])
    _note(site, "application.stop")


def actions_of(config: Config) -> Actions:
    """Return what pages may start in other stages."""

    def echo(target: str) -> tuple[bool, str]:
        from dicom_qa_node.deliver.echo import echo_target

        try:
            return True, str(echo_target(config, target))
        except NodeError as error:
            return False, str(error)

    def echo_new(called_ae: str, host: str, port: int) -> tuple[bool, str]:
        from dicom_qa_node.deliver.echo import echo_peer

        try:
            return True, str(echo_peer(config.ae_title, called_ae, host, port))
        except NodeError as error:
            return False, str(error)

    return Actions(echo=echo, echo_peer=echo_new, explanations=measurement_explanations)


def measurement_explanations() -> dict[str, Explanation]:
    """Return how each measurement of CT, PET and geometry is made, by its name."""
    from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
    from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
    from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES

    every = (*CT_QUANTITIES, *PET_QUANTITIES, *GEOMETRY_QUANTITIES)
    return {quantity.name: Explanation(quantity.formula, quantity.reference) for quantity in every}


def _note(site: Site, event: str) -> None:
    site.audit.record(event, actor=site.config.ae_title.strip(), kind="process", ident="web")


def _load(settings: uvicorn.Config) -> None:
    try:
        settings.load()
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"web.tls_certificate or web.tls_key cannot be used: {error}") from error


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise Misconfigured(f"web cannot listen on {host}:{port}: {error.strerror or error}") from error


class HeadersInTime(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which closes a connection whose request line and headers are not complete in time.

    uvicorn limits the time between two requests only, and counts a silent connection against ``limit_concurrency``.
    """

    headers_timeout_s = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read; the time ends with the last header."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.headers_timeout_s, self._close_late)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_late(self) -> None:
        self._deadline = None
        waits_for_next = self.timeout_keep_alive_task is not None
        if self.conn.their_state is h11.IDLE and not waits_for_next and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Ends when ``stop`` is set; the process's signal handlers set it and stay in place."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop_event = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look at ``stop`` each tenth of a second."""
        return self._stop_event.is_set() or await super().on_tick(counter)
