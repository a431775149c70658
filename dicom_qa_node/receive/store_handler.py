"""The C-STORE service (PS3.4 annex B): from the first byte of a data set to a durable file and an answer.

Nothing here waits for the database: receipts are handed to `report`, rows follow.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from dicom_qa_node.dicom_io.instance_header import InstanceHeader
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.dose import DoseReport, StoredDoseReport
from dicom_qa_node.domain.errors import NodeError, Permanent
from dicom_qa_node.domain.series import Receipt, RepeatedInstance, SeriesHeader
from dicom_qa_node.domain.uids import check_uid, is_uid
from dicom_qa_node.dose.report_reader import DOSE_REPORT_CLASSES, LARGEST_BYTES, UnreadableReport, read_report
from dicom_qa_node.log import log_event
from dicom_qa_node.receive.fastpath.command_sets import StoreRequest
from dicom_qa_node.receive.store_status import SUCCESS, Answer, WrongSopClass, WrongSopInstance, answer_for
from dicom_qa_node.spool.disk_space import DiskGauge, SpoolFull
from dicom_qa_node.spool.incoming import IncomingObject, Outcome, SpoolWriter, stored_instance
from dicom_qa_node.spool.quarantine_share import QuarantineShare

__all__ = ["ReceivedObject", "Sender", "StoreHandler"]

_LOGGER = logging.getLogger(__name__)
_SERIES_REMEMBERED = 64
_LOOK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sender:
    """The association that objects come from."""

    calling_ae: str
    called_ae: str
    association_id: str


class SeriesCache:
    """The facts of the series that were last received; decoding them once per series is enough."""

    def __init__(self) -> None:
        self._facts: OrderedDict[str, SeriesHeader] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, instance: InstanceHeader) -> SeriesHeader:
        """Return the facts of an instance's series as its first instance gave them."""
        with self._lock:
            known = self._facts.get(instance.series_instance_uid)
            if known is None or known.study_instance_uid != instance.study_instance_uid:
                known = self._facts[instance.series_instance_uid] = instance.series()
                if len(self._facts) > _SERIES_REMEMBERED:
                    self._facts.popitem(last=False)
            return known


@dataclass(frozen=True, slots=True)
class StoreHandler:
    """What every received object needs: the spool, the gauge of its disk, where receipts go, quarantine.

    ``note_repeats`` is whether a target wants the report again when a series comes again.
    """

    writer: SpoolWriter
    gauge: DiskGauge
    report: Callable[[Receipt], None]
    series: SeriesCache = field(default_factory=SeriesCache)
    quarantine: QuarantineShare | None = None
    note_repeats: bool = False

    def open(self, request: StoreRequest, transfer_syntax_uid: str, sender: Sender) -> ReceivedObject:
        """Begin one C-STORE; the object answers for everything that goes wrong from here on."""
        origin = Origin(
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae=sender.calling_ae,
            called_ae=sender.called_ae,
            association_id=sender.association_id,
        )
        return ReceivedObject(self, origin)


