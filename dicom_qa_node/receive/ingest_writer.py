"""Hands receipts to the registry in batches from a thread of its own, so that no C-STORE waits for the database.

The bytes are durable before a receipt exists. A receipt that cannot be recorded is not lost: the spool holds the
object, and reconciling finds it. This is the one place of the receiver that tries again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from dicom_qa_node.domain.errors import Misconfigured, Transient
from dicom_qa_node.domain.series import AssociationEnd, Receipt
from dicom_qa_node.log import RateLimitedLog

__all__ = ["IngestWriter", "Record"]

_LOGGER = logging.getLogger(__name__)

Record = Callable[[Sequence[Receipt]], None]

_LARGEST_BATCH = 500
_COLLECT_S = 0.1
_RETRY_S = 1.0
_MOST_WAITING = 20_000


class IngestWriter:
    """Collects receipts and passes them on in order.

    ``missed`` turns True when receipts were dropped because the database was away for too long; the caller
    then has the spool reconciled.
    """

    def __init__(self, record: Record, prepare: Callable[[], object] = lambda: None) -> None:
        """``prepare`` is done once before the first batch, and again until it works."""
        self._record = record
        self._prepare = prepare
        self._waiting: queue.Queue[Receipt | None] = queue.Queue(_MOST_WAITING)
        self._told = RateLimitedLog(_LOGGER)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.missed = False

    def start(self) -> None:
        """Start recording."""
        self._thread.start()

    def report(self, receipt: Receipt) -> None:
        """Take a receipt; never blocks."""
        try:
            self._waiting.put_nowait(receipt)
        except queue.Full:
            self.missed = True

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be recorded."""
        return self._waiting.empty()

    def stop(self, timeout_s: float) -> bool:
        """Record what is waiting, then stop; False if time ran out first."""
        self._stopping.set()
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._until_done(self._prepare)
        stopping = False
        while not stopping:
            batch, stopping = self._collect()
            if batch:
                self._pass_on(batch)

    def _collect(self) -> tuple[list[Receipt], bool]:
        """Wait for a receipt, then take more for a moment; the end of an association is passed on at once."""
        batch: list[Receipt] = []
        deadline = None
        while len(batch) < _LARGEST_BATCH:
            try:
                wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                receipt = self._waiting.get(timeout=wait_s)
            except queue.Empty:
                break
            if receipt is None:
                return batch, True
            batch.append(receipt)
            deadline = deadline or time.monotonic() + _COLLECT_S
            if isinstance(receipt, AssociationEnd) and self._waiting.empty():
                break
        return batch, False

    def _pass_on(self, batch: Sequence[Receipt]) -> None:
        if not self._until_done(lambda: self._record(batch)) and len(batch) > 1:
            # One receipt that the database refuses permanently must not take the others with it.
            for receipt in batch:
                self._pass_on([receipt])

    def _until_done(self, call: Callable[[], object]) -> bool:
        """Call until it works; False if it never will."""
        while True:
            try:
                call()
            except (Transient, Misconfigured) as error:
                # Also of a damaged database: it may be put right, and the spool has it all in any case.
                self._told.log(logging.ERROR, "record_postponed", reason=str(error))
                if self._stopping.wait(_RETRY_S):
                    self.missed = True
                    return True
            except Exception:
                _LOGGER.exception("record_failed")
                return False
            else:
                return True
