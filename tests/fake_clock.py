"""A clock that a test moves on, for the node and for what the database server counts by its own clock."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from dicom_qa_node.db.engine import Database

__all__ = ["PassingTime", "pass_on_server"]


class PassingTime:
    """Returns ``now``; on PostgreSQL the queue's times are set back by as much as this clock goes on."""

    def __init__(self, now: dt.datetime, database: Database) -> None:
        self.now, self._database = now, database

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)
        pass_on_server(self._database, seconds)


def pass_on_server(database: Database, seconds: float) -> None:
    """Let the time of the queue on a PostgreSQL server go on."""
    if database.is_sqlite:
        return
    back = {"back": dt.timedelta(seconds=seconds)}
    with database.write() as connection:
        for table, column in (("workers", "last_heartbeat"), ("jobs", "scheduled_at")):
            connection.execute(sa.text(f"UPDATE procrastinate_{table} SET {column} = {column} - :back"), back)
