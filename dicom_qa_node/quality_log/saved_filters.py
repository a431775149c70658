"""Filters of the log that an account has saved under a name, and those that others share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicom_qa_node.db.account_tables import accounts
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.review_tables import saved_filters
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent

__all__ = ["SavedFilter", "SavedFilters"]

_MOST_NAME, _MOST_QUERY = 60, 1500
_MOST_OWN, _MOST_SHARED = 50, 100


@dataclass(frozen=True, slots=True)
class SavedFilter:
    """A view of the log; ``query`` is what stands after the question mark, ``owner`` the name of its account."""

    filter_id: int
    account_id: int
    owner: str
    name: str
    query: str
    shared: bool
    created_at: dt.datetime


class SavedFilters:
    """Reads, adds and removes them."""

    def __init__(self, database: Database, *, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._db = database
        self._clock = clock

    def of(self, account_id: int) -> list[SavedFilter]:
        """Return those of an account, then those that others share, each by name."""
        f = saved_filters.c
        own = _query().where(f.account_id == account_id).order_by(f.name).limit(_MOST_OWN)
        others = f.shared & (f.account_id != account_id)
        shared = _query().where(others).order_by(f.name, f.filter_id).limit(_MOST_SHARED)
        with self._db.read() as connection:
            return [_filter(row) for query in (own, shared) for row in connection.execute(query)]

    def one(self, filter_id: int, account_id: int) -> SavedFilter | None:
        """Return one that an account may open, None where there is none."""
        f = saved_filters.c
        query = _query().where((f.filter_id == filter_id) & (f.shared | (f.account_id == account_id)))
        with self._db.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _filter(row)

    def save(self, account_id: int, name: str, query: str, *, shared: bool) -> int:
        """Save a view; one of the same name is replaced. Return its number.

        Raises
        ------
        Permanent
            The name or the view cannot be kept; the text says why.
        """
        name, f = " ".join(name.split()), saved_filters.c
        if not name or len(name) > _MOST_NAME:
            raise Permanent(f"a view needs a name of at most {_MOST_NAME} characters")
        if len(query) > _MOST_QUERY:
            raise Permanent("this view has too many filters to be saved")
        same = (f.account_id == account_id) & (f.name == name)
        try:
            with self._db.write() as connection:
                known = connection.execute(sa.select(f.filter_id).where(same)).scalar()
                if known is not None:
                    connection.execute(saved_filters.update().where(same).values(query=query, shared=shared))
                    return int(known)
                own = sa.select(sa.func.count()).where(f.account_id == account_id)
                if connection.execute(own).scalar_one() >= _MOST_OWN:
                    raise Permanent(f"an account keeps at most {_MOST_OWN} views; remove one first")
                made = saved_filters.insert().values(
                    account_id=account_id, name=name, query=query, shared=shared, created_at=self._clock()
                )
                return int(connection.execute(made.returning(f.filter_id)).scalar_one())
        except IntegrityError:
            raise Permanent("a view of this name was saved at this moment") from None

    def remove(self, filter_id: int, account_id: int) -> bool:
        """Remove a view of an account; False where it has none of that number."""
        f = saved_filters.c
        mine = (f.filter_id == filter_id) & (f.account_id == account_id)
        with self._db.write() as connection:
            return connection.execute(saved_filters.delete().where(mine)).rowcount > 0


def _query() -> sa.Select[Any]:
    f, owner = saved_filters.c, accounts.c.name.label("owner")
    columns = (f.filter_id, f.account_id, owner, f.name, f.query, f.shared, f.created_at)
    return sa.select(*columns).join(accounts, accounts.c.account_id == f.account_id)


def _filter(row: sa.Row[Any]) -> SavedFilter:
    return SavedFilter(**row._mapping)
