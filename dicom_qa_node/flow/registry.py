"""What arrived: instances, series and associations, recorded in batches and rebuildable from the spool."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.config.scoring import BACKFILL_PRIORITY
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database, insert_ignore, insert_new_paths
from dicom_qa_node.db.tables import log_event, series_header_of
from dicom_qa_node.domain.dose import StoredDoseReport
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.series import (
    AssociationEnd,
    AssociationStart,
    Quarantined,
    Receipt,
    RefusedCaller,
    RepeatedInstance,
    SeriesHeader,
    SeriesProgress,
    StoredInstance,
)
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.dose.records import known_report_paths, record_dose_reports
from dicom_qa_node.flow.backfill_runs import brought_in, not_delivered
from dicom_qa_node.flow.petct_pairing import candidates, has_images, scored_alone, settled_pair
from dicom_qa_node.flow.queue import cancel_jobs, enqueue, lock_series
from dicom_qa_node.flow.refused_callers import note_refusals
from dicom_qa_node.flow.repeated_series import note_repeats
from dicom_qa_node.flow.state_machine import counts_by_state, transition

__all__ = ["Arrival", "Registry", "SeriesRow", "requeue"]

_ANY = tuple(SeriesState)
_NOT_COLUMNS = ("series", "remark")
DEFAULT_SITE = "default"

PriorityOf = Callable[[SeriesHeader, str], int]
"""Says how urgent a series is, by its facts and the AE that sent it; a greater number goes first."""


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series with where it stands, for lists and commands.

    ``received`` counts the images that retention has removed since, too.
    """

    facts: SeriesHeader
    state: SeriesState
    state_since: dt.datetime
    version: int
    received: int
    expected: int | None
    first_received_at: dt.datetime
    last_received_at: dt.datetime
    pair_series_uid: str | None
    complete_reason: str
    parked_reason: str
    conflicts: int
    calling_ae: str
    site: str
    priority: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """An image that came in; ``receiving`` where more of its series may come, and nothing is wrong with it."""

    instance_id: int
    series_instance_uid: str
    path: str
    receiving: bool