class ReceivedObject:
    """One object between its request and its answer (an ``ObjectSink``).

    A failure while writing is remembered; the rest of the data set is read and dropped, and `finish` tells.
    """

    def __init__(self, intake: StoreHandler, origin: Origin) -> None:
        self._intake = intake
        self._origin = origin
        self._failure: Answer | None = None
        self._incoming: IncomingObject | None = None
        self._unlooked = 0
        try:
            intake.gauge.require_space()
            self._incoming = intake.writer.begin(origin)
        except Exception as error:  # noqa: BLE001 - the DIMSE edge: every failure becomes a status
            self._fail(error)

    def write(self, data: bytes | memoryview) -> None:
        """Append to the spool file, unless the object has failed already."""
        if self._incoming is None:
            return
        self._unlooked += len(data)
        try:
            if self._unlooked >= _LOOK_BYTES:
                self._unlooked = 0
                self._intake.gauge.require_space_for_more()
            self._incoming.write(data)
        except Exception as error:  # noqa: BLE001 - the DIMSE edge
            self._fail(error)

    def finish(self) -> Answer:
        """Check the object, make it durable, report it and return the answer for the peer."""
        if self._incoming is None:
            return self._failure or answer_for(SpoolFull("the spool has no space left"))
        try:
            self._finish(self._incoming)
        except Exception as error:  # noqa: BLE001 - the DIMSE edge
            self._fail(error)
        return self._failure or SUCCESS

    def abandon(self) -> None:
        """Drop the object: its association ended inside the data set."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def _finish(self, incoming: IncomingObject) -> None:
        if self._origin.sop_class_uid in DOSE_REPORT_CLASSES:
            self._finish_dose_report(incoming)
            return
        try:
            facts = self._checked_facts(incoming)
        except Permanent as error:
            self._failure = answer_for(error)
            self._quarantine(incoming, str(error))
            return
        kept = incoming.keep()
        if facts.remark:
            self._log(logging.WARNING, "stored_with_remark", remark=facts.remark)
        if kept.outcome is Outcome.DUPLICATE:
            self._log(logging.INFO, "duplicate")
            if self._intake.note_repeats:
                self._intake.report(RepeatedInstance(facts.series_instance_uid, utc_now()))
            return
        if kept.outcome is Outcome.CONFLICT:
            self._log(logging.WARNING, "conflict", differs=", ".join(sorted(kept.differs)))
        self._intake.report(stored_instance(kept, self._origin, facts, self._intake.series.of(facts)))

    def _finish_dose_report(self, incoming: IncomingObject) -> None:
        try:
            report = self._checked_report(incoming)
        except Permanent as error:
            self._failure = answer_for(error)
            self._quarantine(incoming, str(error))
            return
        kept = incoming.keep_dose_report()
        if kept.outcome is Outcome.DUPLICATE:
            self._log(logging.INFO, "duplicate")
            return
        checksum = kept.checksum
        self._intake.report(
            StoredDoseReport(
                kept.path, checksum.sha256, checksum.size_bytes, checksum.received_at, self._origin.calling_ae, report
            )
        )

    def _checked_report(self, incoming: IncomingObject) -> DoseReport:
        if incoming.size_bytes > LARGEST_BYTES:
            raise UnreadableReport(f"a dose report has at most {LARGEST_BYTES >> 20} MiB")
        check_uid(self._origin.sop_instance_uid, "SOP Instance UID (0008,0018)")
        incoming.check_structure()
        report = read_report(incoming.path)
        if report.sop_class_uid != self._origin.sop_class_uid:
            raise WrongSopClass("the data set is of another SOP class than the request")
        if report.sop_instance_uid != self._origin.sop_instance_uid:
            raise WrongSopInstance("the data set has another SOP Instance UID than the request")
        return report

    def _quarantine(self, incoming: IncomingObject, reason: str) -> None:
        size, share = incoming.size_bytes, self._intake.quarantine
        kept = size if share is None else share.bytes_to_keep(size)
        self._intake.report(incoming.quarantine(reason, kept))
        self._log(logging.WARNING, "refused", reason=reason)
        if share is not None and (left := share.added(kept)):
            log_event(_LOGGER, logging.WARNING, "quarantine_trimmed", objects=left)

    def _checked_facts(self, incoming: IncomingObject) -> InstanceHeader:
        facts = incoming.facts()
        if facts.sop_class_uid != self._origin.sop_class_uid:
            raise WrongSopClass("the data set is of another SOP class than the request")
        if facts.sop_instance_uid != self._origin.sop_instance_uid:
            raise WrongSopInstance("the data set has another SOP Instance UID than the request")
        return facts

    def _fail(self, error: Exception) -> None:
        self._failure = answer_for(error)
        self.abandon()
        status = f"{self._failure.status:04X}"
        # The words of other errors may quote a value of the data set.
        reason = str(error) if isinstance(error, NodeError) else "an error that was not foreseen"
        self._log(logging.ERROR, "store_failed", status=status, error=type(error).__name__, reason=reason)

    def _log(self, level: int, event: str, **fields: str) -> None:
        uid = self._origin.sop_instance_uid
        known = {"sop": uid if is_uid(uid) else "(invalid)", "association": self._origin.association_id}
        log_event(_LOGGER, level, event, **known, **fields)
