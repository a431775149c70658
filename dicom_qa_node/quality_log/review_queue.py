"""The review queue: which series wait for a person, in which order, and who is asked about which."""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicom_qa_node.db.account_tables import accounts
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import ReviewMark, log_rows
from dicom_qa_node.db.review_tables import OPEN, WAITS_FOR_REVIEW, review_assignments
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Grade, Severity
from dicom_qa_node.quality_log.filters import LogRow
from dicom_qa_node.quality_log.search import lines

__all__ = [
    "MOST_COUNTED",
    "REVIEWERS",
    "Assignment",
    "Place",
    "QueueItem",
    "QueueReason",
    "QueueScope",
    "ReviewQueue",
    "close_assignment",
    "reason_of",
]

MOST_COUNTED = 1000
_MOST_NOTE = 300
REVIEWERS = (Role.REVIEWER, Role.ADMIN)
"""The roles whose accounts may be asked for a review."""


class QueueReason(StrEnum):
    """Why a series waits; the value is shown."""

    NON_DIAGNOSTIC = "not diagnostic"
    LIMITED = "limited, with findings"
    ASSIGNED = "assigned"


class QueueScope(StrEnum):
    """Whose series a queue holds: everybody's and mine, mine alone, or those of others, too."""

    OPEN = "open"
    MINE = "mine"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Somebody is asked for a review; ``name`` is the account's, ``closed_at`` None while it is open."""

    assignment_id: int
    series_instance_uid: str
    account_id: int
    name: str
    full_name: str
    assigned_at: dt.datetime
    waiting_since: dt.datetime
    assigned_by: str
    note: str
    closed_at: dt.datetime | None
    outcome: str


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a series stands: since when it waits, then the number of its result."""

    waiting_since: dt.datetime
    result_id: int


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One series that waits."""

    place: Place
    row: LogRow
    reason: QueueReason
    assignment: Assignment | None


def reason_of(row: LogRow) -> QueueReason | None:
    """Return why a series waits without anybody having assigned it, None where it does not.

    The same rule as `db.review_tables.WAITS_FOR_REVIEW`, which the index serves.
    """
    if not row.latest or row.review is not ReviewMark.NONE:
        return None
    if row.grade is Grade.NON_DIAGNOSTIC:
        return QueueReason.NON_DIAGNOSTIC
    limited = row.grade is Grade.LIMITED and row.severity in (Severity.WARNING, Severity.ERROR)
    return QueueReason.LIMITED if limited else None


def close_assignment(connection: sa.Connection, series_instance_uid: str, reviewer: str, at: dt.datetime) -> None:
    """Close the open assignment of a series where the account called ``reviewer`` is the one that is asked."""
    a = review_assignments.c
    asked = sa.select(accounts.c.account_id).where(accounts.c.name == reviewer)
    connection.execute(
        review_assignments.update()
        .where((a.series_instance_uid == series_instance_uid) & sa.text(OPEN) & a.account_id.in_(asked))
        .values(closed_at=at, outcome="reviewed")
    )