class Registry:
    """Series and instances; see the module's sentence."""

    def __init__(self, database: Database, *, site: str = DEFAULT_SITE, priority_of: PriorityOf | None = None) -> None:
        """Open the view; ``site`` is where new series arrive, ``priority_of`` how urgent a complete one is."""
        self._db, self._site, self._priority_of = database, site, priority_of

    # -- written by the receiver ------------------------------------------------------------------

    def record(self, receipts: Sequence[Receipt]) -> None:
        """Write a batch of receipts in order, in one transaction; what is there already is left alone.

        A new instance of a series that left RECEIVING re-opens it: a late image.
        """
        by_kind: dict[type, list[Any]] = {}
        for receipt in receipts:
            by_kind.setdefault(type(receipt), []).append(receipt)
        skew = self._db.skew()
        with self._db.write() as connection:
            # An association ends only after its last instance is counted, whatever the order in the batch.
            for start in by_kind.get(AssociationStart, []):
                _open_association(connection, start)
            _record_instances(connection, by_kind.get(StoredInstance, []), self._site, skew)
            record_dose_reports(connection, by_kind.get(StoredDoseReport, []), skew)
            insert_ignore(connection, t.quarantine, [asdict(item) for item in by_kind.get(Quarantined, [])])
            for end in by_kind.get(AssociationEnd, []):
                _close_association(connection, end)
            note_refusals(connection, by_kind.get(RefusedCaller, []), skew)
            note_repeats(connection, by_kind.get(RepeatedInstance, []), skew)

    def end_associations(self, receiver: str | None, at: dt.datetime | None = None) -> int:
        """Close the associations that a dead receiver left open (None: of every receiver); return how many."""
        condition: sa.ColumnElement[bool] = t.associations.c.closed_at.is_(None)
        if receiver is not None:
            condition &= t.associations.c.receiver == receiver
        with self._db.write() as connection:
            update = t.associations.update().where(condition).values(closed_at=at or self._db.now(), aborted=True)
            return connection.execute(update).rowcount

    def open_receivers(self) -> list[str]:
        """Return the receivers that have associations open, such as ``receive-0@host``."""
        query = sa.select(t.associations.c.receiver).where(t.associations.c.closed_at.is_(None)).distinct()
        with self._db.read() as connection:
            return sorted(connection.execute(query).scalars())

    def known_paths(self, paths: Iterable[str]) -> set[str]:
        """Return which of these spool paths have a row, as instance or in quarantine."""
        wanted = list(paths)
        with self._db.read() as connection:
            kept = connection.execute(sa.select(t.instances.c.path).where(t.instances.c.path.in_(wanted))).scalars()
            held = connection.execute(sa.select(t.quarantine.c.path).where(t.quarantine.c.path.in_(wanted))).scalars()
            return {*kept, *held, *known_report_paths(connection, wanted)}

    # -- read and written by completion --------------------------------------------------------------

    def receiving(self) -> list[SeriesProgress]:
        """Return every series in RECEIVING with what the completion rules may look at."""
        with self._db.read() as connection:
            rows = connection.execute(sa.select(t.series).where(t.series.c.state == SeriesState.RECEIVING)).all()
            open_counts = _open_associations(connection)
            return [_progress(connection, row, open_counts) for row in rows]

    def newest_instance(self) -> int:
        """Return the number of the image that was recorded last, 0 where there is none."""
        with self._db.read() as connection:
            return connection.execute(sa.select(sa.func.max(t.instances.c.instance_id))).scalar_one() or 0

    def arrivals(self, after: int, limit: int) -> list[Arrival]:
        """Return the images that were recorded after the one of a number, in that order, ``limit`` at most."""
        row = t.instances.c
        query = (
            sa.select(row.instance_id, row.series_instance_uid, row.path, row.conflict, t.series.c.state)
            .join(t.series, t.series.c.series_instance_uid == row.series_instance_uid)
            .where(row.instance_id > after)
            .order_by(row.instance_id)
            .limit(limit)
        )
        with self._db.read() as connection:
            return [
                Arrival(
                    item.instance_id,
                    item.series_instance_uid,
                    item.path,
                    item.state == SeriesState.RECEIVING and not item.conflict,
                )
                for item in connection.execute(query)
            ]

    def ct_candidates(self, series_instance_uid: str) -> tuple[str, ...]:
        """Return the CT series that have arrived and share study and frame of reference with a PET series."""
        with self._db.read() as connection:
            query = sa.select(t.series).where(t.series.c.series_instance_uid == series_instance_uid)
            row = connection.execute(query).one_or_none()
            if row is None or row.modality != "PT":
                return ()
            return tuple(uid for uid, state in candidates(connection, row) if state is not SeriesState.RECEIVING)

    def complete(
        self,
        progress: SeriesProgress,
        *,
        reason: str,
        pair_series_uid: str | None = None,
        at: dt.datetime | None = None,
    ) -> bool:
        """Move a series from RECEIVING to COMPLETE and queue its job, in one transaction.

        A PET series that was scored without its CT is queued again when that CT is complete.
        Returns False, and changes nothing, when something arrived since ``progress`` was read.
        """
        now = at or self._db.now()
        uid, version = progress.series_instance_uid, progress.version
        values: dict[str, Any] = {"complete_reason": reason, "pair_series_uid": pair_series_uid, "forgotten": 0}
        with self._db.write() as connection:
            row = lock_series(connection, uid)
            if row is None or row.received != progress.received:
                return False
            if brought_in(connection, uid):
                values["priority"] = BACKFILL_PRIORITY
            elif self._priority_of is not None:
                values["priority"] = self._priority_of(series_header_of(row), row.calling_ae)
            done = transition(
                connection, uid, [SeriesState.RECEIVING], SeriesState.COMPLETE,
                version=version, reason=reason, actor="complete", at=now, values=values,
            )  # fmt: skip
            if done:
                enqueue(connection, uid, version, now)
                _pair_late(connection, uid, now)
            return done

    # -- read by every later stage, and by commands ---------------------------------------------------

    def instances(self, series_instance_uid: str) -> list[StoredInstance]:
        """Return the stored instances of a series, conflicting ones included, in order of arrival."""
        query = (
            sa.select(t.instances, t.series)
            .join(t.series, t.series.c.series_instance_uid == t.instances.c.series_instance_uid)
            .where(t.instances.c.series_instance_uid == series_instance_uid)
            .order_by(t.instances.c.instance_id)
        ).set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
        with self._db.read() as connection:
            return [_instance(row._mapping) for row in connection.execute(query)]

    def not_delivered(self, series_instance_uid: str) -> str:
        """Return why no report of a series goes to a target, "" where they do."""
        return not_delivered(self._db, series_instance_uid)

    def arrived(self, series_instance_uid: str) -> tuple[int, dt.datetime | None]:
        """Return how many images of a series are in the spool and counted, and when the last of them arrived."""
        row = t.instances.c
        query = sa.select(sa.func.count(), sa.func.max(row.received_at))
        query = query.where(row.series_instance_uid == series_instance_uid, ~row.conflict)
        with self._db.read() as connection:
            count, until = connection.execute(query).one()
            return int(count), until

    def series(self, series_instance_uid: str) -> SeriesRow | None:
        """Return one series, None if it never arrived."""
        query = sa.select(t.series).where(t.series.c.series_instance_uid == series_instance_uid)
        with self._db.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _series_row(row)

    def list_series(self, states: Sequence[SeriesState] = _ANY, limit: int = 100, offset: int = 0) -> list[SeriesRow]:
        """Return the series in these states, the latest arrival first."""
        with self._db.read() as connection:
            return [_series_row(row) for row in connection.execute(_latest(set(states), limit, offset))]

    def counts(self) -> dict[SeriesState, int]:
        """Return how many series are in each state."""
        with self._db.read() as connection:
            found = counts_by_state(connection, t.series, [state.value for state in SeriesState])
        return {SeriesState(state): number for state, number in found.items()}

    def oldest_waiting(self) -> dt.datetime | None:
        """Return since when the longest-waiting series stands in COMPLETE, None if none waits."""
        query = sa.select(sa.func.min(t.series.c.state_since)).where(t.series.c.state == SeriesState.COMPLETE)
        with self._db.read() as connection:
            found: dt.datetime | None = connection.execute(query).scalar_one()
        return found

    def history(self, series_instance_uid: str) -> list[dict[str, Any]]:
        """Return the state changes of a series, oldest first."""
        query = sa.select(t.events).where(t.events.c.series_instance_uid == series_instance_uid)
        with self._db.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query.order_by(t.events.c.event_id))]

    def quarantined(self, limit: int = 100) -> list[Quarantined]:
        """Return the objects that could not be accepted, the latest first."""
        query = sa.select(t.quarantine).order_by(t.quarantine.c.at.desc()).limit(limit)
        with self._db.read() as connection:
            return [Quarantined(**row._mapping) for row in connection.execute(query)]

    # -- commanded by an operator ------------------------------------------------------------------------

    def rescore(self, series_instance_uid: str, *, actor: str, at: dt.datetime | None = None) -> bool:
        """Queue a series again as a new version; False if it is unknown, still arriving or being scored.

        Raises
        ------
        Permanent
            Retention has removed its images.
        """
        now = at or self._db.now()
        allowed = [SeriesState.SCORED, SeriesState.REPORTED, SeriesState.DELIVERED, SeriesState.PARKED]
        return self._requeue(series_instance_uid, allowed, "re-score requested", actor, now, new_version=True)

    def release(self, series_instance_uid: str, *, actor: str, at: dt.datetime | None = None) -> bool:
        """Let a parked series be tried again, or a receiving one be scored with what is there."""
        now = at or self._db.now()
        allowed = [SeriesState.PARKED, SeriesState.RECEIVING]
        return self._requeue(series_instance_uid, allowed, "released by operator", actor, now, new_version=False)

    def park(self, series_instance_uid: str, reason: str, *, actor: str, at: dt.datetime | None = None) -> bool:
        """Take a series out of the flow with a reason; its images stay in the spool."""
        now = at or self._db.now()
        allowed = [state for state in SeriesState if state is not SeriesState.PARKED]
        with self._db.write() as connection:
            done = transition(
                connection, series_instance_uid, allowed, SeriesState.PARKED,
                version=None, reason=reason, actor=actor, at=now, values={"parked_reason": reason},
            )  # fmt: skip
            if done:
                cancel_jobs(connection, series_instance_uid)
            return done

    def _requeue(
        self,
        uid: str,
        allowed: list[SeriesState],
        reason: str,
        actor: str,
        at: dt.datetime,
        *,
        new_version: bool,
    ) -> bool:
        with self._db.write() as connection:
            row = lock_series(connection, uid)
            if row is None or row.state not in allowed:
                return False
            if not has_images(connection, uid):
                raise Permanent(f"the images of series {uid} are no longer in the spool; send them again")
            version = row.version + 1 if new_version or _has_result(connection, row) else row.version
            return _back_to_complete(connection, row, version, reason, actor, at)


