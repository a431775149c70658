"""Runs the receive role: a master process that keeps receiver processes alive on one listening socket.

The role's own process holds the database and a heartbeat thread, and a process with threads must not fork. So it
forks once, before it has threads, into the master (`prefork`), and watches that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

from dicom_qa_node.config import Config
from dicom_qa_node.errors import Misconfigured
from dicom_qa_node.log import log_event
from dicom_qa_node.receive.ae import Listener, listen
from dicom_qa_node.receive.further import OpenService
from dicom_qa_node.receive.prefork import GRACE_S, Master
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.store import Database
from dicom_qa_node.tls import RenewedContext, concerns

__all__ = ["serve_receive"]

_LOGGER = logging.getLogger(__name__)
_LOOK_S = 0.25
_BIND_WAIT_S = 5.0
_START_WAIT_S = 60.0


def serve_receive(
    config: Config,
    database: Database,
    stop: threading.Event,
    ready: Callable[[], None],
    open_services: Sequence[OpenService] = (),
) -> int:
    """Receive until ``stop`` is set, then let running associations finish; return an exit code.

    Parameters
    ----------
    database
        Closed before the fork; every receiver process opens its own.
    ready
        Called when every receiver process accepts associations.
    open_services
        Open further services of the application entity, in each receiver process.

    Raises
    ------
    Misconfigured
        The port or the spool cannot be used.
    """
    _prepare_spool(config)
    for concern in concerns(config):
        log_event(_LOGGER, logging.WARNING, "tls_concern", reason=concern)
    master = Master(config, _listeners(config), open_services)
    database.close()
    started, started_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(started)
        master.run_in_child(started_child)
    os.close(started_child)
    master.close_listeners()
    try:
        return _watch(pid, started, stop, ready)
    finally:
        os.close(started)


def _watch(pid: int, started: int, stop: threading.Event, ready: Callable[[], None]) -> int:
    """Follow the master until it ends or ``stop`` is set."""
    deadline = time.monotonic() + _START_WAIT_S
    announced = False
    while not stop.wait(0 if not announced else _LOOK_S):
        if not announced:
            readable, _, _ = select.select([started], [], [], _LOOK_S)
            if readable and os.read(started, 1):
                announced = True
                ready()
            elif time.monotonic() > deadline:
                log_event(_LOGGER, logging.ERROR, "receiver_start_failed", waited_s=_START_WAIT_S)
                break
        if _ended(pid):
            log_event(_LOGGER, logging.ERROR, "receiver_master_ended", pid=pid)
            return 1
    return _end(pid, announced=announced)


def _end(pid: int, *, announced: bool) -> int:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S + 10
    while time.monotonic() < deadline:
        if _ended(pid):
            return 0 if announced else 1
        time.sleep(0.05)
    # Its receiver processes see that it is gone and end by themselves.
    os.kill(pid, signal.SIGKILL)
    _ended(pid, block=True)
    return 1


def _ended(pid: int, *, block: bool = False) -> bool:
    try:
        found, _ = os.waitpid(pid, 0 if block else os.WNOHANG)
    except ChildProcessError:
        return True
    return found == pid


def _prepare_spool(config: Config) -> None:
    try:
        SpoolLayout(config.spool_dir).create()
    except OSError as error:
        raise Misconfigured(f"spool_dir {config.spool_dir} cannot be used: {error.strerror}") from error


def _listeners(config: Config) -> list[Listener]:
    """Open the plain port unless TLS is to be the only way, and that of TLS if it is enabled."""
    settings = config.receive
    # Files that cannot be used are an error before any port is open.
    context = RenewedContext(settings.tls) if settings.tls.enabled else None
    found = [] if settings.tls.only else [Listener(_bound(settings.host, settings.port, "receive.port"))]
    if context is not None:
        found.append(Listener(_bound(settings.host, settings.tls.port, "receive.tls.port"), context))
    return found


def _bound(host: str, port: int, key: str) -> socket.socket:
    """Open a listening socket; the processes of a receiver that was killed may hold the port for another moment."""
    deadline = time.monotonic() + _BIND_WAIT_S
    while True:
        with contextlib.suppress(_StillInUse):
            return _listen_once(host, port, key, last=time.monotonic() > deadline)
        time.sleep(0.1)


class _StillInUse(Exception):
    """The port is held by another process."""


def _listen_once(host: str, port: int, key: str, *, last: bool) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and not last:
            raise _StillInUse from error
        raise Misconfigured(f"receive.host {host}, {key} {port} cannot be used: {error.strerror}") from error
