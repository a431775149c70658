"""The receive role: listening sockets, and a master process that keeps receiver processes alive."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.tls import RenewedContext, concerns
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.errors import Misconfigured, NodeError
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.log import log_event
from dicom_qa_node.receive.admission import Admission, ConnectionSlots
from dicom_qa_node.receive.application_entity import Listener, listen
from dicom_qa_node.receive.receiver_process import receiver_name, serve
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.receive.services import OpenServiceHandler
from dicom_qa_node.spool.disk_space import DiskGauge
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["GRACE_S", "ProcessMaster", "serve_receive"]

_LOGGER = logging.getLogger(__name__)

GRACE_S = 20.0
"""How long running associations may take to finish when the receiver is stopped."""

_LOOK_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_MOST_PROCESSES = 32
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(slots=True)
class _Slot:
    """One place for a receiver process."""

    number: int
    pid: int = 0
    start_at: float = 0.0
    failures: int = 0
    started_at: float = 0.0


class ProcessMaster:
    """Keeps ``receive.processes`` receiver processes alive on ``listeners``."""

    def __init__(
        self, config: Config, listeners: Sequence[Listener], open_services: Sequence[OpenServiceHandler] = ()
    ) -> None:
        self.config = config
        self.listeners = listeners
        self._open_services = open_services
        self._layout = SpoolLayout(config.spool_dir)
        self._gauge = DiskGauge(config.spool_dir, config.spool.min_free_mb, config.spool.resume_free_mb)
        self._connection_slots = ConnectionSlots(config.receive.max_associations)
        self._admission = Admission(config.receive, config.ae_title, self._connection_slots, self._gauge)
        self._slots = [_Slot(number) for number in range(config.receive.processes)]
        self._reconciler = 0
        self._reconcile_due = True
        self._reconcile_at, self._reconcile_failures = 0.0, 0
        # When the last reconciling that succeeded began, by the wall clock and by the steady one.
        self._reconciled_from: tuple[float, float] | None = None
        self._reconcile_began = (0.0, 0.0)

    def run_in_child(self, started: int) -> None:
        """Run as a forked process; write one byte to ``started`` when every receiver process serves. Never returns."""
        code = 1
        try:
            code = self._run(started)
        finally:
            logging.shutdown()
            os._exit(code)

    def _run(self, started: int) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        parent = os.getppid()
        # Objects that live for ever need no garbage collector, and their pages stay shared.
        gc.collect()
        gc.freeze()
        serving, child_serving = os.pipe()
        self._start_due(child_serving)
        for listener in self.listeners:
            host, port = listener.socket.getsockname()[:2]
            tls = "yes" if listener.tls else "no"
            log_event(_LOGGER, logging.INFO, "listening", host=host, port=port, tls=tls, processes=len(self._slots))
        waiting_for = len(self._slots)
        os.set_blocking(serving, False)
        while os.getppid() == parent:
            received = signal.sigtimedwait(_SIGNALS, _LOOK_S)
            if received is not None and received.si_signo != signal.SIGCHLD:
                break
            self._reap()
            self._start_due(child_serving)
            if waiting_for > 0:
                waiting_for -= _bytes_in(serving)
                if waiting_for <= 0:
                    os.write(started, b"1")
        return self._stop()

    def _start_due(self, child_serving: int) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if not slot.pid and now >= slot.start_at:
                slot.started_at = now
                slot.pid = self._fork(partial(self._serve, slot, child_serving))
        if self._reconcile_due and not self._reconciler and now >= self._reconcile_at:
            self._reconcile_due = False
            since = self._changed_since()
            self._reconcile_began = time.time(), now
            self._reconciler = self._fork(lambda: self._reconcile(since))

    def _changed_since(self) -> float:
        """Return from when on a file may not have been looked at; the wall clock may have been set either way."""
        if self._reconciled_from is None:
            return 0.0
        wall, steady = self._reconciled_from
        return min(wall, time.time() - (time.monotonic() - steady)) - 1

    def _reap(self) -> None:
        """Learn which processes ended; a receiver is replaced, later each time if it keeps dying."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._reconciler:
                self._reconciled(status)
                continue
            for slot in self._slots:
                if slot.pid == pid:
                    self._bury(slot, status)

    def _reconciled(self, status: int) -> None:
        """Note the end of a reconciler; after one that failed another looks as far back, later each time."""
        self._reconciler = 0
        if status == 0:
            self._reconciled_from, self._reconcile_failures = self._reconcile_began, 0
            return
        self._reconcile_due = True
        self._reconcile_failures += 1
        self._reconcile_at = time.monotonic() + backoff_s(self._reconcile_failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def _bury(self, slot: _Slot, status: int) -> None:
        log_event(_LOGGER, logging.ERROR, "receiver_died", pid=slot.pid, status=status, slot=slot.number)
        self._connection_slots.clear(slot.pid)
        now = time.monotonic()
        lived_s = now - slot.started_at
        slot.failures = 1 if lived_s > _LONGEST_PAUSE_S else slot.failures + 1
        slot.start_at = now + backoff_s(slot.failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        slot.pid = 0
        # Its receipts died with it; the files did not.
        self._reconcile_due = True

    def close_listeners(self) -> None:
        """Close this process's copies of the listening sockets."""
        for listener in self.listeners:
            listener.socket.close()

    def _stop(self) -> int:
        self.close_listeners()
        alive = {slot.pid for slot in self._slots if slot.pid}
        for pid in alive | ({self._reconciler} if self._reconciler else set()):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S + 5
        while alive and time.monotonic() < deadline:
            signal.sigtimedwait((signal.SIGCHLD,), _LOOK_S)
            alive -= {pid for pid in alive if os.waitpid(pid, os.WNOHANG)[0]}
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        return 1 if alive else 0

    def _fork(self, body: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            body()
            code = 0
        except NodeError as error:
            log_event(_LOGGER, logging.ERROR, "receiver_failed", reason=str(error))
        except BaseException:
            _LOGGER.exception("receiver_failed")
        finally:
            logging.shutdown()
            # Not sys.exit: the exit handlers and buffers belong to the process that was forked.
            os._exit(code)

    def _serve(self, slot: _Slot, serving: int) -> None:
        serve(
            self.config,
            self.listeners,
            number=slot.number,
            connection_slots=self._connection_slots,
            admission=self._admission,
            gauge=self._gauge,
            ready=lambda: os.write(serving, b"1"),
            grace_s=GRACE_S,
            open_services=self._open_services,
        )

    def _reconcile(self, since: float) -> None:
        self.close_listeners()
        database = Database(self.config.database_url)
        registry = Registry(database, site=self.config.receive.site)
        for number in range(len(self._slots), _MOST_PROCESSES):
            registry.end_associations(receiver_name(number))
        reconcile(self._layout, registry, since)
        database.close()


def _bytes_in(pipe: int) -> int:
    try:
        return len(os.read(pipe, 64))
    except BlockingIOError:
        return 0


_BIND_WAIT_S = 5.0
_START_WAIT_S = 60.0


def serve_receive(
    config: Config,
    database: Database,
    stop: threading.Event,
    ready: Callable[[], None],
    open_services: Sequence[OpenServiceHandler] = (),
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
    master = ProcessMaster(config, _listeners(config), open_services)
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
    # Its receiver processes notice that it is gone and end.
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
