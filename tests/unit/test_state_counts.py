"""Counts by state are exact on both databases, follow every change in its transaction, and look at no series."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database, insert_ignore
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow import state_machine
from dicom_qa_node.flow.node_statistics import NodeStatistics
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.state_machine import fold_counts

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)


def row(state: str, number: int) -> dict[str, object]:
    return {
        "series_instance_uid": f"1.2.{state}.{number}", "state": state, "state_since": T0, "expected": {},
        "first_received_at": T0, "last_received_at": T0,
    }  # fmt: skip


def put(database, **counts: int) -> None:
    rows = [row(state, number) for state, many in counts.items() for number in range(many)]
    if rows:
        with database.write() as connection:
            connection.execute(t.series.insert(), rows)


def found(database) -> dict[str, int]:
    return {state.value: number for state, number in Registry(database).counts().items() if number}


def move_one(connection, uid: str, state: str) -> None:
    connection.execute(t.series.update().where(t.series.c.series_instance_uid == uid).values(state=state))


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
def test_series_are_counted_exactly(any_database, counts):
    put(any_database, **counts)
    assert Registry(any_database).counts() == {state: counts.get(state.value, 0) for state in SeriesState}


def test_counts_follow_what_moves_goes_and_comes_twice(any_database):
    put(any_database, COMPLETE=3, PARKED=1)
    with any_database.write() as connection:
        move_one(connection, "1.2.COMPLETE.0", "SCORING")
        move_one(connection, "1.2.COMPLETE.1", "COMPLETE")
        insert_ignore(connection, t.series, [row("COMPLETE", 2), row("PARKED", 0), row("SCORED", 0)])
        connection.execute(t.series.delete().where(t.series.c.state == "PARKED"))
    assert found(any_database) == {"COMPLETE": 2, "SCORING": 1, "SCORED": 1}


def test_what_is_taken_back_is_not_counted(any_database):
    put(any_database, COMPLETE=2)
    with pytest.raises(ZeroDivisionError), any_database.write() as connection:
        move_one(connection, "1.2.COMPLETE.0", "SCORING")
        raise ZeroDivisionError
    assert found(any_database) == {"COMPLETE": 2}


def test_counting_looks_at_no_series_and_no_delivery(any_database):
    send(any_database, PENDING=1, DELIVERED=2)
    asked: list[str] = []
    sa.event.listen(any_database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    Registry(any_database).counts()
    Outbox(any_database).counts()
    assert len(asked) >= 2
    assert not [line for line in asked if "FROM series" in line or "FROM outbox" in line]


def test_nobody_waits_for_the_count_of_somebody_else(postgresql):
    first = Database(postgresql.create())
    second = Database(first.url.render_as_string(hide_password=False))
    put(first, COMPLETE=2)
    with first.write() as one, second.write() as two:
        two.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
        move_one(one, "1.2.COMPLETE.0", "SCORING")
        move_one(two, "1.2.COMPLETE.1", "SCORING")
        assert found(first) == {"COMPLETE": 2}
    assert found(first) == {"SCORING": 2}
    first.close()
    second.close()


def test_folding_keeps_the_counts_and_leaves_a_row_for_each_state(any_database, monkeypatch):
    monkeypatch.setattr(state_machine, "_MANY", 6)
    put(any_database, COMPLETE=4)
    for number in range(4):
        with any_database.write() as connection:
            move_one(connection, f"1.2.COMPLETE.{number}", "SCORING")
    folded = fold_counts(any_database)
    assert folded == (0 if any_database.is_sqlite else 9)
    with any_database.read() as connection:
        kept = connection.execute(sa.select(t.state_counts)).all()
    assert sorted((item.state, item.number) for item in kept) == [("COMPLETE", 0), ("SCORING", 4)]
    assert fold_counts(any_database) == 0
    assert found(any_database) == {"SCORING": 4}


def test_deliveries_are_counted_exactly(any_database):
    send(any_database, PENDING=1, SENDING=2, PARKED=3, DELIVERED=9)
    outbox, facts = Outbox(any_database), NodeStatistics(any_database)
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


def test_only_parked_deliveries_are_retried_and_only_a_page_of_them_is_read(any_database):
    send(any_database, PENDING=2, PARKED=5)
    outbox = Outbox(any_database)
    shown = outbox.parked(2)
    assert [item.delivery_id for item in shown] == [7, 6]
    assert [item.delivery_id for item in outbox.parked(9, after=6)] == [5, 4, 3]
    assert outbox.retry(actor="ada", waiting=False) == 5
    assert outbox.undelivered()[DeliveryState.PENDING] == 7


def test_what_pages_ask_of_deliveries_is_answered_by_the_index_of_the_undelivered(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    asked: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    facts = NodeStatistics(database)
    for ask in (facts.undelivered_by_target, facts.oldest_undelivered, Outbox(database).undelivered):
        ask()
    queries = [line for line in asked if "outbox" in line]
    assert len(queries) == 3
    with database.read() as connection:
        for query in queries:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
            assert "ix_outbox_undelivered" in plan, plan
    database.close()
