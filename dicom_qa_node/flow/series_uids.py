"""Series by the end of their UID, as people read it from a narrow table."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import series

__all__ = ["SHORTEST", "series_uids"]

SHORTEST = 12
"""Characters that an end has at least: those of the index."""

_END = f"substr(series_instance_uid, length(series_instance_uid) - {SHORTEST - 1})"
"""The expression of ``ix_series_uid_end``; a query that has it in these words is answered by that index."""


def series_uids(database: Database, named: str, limit: int = 5) -> list[str]:
    """Return the UIDs that a text names: the one that it is, else those that end with it.

    Parameters
    ----------
    named
        A Series Instance UID, or its last characters, `SHORTEST` at least; an ellipsis before them is left out.
    """
    end = named.strip().lstrip("….")
    uid = series.c.series_instance_uid
    with database.read() as connection:
        whole = connection.execute(sa.select(uid).where(uid == named.strip())).scalars().all()
        if whole or len(end) < SHORTEST:
            return list(whole)
        indexed = sa.literal_column(_END) == end[-SHORTEST:]
        query = sa.select(uid).where(indexed, uid.endswith(end, autoescape=True)).order_by(uid).limit(limit)
        return list(connection.execute(query).scalars())