class ReviewQueue:
    """Reads the queue and assigns series.

    Two lists are merged, both in the order of an index: the unassigned rows that `WAITS_FOR_REVIEW` describes, and the
    open assignments. No page reads more than its own length of either.
    """

    def __init__(self, database: Database, *, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db = database
        self._clock = clock

    def page(
        self,
        scope: QueueScope,
        account_id: int,
        *,
        since: dt.datetime | None = None,
        beyond: Place | None = None,
        back: bool = False,
        limit: int = 20,
    ) -> list[QueueItem]:
        """Return series of the queue, what waits longest first.

        Parameters
        ----------
        since
            Unassigned series that were scored before are left out; assigned ones never are.
        beyond
            Only what stands after this place; with ``back`` what stands before it, the nearest first.
        """
        with self._db.read() as connection:
            sources = [self._assigned(scope, account_id, beyond, back)]
            if scope is not QueueScope.MINE:
                sources.append(self._unassigned(since, beyond, back))
            found = [
                [(Place(row.waiting_since, row.result_id), row.assignment_id) for row in connection.execute(query)]
                for query in (source.limit(limit) for source in sources)
            ]
            merged = list(heapq.merge(*found, key=lambda item: item[0], reverse=back))[:limit]
            return _items(connection, merged)

    def count(self, scope: QueueScope, account_id: int, *, since: dt.datetime | None = None) -> int:
        """Return how many series wait, counted to at most `MOST_COUNTED`."""
        sources = [self._assigned(scope, account_id, None, False)]
        if scope is not QueueScope.MINE:
            sources.append(self._unassigned(since, None, False))
        with self._db.read() as connection:
            counted = [
                connection.execute(sa.select(sa.func.count()).select_from(source.limit(MOST_COUNTED).subquery()))
                for source in sources
            ]
            return min(MOST_COUNTED, sum(int(result.scalar_one()) for result in counted))

    def item(self, series_instance_uid: str) -> QueueItem | None:
        """Return the item of a series, None where it does not wait (any more)."""
        r = log_rows.c
        latest = sa.select(r.result_id).where((r.series_instance_uid == series_instance_uid) & (r.latest == 1))
        with self._db.read() as connection:
            number = connection.execute(latest).scalar()
            if number is None:
                return None
            (row,) = lines(connection, [number])
            assigned = _open_of(connection, series_instance_uid)
            reason = reason_of(row) or (QueueReason.ASSIGNED if assigned else None)
        if reason is None:
            return None
        return QueueItem(Place(assigned.waiting_since if assigned else row.scored_at, number), row, reason, assigned)

    def assign(self, series_instance_uid: str, account_id: int, *, by: str, note: str = "") -> Assignment:
        """Ask somebody for a review of a series; whoever was asked before no longer is.

        Raises
        ------
        Permanent
            The series has no score yet, or the account cannot review; the text says which.
        """
        if len(note) > _MOST_NOTE:
            raise Permanent(f"a note has at most {_MOST_NOTE} characters")
        now, r = self._clock(), log_rows.c
        try:
            with self._db.write() as connection:
                latest = (r.series_instance_uid == series_instance_uid) & (r.latest == 1)
                number = connection.execute(sa.select(r.result_id).where(latest)).scalar()
                if number is None:
                    raise Permanent(f"series {series_instance_uid} has no score that could be reviewed")
                _require_reviewer(connection, account_id)
                (row,) = lines(connection, [number])
                before = _close(connection, series_instance_uid, now, "reassigned")
                since = before.waiting_since if before else row.scored_at if reason_of(row) else now
                connection.execute(
                    review_assignments.insert().values(
                        series_instance_uid=series_instance_uid, account_id=account_id, assigned_at=now,
                        waiting_since=since, assigned_by=by, note=note.strip(),
                    )
                )  # fmt: skip
                made = _open_of(connection, series_instance_uid)
        except IntegrityError:
            raise Permanent("somebody else assigned it at this moment; look again") from None
        assert made is not None
        return made

    def withdraw(self, series_instance_uid: str) -> bool:
        """Ask nobody any more; False where nobody was asked."""
        with self._db.write() as connection:
            return _close(connection, series_instance_uid, self._clock(), "withdrawn") is not None

    def assigned_to(self, account_id: int, limit: int = 100) -> list[Assignment]:
        """Return the open assignments of an account, the latest first."""
        a = review_assignments.c
        query = _assignments().where((a.account_id == account_id) & sa.text(OPEN))
        with self._db.read() as connection:
            found = connection.execute(query.order_by(a.assignment_id.desc()).limit(limit))
            return [_assignment(row) for row in found]

    @staticmethod
    def _unassigned(since: dt.datetime | None, beyond: Place | None, back: bool) -> sa.Select[Any]:
        r, a = log_rows.c, review_assignments.c
        assigned = sa.select(a.assignment_id).where((a.series_instance_uid == r.series_instance_uid) & sa.text(OPEN))
        query = sa.select(r.scored_at.label("waiting_since"), r.result_id, sa.null().label("assignment_id"))
        query = query.where(sa.text(WAITS_FOR_REVIEW), ~assigned.exists())
        if since is not None:
            query = query.where(r.scored_at >= since)
        return _ordered(query, r.scored_at, r.result_id, beyond, back)

    @staticmethod
    def _assigned(scope: QueueScope, account_id: int, beyond: Place | None, back: bool) -> sa.Select[Any]:
        r, a = log_rows.c, review_assignments.c
        query = sa.select(a.waiting_since, r.result_id, a.assignment_id).join_from(
            review_assignments, log_rows, (r.series_instance_uid == a.series_instance_uid) & (r.latest == 1)
        )
        query = query.where(sa.text(OPEN))
        if scope is not QueueScope.ALL:
            query = query.where(a.account_id == account_id)
        return _ordered(query, a.waiting_since, r.result_id, beyond, back)


def _ordered(
    query: sa.Select[Any], since: sa.Column[Any], number: sa.Column[Any], beyond: Place | None, back: bool
) -> sa.Select[Any]:
    if beyond is not None:
        there = sa.tuple_(beyond.waiting_since, beyond.result_id, types=[since.type, number.type])
        here = sa.tuple_(since, number)
        query = query.where(here < there if back else here > there)
    return query.order_by(*((since.desc(), number.desc()) if back else (since.asc(), number.asc())))


def _items(connection: sa.Connection, found: Sequence[tuple[Place, int | None]]) -> list[QueueItem]:
    rows = {row.result_id: row for row in lines(connection, [place.result_id for place, _ in found])}
    numbers = [number for _, number in found if number is not None]
    query = _assignments().where(review_assignments.c.assignment_id.in_(numbers))
    asked = {row.assignment_id: _assignment(row) for row in connection.execute(query)} if numbers else {}
    return [
        QueueItem(place, row, reason_of(row) or QueueReason.ASSIGNED, None if number is None else asked.get(number))
        for place, number in found
        if (row := rows.get(place.result_id)) is not None
    ]


def _assignments() -> sa.Select[Any]:
    account = accounts.c
    return sa.select(review_assignments, account.name, account.full_name).join(
        accounts, account.account_id == review_assignments.c.account_id
    )


def _assignment(row: Any) -> Assignment:
    values = row._mapping
    return Assignment(**{name: values[name] for name in Assignment.__dataclass_fields__})


def _open_of(connection: sa.Connection, series_instance_uid: str) -> Assignment | None:
    same = review_assignments.c.series_instance_uid == series_instance_uid
    row = connection.execute(_assignments().where(same & sa.text(OPEN))).one_or_none()
    return None if row is None else _assignment(row)


def _close(connection: sa.Connection, series_instance_uid: str, at: dt.datetime, outcome: str) -> Assignment | None:
    before = _open_of(connection, series_instance_uid)
    if before is not None:
        same = review_assignments.c.assignment_id == before.assignment_id
        connection.execute(review_assignments.update().where(same).values(closed_at=at, outcome=outcome))
    return before


def _require_reviewer(connection: sa.Connection, account_id: int) -> None:
    row = connection.execute(sa.select(accounts).where(accounts.c.account_id == account_id)).one_or_none()
    if row is None or not row.active:
        raise Permanent("there is no such account, or it is closed")
    if row.role not in REVIEWERS:
        raise Permanent(f"{row.name} is a {row.role} and cannot review")
