"""The scoring worker: claims series by lease, judges them one by one, and commits result and state together.

A worker that is told to stop gives its series back; one that is killed loses its lease and another takes over. Without
an installed, verified model it scores nothing and waits: the node goes on receiving.
"""

from __future__ import annotations

import gc
import importlib
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import psutil

from dicom_qa_node.charts.reference_levels import ReferenceLevelStore
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Misconfigured, NodeError, Permanent, Transient
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.domain.series import Job, StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.queue import Waiter
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.log import RateLimitedLog, log_event
from dicom_qa_node.models.devices import gpus
from dicom_qa_node.quality_control.decisions import SubjectDecisions
from dicom_qa_node.quality_control.tolerances import Tolerances
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.grading import ScoringModel
from dicom_qa_node.score.heat_maps import BackgroundHeatMaps, RequestedHeatMaps
from dicom_qa_node.score.image_files import write_images
from dicom_qa_node.score.phantom_series import PhantomLane
from dicom_qa_node.score.pipeline import Options, ScoredSeries, score_series
from dicom_qa_node.score.read_ahead import ReadAhead
from dicom_qa_node.score.threads import max_threads, set_max_threads
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.verification import Verification

__all__ = ["run_worker"]

_LOGGER = logging.getLogger(__name__)
_IDLE_S = 0.1
_LOOK_S = 1.0
_MODEL_RECHECK_S = 15.0
_HEAT_MAPS_AFTER_S = 1.0
_DATABASE_PAUSE_S = 2.0
_MB = 1 << 20

OpenScorer = Callable[[Config, str], ScoringModel]


class _Abandoned(Exception):
    """The series is no longer this worker's: it was told to stop, or lost its lease."""


def run_worker(
    config: Config,
    database: Database,
    stop: threading.Event,
    name: str,
    *,
    say: Callable[[str], None] = lambda _: None,
    open_scorer: OpenScorer | None = None,
) -> bool:
    """Score series until ``stop`` is set or this process is due to be replaced.

    Parameters
    ----------
    name
        Under which the worker holds its leases, such as ``score-1@host``.
    say
        Told what the worker does, for its heartbeat: "idle", "scoring 1.2.3", "no model: …".
    open_scorer
        Opens the network; by default the installed one of the configuration.

    Returns
    -------
    bool
        True if the process should be replaced by a fresh one: enough series, too much memory, or an unexpected error.
    """
    set_max_threads(config.score.threads)
    worker = _Worker(config, database, stop, name, say)
    scorer = worker.wait_for_model(open_scorer or _open_installed)
    if scorer is None:
        return False
    # A full collection of what the libraries load takes longer than a step of scoring.
    gc.collect()
    gc.freeze()
    with DecoderPool() as decoders:
        return worker.work(scorer, decoders)


def _open_installed(config: Config, name: str) -> ScoringModel:
    """Import the engine, for the first time in this process, and open the configured model."""
    infer = importlib.import_module("dicom_qa_node.score.ct_inference")
    wanted = config.score.device
    device = _own_device(wanted, name, gpus()) if wanted == "auto" else wanted
    settings = config.score
    scorer: ScoringModel = infer.open_scorer(
        settings.model, settings.ct_model, device, settings.models_dir, settings.site_calibration
    )
    return scorer


def _own_device(wanted: str, name: str, gpus: int) -> str:
    """Spread the workers of one host over its GPUs by the number in their name."""
    number = _number(name)
    if wanted != "auto" or gpus < 2 or number is None:
        return wanted
    return f"cuda:{number % gpus}"


def _number(name: str) -> int | None:
    """Return the number of a worker on its host, from 0; None where its name has none."""
    found = re.match(r"score-(\d+)", name)
    return None if found is None else int(found[1]) - 1