def _latest(states: set[SeriesState], limit: int, offset: int) -> sa.Select[Any]:
    series = t.series.c
    query = sa.select(t.series).order_by(series.last_received_at.desc())
    if states == set(SeriesState):
        return query.limit(limit).offset(offset)
    # Each state is the head of an index; asked for together, all series in them would be sorted.
    heads = [
        sa.select(
            sa.select(series.series_instance_uid)
            .where(series.state == state.value)
            .order_by(series.last_received_at.desc())
            .limit(limit + offset)
            .subquery()
        )
        for state in sorted(states)
    ]
    return query.where(series.series_instance_uid.in_(sa.union_all(*heads))).limit(limit).offset(offset)


def _has_result(connection: sa.Connection, row: sa.Row[Any]) -> bool:
    same = (t.results.c.series_instance_uid == row.series_instance_uid) & (t.results.c.version == row.version)
    return connection.execute(sa.select(t.results.c.result_id).where(same)).first() is not None


def _back_to_complete(
    connection: sa.Connection, row: sa.Row[Any], version: int, reason: str, actor: str, at: dt.datetime
) -> bool:
    uid = row.series_instance_uid
    values = {"version": version, "pair_series_uid": settled_pair(connection, row), "forgotten": 0}
    done = transition(
        connection, uid, [SeriesState(row.state)], SeriesState.COMPLETE,
        version=row.version, reason=reason, actor=actor, at=at, values=values,
    )  # fmt: skip
    if done:
        enqueue(connection, uid, version, at)
    return done


