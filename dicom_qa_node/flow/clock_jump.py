"""Puts right what waits for a time that will not come soon, because the wall clock of the host was set back.

Nothing of the flow is ever put off, or leased, for longer than its settings say. A row that is, was written while the
clock was ahead: work that is put off is due now, and a lease runs for its usual time from now on. A living holder
renews its lease as ever, one that is gone loses it.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from dicom_qa_node.charts.alerts import MessageState
from dicom_qa_node.config import Config
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import messages
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import heat_requests
from dicom_qa_node.domain.states import DeliveryState
from dicom_qa_node.flow.heat_map_requests import LEASE_S as HEAT_LEASE_S
from dicom_qa_node.flow.jobs import LONGEST_PAUSE_S

__all__ = ["clamp_future_due_times"]

# Hosts whose clocks differ a little share one database.
_SKEW_S = 60.0
# Quiet hours put an alert off for a week at most.
_ALERT_S = 8 * 86400.0
_ALERT_LEASE_S = 3600.0


def clamp_future_due_times(database: Database, config: Config, now: dt.datetime) -> int:
    """Bring back what lies further ahead of ``now`` than this node ever plans; return how many rows that were."""
    jobs, outbox, replies, deliver = t.jobs, t.outbox, t.commit_replies, config.deliver
    put_off = [
        (jobs, jobs.c.state == "READY", jobs.c.available_at, LONGEST_PAUSE_S),
        (outbox, outbox.c.state == DeliveryState.PENDING, outbox.c.next_attempt_at, deliver.retry_max_s),
        (replies, replies.c.finished_at.is_(None), replies.c.next_attempt_at, deliver.retry_max_s),
        (messages, messages.c.state == MessageState.PENDING.value, messages.c.not_before, _ALERT_S),
    ]
    leased = [
        (jobs, jobs.c.state == "RUNNING", jobs.c.lease_until, config.score.lease_s),
        (outbox, outbox.c.state == DeliveryState.SENDING, outbox.c.lease_until, deliver.lease_s),
        (messages, messages.c.state == MessageState.SENDING.value, messages.c.lease_until, _ALERT_LEASE_S),
        (heat_requests, heat_requests.c.ended_at.is_(None), heat_requests.c.lease_until, HEAT_LEASE_S),
    ]
    found = 0
    for table, waiting, column, longest_s in put_off:
        found += _recall(database, table, waiting, column, now, longest_s, now)
    for table, held, column, lease_s in leased:
        found += _recall(database, table, held, column, now, 2 * lease_s, now + dt.timedelta(seconds=lease_s))
    return found


def _recall(
    database: Database,
    table: sa.Table,
    of: sa.ColumnElement[bool],
    column: sa.Column[dt.datetime],
    now: dt.datetime,
    longest_s: float,
    to: dt.datetime,
) -> int:
    far = of & (column > now + dt.timedelta(seconds=longest_s + _SKEW_S))
    with database.read() as connection:
        if connection.execute(sa.select(column).where(far).limit(1)).first() is None:
            return 0
    with database.write() as connection:
        return connection.execute(table.update().where(far).values({column: to})).rowcount