@dataclass(slots=True)
class _Worker:
    config: Config
    database: Database
    stop: threading.Event
    name: str
    say: Callable[[str], None]
    ahead: ReadAhead | None = None
    afterwork: BackgroundHeatMaps | None = None
    asked: RequestedHeatMaps | None = None
    limited_log: RateLimitedLog = field(default_factory=lambda: RateLimitedLog(_LOGGER))
    waiter: Waiter | None = None
    finished_at: float = -math.inf

    def wait_for_model(self, open_scorer: OpenScorer) -> ScoringModel | None:
        """Return the network as soon as it can be opened; None if told to stop before."""
        last_error = ""
        while not self.stop.is_set():
            try:
                scorer = open_scorer(self.config, self.name)
            except Misconfigured as error:
                self.say(f"no model: {error}")
                if str(error) != last_error:
                    log_event(_LOGGER, logging.ERROR, "no_model", model=self.config.score.model, reason=str(error))
                last_error = str(error)
                self.stop.wait(_MODEL_RECHECK_S)
            else:
                card = scorer.card
                log_event(_LOGGER, logging.INFO, "model_ready", model=card.name, version=card.version)
                return scorer
        return None

    def work(self, scorer: ScoringModel, decoders: DecoderPool) -> bool:
        """Claim and score until stopped (False) or due to be replaced (True)."""
        settings = self.config.score
        jobs = Jobs(self.database, lease_s=settings.lease_s, max_attempts=settings.max_attempts, sites=settings.sites)
        self.waiter = jobs.waiter(_IDLE_S)
        number = (_number(self.name) or 0) % settings.workers
        self.ahead = ReadAhead(Registry(self.database), self.config.spool_dir, decoders, number, settings.workers)
        self.afterwork = BackgroundHeatMaps(scorer)
        self.asked = RequestedHeatMaps(self.database, self.config.spool_dir, scorer)
        self.say("idle")
        try:
            return self._go_round(jobs, scorer, decoders)
        finally:
            self.waiter.close()
            self.asked.give_back()

    def _go_round(self, jobs: Jobs, scorer: ScoringModel, decoders: DecoderPool) -> bool:
        done = 0
        while not self.stop.is_set():
            job = self._claim(jobs)
            if job is None:
                continue
            self.say(f"scoring {job.series_instance_uid}")
            sound = self._handle(jobs, job, scorer, decoders)
            self.say("idle")
            self.finished_at = time.monotonic()
            done += 1
            if not sound or done >= self.config.score.recycle_after or self._too_large():
                log_event(_LOGGER, logging.INFO, "worker_recycled", worker=self.name, series=done)
                return True
        return False

    def _claim(self, jobs: Jobs) -> Job | None:
        try:
            job = jobs.claim(self.name)
        except Transient as error:
            self.limited_log.log(logging.WARNING, "claim_failed", worker=self.name, reason=str(error))
            self.stop.wait(_DATABASE_PAUSE_S)
            return None
        if job is None and not self._beside() and self.waiter is not None:
            self.waiter.wait(self.stop)
        return job

    def _beside(self) -> bool:
        """Do a little of what waits beside the series; False when nothing does.

        The report of the series that was just scored comes first: it is built on the same cores.
        """
        if self.ahead is not None and self.ahead.step():
            return True
        if time.monotonic() < self.finished_at + _HEAT_MAPS_AFTER_S:
            return False
        return any(work is not None and work.step() for work in (self.afterwork, self.asked))

    def _handle(self, jobs: Jobs, job: Job, scorer: ScoringModel, decoders: DecoderPool) -> bool:
        """Score one series and end its job; return whether this process is still sound."""
        lease = _Lease(jobs, job, self.config.score.lease_s, self.stop)
        try:
            with lease:
                verdict = self._score(job, scorer, decoders, lease)
                self._heat_maps_first(job, verdict, scorer, lease)
            self._finish(jobs, job, verdict)
        except _Abandoned:
            log_event(_LOGGER, logging.INFO, "series_given_back", series=job.series_instance_uid, version=job.version)
            _ended(jobs.release, job)
        except NodeError as error:
            self._fail(jobs, job, str(error), permanent=isinstance(error, Permanent))
        except Exception as error:
            # The edge of the job loop: no series may end the worker in silence, and none is tried for ever.
            _LOGGER.exception("scoring failed", extra={"qa_event": "scoring_failed", "qa_fields": _fields(job)})
            what = "not enough memory" if isinstance(error, MemoryError) else type(error).__name__
            reason = f"an unexpected error ended the scoring ({what}); the log of the worker has the place"
            self._fail(jobs, job, reason, permanent=False)
            return False
        return True

    def _score(self, job: Job, scorer: ScoringModel, decoders: DecoderPool, lease: _Lease) -> ScoredSeries:
        own, pair = self._stored([job.series_instance_uid]), self._ct_candidates(job)
        levels = ReferenceLevelStore(self.database).of_scanner(own[0].series) if own else None
        layout = SpoolLayout(self.config.spool_dir)
        files = [(layout.absolute(item.path), item.path, item.sha256) for item in (*own, *pair)]
        with Verification(files, max_threads()) as verification:

            def before_step(name: str) -> None:
                lease.check(name)
                if name != "headers":
                    # Other bytes than those that were acknowledged are never scored.
                    verification.result()

            try:
                verdict = score_series(
                    [layout.absolute(item.path) for item in own],
                    pair_paths=[layout.absolute(item.path) for item in pair],
                    scorer=scorer,
                    options=Options.of(self.config.score, self.config.findings, self._phantom_lane(job), levels),
                    decoders=decoders,
                    ahead=self.ahead.take(job.series_instance_uid) if self.ahead else None,
                    before_step=before_step,
                )
            except Permanent:
                # A changed file is the reason for whatever else is wrong with it.
                verification.result()
                raise
        # The registry's UIDs, as the receiver checked them, hold even where those of a header cannot be read.
        paired = verdict.result.kind is SeriesKind.PETCT
        pair_uid = verdict.result.pair_series_uid or job.pair_series_uid if paired else None
        result = replace(verdict.result, series_instance_uid=job.series_instance_uid, pair_series_uid=pair_uid)
        return replace(verdict, result=result)

    def _phantom_lane(self, job: Job) -> PhantomLane:
        row = Registry(self.database).series(job.series_instance_uid)
        return PhantomLane(
            self.config.phantoms,
            "" if row is None else row.calling_ae,
            SubjectDecisions(self.database).latest(job.series_instance_uid),
            Tolerances(self.database).of,
        )

    def _ct_candidates(self, job: Job) -> list[StoredInstance]:
        """Return the images of every CT that may go with a PET; which one does is decided by their headers."""
        if job.pair_series_uid is None:
            return []
        candidates = Registry(self.database).ct_candidates(job.series_instance_uid)
        return self._stored(list(dict.fromkeys([*candidates, job.pair_series_uid])))

    def _stored(self, uids: Sequence[str]) -> list[StoredInstance]:
        """Return the stored images of series; other bytes under a UID already stored are never scored."""
        registry = Registry(self.database)
        return [item for uid in uids for item in registry.instances(uid) if not item.conflict]

    def _finish(self, jobs: Jobs, job: Job, verdict: ScoredSeries) -> None:
        folder = SpoolLayout(self.config.spool_dir).pictures(job.series_instance_uid, job.version)
        try:
            write_images(verdict, folder, self.config.score.grades)
        except OSError as error:
            log_event(_LOGGER, logging.WARNING, "pictures_failed", **_fields(job), reason=error.strerror)
        if self.afterwork is not None and self.config.score.heat_maps == "idle":
            self.afterwork.add(verdict, folder)
        if not jobs.finish(job, verdict.result):
            log_event(_LOGGER, logging.INFO, "result_superseded", **_fields(job))
            return
        result = verdict.result
        log_event(
            _LOGGER, logging.INFO, "scored", **_fields(job), kind=result.kind.value, score=result.score,
            grade=None if result.grade is None else result.grade.value, images=result.instances_used,
            qc=None if result.qc_phantom is None else result.qc_phantom.outcome.value,
            ms=result.timings_ms.get("total"), findings=",".join(item.key for item in result.findings),
        )  # fmt: skip

    def _heat_maps_first(self, job: Job, verdict: ScoredSeries, scorer: ScoringModel, lease: _Lease) -> None:
        if self.config.score.heat_maps != "first":
            return
        work = BackgroundHeatMaps(scorer)
        work.add(verdict, SpoolLayout(self.config.spool_dir).pictures(job.series_instance_uid, job.version))
        while work.step():
            lease.check("heat maps")

    def _fail(self, jobs: Jobs, job: Job, reason: str, *, permanent: bool) -> None:
        log_event(_LOGGER, logging.ERROR, "series_failed", **_fields(job), permanent=permanent, reason=reason)
        _ended(lambda held: jobs.fail(held, reason, permanent=permanent), job)

    def _too_large(self) -> bool:
        return bool(psutil.Process().memory_info().rss > self.config.score.max_memory_mb * _MB)


