"""State of the backfill: runs, the series they found, and what is particular to a series that came that way.

Everything that a run has decided is a row before it acts: after kill -9 at any moment the next process goes on where
this one stopped. No series is retrieved twice, unless its retrieval was cut; none is forgotten.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.backfill_tables import backfill_runs, backfill_series
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.backfill import (
    BackfillRequest,
    BackfillRun,
    EntryState,
    FoundSeries,
    RunState,
    SeriesEntry,
)
from dicom_qa_node.domain.states import SeriesState

__all__ = ["MOST_ATTEMPTS", "BackfillRuns", "brought_in", "not_delivered"]

#: Attempts to retrieve a series before it counts as failed.
MOST_ATTEMPTS = 3
_LEASE = dt.timedelta(minutes=20)
_ARRIVAL = dt.timedelta(hours=1)
_SETTLED_AT_ONCE = 200
_OPEN = (EntryState.FOUND, EntryState.MOVING, EntryState.MOVED)
_WITH_SCORE = (SeriesState.SCORED, SeriesState.REPORTED, SeriesState.DELIVERED)
_LONGEST_WORDS = 500
_ASKED_AT_ONCE = 400
_OF_THIS_RUN = "this run has it"


class BackfillRuns:
    """Reads and writes the runs.

    Parameters
    ----------
    clock
        Returns the current UTC time; by default the one that all hosts share.
    """

    def __init__(self, database: Database, clock: Callable[[], dt.datetime] | None = None) -> None:
        self._db, self._clock = database, clock or database.now

    # -- asked for by people ---------------------------------------------------------------------------------

    def start(self, request: BackfillRequest, *, by: str) -> int:
        """Add a run and return its number; the role deliver works on it."""
        now = self._clock()
        values = {
            "source": request.source, "first_day": request.first_day, "last_day": request.last_day,
            "scanner": request.scanner, "modalities": ",".join(request.modalities),
            "rate_per_hour": request.rate_per_hour, "deliver": request.deliver, "state": RunState.RUNNING.value,
            "created_at": now, "created_by": by, "next_day": request.first_day, "next_at": now,
        }  # fmt: skip
        with self._db.write() as connection:
            insert = backfill_runs.insert().values(**values).returning(backfill_runs.c.run_id)
            return int(connection.execute(insert).scalar_one())

    def pause(self, run_id: int) -> bool:
        """Let a run rest after the series that it retrieves; False if it does not run."""
        return self._change(run_id, (RunState.RUNNING,), RunState.PAUSED)

    def resume(self, run_id: int) -> bool:
        """Go on with a run that rests or was stopped."""
        return self._change(run_id, (RunState.PAUSED, RunState.STOPPED), RunState.RUNNING)

    def stop(self, run_id: int) -> bool:
        """End a run: what it has not retrieved stays where it is."""
        return self._change(run_id, (RunState.RUNNING, RunState.PAUSED), RunState.STOPPED)

    def runs(self, limit: int = 50) -> list[BackfillRun]:
        """Return the runs, the latest first."""
        query = sa.select(backfill_runs).order_by(backfill_runs.c.run_id.desc()).limit(limit)
        with self._db.read() as connection:
            return [_run(row) for row in connection.execute(query)]

    def run(self, run_id: int) -> BackfillRun | None:
        """Return one run, or None."""
        with self._db.read() as connection:
            row = connection.execute(sa.select(backfill_runs).where(backfill_runs.c.run_id == run_id)).one_or_none()
        return None if row is None else _run(row)

    def entries(self, run_id: int, state: EntryState, limit: int = 50) -> list[SeriesEntry]:
        """Return series of a run in one state."""
        e = backfill_series.c
        query = sa.select(backfill_series).where((e.run_id == run_id) & (e.state == state.value))
        with self._db.read() as connection:
            return [_entry(row) for row in connection.execute(query.order_by(e.attempts, e.entry_id).limit(limit))]

    # -- the worker ------------------------------------------------------------------------------------------

    def claim(self, holder: str) -> BackfillRun | None:
        """Take or keep the run that is to go on next; None if there is none, or another holder has it.

        Parameters
        ----------
        holder
            The process by name and host, the same after a restart: what it held before a kill it gets back at once.
        """
        now = self._clock()
        r = backfill_runs.c
        free = r.lease_until.is_(None) | (r.lease_until < now) | (r.lease_token == holder)
        query = sa.select(backfill_runs).where(r.state == RunState.RUNNING.value, free)
        query = query.order_by(r.next_at, r.run_id).limit(1)
        with self._db.read() as connection:
            if connection.execute(query).first() is None:
                return None
        with self._db.write() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            held = {"lease_token": holder, "lease_until": now + _LEASE}
            connection.execute(backfill_runs.update().where(r.run_id == row.run_id).values(**held))
            return _run(connection.execute(sa.select(backfill_runs).where(r.run_id == row.run_id)).one())

    def renew(self, run: BackfillRun) -> None:
        """Keep a claim during a long retrieval."""
        self._update(run, {"lease_until": self._clock() + _LEASE})

    def release(self, run: BackfillRun) -> None:
        """Give a claim back."""
        self._update(run, {"lease_token": None, "lease_until": None})

    def record_day(self, run: BackfillRun, found: Sequence[FoundSeries]) -> None:
        """Write what the next day holds and move on to the day after, in one transaction.

        A series that the node has, or that another run is bringing in, is skipped.
        """
        now, r = self._clock(), backfill_runs.c
        with self._db.write() as connection:
            known = _known(connection, run.run_id, [item.series_instance_uid for item in found])
            rows = {
                item.series_instance_uid: _row(run, item, known.get(item.series_instance_uid, item.skip), now)
                for item in found
                if known.get(item.series_instance_uid) != _OF_THIS_RUN
            }
            if rows:
                connection.execute(backfill_series.insert(), list(rows.values()))
            skipped = sum(row["state"] == EntryState.SKIPPED.value for row in rows.values())
            changes = {"found": r.found + len(rows), "skipped": r.skipped + skipped, "attempts": 0, "words": ""}
            tomorrow = run.next_day + dt.timedelta(days=1)
            update = backfill_runs.update().where((r.run_id == run.run_id) & (r.next_day == run.next_day))
            if not connection.execute(update.values(next_day=tomorrow, **changes)).rowcount:
                # Another process has searched this day.
                connection.rollback()

    def take_next(self, run: BackfillRun) -> SeriesEntry | None:
        """Mark the next series as being retrieved and return it; None if none waits. Durable on return."""
        e = backfill_series.c
        mine = (e.run_id == run.run_id) & (e.state == EntryState.FOUND.value)
        query = sa.select(backfill_series).where(mine).order_by(e.attempts, e.entry_id).limit(1)
        while True:
            with self._db.write() as connection:
                row = connection.execute(query.with_for_update()).one_or_none()
                if row is None:
                    return None
                entry = _entry(row)
                # What an earlier attempt has brought in, in part, is to be completed.
                if entry.attempts or not _held(connection, [entry.series_instance_uid]):
                    self._mark(connection, entry, EntryState.MOVING, "", attempts=entry.attempts + 1)
                    return _entry(
                        connection.execute(sa.select(backfill_series).where(e.entry_id == row.entry_id)).one()
                    )
                # It came from its scanner since it was found.
                self._mark(connection, entry, EntryState.SKIPPED, "the node has it")
                _add(connection, run.run_id, skipped=1)

    def interrupted(self, run: BackfillRun) -> list[SeriesEntry]:
        """Return the series whose retrieval has no known end, of a process that was killed."""
        return self.entries(run.run_id, EntryState.MOVING)

    def arrived(self, entry: SeriesEntry) -> bool:
        """Whether every image of a series is here; False where the archive did not say how many there are."""
        s = t.series.c
        query = sa.select(s.received + s.forgotten).where(s.series_instance_uid == entry.series_instance_uid)
        with self._db.read() as connection:
            count = connection.execute(query).scalar_one_or_none()
        return count is not None and entry.images is not None and int(count) >= entry.images

    def moved(self, run: BackfillRun, entry: SeriesEntry, *, wait_s: float) -> None:
        """Note that a series was sent, and when the next one may be retrieved."""
        with self._db.write() as connection:
            self._mark(connection, entry, EntryState.MOVED, "")
            _add(connection, run.run_id, moved=1)
            due = self._clock() + dt.timedelta(seconds=wait_s)
            values = {"next_at": due, "attempts": 0, "words": ""}
            connection.execute(backfill_runs.update().where(backfill_runs.c.run_id == run.run_id).values(**values))

    def pace(self, run: BackfillRun, wait_s: float) -> None:
        """Let the next series wait by the rate of the run."""
        self._update(run, {"next_at": self._clock() + dt.timedelta(seconds=wait_s)})

    def put_back(self, entry: SeriesEntry, words: str, *, counts: bool) -> None:
        """Let a series wait again behind the others; ``counts``: the attempt was its own failure."""
        with self._db.write() as connection:
            if counts and entry.attempts >= MOST_ATTEMPTS:
                self._mark(connection, entry, EntryState.FAILED, words)
                _add(connection, entry.run_id, failed=1)
            else:
                # At least one: that images of it may be here is known by its attempts.
                attempts = entry.attempts if counts else max(1, entry.attempts - 1)
                self._mark(connection, entry, EntryState.FOUND, words, attempts=attempts)

    def try_later(self, run: BackfillRun, words: str, wait_s: float) -> None:
        """Let a run wait for what holds up all its series."""
        due = self._clock() + dt.timedelta(seconds=wait_s)
        self._update(run, {"words": words[:_LONGEST_WORDS], "attempts": run.attempts + 1, "next_at": due})

    def hold(self, run: BackfillRun, words: str, wait_s: float) -> None:
        """Let a run wait for something that is not a failure, "" for the scores of its series."""
        due = self._clock() + dt.timedelta(seconds=wait_s)
        self._update(run, {"words": words[:_LONGEST_WORDS], "next_at": due})

    def settle(self, run: BackfillRun) -> int:
        """Note which of the series that arrived have their score, or failed; return how many have neither yet."""
        now, e, s = self._clock(), backfill_series.c, t.series.c
        joined = backfill_series.outerjoin(t.series, s.series_instance_uid == e.series_instance_uid)
        columns = [*backfill_series.c, s.state.label("now"), s.parked_reason]
        mine = (e.run_id == run.run_id) & (e.state == EntryState.MOVED.value)
        query = sa.select(*columns).select_from(joined).where(mine).order_by(e.entry_id).limit(_SETTLED_AT_ONCE)
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            self._settle(run, _entry(row), row.now, row.parked_reason, now)
        current = self.run(run.run_id)
        return 0 if current is None else current.unscored

    def finish(self, run: BackfillRun) -> bool:
        """End a run of which nothing is left to do; False, and nothing changes, where something is."""
        e, r = backfill_series.c, backfill_runs.c
        left = sa.select(e.entry_id).where(e.run_id == run.run_id, e.state.in_([state.value for state in _OPEN]))
        with self._db.write() as connection:
            if connection.execute(left.limit(1)).first() is not None:
                return False
            ended = (r.run_id == run.run_id) & (r.next_day > r.last_day) & (r.state == RunState.RUNNING.value)
            values = {"state": RunState.DONE.value, "words": "", "lease_token": None, "lease_until": None}
            return bool(connection.execute(backfill_runs.update().where(ended).values(**values)).rowcount)

    def _settle(
        self, run: BackfillRun, entry: SeriesEntry, state: str | None, parked: str | None, now: dt.datetime
    ) -> None:
        with self._db.write() as connection:
            if state is None:
                if now - entry.changed_at > _ARRIVAL:
                    words = f"sent, but nothing has arrived here: does {run.request.source} send to this node?"
                    self._mark(connection, entry, EntryState.FAILED, words)
                    _add(connection, run.run_id, moved=-1, failed=1)
            elif state == SeriesState.PARKED:
                self._mark(connection, entry, EntryState.FAILED, parked or "parked")
                _add(connection, run.run_id, moved=-1, failed=1)
            elif state in _WITH_SCORE:
                self._mark(connection, entry, EntryState.SCORED, "")
                _add(connection, run.run_id, scored=1)

    def _mark(
        self, connection: sa.Connection, entry: SeriesEntry, state: EntryState, words: str, **more: object
    ) -> None:
        same = backfill_series.c.entry_id == entry.entry_id
        values = {"state": state.value, "words": words[:_LONGEST_WORDS], "changed_at": self._clock(), **more}
        connection.execute(backfill_series.update().where(same).values(**values))

    def _change(self, run_id: int, before: Sequence[RunState], after: RunState) -> bool:
        r = backfill_runs.c
        wanted = (r.run_id == run_id) & r.state.in_([state.value for state in before])
        values = {"state": after.value, "words": "", "attempts": 0, "next_at": self._clock()}
        with self._db.write() as connection:
            return bool(connection.execute(backfill_runs.update().where(wanted).values(**values)).rowcount)

    def _update(self, run: BackfillRun, values: dict[str, Any]) -> None:
        with self._db.write() as connection:
            connection.execute(backfill_runs.update().where(backfill_runs.c.run_id == run.run_id).values(**values))


def brought_in(connection: sa.Connection, series_instance_uid: str) -> bool:
    """Whether a series came by the backfill; it is scored behind all others."""
    return connection.execute(_entry_of(series_instance_uid).limit(1)).first() is not None


def not_delivered(database: Database, series_instance_uid: str) -> str:
    """Return why the reports of a series stay here, "" where they go to the targets."""
    with database.read() as connection:
        wishes = list(connection.execute(_entry_of(series_instance_uid)).scalars())
    return "" if any(wishes) or not wishes else "brought in by a backfill that delivers nothing"


def _entry_of(uid: str) -> sa.Select[Any]:
    e = backfill_series.c
    joined = backfill_series.join(backfill_runs, backfill_runs.c.run_id == e.run_id)
    # An attempt to retrieve it was made; what was skipped has none.
    wanted = (e.series_instance_uid == uid) & (e.attempts > 0)
    return sa.select(backfill_runs.c.deliver).select_from(joined).where(wanted)


def _known(connection: sa.Connection, run_id: int, uids: Sequence[str]) -> dict[str, str]:
    """Return why some series need not be retrieved."""
    e = backfill_series.c
    found: dict[str, str] = {}
    for start in range(0, len(uids), _ASKED_AT_ONCE):
        part = uids[start : start + _ASKED_AT_ONCE]
        open_ones = (e.run_id == run_id) | e.state.in_([state.value for state in _OPEN])
        query = sa.select(e.series_instance_uid, e.run_id).where(e.series_instance_uid.in_(part) & open_ones)
        found |= dict.fromkeys(_held(connection, part), "the node has it")
        for row in connection.execute(query):
            found[row.series_instance_uid] = (
                _OF_THIS_RUN if row.run_id == run_id else f"backfill {row.run_id} brings it in"
            )
    return found


def _held(connection: sa.Connection, uids: Sequence[str]) -> list[str]:
    query = sa.select(t.series.c.series_instance_uid).where(t.series.c.series_instance_uid.in_(uids))
    return list(connection.execute(query).scalars())


def _row(run: BackfillRun, item: FoundSeries, skip: str, now: dt.datetime) -> dict[str, Any]:
    return {
        "run_id": run.run_id, "series_instance_uid": item.series_instance_uid,
        "study_instance_uid": item.study_instance_uid, "study_date": item.study_date, "modality": item.modality,
        "images": item.images, "state": (EntryState.SKIPPED if skip else EntryState.FOUND).value, "attempts": 0,
        "words": skip, "changed_at": now,
    }  # fmt: skip


def _add(connection: sa.Connection, run_id: int, **counts: int) -> None:
    r = backfill_runs.c
    changes = {name: r[name] + number for name, number in counts.items()}
    connection.execute(backfill_runs.update().where(r.run_id == run_id).values(**changes))


def _run(row: Any) -> BackfillRun:
    request = BackfillRequest(
        row.source, row.first_day, row.last_day, tuple(row.modalities.split(",")), row.rate_per_hour, row.scanner,
        row.deliver,
    )  # fmt: skip
    own = {name: getattr(row, name) for name in BackfillRun.__slots__ if name not in ("request", "state")}
    return BackfillRun(request=request, state=RunState(row.state), **own)


def _entry(row: Any) -> SeriesEntry:
    values = {name: getattr(row, name) for name in SeriesEntry.__slots__ if name != "state"}
    return SeriesEntry(state=EntryState(row.state), **values)
