"""The one function that changes a series' state; it checks the state it starts from and writes the history."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dicom_qa_node.records import SeriesState
from dicom_qa_node.store.tables import log_event, series

__all__ = ["move"]


def move(
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
