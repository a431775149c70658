"""Carries reports from the outbox to their targets: REPORTED -> DELIVERED, and the only place that tries again.

Every target has a thread of its own, so that a slow or dead one delays no other. A failed attempt waits
``retry_first_s``, doubled with each attempt, a quarter more or less at random, at most ``retry_max_s``; after
``give_up_after_s`` the delivery is parked. A crash leaves a lease to run out; the report then goes out again under
the same SOP Instance UID, and a target that has it already counts as reached.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dicom_qa_node.config import Config, Deliver
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.commitment_scu import require_commitment
from dicom_qa_node.deliver.targets import open_target
from dicom_qa_node.deliver.targets.base import Answer, Convert, Deferred, DeliveryItem, DeliveryTarget, Refused
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.delivery import Delivery
from dicom_qa_node.domain.errors import NodeError, Permanent, Transient
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.log import RateLimitedLog, log_event

__all__ = ["TargetWorker", "run_delivery_worker"]

_LOGGER = logging.getLogger(__name__)
_LOOK_S = 0.1
_PAUSE_S = 5.0


def run_delivery_worker(
    config: Config,
    database: Database,
    stop: threading.Event,
    patience_s: float = 20.0,
    *,
    convert: Convert | None = None,
) -> None:
    """Deliver until ``stop`` is set, then wait at most ``patience_s`` for what is being sent.

    What is still on its way then is sent again when its lease has run out.

    Parameters
    ----------
    convert
        Makes a report of another SOP class for targets that do not take its own; without it they refuse.
    """
    outbox = Outbox(database, lease_s=config.deliver.lease_s)
    _park_unknown_targets(outbox, [settings.name for settings in config.deliver.targets])
    target_workers = []
    for settings in config.deliver.targets:
        target = open_target(settings, config.ae_title, config.receive.peers)
        target = require_commitment(target, settings, config.ae_title, database)
        target_workers.append(
            TargetWorker(settings.name, target, outbox, config.deliver, config.spool_dir, stop, convert=convert)
        )
    for target_worker in target_workers:
        target_worker.start()
    while not stop.wait(_LOOK_S):
        for target_worker in target_workers:
            target_worker.keep_lease()
    deadline = time.monotonic() + patience_s
    for target_worker in target_workers:
        target_worker.join(max(0.0, deadline - time.monotonic()))


class TargetWorker:
    """The deliveries to one target, one after another, in a thread.

    Parameters
    ----------
    name
        Name of the target in the configuration and the outbox.
    stop
        When set, the thread ends after the report that it is sending.
    """

    def __init__(
        self,
        name: str,
        target: DeliveryTarget,
        outbox: Outbox,
        settings: Deliver,
        spool_dir: Path,
        stop: threading.Event,
        clock: Callable[[], dt.datetime] = utc_now,
        convert: Convert | None = None,
    ) -> None:
        self._convert, self._news = convert, outbox.news()
        self._name, self._target, self._outbox = name, target, outbox
        self._settings, self._spool_dir, self._stop, self._clock = settings, spool_dir, stop, clock
        self._lock = threading.Lock()
        self._told = RateLimitedLog(_LOGGER)
        self._sending: Delivery | None = None
        self._renew_at = 0.0
        # A target that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"target-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the report that is being sent."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log_event(_LOGGER, logging.WARNING, "delivery_left_unfinished", target=self._name)

    def keep_lease(self) -> None:
        """Renew the lease of a delivery that takes long; cheap when there is none."""
        with self._lock:
            delivery = self._sending
            if delivery is None or time.monotonic() < self._renew_at:
                return
            self._renew_at = time.monotonic() + self._settings.lease_s / 3
        try:
            self._outbox.heartbeat(delivery)
        except Transient as error:
            log_event(_LOGGER, logging.WARNING, "lease_not_renewed", target=self._name, reason=str(error))

    def step(self) -> bool:
        """Deliver the oldest due report; False when none is due."""
        delivery = self._outbox.claim([self._name])
        if delivery is None:
            return False
        self._hold(delivery)
        try:
            self._settle(delivery)
        finally:
            self._hold(None)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self.step():
                    self._news.wait(self._stop)
            except NodeError as error:
                self._told.log(logging.WARNING, "delivery_postponed", target=self._name, reason=str(error))
                self._stop.wait(_PAUSE_S)
            except Exception:
                _LOGGER.exception("delivery_failed")
                self._stop.wait(_PAUSE_S)
        self._news.close()

    def _hold(self, delivery: Delivery | None) -> None:
        with self._lock:
            self._sending = delivery
            self._renew_at = time.monotonic() + self._settings.lease_s / 3

    def _settle(self, delivery: Delivery) -> None:
        try:
            answer = self._send(delivery)
        except Transient as error:
            self._try_later(delivery, error)
        except Permanent as error:
            self._park(delivery, str(error), _loggable(error))
        except Exception as error:
            _LOGGER.exception("delivery_failed")
            self._try_later(delivery, Deferred(f"internal error ({type(error).__name__}), see the log"))
        else:
            self._outbox.delivered(delivery, str(answer), answer.sent_uid)
            self._log(logging.INFO, "delivered", delivery, answer=answer.status)

    def _send(self, delivery: Delivery) -> Answer:
        path = self._spool_dir / delivery.report.path
        if not path.is_file():
            raise Refused("the report's file is gone from the spool; score the series again (series rescore)")
        shipment = DeliveryItem(self._spool_dir, delivery.report, delivery.sender)
        return self._target.send(shipment if self._convert is None else replace(shipment, convert=self._convert))

    def _try_later(self, delivery: Delivery, error: Transient) -> None:
        if self._clock() - self._waiting_since(delivery) > dt.timedelta(seconds=self._settings.give_up_after_s):
            words = f"given up after {delivery.attempt} attempts; the last: "
            self._park(delivery, words + str(error), words + _loggable(error))
            return
        wait_s = backoff_s(delivery.attempt, self._settings.retry_first_s, self._settings.retry_max_s)
        self._outbox.retry_later(delivery, str(error), wait_s)
        self._log(logging.WARNING, "delivery_deferred", delivery, answer=_loggable(error), wait_s=round(wait_s, 1))

    def _park(self, delivery: Delivery, words: str, loggable: str) -> None:
        self._outbox.park(delivery, words)
        self._log(logging.ERROR, "delivery_parked", delivery, answer=loggable)

    def _waiting_since(self, delivery: Delivery) -> dt.datetime:
        # An operator's retry starts the clock anew; only the row knows.
        rows = self._outbox.deliveries_of(delivery.report.series_instance_uid)
        found = [row.created_at for row in rows if row.delivery_id == delivery.delivery_id]
        return found[0] if found else delivery.report.created_at

    def _log(self, level: int, event: str, delivery: Delivery, **fields: object) -> None:
        log_event(
            _LOGGER, level, event, target=self._name, report=delivery.report.sop_instance_uid,
            series=delivery.report.series_instance_uid, attempt=delivery.attempt, **fields,
        )  # fmt: skip


def _loggable(error: NodeError) -> str:
    """Return the part of a refusal that is not in the target's own words, which may name a patient."""
    return error.status if isinstance(error, Refused | Deferred) else type(error).__name__


def _park_unknown_targets(outbox: Outbox, known: Sequence[str]) -> None:
    for target, parked in outbox.park_unknown(known, "no target of that name is configured", actor="deliver").items():
        log_event(_LOGGER, logging.ERROR, "target_unknown", target=target, deliveries=parked)
