"""Counts by state are exact on both databases, whichever state has nearly all rows, and walk no large index."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from dicom_qa_node.records import DeliveryState, SeriesState
from dicom_qa_node.store import NodeFacts, Outbox, Registry, state_counts
from dicom_qa_node.store import tables as t

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)


def put(database, **counts: int) -> None:
    rows = [
        {
            "series_instance_uid": f"1.2.{state}.{number}", "state": state, "state_since": T0, "expected": {},
            "first_received_at": T0, "last_received_at": T0,
        }
        for state, many in counts.items()
        for number in range(many)
    ]  # fmt: skip
    if rows:
        with database.write() as connection:
            connection.execute(t.series.insert(), rows)


def send(database, **counts: int) -> None:
    put(database, DELIVERED=1)
    rows = [(state, number) for state, many in counts.items() for number in range(many)]
    uid = "1.2.DELIVERED.0"
    with database.write() as connection:
        for version, (state, number) in enumerate(rows, start=1):
            report = f"9.{state}.{number}"
            connection.execute(
                t.reports.insert().values(
                    sop_instance_uid=report, sop_class_uid="1.2", report_series_uid="9", series_instance_uid=uid,
                    version=version, path=report, created_at=T0,
                )
            )  # fmt: skip
            connection.execute(
                t.outbox.insert().values(
                    report_uid=report, series_instance_uid=uid, target=f"t{number % 2}", state=state,
                    created_at=T0 + dt.timedelta(minutes=version), next_attempt_at=T0,
                )
            )  # fmt: skip


@pytest.mark.parametrize(
    "counts",
    [{}, {"DELIVERED": 30}, {"DELIVERED": 30, "PARKED": 1}, {"REPORTED": 25, "DELIVERED": 26, "PARKED": 4},
     {"RECEIVING": 1, "COMPLETE": 2, "SCORED": 3}],
)  # fmt: skip
def test_series_are_counted_exactly(any_database, monkeypatch, counts):
    monkeypatch.setattr(state_counts, "_FIRST_BOUND", 2)
    monkeypatch.setattr(state_counts, "_STEP", 3)
    put(any_database, **counts)
    assert Registry(any_database).counts() == {state: counts.get(state.value, 0) for state in SeriesState}


def test_deliveries_are_counted_exactly(any_database):
    send(any_database, PENDING=1, SENDING=2, PARKED=3, DELIVERED=9)
    outbox, facts = Outbox(any_database), NodeFacts(any_database)
    assert outbox.counts() == {
        DeliveryState.PENDING: 1, DeliveryState.SENDING: 2, DeliveryState.PARKED: 3, DeliveryState.DELIVERED: 9
    }  # fmt: skip
    assert outbox.undelivered() == {
        DeliveryState.PENDING: 1, DeliveryState.SENDING: 2, DeliveryState.PARKED: 3
    }  # fmt: skip
    assert facts.undelivered_by_target() == {
        "t0": {"PENDING": 1, "SENDING": 1, "PARKED": 2}, "t1": {"SENDING": 1, "PARKED": 1}
    }  # fmt: skip
    assert facts.oldest_undelivered() == T0 + dt.timedelta(minutes=1)


def test_only_dead_letters_are_retried_and_only_a_page_of_them_is_read(any_database):
    send(any_database, PENDING=2, PARKED=5)
    outbox = Outbox(any_database)
    shown = outbox.dead(2)
    assert [item.delivery_id for item in shown] == [7, 6]
    assert [item.delivery_id for item in outbox.dead(9, after=6)] == [5, 4, 3]
    assert outbox.retry(actor="ada", waiting=False) == 5
    assert outbox.undelivered()[DeliveryState.PENDING] == 7


def test_what_pages_ask_of_deliveries_is_answered_by_the_index_of_the_undelivered(tmp_path):
    from dicom_qa_node.store import Database

    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    asked: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    facts = NodeFacts(database)
    for ask in (facts.undelivered_by_target, facts.oldest_undelivered, Outbox(database).undelivered):
        ask()
    queries = [line for line in asked if "outbox" in line]
    assert len(queries) == 3
    with database.read() as connection:
        for query in queries:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
            assert "ix_outbox_undelivered" in plan, plan
    database.close()
