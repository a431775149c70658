"""How many rows are in each state, without a look at them: triggers count every change in its own transaction.

The table ``state_counts`` holds numbers to be added up. On SQLite, which has one writer at a time, each state has one
row. On PostgreSQL each transaction writes rows of its own, so that nobody waits for somebody else's count;
`fold_counts` puts them together from time to time.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from dicom_qa_node.store.engine import Database
from dicom_qa_node.store.tables import state_counts

__all__ = ["counts_by_state", "fold_counts"]

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
