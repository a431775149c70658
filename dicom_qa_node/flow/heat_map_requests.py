"""Heat maps that people asked for on a page: a durable request per scored version, taken by a worker that has time.

A request is claimed by lease, as jobs are; it holds no series back and changes no state.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import heat_requests

__all__ = ["HeatRequest", "HeatRequests"]

#: Seconds of silence after which a claim is void.
LEASE_S = 600.0

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class HeatRequest:
    """Who wants the maps of which version; ``ended_at`` is None while it waits or is worked on.

    ``problem`` says why an ended request left slices without a map; ``lease_token`` is the worker's claim.
    """

    series_instance_uid: str
    version: int
    asked_at: dt.datetime
    asked_by: str
    attempts: int
    ended_at: dt.datetime | None
    problem: str
    lease_token: str | None


class HeatRequests:
    """The requests; ``clock`` returns the current UTC time.

    Parameters
    ----------
    lease_s
        Seconds of silence after which a claim is void; a worker is silent while it scores a series, which goes first.
    """

    def __init__(
        self, database: Database, *, lease_s: float = LEASE_S, clock: Callable[[], dt.datetime] | None = None
    ) -> None:
        self._db = database
        self._lease = dt.timedelta(seconds=lease_s)
        self._clock = clock or database.now

    def ask(self, series_instance_uid: str, version: int, *, by: str) -> bool:
        """Ask for the maps of a version that is in the log; False if they have been asked for and are not made yet."""
        values = {
            "asked_at": self._clock(), "asked_by": by, "attempts": 0, "lease_token": None, "lease_until": None,
            "ended_at": None, "problem": "",
        }  # fmt: skip
        own = _own(series_instance_uid, version)
        with self._db.write() as connection:
            found = connection.execute(sa.select(heat_requests).where(own).with_for_update()).one_or_none()
            if found is None:
                key = {"series_instance_uid": series_instance_uid, "version": version}
                connection.execute(heat_requests.insert().values(**key, **values))
            elif found.ended_at is None:
                return False
            else:
                connection.execute(heat_requests.update().where(own).values(**values))
            return True

    def of(self, series_instance_uid: str, version: int) -> HeatRequest | None:
        """Return the request for a version, None if nobody ever asked."""
        with self._db.read() as connection:
            row = connection.execute(sa.select(heat_requests).where(_own(series_instance_uid, version))).one_or_none()
        return None if row is None else _request(row)

    def claim(self) -> HeatRequest | None:
        """Take the oldest request that waits or whose worker fell silent; None if there is none.

        One whose workers died again and again ends with that as its problem.
        """
        now = self._clock()
        with self._db.read() as connection:
            if connection.execute(_due(now).limit(1)).first() is None:
                return None
        with self._db.write() as connection:
            for row in connection.execute(_due(now).limit(10).with_for_update(skip_locked=True)).all():
                own = heat_requests.update().where(_own(row.series_instance_uid, row.version))
                if row.attempts >= MAX_ATTEMPTS:
                    words = f"the worker ended {row.attempts} times while it made them"
                    connection.execute(own.values(ended_at=now, problem=words, lease_token=None, lease_until=None))
                    continue
                token = uuid.uuid4().hex
                claimed = {"attempts": row.attempts + 1, "lease_token": token, "lease_until": now + self._lease}
                connection.execute(own.values(**claimed))
                return _request(row, attempts=row.attempts + 1, lease_token=token)
        return None

    def renew(self, request: HeatRequest) -> bool:
        """Keep a claim; False when another worker has it."""
        return self._held(request, {"lease_until": self._clock() + self._lease})

    def release(self, request: HeatRequest) -> bool:
        """Give a request back, as a worker does that was told to stop; it does not count as a try."""
        freed: dict[str, object] = {"lease_token": None, "lease_until": None, "attempts": max(0, request.attempts - 1)}
        return self._held(request, freed)

    def end(self, request: HeatRequest, problem: str = "") -> bool:
        """Record that the maps are written, or why they cannot be made; False when another worker has it."""
        values = {"ended_at": self._clock(), "problem": problem, "lease_token": None, "lease_until": None}
        return self._held(request, values)

    def _held(self, request: HeatRequest, values: dict[str, object]) -> bool:
        own = _own(request.series_instance_uid, request.version)
        claim = heat_requests.c.lease_token == request.lease_token
        with self._db.write() as connection:
            return bool(connection.execute(heat_requests.update().where(own & claim).values(**values)).rowcount)


def _own(uid: str, version: int) -> sa.ColumnElement[bool]:
    return (heat_requests.c.series_instance_uid == uid) & (heat_requests.c.version == version)


def _due(now: dt.datetime) -> sa.Select[tuple[object, ...]]:
    h = heat_requests.c
    waits = h.ended_at.is_(None) & (h.lease_until.is_(None) | (h.lease_until < now))
    return sa.select(heat_requests).where(waits).order_by(h.asked_at, h.series_instance_uid, h.version)


def _request(row: sa.Row[tuple[object, ...]], **changes: object) -> HeatRequest:
    values = dict(row._mapping) | changes
    return HeatRequest(**{name: values[name] for name in HeatRequest.__slots__})
