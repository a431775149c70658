"""What the bridge knows of an Orthanc server: how far its changes were read, and where each of its series stands."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.db.orthanc_tables import orthanc_series, orthanc_servers
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.states import BridgeState, SeriesState

__all__ = ["BridgedSeries", "NewReport", "OrthancLedger", "Position"]

#: Events of other processes become visible in the order of their commits, not of their numbers.
_SETTLED = dt.timedelta(seconds=30)
_EVENTS_AT_ONCE = 500
_OPEN = (BridgeState.WAITING, BridgeState.SENDING, BridgeState.SENT, BridgeState.REPORTED)


@dataclass(frozen=True, slots=True)
class Position:
    """How far the changes of a server were read.

    ``anchor`` is what the last change was about. Changes dated before ``started_at``, in Orthanc's own notation
    (``20260105T080000``), are from before the bridge. ``last_event`` is the place in the node's own history.
    """

    last_change: int
    anchor: str
    started_at: str
    last_event: int


@dataclass(frozen=True, slots=True)
class BridgedSeries:
    """One series of Orthanc; ``since`` is when its present content was first seen, ``attempts`` count from then."""

    orthanc_id: str
    series_instance_uid: str
    state: BridgeState
    images: int
    fingerprint: str
    job_id: str
    attempts: int
    due_at: dt.datetime
    since: dt.datetime
    report_uid: str
    problem: str


@dataclass(frozen=True, slots=True)
class NewReport:
    """A report that the node has made; ``followed`` are the series of Orthanc known under its Series Instance UID."""

    event_id: int
    series_instance_uid: str
    report_uid: str
    followed: tuple[BridgedSeries, ...]


class OrthancLedger:
    """The ledger of one server; ``clock`` returns the current UTC time."""

    def __init__(self, database: Database, server: str, clock: Callable[[], dt.datetime] | None = None) -> None:
        self._db, self._server = database, server
        self._clock = clock or database.now

    # -- the place in the changes ----------------------------------------------------------------------------

    def position(self) -> Position | None:
        """Return how far the changes were read, None before the first contact."""
        query = sa.select(orthanc_servers).where(orthanc_servers.c.server == self._server)
        with self._db.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Position(row.last_change, row.anchor, row.started_at, row.last_event)

    def begin(self, last_change: int, started_at: str) -> Position:
        """Note the first contact; the node's history is followed from here."""
        with self._db.write() as connection:
            newest = connection.execute(sa.select(sa.func.max(t.events.c.event_id))).scalar_one() or 0
            row = {"server": self._server, "last_change": last_change, "anchor": "", "started_at": started_at}
            insert_ignore(connection, orthanc_servers, [row | {"last_event": newest}])
        found = self.position()
        assert found is not None
        return found

    def advance(self, last_change: int, anchor: str) -> None:
        """Note that every change up to this one has been taken care of."""
        self._note(last_change=last_change, anchor=anchor)

    def hold(self, holder: str, lease_s: float) -> bool:
        """Claim the server for one process of all hosts, or renew the claim; False while another one has it."""
        now, server = self._clock(), orthanc_servers.c
        free = (server.holder == holder) | server.held_until.is_(None) | (server.held_until < now)
        update = orthanc_servers.update().where(server.server == self._server, free)
        with self._db.write() as connection:
            values = {"holder": holder, "held_until": now + dt.timedelta(seconds=lease_s)}
            return bool(connection.execute(update.values(**values)).rowcount)

    def let_go(self, holder: str) -> None:
        """Give the claim up."""
        server = orthanc_servers.c
        update = orthanc_servers.update().where(server.server == self._server, server.holder == holder)
        with self._db.write() as connection:
            connection.execute(update.values(held_until=None))

    # -- its series --------------------------------------------------------------------------------------------

    def series(self, orthanc_id: str) -> BridgedSeries | None:
        """Return one series by Orthanc's identifier, None if the bridge does not follow it."""
        with self._db.read() as connection:
            row = connection.execute(sa.select(orthanc_series).where(self._same(orthanc_id))).one_or_none()
        return None if row is None else _series(row)

    def follow(
        self, orthanc_id: str, series_instance_uid: str, state: BridgeState, *, images: int, fingerprint: str = "",
        report_uid: str = "", change: int = 0, anchor: str = "",
    ) -> None:  # fmt: skip
        """Follow a series from now on, or its new content; it is due at once.

        ``change`` and ``anchor`` are number and subject of the change that told of it.
        """
        now = self._clock()
        key = {"server": self._server, "orthanc_id": orthanc_id}
        values: dict[str, Any] = {
            "series_instance_uid": series_instance_uid, "state": state.value, "images": images,
            "fingerprint": fingerprint, "job_id": "", "attempts": 0, "due_at": now, "since": now, "problem": "",
        }  # fmt: skip
        if report_uid:
            values["report_uid"] = report_uid
        if change:
            values |= {"last_change": change, "anchor": anchor}
        with self._db.write() as connection:
            insert_ignore(connection, orthanc_series, [key | values])
            connection.execute(orthanc_series.update().where(self._same(orthanc_id)).values(**values))

    def move(self, item: BridgedSeries, state: BridgeState, *, wait_s: float = 0, **values: object) -> None:
        """Write a new state, due after ``wait_s``; unless the series has got new content since it was read."""
        due = self._clock() + dt.timedelta(seconds=wait_s)
        unchanged = self._same(item.orthanc_id) & (orthanc_series.c.since == item.since)
        with self._db.write() as connection:
            update = orthanc_series.update().where(unchanged)
            connection.execute(update.values(state=state.value, due_at=due, **values))

    def forget(self, item: BridgedSeries) -> None:
        """Leave a series alone that Orthanc no longer has."""
        with self._db.write() as connection:
            connection.execute(orthanc_series.delete().where(self._same(item.orthanc_id)))

    def due(self, limit: int = 50, *, may_start: int = 50) -> list[BridgedSeries]:
        """Return open series whose time has come, some of each state; ``may_start`` is how many of WAITING."""
        now, found = self._clock(), []
        with self._db.read() as connection:
            for state in _OPEN:
                query = sa.select(orthanc_series).where(
                    orthanc_series.c.server == self._server,
                    orthanc_series.c.state == state.value,
                    orthanc_series.c.due_at <= now,
                )
                most = max(0, may_start) if state is BridgeState.WAITING else limit
                rows = connection.execute(query.order_by(orthanc_series.c.due_at).limit(most))
                found += [_series(row) for row in rows]
        return found

    def earlier_changes(self) -> Iterator[tuple[int, str]]:
        """Yield changes that told of series, each with its subject: the newest, then ever farther back."""
        row = orthanc_series.c
        query = sa.select(row.last_change, row.anchor).where(row.server == self._server, row.last_change > 0)
        place = 0
        while True:
            with self._db.read() as connection:
                page = query.order_by(row.last_change.desc()).offset(place).limit(1)
                found = connection.execute(page).one_or_none()
            if found is None:
                return
            yield found.last_change, found.anchor
            place = place * 2 + 1

    def sending(self) -> int:
        """Return how many series Orthanc is sending."""
        row = orthanc_series.c
        query = sa.select(sa.func.count()).where(row.server == self._server, row.state == BridgeState.SENDING.value)
        with self._db.read() as connection:
            return int(connection.execute(query).scalar_one())

    def listed(self, states: Sequence[BridgeState], limit: int = 50) -> list[BridgedSeries]:
        """Return series in these states, those due first at the head."""
        row = orthanc_series.c
        query = sa.select(orthanc_series).where(row.server == self._server, row.state.in_([s.value for s in states]))
        with self._db.read() as connection:
            return [_series(found) for found in connection.execute(query.order_by(row.due_at).limit(limit))]

    # -- the node's reports ---------------------------------------------------------------------------------------

    def new_reports(self, position: Position) -> tuple[list[NewReport], int]:
        """Return the reports made since, and how far the history may be taken as read.

        A report whose score is already on every series followed under its UID is left out.
        """
        events, reports = t.events.c, t.reports.c
        page = (
            sa.select(events.event_id, events.at, events.series_instance_uid, events.version, events.new_state)
            .where(events.event_id > position.last_event)
            .order_by(events.event_id)
            .limit(_EVENTS_AT_ONCE)
            .subquery()
        )
        made = page.c.new_state == SeriesState.REPORTED.value
        same = (
            made & (reports.series_instance_uid == page.c.series_instance_uid)
            & (reports.version == page.c.version) & (reports.kind == DocumentKind.REPORT.value)
        )  # fmt: skip
        query = sa.select(page, reports.sop_instance_uid.label("report_uid")).outerjoin(t.reports, same)
        settled, found = position.last_event, {}
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(page.c.event_id)).all()
            for row in rows:
                if self._clock() - row.at > _SETTLED:
                    settled = row.event_id
                if row.report_uid is not None:
                    found[row.series_instance_uid] = row
            return [item for row in found.values() if (item := self._new_report(connection, row))], settled

    def history_read(self, last_event: int) -> None:
        """Note how far the node's history has been taken care of."""
        self._note(last_event=last_event)

    def _new_report(self, connection: sa.Connection, row: sa.Row[Any]) -> NewReport | None:
        uid = row.series_instance_uid
        same = (orthanc_series.c.series_instance_uid == uid) & (orthanc_series.c.server == self._server)
        followed = tuple(_series(found) for found in connection.execute(sa.select(orthanc_series).where(same)))
        if followed and all(item.report_uid == row.report_uid for item in followed):
            return None
        return NewReport(row.event_id, uid, row.report_uid, followed)

    def _same(self, orthanc_id: str) -> sa.ColumnElement[bool]:
        return (orthanc_series.c.server == self._server) & (orthanc_series.c.orthanc_id == orthanc_id)

    def _note(self, **values: object) -> None:
        with self._db.write() as connection:
            update = orthanc_servers.update().where(orthanc_servers.c.server == self._server)
            connection.execute(update.values(**values))


def _series(row: sa.Row[Any]) -> BridgedSeries:
    values = {name: row._mapping[name] for name in BridgedSeries.__slots__}
    return BridgedSeries(**values | {"state": BridgeState(row.state)})
