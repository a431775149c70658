"""Which delivery goes next: the conditions behind `Outbox.claim`, and the rows they are about."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.domain.delivery import DocumentKind
from dicom_qa_node.domain.states import DeliveryState

__all__ = ["NEXT", "joined", "sender_host"]

_PENDING, _SENDING = DeliveryState.PENDING.value, DeliveryState.SENDING.value
_NOW: sa.BindParameter[dt.datetime] = sa.bindparam("now", type_=UtcDateTime)
_TARGETS: sa.BindParameter[str] = sa.bindparam("targets", type_=sa.Text, expanding=True)


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


def _first_of(due: sa.ColumnElement[bool]) -> sa.Select[tuple[object, ...]]:
    """Return the delivery that goes next of those that are due and that no other one goes before."""
    first = t.outbox.alias("first")
    # A version that is held back by the one before it holds no other series back.
    goes_first = (_is_ready(first) | _is_abandoned(first)) & ~_version_on_its_way(first)
    waits_for_study = sa.exists().where(
        (first.c.study_instance_uid == t.outbox.c.study_instance_uid)
        & (first.c.study_instance_uid != "")
        & (first.c.target == t.outbox.c.target)
        & (first.c.delivery_id < t.outbox.c.delivery_id)
        & (goes_first | ((first.c.state == _SENDING) & (first.c.lease_until >= _NOW)))
    )
    query = joined().where(due, t.outbox.c.target.in_(_TARGETS), ~_version_on_its_way(t.outbox), ~waits_for_study)
    return query.order_by(t.outbox.c.next_attempt_at, t.outbox.c.delivery_id).limit(1)


def _is_ready(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Say whether a delivery waits and its time has come."""
    return (table.c.state == _PENDING) & (table.c.next_attempt_at <= _NOW)


def _is_abandoned(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Say whether whoever was sending a delivery is gone."""
    return (table.c.state == _SENDING) & (table.c.lease_until < _NOW)


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


NEXT = tuple(_first_of(due(t.outbox)) for due in (_is_abandoned, _is_ready))
"""What asks for the next delivery, with the parameters ``targets`` and ``now``; the first answer counts.

Apart, each is the head of an index; together the database would sort all that wait. Lanes ask many times a second,
mostly in vain: to put a statement together costs more than to ask it, so that is done once.
"""