class _Lease:
    """Renews a claim from a thread while its series is scored."""

    def __init__(self, jobs: Jobs, job: Job, lease_s: float, stop: threading.Event) -> None:
        self.lost = False
        self._jobs, self._job, self._stop = jobs, job, stop
        self._lease_s = lease_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self, _step: str) -> None:
        """Raise `_Abandoned` if the series must not be worked on any more."""
        if self.lost or self._stop.is_set():
            raise _Abandoned

    def __enter__(self) -> _Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(min(_LOOK_S, self._lease_s / 4)):
            due = time.monotonic() - renewed >= self._lease_s / 4
            try:
                # To look is cheap and to renew is a write; whoever cancels a series does not wait for the next one.
                self.lost = not (self._jobs.heartbeat(self._job) if due else self._jobs.held(self._job))
                renewed = time.monotonic() if due else renewed
            except Transient as error:
                log_event(_LOGGER, logging.WARNING, "lease_not_renewed", **_fields(self._job), reason=str(error))
                self.lost = time.monotonic() - renewed > self._lease_s
            if self.lost:
                return


def _ended(end: Callable[[Job], bool], job: Job) -> None:
    """End a job; if the database is out of reach the lease expires."""
    try:
        end(job)
    except Transient as error:
        log_event(_LOGGER, logging.WARNING, "job_not_ended", **_fields(job), reason=str(error))


def _fields(job: Job) -> dict[str, object]:
    return {"series": job.series_instance_uid, "version": job.version, "attempt": job.attempt}
