"""The bridge's loop: Orthanc's changes are read, its series sent to the node, scores written back onto them.

Everything rests on durable rows (`flow.orthanc_ledger`), so that either side may restart at any moment:

``WAITING`` → Orthanc is asked to send the series → ``SENDING`` → its job has ended → ``SENT`` → the node has made the
report → ``REPORTED`` → the score stands on the series → ``MARKED``.

Whether the node has a series is always looked up in its registry, never concluded from a job: Orthanc forgets jobs.
A report that Orthanc lacks is stored there by the bridge itself, from the node's own file; C-FIND and C-MOVE would need
a second configured direction and bring the same bytes.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.orthanc.report_codes import ReportedVerdict, read_verdict
from dicom_qa_node.deliver.orthanc.rest_client import (
    Change,
    OrthancClient,
    OrthancError,
    OrthancSystem,
    orthanc_client,
)
from dicom_qa_node.deliver.orthanc.series_marks import mark_series, page_of, report_in_orthanc
from dicom_qa_node.deliver.orthanc.series_selection import SeriesTags, why_not
from dicom_qa_node.deliver.orthanc.server_settings import UnknownNames, lines_for_orthanc
from dicom_qa_node.deliver.targets.base import Deferred
from dicom_qa_node.domain.backoff import backoff_s
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef
from dicom_qa_node.domain.errors import NodeError, Permanent
from dicom_qa_node.domain.states import BridgeState, DeliveryState, SeriesState
from dicom_qa_node.flow.orthanc_ledger import BridgedSeries, NewReport, OrthancLedger, Position
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.log import RateLimitedLog, log_event

__all__ = ["Bridge", "run_bridge"]

_LOGGER = logging.getLogger(__name__)
_LEASE_S = 60.0
_PAGES_AT_ONCE = 5
_READ_ATTEMPTS = 5
_JOB_LOOK_S = 1.0
#: Images are registered in batches: a series that has just been sent may not be listed yet.
_REGISTERED_S = 30.0
_REPORT_LOOK_S = 2.0
_REPORT_LOOK_MAX_S = 60.0
_REMEMBERED = 1000
_STABLE = "StableSeries"


class Bridge:
    """Follows one Orthanc; ``holder`` names this process among those of all hosts."""

    def __init__(
        self, config: Config, database: Database, holder: str, clock: Callable[[], dt.datetime] | None = None
    ) -> None:
        self._config, self._settings, self._holder = config, config.orthanc, holder
        self._clock = clock or database.now
        self._ledger = OrthancLedger(database, config.orthanc.name, self._clock)
        self._registry, self._outbox = Registry(database), Outbox(database)
        self._elsewhere: OrderedDict[str, None] = OrderedDict()
        self._unread: dict[int, int] = {}
        self._held_at = -_LEASE_S
        self._problems: dict[str, str] = {}

    def step(self) -> bool:
        """Do what is due; return whether something was done, so that it is worth looking again at once.

        Raises
        ------
        Deferred
            Orthanc does not answer as it should; nothing is lost.
        """
        with orthanc_client(self._settings) as client:
            system = client.system()
            position = self._ledger.position() or self._first_contact(client)
            if not self._keep_hold():
                self._problems.clear()
                return False
            read = self._read_changes(client, position)
            self._read_history(client, position)
            return self._work(client, system) or read

    @property
    def problem(self) -> str:
        """What somebody has to put right, empty when nothing."""
        return "; ".join(self._problems.values())

    def _keep_hold(self) -> bool:
        if time.monotonic() - self._held_at < _LEASE_S / 4:
            return True
        held = self._ledger.hold(self._holder, _LEASE_S)
        self._held_at = time.monotonic() if held else -_LEASE_S
        return held

    def let_go(self) -> None:
        """Leave the server to other processes."""
        self._ledger.let_go(self._holder)

    # -- Orthanc's changes ---------------------------------------------------------------------------------------

    def _first_contact(self, client: OrthancClient) -> Position:
        backlog = self._settings.backlog_hours
        started = client.now()
        if backlog:
            try:
                since = dt.datetime.strptime(started, "%Y%m%dT%H%M%S") - dt.timedelta(hours=backlog)  # noqa: DTZ007
                started = since.strftime("%Y%m%dT%H%M%S")
            except ValueError as error:
                raise Deferred("the answer for tools/now is not a time: check orthanc.url") from error
        last = 0 if backlog else client.last_change()
        log_event(_LOGGER, logging.INFO, "orthanc_first_contact", server=self._settings.name, change=last)
        return self._ledger.begin(last, started)

    def _read_changes(self, client: OrthancClient, position: Position) -> bool:
        last, anchor = position.last_change, position.anchor
        if self._is_another_history(client, position):
            last, anchor = self._common_change(client)
            log_event(_LOGGER, logging.WARNING, "orthanc_history_changed", server=self._settings.name, change=last)
            self._ledger.advance(last, anchor)
        for _ in range(_PAGES_AT_ONCE):
            page = client.changes(last)
            for change in page.changes:
                if change.kind == _STABLE and change.date >= position.started_at:
                    self._stable(client, change)
            if page.changes:
                last, anchor = page.changes[-1].number, page.changes[-1].anchor
                self._ledger.advance(last, anchor)
            if page.done or not page.changes:
                return False
            self._keep_hold()
        return True

    def _is_another_history(self, client: OrthancClient, position: Position) -> bool:
        """Whether the changes are not those that were read: a new database, a restored one, or newest series deleted.

        A change is deleted with its series; numbers are never given twice in one database.
        """
        if client.last_change() < position.last_change:
            return True
        here = client.change(position.last_change) if position.anchor else None
        return here is not None and here.anchor != position.anchor

    def _common_change(self, client: OrthancClient) -> tuple[int, str]:
        """Return the newest change that this Orthanc and the ledger share, 0 if there is none."""
        for number, anchor in self._ledger.earlier_changes():
            here = client.change(number)
            if here is not None and here.anchor == anchor:
                return number, anchor
        return 0, ""

    def _stable(self, client: OrthancClient, change: Change) -> None:
        try:
            series = client.series(change.resource_id)
            if series is not None:
                self._stable_series(client, change, series)
        except OrthancError as error:
            self._unread[change.number] = self._unread.get(change.number, 0) + 1
            if self._unread[change.number] < _READ_ATTEMPTS:
                raise Deferred(f"HTTP {error.status} for a series that is stable") from error
            # One series that Orthanc itself cannot read must not keep the others from their turn for ever.
            log_event(_LOGGER, logging.ERROR, "orthanc_series_unread", series=change.resource_id, status=error.status)
        self._unread.pop(change.number, None)

    def _stable_series(self, client: OrthancClient, change: Change, series: Mapping[str, Any]) -> None:
        uid, images = _uid_of(series), _images_of(series)
        known = self._ledger.series(change.resource_id)
        fingerprint = _fingerprint(series)
        if known is not None and known.fingerprint == fingerprint and known.state is not BridgeState.FAILED:
            self._look_again(known)
            return
        study = client.study_tags(str(series.get("ParentStudy", "")))
        tags = SeriesTags.of(series, study, client.sop_class(images[0]) if images else "")
        reason = "it has no images" if not images or not uid else why_not(tags, self._config)
        if reason:
            log_event(_LOGGER, logging.DEBUG, "orthanc_series_not_sent", series=uid, reason=reason)
            return
        # New content of a known series is sent even where the number of images is the same: the node compares.
        there = known is None and self._node_has(uid, len(images))
        self._ledger.follow(
            change.resource_id, uid, BridgeState.SENT if there else BridgeState.WAITING, images=len(images),
            fingerprint=fingerprint, change=change.number, anchor=change.anchor,
        )  # fmt: skip

    def _look_again(self, known: BridgedSeries) -> None:
        """The same images came again: make sure that the score is still on the series."""
        if known.state in (BridgeState.MARKED, BridgeState.REPORTED):
            self._ledger.move(known, BridgeState.REPORTED, attempts=0)
        elif known.state is BridgeState.SENT:
            self._ledger.move(known, BridgeState.SENT)

    def _node_has(self, uid: str, images: int) -> bool:
        row = self._registry.series(uid)
        return row is not None and row.received >= images

    # -- the node's reports --------------------------------------------------------------------------------------

    def _read_history(self, client: OrthancClient, position: Position) -> None:
        reports, settled = self._ledger.new_reports(position)
        for report in reports:
            self._reported(client, report)
        if settled > position.last_event:
            self._ledger.history_read(settled)

    def _reported(self, client: OrthancClient, report: NewReport) -> None:
        for item in report.followed:
            if item.report_uid != report.report_uid or item.state in (BridgeState.SENT, BridgeState.FAILED):
                self._ledger.move(item, BridgeState.REPORTED, report_uid=report.report_uid, attempts=0)
        if report.followed or report.report_uid in self._elsewhere:
            return
        # Images that reached the node by another way, and perhaps Orthanc as well.
        self._elsewhere[report.report_uid] = None
        if len(self._elsewhere) > _REMEMBERED:
            self._elsewhere.popitem(last=False)
        for orthanc_id in client.lookup(report.series_instance_uid, "Series"):
            series = client.series(orthanc_id)
            if series is not None:
                self._ledger.follow(
                    orthanc_id, report.series_instance_uid, BridgeState.REPORTED, images=len(_images_of(series)),
                    fingerprint=_fingerprint(series), report_uid=report.report_uid,
                )  # fmt: skip

    # -- what is due ---------------------------------------------------------------------------------------------

    def _work(self, client: OrthancClient, system: OrthancSystem) -> bool:
        worked = False
        for item in self._ledger.due(may_start=self._settings.parallel_jobs - self._ledger.sending()):
            if not self._keep_hold():
                return False
            worked |= self._work_on(client, system, item)
        return worked

    def _work_on(self, client: OrthancClient, system: OrthancSystem, item: BridgedSeries) -> bool:
        try:
            if item.state is BridgeState.WAITING:
                return self._send(client, item)
            if item.state is BridgeState.SENDING:
                return self._watch(client, item)
            if item.state is BridgeState.SENT:
                return self._await_report(item)
            return self._mark(client, system, item)
        except Deferred as error:
            # Whoever comes first next time is another one, should the cause be this series and not the server.
            self._try_again(item, item.state, str(error))
            raise
        except Permanent as error:
            self._try_again(item, item.state, str(error))
            if isinstance(error, UnknownNames):
                self._problems["names"] = str(error)
        return False

    def _send(self, client: OrthancClient, item: BridgedSeries) -> bool:
        # Noted before it is asked for: after a crash between the two the job is looked for, not started twice.
        self._ledger.move(item, BridgeState.SENDING, job_id="", wait_s=_JOB_LOOK_S)
        job = item.job_id if item.job_id and client.resubmit(item.job_id) else self._new_job(client, item)
        if not job:
            return True
        self._ledger.move(item, BridgeState.SENDING, job_id=job, wait_s=_JOB_LOOK_S)
        self._problems.pop("modality", None)
        log_event(_LOGGER, logging.INFO, "orthanc_sends", series=item.series_instance_uid, images=item.images)
        return True

    def _new_job(self, client: OrthancClient, item: BridgedSeries) -> str:
        try:
            return client.send(item.orthanc_id, self._settings.modality)
        except OrthancError as error:
            if client.series(item.orthanc_id) is None:
                self._ledger.forget(item)
                return ""
            words = str(error)
            if not client.modality(self._settings.modality):
                words = f"Orthanc's DicomModalities has no {self._settings.modality!r}"
                self._problems["modality"] = f"{words}; it needs:\n{lines_for_orthanc(self._config)}"
            self._try_again(item, BridgeState.WAITING, words)
            return ""

    def _watch(self, client: OrthancClient, item: BridgedSeries) -> bool:
        job = client.job(item.job_id) if item.job_id else _job_of(client, item.orthanc_id)
        state = "" if job is None else str(job.get("State", ""))
        if state == "Success":
            self._ledger.move(item, BridgeState.SENT, problem="", attempts=0)
            return True
        if job is not None and state != "Failure":
            self._ledger.move(item, BridgeState.SENDING, job_id=str(job.get("ID", item.job_id)), wait_s=_JOB_LOOK_S)
            return False
        if self._node_has(item.series_instance_uid, item.images):
            self._ledger.move(item, BridgeState.SENT, problem="", attempts=0)
            return True
        words = str(job.get("ErrorDetails") or job.get("ErrorDescription") or "") if job else "Orthanc forgot the job"
        self._try_again(item, BridgeState.WAITING, f"not sent: {words}"[:500])
        return False

    def _await_report(self, item: BridgedSeries) -> bool:
        row = self._registry.series(item.series_instance_uid)
        waited_s = (self._clock() - item.since).total_seconds()
        if row is None:
            if waited_s > _REGISTERED_S:
                self._try_again(item, BridgeState.WAITING, "the node has no image of it; sent again")
            else:
                self._ledger.move(item, BridgeState.SENT, wait_s=_REPORT_LOOK_S)
            return False
        report = self._outbox.report(item.series_instance_uid)
        done = row.state in (SeriesState.REPORTED, SeriesState.DELIVERED, SeriesState.PARKED)
        if report is not None and done and report.version == row.version:
            self._ledger.move(item, BridgeState.REPORTED, report_uid=report.sop_instance_uid, attempts=0, problem="")
            return True
        if waited_s > self._settings.give_up_after_s:
            self._ledger.move(item, BridgeState.FAILED, problem=row.parked_reason or "no report was made")
            return False
        wait_s = min(_REPORT_LOOK_MAX_S, max(_REPORT_LOOK_S, waited_s / 10))
        if row.state is SeriesState.PARKED:
            wait_s = self._settings.retry_max_s
        self._ledger.move(item, BridgeState.SENT, wait_s=wait_s, problem=row.parked_reason)
        return False

    # -- the score ---------------------------------------------------------------------------------------------------

    def _mark(self, client: OrthancClient, system: OrthancSystem, item: BridgedSeries) -> bool:
        if client.series(item.orthanc_id) is None:
            self._ledger.forget(item)
            return True
        report = self._outbox.report(item.series_instance_uid)
        if report is None:
            self._ledger.move(item, BridgeState.SENT)
            return True
        verdict = self._verdict(client, report)
        if verdict is None:
            self._ledger.move(item, BridgeState.REPORTED, wait_s=_REPORT_LOOK_S)
            return False
        document = None
        if self._settings.attach_page:
            document = self._outbox.report(item.series_instance_uid, report.version, DocumentKind.PDF)
        page = page_of(self._config.spool_dir, document)
        mark_series(client, self._config, item.orthanc_id, verdict, page, labels=system.labels)
        self._ledger.move(
            item, BridgeState.MARKED, report_uid=report.sop_instance_uid, attempts=0, problem="", job_id=""
        )  # fmt: skip
        self._problems.pop("names", None)
        log_event(
            _LOGGER, logging.INFO, "orthanc_marked", series=item.series_instance_uid, report=report.sop_instance_uid
        )  # fmt: skip
        return True

    def _verdict(self, client: OrthancClient, report: ReportRef) -> ReportedVerdict | None:
        """Return what the report in Orthanc says, stored there first where it is missing; None: not there yet."""
        sent = self._delivery(report)
        uid = report.sop_instance_uid if sent is None else sent[1] or report.sop_instance_uid
        found = report_in_orthanc(client, uid)
        if found is not None:
            return found
        age_s = (self._clock() - report.created_at).total_seconds()
        on_its_way = sent is not None and sent[0] is not DeliveryState.PARKED
        if on_its_way and age_s < self._settings.report_wait_s:
            return None
        path = self._config.spool_dir / report.path
        if not path.is_file():
            raise Permanent(
                "the report is neither in Orthanc nor in the spool; score the series again (series rescore)"
            )
        content = path.read_bytes()
        if self._may_be_stored(report):
            client.add_instance(content)
            log_event(_LOGGER, logging.INFO, "orthanc_report_stored", report=report.sop_instance_uid)
        return read_verdict(content)

    def _delivery(self, report: ReportRef) -> tuple[DeliveryState, str] | None:
        """Return how the report stands on its way to Orthanc, and under which UID it goes; None without a target."""
        for row in self._outbox.deliveries_of(report.series_instance_uid) if self._settings.target else ():
            if row.target == self._settings.target and row.report.sop_instance_uid == report.sop_instance_uid:
                return row.state, row.sent_uid
        return None

    def _may_be_stored(self, report: ReportRef) -> bool:
        """Whether the rules of the target let this report into Orthanc; its score is written in any case."""
        return self._settings.target not in self._outbox.unrouted(report.sop_instance_uid)

    def _try_again(self, item: BridgedSeries, state: BridgeState, words: str) -> None:
        attempts = item.attempts + 1
        waited_s = (self._clock() - item.since).total_seconds()
        level = logging.WARNING
        if waited_s > self._settings.give_up_after_s:
            state, level = BridgeState.FAILED, logging.ERROR
        wait_s = backoff_s(attempts, self._settings.retry_first_s, self._settings.retry_max_s)
        self._ledger.move(item, state, wait_s=wait_s, attempts=attempts, problem=words)
        # Orthanc's own words may name a patient.
        log_event(_LOGGER, level, "orthanc_series_postponed", series=item.series_instance_uid, state=state.value,
                  attempt=attempts)  # fmt: skip


def run_bridge(
    config: Config, database: Database, stop: threading.Event, holder: str, say: Callable[[str], None]
) -> None:
    """Follow Orthanc until ``stop`` is set; ``say`` is given what is wrong, or empty words."""
    bridge = Bridge(config, database, holder)
    told = RateLimitedLog(_LOGGER)
    failures, wait_s = 0, 0.0
    while not stop.wait(wait_s):
        try:
            busy = bridge.step()
            failures, wait_s = 0, min(0.1, config.orthanc.poll_s) if busy else config.orthanc.poll_s
            say(bridge.problem)
        except NodeError as error:
            failures += 1
            wait_s = backoff_s(failures, config.orthanc.poll_s, max(60.0, config.orthanc.poll_s))
            say(str(error))
            reason = error.status if isinstance(error, Deferred) else type(error).__name__
            told.log(logging.WARNING, "orthanc_postponed", reason=reason)
        except Exception as error:
            failures += 1
            wait_s = backoff_s(failures, config.orthanc.poll_s, 60.0)
            say(f"internal error ({type(error).__name__}), see the log")
            _LOGGER.exception("orthanc_failed")
    # While the database is away the claim ends by itself.
    with suppress(NodeError):
        bridge.let_go()


def _job_of(client: OrthancClient, orthanc_id: str) -> Mapping[str, Any] | None:
    """Return the latest job that sends a series, for one whose start was not noted."""
    found = None
    for job in client.jobs():
        content = job.get("Content")
        parents = content.get("ParentResources") if isinstance(content, dict) else None
        ours = job.get("Type") == "DicomModalityStore" and isinstance(parents, list) and orthanc_id in parents
        if ours and (found is None or str(job.get("CreationTime")) > str(found.get("CreationTime"))):
            found = job
    return found


def _uid_of(series: Mapping[str, Any]) -> str:
    tags = series.get("MainDicomTags")
    return str(tags.get("SeriesInstanceUID", "")).strip()[:64] if isinstance(tags, dict) else ""


def _images_of(series: Mapping[str, Any]) -> list[str]:
    found = series.get("Instances")
    return [str(item) for item in found] if isinstance(found, list) else []


def _fingerprint(series: Mapping[str, Any]) -> str:
    """Return what changes when images are added, removed or overwritten, and not when the same ones come again."""
    parts = [str(series.get("LastUpdate", "")), *sorted(_images_of(series))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