def requeue(connection: sa.Connection, uid: str, reason: str, actor: str, at: dt.datetime) -> bool:
    """Queue a series again with its images as they are now, as a new version where there is a verdict on this one."""
    row = connection.execute(sa.select(t.series).where(t.series.c.series_instance_uid == uid)).one()
    version = row.version + 1 if _has_result(connection, row) else row.version
    return _back_to_complete(connection, row, version, reason, actor, at)


def _record_instances(
    connection: sa.Connection, items: Sequence[StoredInstance], site: str, skew: dt.timedelta
) -> None:
    by_series: dict[str, list[StoredInstance]] = {}
    for item in items:
        by_series.setdefault(item.series.series_instance_uid, []).append(item)
    # In one order, so that two receivers with images of the same series do not wait for each other.
    for uid, group in sorted(by_series.items()):
        # What a series is called comes from an image that is scored, if there is one.
        first = next((item for item in group if not item.conflict), group[0])
        insert_ignore(connection, t.series, [_new_series(first, skew) | {"site": site}])
        new = insert_new_paths(connection, t.instances, [_instance_row(uid, item) for item in group])
        fresh = [item for item in group if item.path in new]
        links = {item.association_id for item in fresh}
        ends = [{"series_instance_uid": uid, "association_id": link} for link in sorted(links)]
        insert_ignore(connection, t.series_associations, ends)
        if fresh:
            _count_in(connection, uid, fresh, skew)


def _instance_row(uid: str, item: StoredInstance) -> dict[str, Any]:
    row = {name: getattr(item, name) for name in StoredInstance.__slots__ if name not in _NOT_COLUMNS}
    return row | {"series_instance_uid": uid}


def _new_series(item: StoredInstance, skew: dt.timedelta) -> dict[str, Any]:
    at = item.received_at + skew
    return asdict(item.series) | {
        "state": SeriesState.RECEIVING.value,
        "state_since": at,
        "received": 0,
        "expected": {},
        "first_received_at": at,
        "last_received_at": at,
        "calling_ae": item.calling_ae,
    }


def _count_in(connection: sa.Connection, uid: str, fresh: Sequence[StoredInstance], skew: dt.timedelta) -> None:
    same = t.series.c.series_instance_uid == uid
    row = connection.execute(sa.select(t.series).where(same).with_for_update()).one()
    counted = [item for item in fresh if not item.conflict]
    changes: dict[str, Any] = {
        "kept": row.kept + len(fresh),
        "conflicts": row.conflicts + len(fresh) - len(counted),
    }
    if counted:
        expected = dict(row.expected)
        for item in counted:
            if item.expected is not None:
                expected[item.expected_group] = max(item.expected, expected.get(item.expected_group, 0))
        latest = max(item.received_at for item in counted) + skew
        changes |= {
            "received": row.received + len(counted),
            "expected": expected,
            "last_received_at": max(row.last_received_at, latest),
            "calling_ae": counted[-1].calling_ae,
        }
        if row.state != SeriesState.RECEIVING:
            _reopen(connection, row, counted[0], skew)
    connection.execute(t.series.update().where(same).values(**changes))
    for remark in sorted({item.remark for item in fresh if item.remark}):
        _remember(connection, row, f"stored with {remark}", max(item.received_at for item in fresh) + skew)
    if len(counted) < len(fresh):
        insert_ignore(connection, t.open_conflicts, [{"series_instance_uid": uid, "images": 0}])
        opened = t.open_conflicts.update().where(t.open_conflicts.c.series_instance_uid == uid)
        connection.execute(opened.values(images=t.open_conflicts.c.images + len(fresh) - len(counted)))


