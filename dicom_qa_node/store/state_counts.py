"""How many rows are in each state, where nearly all of a million are in one: all but that one are counted."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

__all__ = ["counts_by_state"]

_FIRST_BOUND = 20_000
_STEP = 10


def counts_by_state(connection: sa.Connection, column: sa.Column[str], states: Sequence[str]) -> dict[str, int]:
    """Count the rows of each state, exactly, in the view of one transaction.

    Parameters
    ----------
    column
        The state, first in an index.
    states
        Every value that it can have.
    """
    if connection.dialect.name != "sqlite":
        grouped = sa.select(column, sa.func.count()).group_by(column)
        found = {state: int(number) for state, number in connection.execute(grouped)}
        return {state: found.get(state, 0) for state in states}
    counted: dict[str, int] = {}
    large, bound = list(states), _FIRST_BOUND
    while len(large) > 1:
        numbers = connection.execute(sa.select(*(_up_to(column, state, bound) for state in large))).one()
        counted |= {state: int(number) for state, number in zip(large, numbers, strict=True) if number < bound}
        large, bound = [state for state in large if state not in counted], bound * _STEP
    for state in large:
        # The number of all rows is known to SQLite from the pages of an index, without a look at any row.
        everything = int(connection.execute(sa.select(sa.func.count()).select_from(column.table)).scalar_one())
        counted[state] = everything - sum(counted.values())
    return {state: counted[state] for state in states}


def _up_to(column: sa.Column[str], state: str, bound: int) -> sa.ScalarSelect[int]:
    some = sa.select(sa.literal_column("1")).where(column == state).limit(bound).subquery()
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()
