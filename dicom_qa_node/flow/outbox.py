"""Reports and their way to each target: one row per report and target, retried until delivered or parked."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.commit_watch import CommitWatch
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import series_header_of
from dicom_qa_node.domain.delivery import NOBODY, Delivery, DocumentKind, ReportRef, Sender
from dicom_qa_node.domain.results import SeriesResult, result_from_json
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.flow.outbox_queries import NEXT, joined, sender_host
from dicom_qa_node.flow.state_machine import counts_by_state, transition
from dicom_qa_node.quality_log.rows import earlier_scores

__all__ = ["Outbox", "OutboxRow", "Unreported"]

_BATCH = 500
_PENDING, _SENDING = DeliveryState.PENDING.value, DeliveryState.SENDING.value
_DELIVERED, _PARKED = DeliveryState.DELIVERED.value, DeliveryState.PARKED.value
_NEXT = [(query, query.with_for_update(skip_locked=True, of=t.outbox)) for query in NEXT]
# As often asked, and put together once, as `due.NEXT`.
_UNREPORTED = (
    sa.select(t.series, t.results.c.payload, t.results.c.scored_at, sender_host().label("sender_host"))
    .join(
        t.results,
        (t.results.c.series_instance_uid == t.series.c.series_instance_uid)
        & (t.results.c.version == t.series.c.version),
    )
    .where(t.series.c.state == SeriesState.SCORED)
    .order_by(t.series.c.state_since)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


@dataclass(frozen=True, slots=True)
class Unreported:
    """A scored version that has no report yet; ``predecessor`` is the report of the version before.

    ``sender`` is who sent its latest images.
    """

    facts: SeriesHeader
    version: int
    result: SeriesResult
    predecessor: ReportRef | None
    scored_at: dt.datetime
    sender: Sender = NOBODY


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One report and target, for lists and commands.

    ``sent_uid`` is the SOP Instance UID that the target has where that is not the report's: another SOP class.
    """

    delivery_id: int
    target: str
    state: DeliveryState
    attempts: int
    next_attempt_at: dt.datetime
    last_answer: str
    delivered_at: dt.datetime | None
    created_at: dt.datetime
    sent_uid: str
    report: ReportRef