def _remember(connection: sa.Connection, row: sa.Row[Any], reason: str, at: dt.datetime) -> None:
    """Write a remark into the history of a series once."""
    uid, events = row.series_instance_uid, t.events.c
    known = sa.select(events.event_id).where(events.series_instance_uid == uid, events.reason == reason).limit(1)
    if connection.execute(known).first() is None:
        log_event(connection, uid, row.version, row.state, row.state, reason, "receive", at)


def _reopen(connection: sa.Connection, row: sa.Row[Any], item: StoredInstance, skew: dt.timedelta) -> None:
    # Nobody has looked at the images of a series that only waits in COMPLETE: it keeps its version.
    version = row.version if row.state == SeriesState.COMPLETE else row.version + 1
    cancel_jobs(connection, row.series_instance_uid)
    transition(
        connection, row.series_instance_uid, _ANY, SeriesState.RECEIVING,
        version=None, reason="late image", actor=f"receive {item.calling_ae}", at=item.received_at + skew,
        values={"version": version},
    )  # fmt: skip


def _open_association(connection: sa.Connection, item: AssociationStart) -> None:
    row = {"association_id": item.association_id, "calling_ae": item.calling_ae, "host": item.host}
    insert_ignore(connection, t.associations, [row | {"receiver": item.receiver, "opened_at": item.at}])


def _close_association(connection: sa.Connection, item: AssociationEnd) -> None:
    update = t.associations.update().where(t.associations.c.association_id == item.association_id)
    connection.execute(update.values(closed_at=item.at, aborted=item.aborted))


def _pair_late(connection: sa.Connection, uid: str, at: dt.datetime) -> None:
    """Queue again, as a new version, the PET series that went without the CT which is complete only now."""
    of = sa.select(t.series)
    ct = connection.execute(of.where(t.series.c.series_instance_uid == uid)).one()
    for pet_uid in scored_alone(connection, ct):
        pet = connection.execute(of.where(t.series.c.series_instance_uid == pet_uid)).one()
        _back_to_complete(connection, pet, pet.version + 1, "its CT came late", "complete", at)


def _open_associations(connection: sa.Connection) -> dict[str, int]:
    query = (
        sa.select(t.series_associations.c.series_instance_uid, sa.func.count())
        .join(t.associations, t.associations.c.association_id == t.series_associations.c.association_id)
        .where(t.associations.c.closed_at.is_(None))
        .group_by(t.series_associations.c.series_instance_uid)
    )
    return {uid: int(count) for uid, count in connection.execute(query)}


def _progress(connection: sa.Connection, row: sa.Row[Any], open_counts: dict[str, int]) -> SeriesProgress:
    paired = candidates(connection, row) if row.modality == "PT" else ()
    return SeriesProgress(
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        modality=row.modality,
        frame_of_reference_uid=row.frame_of_reference_uid,
        received=row.received,
        expected=sum(row.expected.values()) if row.expected else None,
        open_associations=open_counts.get(row.series_instance_uid, 0),
        first_received_at=row.state_since,
        last_received_at=row.last_received_at,
        version=row.version,
        paired_series=paired,
        forgotten=row.forgotten,
    )


def _series_row(row: sa.Row[Any]) -> SeriesRow:
    return SeriesRow(
        facts=series_header_of(row),
        state=SeriesState(row.state),
        state_since=row.state_since,
        version=row.version,
        received=row.received + row.forgotten,
        expected=sum(row.expected.values()) if row.expected else None,
        first_received_at=row.first_received_at,
        last_received_at=row.last_received_at,
        pair_series_uid=row.pair_series_uid,
        complete_reason=row.complete_reason,
        parked_reason=row.parked_reason,
        conflicts=row.conflicts,
        calling_ae=row.calling_ae,
        site=row.site,
        priority=row.priority,
    )


def _instance(row: Any) -> StoredInstance:
    facts = SeriesHeader(**{name: row[f"series_{name}"] for name in t.HEADER_COLUMNS})
    names = [name for name in StoredInstance.__slots__ if name not in _NOT_COLUMNS]
    return StoredInstance(series=facts, **{name: row[f"instances_{name}"] for name in names})
