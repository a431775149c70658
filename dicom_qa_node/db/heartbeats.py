"""Heartbeats of the running processes, for the supervisor, ``health`` and the node page."""

from __future__ import annotations

import datetime as dt
import os
import socket
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database

__all__ = ["Heartbeat", "Heartbeats"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a process was last seen; ``detail`` is its own word on what it does."""

    name: str
    role: str
    host: str
    pid: int
    started_at: dt.datetime
    seen_at: dt.datetime
    detail: str


class Heartbeats:
    """Who is alive."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def beat(self, role: str, name: str | None = None, detail: str = "", at: dt.datetime | None = None) -> None:
        """Say that this process is alive; the first call of a process marks its start."""
        now = at or self._db.now()
        key = name or f"{role}@{socket.gethostname()}"
        row = {
            "role": role,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "seen_at": now,
            "detail": detail,
        }
        same = t.heartbeats.c.name == key
        with self._db.write() as connection:
            known = connection.execute(sa.select(t.heartbeats.c.pid).where(same)).scalar_one_or_none()
            if known is None:
                connection.execute(t.heartbeats.insert().values(name=key, started_at=now, **row))
            else:
                started = {} if known == os.getpid() else {"started_at": now}
                connection.execute(t.heartbeats.update().where(same).values(**row, **started))

    def require_writable(self) -> None:
        """Write nothing, as one writes: a database that can only be read says so.

        Raises
        ------
        Transient
            It is read-only, locked or full.
        """
        with self._db.write() as connection:
            connection.execute(t.heartbeats.update().where(t.heartbeats.c.name == "").values(detail=""))

    def gone(self, name: str) -> None:
        """Forget a process that stopped in order."""
        with self._db.write() as connection:
            connection.execute(t.heartbeats.delete().where(t.heartbeats.c.name == name))

    def all(self) -> list[Heartbeat]:
        """Return every heartbeat, by name."""
        with self._db.read() as connection:
            rows = connection.execute(sa.select(t.heartbeats).order_by(t.heartbeats.c.name))
            return [Heartbeat(**row._mapping) for row in rows]
