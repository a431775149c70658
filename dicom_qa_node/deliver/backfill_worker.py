"""Brings past series in from an archive, in a thread of the role deliver: one at a time, at a bounded rate.

A step searches one day, or retrieves one series, or waits; everything between two steps is in the database
(`flow.backfill_runs`). The series arrive on the receiver's port like any other and wait behind all of them.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable

from dicom_qa_node.config import Config
from dicom_qa_node.config.backfill import source_named
from dicom_qa_node.deliver.retrieve_scu import MoveFailed, RetrieveScu
from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.domain.backfill import BackfillRun, SeriesEntry
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.errors import NodeError
from dicom_qa_node.flow.backfill_runs import BackfillRuns
from dicom_qa_node.log import RateLimitedLog, log_event
from dicom_qa_node.spool.disk_space import DiskGauge

__all__ = ["BackfillWorker"]

_LOGGER = logging.getLogger(__name__)
_IDLE_S = 2.0
_HELD_S = 10.0
#: Series found ahead of those that are retrieved: enough for the rate, few enough to be up to date.
_AHEAD = 200
_RENEWAL = dt.timedelta(minutes=1)
_RETRY_FIRST_S, _RETRY_MAX_S = 10.0, 900.0

OpenScu = Callable[[BackfillRun], RetrieveScu]


class BackfillWorker:
    """Works on the run that is due first; one that waits lets the others go on.

    Parameters
    ----------
    holder
        The name of this process, see `BackfillRuns.claim`.
    open_scu
        Returns the SCU for a run, raises `Refused` where its source is not configured; by default from ``config``.
    local_time
        Returns the local time of the host, for ``backfill.active_from``.
    """

    def __init__(
        self,
        config: Config,
        runs: BackfillRuns,
        holder: str,
        clock: Callable[[], dt.datetime],
        open_scu: OpenScu | None = None,
        local_time: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone(),
    ) -> None:
        self._config, self._runs, self._holder = config, runs, holder
        self._clock, self._local_time = clock, local_time
        self._open_scu = open_scu or self._configured
        self._disk = DiskGauge(config.spool_dir, config.spool.min_free_mb, config.spool.resume_free_mb)
        self._scu: RetrieveScu | None = None
        self._held: BackfillRun | None = None
        self._told = RateLimitedLog(_LOGGER)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backfill", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self, timeout_s: float = 5.0) -> None:
        """Stop; a retrieval that is under way is cut and repeated later."""
        self._stop.set()
        if self._scu is not None:
            self._scu.abort()
        self._thread.join(timeout_s)

    def step(self) -> float:
        """Do one thing and return the seconds after which to look again."""
        run = self._runs.claim(self._holder)
        if self._held is not None and (run is None or run.run_id != self._held.run_id):
            self._runs.release(self._held)
        self._held = run
        if run is None:
            return _IDLE_S
        for entry in self._runs.interrupted(run):
            self._resume(run, entry)
        unscored = self._runs.settle(run)
        waits_s = (run.next_at - self._clock()).total_seconds()
        if run.attempts and waits_s > 0:
            return min(waits_s, _HELD_S)
        if not run.searched and run.waiting < _AHEAD:
            return self._tried(run, self._search)
        if run.searched and not run.waiting and not unscored and self._runs.finish(run):
            log_event(_LOGGER, logging.INFO, "backfill_done", run=run.run_id, scored=run.scored, failed=run.failed)
            return 0.0
        if waits_s > 0:
            return min(max(waits_s, _IDLE_S), _HELD_S)
        reason = self._reason_to_wait(unscored) if run.waiting else ""
        if reason or not run.waiting:
            self._runs.hold(run, reason, _HELD_S)
            return _IDLE_S
        return self._tried(run, self._retrieve)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            try:
                wait_s = self.step()
            except NodeError as error:
                wait_s = _HELD_S
                self._told.log(logging.WARNING, "backfill_postponed", reason=str(error))
            except Exception:
                wait_s = _HELD_S
                _LOGGER.exception("backfill_failed")

    def _tried(self, run: BackfillRun, do: Callable[[BackfillRun, RetrieveScu], None]) -> float:
        try:
            self._scu = self._open_scu(run)
            do(run, self._scu)
        except (Refused, Deferred) as error:
            wait_s = backoff_s(run.attempts + 1, _RETRY_FIRST_S, _RETRY_MAX_S)
            self._runs.try_later(run, f"{run.request.source}: {error}", wait_s)
            self._told.log(logging.WARNING, "backfill_waits", run=run.run_id, reason=error.status)
        finally:
            self._scu = None
        return 0.0

    def _search(self, run: BackfillRun, scu: RetrieveScu) -> None:
        request = run.request
        found = scu.series_of_day(run.next_day, request.modalities, request.scanner)
        self._runs.record_day(run, found)
        log_event(
            _LOGGER, logging.INFO, "backfill_searched", run=run.run_id, day=run.next_day.isoformat(), series=len(found)
        )  # fmt: skip

    def _retrieve(self, run: BackfillRun, scu: RetrieveScu) -> None:
        begun = self._clock()
        entry = self._runs.take_next(run)
        if entry is None:
            return
        try:
            scu.move(entry, _Renewal(self._runs, run, self._clock))
        except MoveFailed as error:
            self._runs.put_back(entry, str(error), counts=True)
            log_event(
                _LOGGER, logging.WARNING, "backfill_not_sent", run=run.run_id, series=entry.series_instance_uid,
                attempt=entry.attempts,
            )  # fmt: skip
            self._runs.pace(run, self._wait_s(run, begun))
            return
        except (Refused, Deferred) as error:
            self._runs.put_back(entry, str(error), counts=False)
            raise
        self._runs.moved(run, entry, wait_s=self._wait_s(run, begun))
        log_event(_LOGGER, logging.INFO, "backfill_moved", run=run.run_id, series=entry.series_instance_uid)

    def _resume(self, run: BackfillRun, entry: SeriesEntry) -> None:
        """Settle a series whose retrieval was cut by the end of a process: it is complete, or retrieved again."""
        if self._runs.arrived(entry):
            self._runs.moved(run, entry, wait_s=0.0)
        else:
            self._runs.put_back(entry, "cut, to be retrieved again", counts=False)

    def _wait_s(self, run: BackfillRun, begun: dt.datetime) -> float:
        taken_s = (self._clock() - begun).total_seconds()
        return max(0.0, 3600.0 / run.request.rate_per_hour - max(0.0, taken_s))

    def _reason_to_wait(self, unscored: int) -> str:
        settings = self._config.backfill
        if not settings.active(self._local_time().strftime("%H:%M")):
            return f"retrieves from {settings.active_from} to {settings.active_until}"
        if unscored >= settings.most_waiting:
            return f"{unscored} series that arrived wait for their score"
        return "" if self._disk.has_room() else "the disk of the spool is nearly full"

    def _configured(self, run: BackfillRun) -> RetrieveScu:
        source = source_named(self._config.backfill, self._config.deliver, run.request.source)
        if source is None:
            raise Refused("not in backfill.sources, and not a target of kind dicom")
        return RetrieveScu(source, self._config.ae_title, self._config.backfill.retrieve_timeout_s)


class _Renewal:
    """Keeps the claim of a run while images arrive, once a minute at most."""

    def __init__(self, runs: BackfillRuns, run: BackfillRun, clock: Callable[[], dt.datetime]) -> None:
        self._runs, self._run, self._clock = runs, run, clock
        self._next = clock() + _RENEWAL

    def __call__(self) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = now + _RENEWAL
            self._runs.renew(self._run)
