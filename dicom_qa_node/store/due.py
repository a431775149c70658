"""Which delivery goes next: the conditions behind `Outbox.claim`, and the rows they are about."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from dicom_qa_node.records import DeliveryState, DocumentKind
from dicom_qa_node.store import tables as t

__all__ = ["first_of", "is_abandoned", "is_ready", "joined", "sender_host"]

_PENDING, _SENDING = DeliveryState.PENDING.value, DeliveryState.SENDING.value


def joined() -> sa.Select[tuple[object, ...]]:
    """Return deliveries with their reports."""
    columns = [column for column in t.reports.c if column.name not in ("created_at", "series_instance_uid", "kind")]
    report_created = t.reports.c.created_at.label("report_created_at")
    join = t.outbox.join(t.reports, t.reports.c.sop_instance_uid == t.outbox.c.report_uid)
    return sa.select(t.outbox, report_created, *columns).select_from(join)


def sender_host() -> sa.ScalarSelect[str]:
    """Return the address of the AE that sent the latest images of the series in the outer query."""
    links, calls = t.series_associations.c, t.associations.c
    return (
        sa.select(calls.host)
        .join(t.series_associations, links.association_id == calls.association_id)
        .where(
            (links.series_instance_uid == t.series.c.series_instance_uid) & (calls.calling_ae == t.series.c.calling_ae)
        )
        .order_by(calls.opened_at.desc())
        .limit(1)
        .correlate(t.series)
        .scalar_subquery()
    )


def first_of(due: sa.ColumnElement[bool], now: dt.datetime) -> sa.Select[tuple[object, ...]]:
    """Return the deliveries that are due and that no other one goes before, in the order in which they are to go."""
    first = t.outbox.alias("first")
    # A version that is held back by the one before it holds no other series back.
    goes_first = (is_ready(first, now) | is_abandoned(first, now)) & ~_version_on_its_way(first)
    waits_for_study = sa.exists().where(
        (first.c.study_instance_uid == t.outbox.c.study_instance_uid)
        & (first.c.study_instance_uid != "")
        & (first.c.target == t.outbox.c.target)
        & (first.c.delivery_id < t.outbox.c.delivery_id)
        & (goes_first | ((first.c.state == _SENDING) & (first.c.lease_until >= now)))
    )
    query = joined().where(due, ~_version_on_its_way(t.outbox), ~waits_for_study)
    return query.order_by(t.outbox.c.next_attempt_at, t.outbox.c.delivery_id)


def is_ready(table: sa.FromClause, now: dt.datetime) -> sa.ColumnElement[bool]:
    """Say whether a delivery waits and its time has come."""
    return (table.c.state == _PENDING) & (table.c.next_attempt_at <= now)


def is_abandoned(table: sa.FromClause, now: dt.datetime) -> sa.ColumnElement[bool]:
    """Say whether whoever was sending a delivery is gone."""
    return (table.c.state == _SENDING) & (table.c.lease_until < now)


def _version_on_its_way(table: sa.FromClause) -> sa.ColumnElement[bool]:
    earlier = t.outbox.alias()
    return sa.exists().where(
        (earlier.c.series_instance_uid == table.c.series_instance_uid)
        & (earlier.c.target == table.c.target)
        & (earlier.c.delivery_id < table.c.delivery_id)
        & earlier.c.state.in_([_PENDING, _SENDING])
        # What goes beside a report never holds a report back.
        & earlier.c.kind.in_([DocumentKind.REPORT, table.c.kind])
    )
