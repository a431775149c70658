"""One receiver process: serves associations until it is told to stop, then lets them finish."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from dicom_qa_node.config import Config, DicomTarget
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.flow.commitments import CommitReplies, CommitRequests
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.log import RateLimitedLog, log_event
from dicom_qa_node.receive.admission import Admission, ConnectionSlots
from dicom_qa_node.receive.application_entity import Listener, ReceiveServer, make_server
from dicom_qa_node.receive.commitment_scp import CommitmentService
from dicom_qa_node.receive.ingest_writer import IngestWriter
from dicom_qa_node.receive.received_association import Services
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.receive.refusals import Refusals
from dicom_qa_node.receive.services import OpenServiceHandler, ServiceHandler, prepare
from dicom_qa_node.receive.store_handler import StoreHandler
from dicom_qa_node.spool.disk_space import DiskGauge
from dicom_qa_node.spool.incoming import SpoolWriter
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.quarantine_share import QuarantineShare

__all__ = ["receiver_name", "serve"]

_LOGGER = logging.getLogger(__name__)
_ABORT_WAIT_S = 2.0
_RECORD_WAIT_S = 10.0
_LOOK_S = 0.05
_MOST_DESCRIPTORS = 65_536
#: ``mallopt(3)`` of glibc: the largest number of allocator arenas.
_M_ARENA_MAX, _MOST_ARENAS = -8, 2


def receiver_name(number: int) -> str:
    """Return the name of a receiver process in the registry; the same after each start."""
    return f"receive-{number}@{socket.gethostname()}"


def serve(
    config: Config,
    listeners: Sequence[Listener],
    *,
    number: int,
    connection_slots: ConnectionSlots,
    admission: Admission,
    gauge: DiskGauge,
    ready: Callable[[], object],
    grace_s: float,
    open_services: Sequence[OpenServiceHandler] = (),
) -> None:
    """Serve until SIGTERM, SIGINT or the death of the parent process.

    Associations that run then have ``grace_s`` to finish; after that they are aborted.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    _share_arenas()
    _raise_descriptor_limit()
    parent = os.getppid()
    name = receiver_name(number)
    layout = SpoolLayout(config.spool_dir)
    database = Database(config.database_url)
    registry = Registry(database, site=config.receive.site)
    recorder = IngestWriter(registry.record, prepare=lambda: registry.end_associations(name))
    recorder.start()
    share = QuarantineShare(layout, config.spool.quarantine_percent, config.spool.resume_free_mb)
    repeats = bool(config.deliver.resending())
    intake = StoreHandler(SpoolWriter(layout), gauge, recorder.report, quarantine=share, note_repeats=repeats)
    extra_services = [_commitment(config, layout, database), *(opener(config, database) for opener in open_services)]
    services = Services(
        name, config.receive, intake, admission, connection_slots, Refusals(recorder.report), extra_services
    )
    server = make_server(config, listeners, services)
    upkeep = threading.Thread(
        target=_catch_up, args=(stop, recorder, layout, registry, extra_services), name="upkeep", daemon=True
    )
    upkeep.start()
    ready()
    server.serve_until(lambda: stop.is_set() or os.getppid() != parent)
    stop.set()
    for listener in listeners:
        listener.socket.close()
    _finish(server, grace_s)
    if not recorder.stop(_RECORD_WAIT_S):
        log_event(_LOGGER, logging.WARNING, "receipts_left", receiver=name)
    database.close()


def _commitment(config: Config, layout: SpoolLayout, database: Database) -> ServiceHandler:
    awaiting = any(isinstance(t, DicomTarget) and t.require_commitment for t in config.deliver.targets)
    return CommitmentService(
        layout,
        CommitReplies(database),
        CommitRequests(database),
        committing=config.receive.storage_commitment,
        awaiting=awaiting,
    )


def _catch_up(
    stop: threading.Event,
    recorder: IngestWriter,
    layout: SpoolLayout,
    registry: Registry,
    extra_services: Sequence[ServiceHandler],
) -> None:
    """Prepare the further services; have the spool reconciled once receipts were dropped and the database is back."""
    prepare(extra_services)
    limited_log = RateLimitedLog(_LOGGER)
    while not stop.wait(1.0):
        if recorder.missed and recorder.idle:
            recorder.missed = False
            try:
                reconcile(layout, registry)
            except NodeError as error:
                recorder.missed = True
                limited_log.log(logging.ERROR, "reconcile_postponed", reason=str(error))


def _finish(server: ReceiveServer, grace_s: float) -> None:
    """Wait for the running associations, then abort those that still run."""
    deadline = time.monotonic() + grace_s
    while server.active_associations and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    for assoc in server.active_associations:
        log_event(_LOGGER, logging.WARNING, "aborted_at_stop", association=assoc.name)
        assoc.abort(block=False)
    deadline = time.monotonic() + _ABORT_WAIT_S
    while server.active_associations and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def _share_arenas() -> None:
    """Let all threads allocate from few arenas.

    glibc gives threads up to eight arenas for each core, and each keeps the 4 MB that an association once took from it:
    a receiver would grow by them for hours. Other allocators have no such setting and need none.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _MOST_ARENAS)


def _raise_descriptor_limit() -> None:
    """Allow as many open files as the system does: each connection needs three, and many may wait."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MOST_DESCRIPTORS)), hard))


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
