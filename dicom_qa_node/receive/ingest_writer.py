"""Hands receipts to the registry in batches from a thread of its own, so that no C-STORE waits for the database.

The bytes are durable before a receipt exists. A receipt that cannot be recorded is not lost: the spool holds the
object, and reconciling finds it. This is the one place of the receiver that tries again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from dicom_qa_node.domain.errors import Misconfigured, Transient
from dicom_qa_node.domain.series import AssociationEnd, Receipt
from dicom_qa_node.log import RateLimitedLog

__all__ = ["IngestWriter", "Record"]

_LOGGER = logging.getLogger(__name__)

Record = Callable[[Sequence[Receipt]], None]

_LARGEST_BATCH = 500
_COLLECT_S, _LONGEST_COLLECT_S = 0.1, 0.5
# A batch costs its statements more than its rows: recording shall take a twentieth of the time at most.
_COLLECTED_PER_RECORDED = 20
_RETRY_S = 1.0
_MOST_WAITING = 20_000


class IngestWriter:
    """Collects receipts and passes them on in order.

    A receipt wakes the recording thread only where that has nothing to do, so a stream of images costs it a few rounds
    a second. ``missed`` turns True when receipts were dropped because the database was away for too long; the caller
    then has the spool reconciled.
    """

    def __init__(self, record: Record, prepare: Callable[[], object] = lambda: None) -> None:
        """``prepare`` is done once before the first batch, and again until it works."""
        self._record = record
        self._prepare = prepare
        self._waiting: deque[Receipt] = deque()
        self._arrived, self._urgent = threading.Event(), threading.Event()
        self._collect_s = _COLLECT_S
        self._told = RateLimitedLog(_LOGGER)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.missed = False

    def start(self) -> None:
        """Start recording."""
        self._thread.start()

    def report(self, receipt: Receipt) -> None:
        """Take a receipt; never blocks. The end of an association is passed on at once, with all before it."""
        if len(self._waiting) >= _MOST_WAITING:
            self.missed = True
            return
        self._waiting.append(receipt)
        if isinstance(receipt, AssociationEnd):
            self._urgent.set()
        if not self._arrived.is_set():
            self._arrived.set()

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be recorded."""
        return not self._waiting

    def stop(self, timeout_s: float) -> bool:
        """Record what is waiting, then stop; False if time ran out first."""
        self._stopping.set()
        self._urgent.set()
        self._arrived.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._until_done(self._prepare)
        while not (self._stopping.is_set() and self.idle):
            self._arrived.wait()
            self._urgent.wait(self._collect_s)
            if batch := self._taken():
                began = time.monotonic()
                self._pass_on(batch)
                spent_s = time.monotonic() - began
                self._collect_s = min(_LONGEST_COLLECT_S, max(_COLLECT_S, _COLLECTED_PER_RECORDED * spent_s))

    def _taken(self) -> list[Receipt]:
        """Take what waits; what comes from now on, or is too much for one batch, calls for the next round."""
        self._arrived.clear()
        self._urgent.clear()
        batch = [self._waiting.popleft() for _ in range(min(_LARGEST_BATCH, len(self._waiting)))]
        if self._waiting or self._stopping.is_set():
            self._urgent.set()
            self._arrived.set()
        return batch

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