class Outbox:
    """Reports to build and to deliver; ``clock`` returns the current UTC time."""

    def __init__(
        self, database: Database, *, lease_s: float = 120, clock: Callable[[], dt.datetime] | None = None
    ) -> None:
        self._db = database
        self._lease = dt.timedelta(seconds=lease_s)
        self._clock = clock or database.now

    def news(self) -> CommitWatch:
        """Return what waits until there may be something to report or to deliver."""
        return CommitWatch(self._db)

    # -- SCORED -> REPORTED ------------------------------------------------------------------------------

    def unreported(self, limit: int = 10) -> list[Unreported]:
        """Return series in SCORED with their result, the oldest first."""
        with self._db.read() as connection:
            return [
                Unreported(
                    series_header_of(row),
                    row.version,
                    result_from_json(row.payload),
                    _latest_report(connection, row.series_instance_uid),
                    row.scored_at,
                    Sender(row.calling_ae.strip(), row.sender_host or ""),
                )
                for row in connection.execute(_UNREPORTED, {"most": limit}).all()
            ]

    def trend(self, item: Unreported, limit: int) -> list[float]:
        """Return the scores of the scanner's earlier series, oldest first; see `quality_log.rows.earlier_scores`."""
        with self._db.read() as connection:
            return earlier_scores(connection, item.facts, item.result, item.scored_at, limit)

    def add_report(
        self,
        report: ReportRef,
        targets: Sequence[str],
        unrouted: Sequence[tuple[str, str]] = (),
        sender: Sender = NOBODY,
        documents: Sequence[tuple[ReportRef, Sequence[str]]] = (),
        *,
        remark: str = "",
    ) -> bool:
        """Record a report whose file is durable, with one outbox row per target, and move its series to REPORTED.

        Parameters
        ----------
        unrouted
            Each target that does not get it, with the reason.
        sender
            Who sent the images.
        documents
            What goes beside the report, each with its targets; their files are durable, too.
        remark
            What the history of the series has to say of the report.

        Returns
        -------
        bool
            False, and nothing is written, when the series has moved on (late image) or the report exists.
        """
        now = self._clock()
        with self._db.write() as connection:
            moved = transition(
                connection, report.series_instance_uid, [SeriesState.SCORED], SeriesState.REPORTED,
                version=report.version, reason="; ".join(filter(None, (f"report {report.sop_instance_uid}", remark))),
                actor="report", at=now,
            )  # fmt: skip
            if not moved:
                return False
            study = connection.execute(
                sa.select(t.series.c.study_instance_uid).where(
                    t.series.c.series_instance_uid == report.series_instance_uid
                )
            ).scalar_one()
            row = {
                "series_instance_uid": report.series_instance_uid,
                "study_instance_uid": study,
                "state": _PENDING,
                "sender_ae": sender.ae_title,
                "sender_host": sender.host,
                "created_at": now,
                "next_attempt_at": now,
            }
            for document, wanted in ((report, targets), *documents):
                connection.execute(t.reports.insert().values(**asdict(document)))
                own = row | {"report_uid": document.sop_instance_uid, "kind": document.kind}
                for target in wanted:
                    connection.execute(t.outbox.insert().values(**own, target=target))
            for target, reason in unrouted:
                values = {"report_uid": report.sop_instance_uid, "target": target, "reason": reason}
                connection.execute(t.unrouted.insert().values(**values))
            return True

    def fail_report(self, item: Unreported, reason: str) -> bool:
        """Park a series whose report cannot be built."""
        with self._db.write() as connection:
            return transition(
                connection, item.facts.series_instance_uid, [SeriesState.SCORED], SeriesState.PARKED,
                version=item.version, reason=reason, actor="report", at=self._clock(),
                values={"parked_reason": reason},
            )  # fmt: skip

    # -- REPORTED -> DELIVERED ---------------------------------------------------------------------------

    def claim(self, targets: Sequence[str]) -> Delivery | None:
        """Take the oldest due delivery to one of these targets; None if there is none.

        To one target, the versions of a series go in their order: a later one waits while an earlier one is on its
        way, also between two attempts. The reports of the series of one study go in the order in which they were
        made, but one that waits for its next attempt holds no other series back.
        """
        now = self._clock()
        asked = {"targets": list(targets), "now": now}
        for look, take in _NEXT:
            with self._db.read() as connection:
                if connection.execute(look, asked).first() is None:
                    continue
            with self._db.write() as connection:
                row = connection.execute(take, asked).one_or_none()
                if row is not None:
                    return self._taken(connection, row, now)
        return None

    def _taken(self, connection: sa.Connection, row: sa.Row[tuple[object, ...]], now: dt.datetime) -> Delivery:
        token = uuid.uuid4().hex
        values = {
            "state": _SENDING,
            "attempts": row.attempts + 1,
            "lease_token": token,
        }
        update = t.outbox.update().where(t.outbox.c.delivery_id == row.delivery_id)
        connection.execute(update.values(**values, lease_until=now + self._lease))
        sender = Sender(row.sender_ae, row.sender_host)
        return Delivery(row.delivery_id, row.target, _report(row), row.attempts + 1, token, sender)

    def heartbeat(self, delivery: Delivery) -> bool:
        """Renew the lease of a delivery; False when it was lost."""
        with self._db.write() as connection:
            update = t.outbox.update().where(_held(delivery)).values(lease_until=self._clock() + self._lease)
            return bool(connection.execute(update).rowcount)

    def delivered(self, delivery: Delivery, answer: str, sent_uid: str = "") -> bool:
        """Record the target's acceptance; the series is DELIVERED when every target has its report.

        ``sent_uid`` is what the target has where that is not the report itself.
        """
        now = self._clock()
        values = {"state": _DELIVERED, "last_answer": answer, "delivered_at": now, "sent_uid": sent_uid}
        with self._db.write() as connection:
            if not _close(connection, delivery, values):
                return False
            _settle(connection, delivery.report, now)
            return True

    def retry_later(self, delivery: Delivery, answer: str, wait_s: float) -> bool:
        """Put a delivery back for a later attempt."""
        values = {"state": _PENDING, "last_answer": answer}
        due = self._clock() + dt.timedelta(seconds=wait_s)
        with self._db.write() as connection:
            return _close(connection, delivery, values | {"next_attempt_at": due})

    def park(self, delivery: Delivery, answer: str) -> bool:
        """Give a delivery up with the target's words; the series is parked until an operator acts."""
        now = self._clock()
        with self._db.write() as connection:
            if not _close(connection, delivery, {"state": _PARKED, "last_answer": answer}):
                return False
            _park_series(connection, delivery.report, f"report not delivered to {delivery.target}: {answer}", now)
            return True

    # -- for operators -------------------------------------------------------------------------------------

    def rows(
        self,
        states: Sequence[DeliveryState] = tuple(DeliveryState),
        limit: int = 100,
        *,
        after: int | None = None,
        target: str | None = None,
    ) -> list[OutboxRow]:
        """Return deliveries in these states, the latest first.

        ``after`` is the last number of the page before; ``target`` leaves out the other targets.
        """
        number = t.outbox.c.delivery_id
        # Of many that fit, only those of the page are read.
        shown = _listed({item.value for item in states}, after, target).limit(limit)
        with self._db.read() as connection:
            found = connection.execute(joined().where(number.in_(shown)).order_by(number.desc())).all()
        return [_row(row) for row in found]

    def deliveries_of(self, series_instance_uid: str) -> list[OutboxRow]:
        """Return every delivery of every report of a series, oldest first."""
        query = joined().where(t.outbox.c.series_instance_uid == series_instance_uid)
        with self._db.read() as connection:
            return [_row(row) for row in connection.execute(query.order_by(t.outbox.c.delivery_id))]

    def report(
        self, series_instance_uid: str, version: int | None = None, kind: DocumentKind = DocumentKind.REPORT
    ) -> ReportRef | None:
        """Return the report, or another document, of a version (None: the latest), or None."""
        query = _reports_of(series_instance_uid, kind)
        if version is not None:
            query = query.where(t.reports.c.version == version)
        with self._db.read() as connection:
            row = connection.execute(query.order_by(t.reports.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else _report(row)

    def counts(self) -> dict[DeliveryState, int]:
        """Return how many deliveries are in each state."""
        with self._db.read() as connection:
            found = counts_by_state(connection, t.outbox, [state.value for state in DeliveryState])
        return {DeliveryState(state): number for state, number in found.items()}

    def row(self, delivery_id: int) -> OutboxRow | None:
        """Return one delivery by its number, None if there is none."""
        with self._db.read() as connection:
            row = connection.execute(joined().where(t.outbox.c.delivery_id == delivery_id)).one_or_none()
        return None if row is None else _row(row)

    def parked(self, limit: int = 100, after: int | None = None, target: str | None = None) -> list[OutboxRow]:
        """Return the parked deliveries, the latest first; ``after`` is the last number of the page before."""
        return self.rows([DeliveryState.PARKED], limit, after=after, target=target)

    def unrouted(self, report_uid: str) -> dict[str, str]:
        """Return the targets that do not get a report, with the reason that was found when it was made."""
        query = sa.select(t.unrouted.c.target, t.unrouted.c.reason).where(t.unrouted.c.report_uid == report_uid)
        with self._db.read() as connection:
            return {row.target: row.reason for row in connection.execute(query.order_by(t.unrouted.c.target))}

    def sender_of(self, series_instance_uid: str) -> Sender:
        """Return who sent the latest images of a series."""
        query = sa.select(t.series.c.calling_ae, sender_host().label("sender_host"))
        with self._db.read() as connection:
            found = connection.execute(query.where(t.series.c.series_instance_uid == series_instance_uid)).one_or_none()
        return NOBODY if found is None else Sender(found.calling_ae.strip(), found.sender_host or "")

    def undelivered(self) -> dict[DeliveryState, int]:
        """Return how many deliveries are in each state but DELIVERED."""
        # By target first, as the index of the undelivered has them.
        groups = (t.outbox.c.target, t.outbox.c.state)
        query = sa.select(*groups, sa.func.count()).where(sa.text(t.UNDELIVERED)).group_by(*groups)
        found: dict[DeliveryState, int] = {s: 0 for s in DeliveryState if s is not DeliveryState.DELIVERED}
        with self._db.read() as connection:
            for _, state, number in connection.execute(query):
                found[DeliveryState(state)] += int(number)
        return found

    def retry(
        self,
        deliveries: Iterable[int] | None = None,
        *,
        target: str | None = None,
        actor: str,
        waiting: bool = True,
    ) -> int:
        """Send parked and waiting deliveries at the next chance; return how many. Their series leave PARKED.

        Parameters
        ----------
        deliveries
            Their numbers; None for all.
        target
            Only those to this target.
        waiting
            Those that wait for their next attempt, too; else only the parked ones.
        """
        wanted: sa.ColumnElement[bool] = t.outbox.c.state.in_([_PARKED, _PENDING] if waiting else [_PARKED])
        if target is not None:
            wanted &= t.outbox.c.target == target
        if deliveries is not None:
            numbers = sorted(set(deliveries))
            pages = [numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH)]
            return sum(len(self._retry_page(wanted & t.outbox.c.delivery_id.in_(page), actor)) for page in pages)
        done, after = 0, 0
        while page := self._retry_page(wanted & (t.outbox.c.delivery_id > after), actor):
            done, after = done + len(page), page[-1]
        return done

    def _retry_page(self, wanted: sa.ColumnElement[bool], actor: str) -> list[int]:
        now = self._clock()
        with self._db.write() as connection:
            query = joined().where(wanted).order_by(t.outbox.c.delivery_id).limit(_BATCH)
            rows = connection.execute(query.with_for_update(of=t.outbox)).all()
            numbers = [row.delivery_id for row in rows]
            values = {"state": _PENDING, "next_attempt_at": now, "created_at": now}
            connection.execute(t.outbox.update().where(t.outbox.c.delivery_id.in_(numbers)).values(**values))
            for row in rows:
                if row.state == _PARKED and row.kind == DocumentKind.REPORT:
                    transition(
                        connection, row.series_instance_uid, [SeriesState.PARKED], SeriesState.REPORTED,
                        version=row.version, reason=f"delivery {row.delivery_id} retried", actor=actor, at=now,
                    )  # fmt: skip
        return numbers

    def park_row(self, delivery_id: int, reason: str, *, actor: str) -> bool:
        """Take a waiting delivery out of the flow."""
        return bool(self._park_page(t.outbox.c.delivery_id == delivery_id, reason, actor))

    def park_unknown(self, known: Sequence[str], reason: str, *, actor: str) -> Mapping[str, int]:
        """Take the waiting deliveries to every other target than these out of the flow; return how many of each."""
        parked: dict[str, int] = {}
        while page := self._park_page(t.outbox.c.target.not_in(list(known)), reason, actor):
            for target in page:
                parked[target] = parked.get(target, 0) + 1
        return parked

    def _park_page(self, wanted: sa.ColumnElement[bool], reason: str, actor: str) -> list[str]:
        now = self._clock()
        values = {"state": _PARKED, "last_answer": f"{reason} ({actor})"}
        with self._db.write() as connection:
            query = joined().where(wanted, t.outbox.c.state == _PENDING).order_by(t.outbox.c.delivery_id)
            rows = connection.execute(query.limit(_BATCH).with_for_update(of=t.outbox)).all()
            numbers = [row.delivery_id for row in rows]
            connection.execute(t.outbox.update().where(t.outbox.c.delivery_id.in_(numbers)).values(**values))
            for row in rows:
                _park_series(connection, _report(row), f"delivery to {row.target} parked: {reason}", now)
        return [row.target for row in rows]


def _listed(states: set[str], after: int | None, target: str | None) -> sa.Select[tuple[int]]:
    """Select the numbers of deliveries in these states, the latest first, along an index that has this order."""
    row = t.outbox.c
    below = LARGEST_ID if after is None else min(after, LARGEST_ID)
    query = sa.select(row.delivery_id).order_by(row.delivery_id.desc())
    if _DELIVERED not in states:
        query = query.where(sa.text(t.UNDELIVERED), row.state.in_(sorted(states)), row.delivery_id < below)
        return query if target is None else query.where(row.target == target)
    # Nearly every row fits; by an index of the states SQLite would have to sort them.
    query = query.where(t.plain(row.state).in_(sorted(states)))
    if target is None:
        return query.where(row.delivery_id < below)
    # As a range: of a target that is said to be equal, SQLite may read every delivery in the order of the numbers.
    place = sa.tuple_(row.target, row.delivery_id) < sa.tuple_(sa.literal(target), sa.literal(below))
    return query.where(place, row.target >= target).order_by(None).order_by(row.target.desc(), row.delivery_id.desc())


def _held(delivery: Delivery) -> sa.ColumnElement[bool]:
    return (
        (t.outbox.c.delivery_id == delivery.delivery_id)
        & (t.outbox.c.lease_token == delivery.lease_token)
        & (t.outbox.c.state == _SENDING)
    )


def _close(connection: sa.Connection, delivery: Delivery, values: dict[str, object]) -> bool:
    update = t.outbox.update().where(_held(delivery)).values(**values, lease_token=None, lease_until=None)
    return bool(connection.execute(update).rowcount)


def _settle(connection: sa.Connection, report: ReportRef, at: dt.datetime) -> None:
    if report.kind is not DocumentKind.REPORT:
        return
    waiting = sa.select(t.outbox.c.state, t.outbox.c.target, t.outbox.c.last_answer).where(
        (t.outbox.c.report_uid == report.sop_instance_uid) & (t.outbox.c.state != _DELIVERED)
    )
    rows = connection.execute(waiting).all()
    if rows and all(row.state == _PARKED for row in rows):
        # An operator retried one of several parked deliveries; the others still need somebody.
        _park_series(connection, report, f"report not delivered to {rows[0].target}: {rows[0].last_answer}", at)
    if not rows:
        transition(
            connection, report.series_instance_uid, [SeriesState.REPORTED], SeriesState.DELIVERED,
            version=report.version, reason="every target has the report", actor="deliver", at=at,
        )  # fmt: skip


def _park_series(connection: sa.Connection, report: ReportRef, reason: str, at: dt.datetime) -> None:
    if report.kind is not DocumentKind.REPORT:
        return
    transition(
        connection, report.series_instance_uid, [SeriesState.REPORTED], SeriesState.PARKED,
        version=report.version, reason=reason, actor="deliver", at=at, values={"parked_reason": reason},
    )  # fmt: skip


def _latest_report(connection: sa.Connection, uid: str) -> ReportRef | None:
    query = _reports_of(uid, DocumentKind.REPORT).order_by(t.reports.c.version.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _report(row)


def _reports_of(uid: str, kind: DocumentKind) -> sa.Select[tuple[object, ...]]:
    return sa.select(t.reports).where(t.reports.c.series_instance_uid == uid, t.reports.c.kind == kind)


def _report(row: sa.Row[tuple[object, ...]]) -> ReportRef:
    values = row._mapping
    names = [name for name in ReportRef.__slots__ if name not in ("created_at", "kind")]
    created = values.get("report_created_at", values["created_at"])
    kind = DocumentKind(values["kind"])
    return ReportRef(**{name: values[name] for name in names}, created_at=created, kind=kind)


def _row(row: sa.Row[tuple[object, ...]]) -> OutboxRow:
    values = row._mapping
    names = [name for name in OutboxRow.__slots__ if name not in ("report", "state")]
    kept = {name: values[name] for name in names}
    return OutboxRow(**kept, state=DeliveryState(values["state"]), report=_report(row))
