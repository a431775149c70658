"""The state machine of a series: one transition function, and counts by state kept by triggers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import log_event, series, state_counts
from dicom_qa_node.domain.states import SeriesState

__all__ = ["counts_by_state", "fold_counts", "transition"]


def transition(
    connection: sa.Connection,
    uid: str,
    allowed: Sequence[SeriesState],
    new: SeriesState,
    *,
    version: int | None,
    reason: str,
    actor: str,
    at: dt.datetime,
    values: dict[str, Any] | None = None,
) -> bool:
    """Move a series to ``new`` if it is in one of ``allowed`` (and at ``version``, where given).

    Returns False, and changes nothing, when the series has moved on meanwhile.
    """
    row = connection.execute(
        sa.select(series.c.state, series.c.version).where(series.c.series_instance_uid == uid).with_for_update()
    ).one_or_none()
    if row is None or row.state not in allowed or version not in (None, row.version):
        return False
    changes = {"state": new.value, "state_since": at, "parked_reason": ""} | (values or {})
    connection.execute(series.update().where(series.c.series_instance_uid == uid).values(**changes))
    log_event(connection, uid, int(changes.get("version", row.version)), row.state, new.value, reason, actor, at)
    return True


_MANY = 200
_FOLD = sa.text(
    "WITH gone AS (DELETE FROM state_counts RETURNING counted, state, number) "
    "INSERT INTO state_counts (counted, state, entry, number) "
    "SELECT counted, state, txid_current(), sum(number) FROM gone GROUP BY counted, state"
)


def counts_by_state(connection: sa.Connection, table: sa.Table, states: Sequence[str]) -> dict[str, int]:
    """Count the rows of each state, exactly, in the view of one transaction.

    Parameters
    ----------
    table
        ``series`` or ``outbox``: what the triggers count.
    states
        Every value that the state can have.
    """
    c = state_counts.c
    query = sa.select(c.state, sa.func.sum(c.number)).where(c.counted == table.name).group_by(c.state)
    found = {state: int(number) for state, number in connection.execute(query)}
    return {state: found.get(state, 0) for state in states}


def fold_counts(database: Database) -> int:
    """Put the rows that transactions have left together where there are many; return how many there were.

    Who counts meanwhile sees either them or their sum.
    """
    entries = sa.select(sa.func.count()).select_from(state_counts)
    if database.is_sqlite:
        return 0
    with database.read() as connection:
        many = int(connection.execute(entries).scalar_one())
    if many < _MANY:
        return 0
    with database.write() as connection:
        connection.execute(_FOLD)
    return many
