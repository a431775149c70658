"""A database of every earlier revision, with the rows of a working node in it, is upgraded and loses none of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import dicom_qa_node.store
from dicom_qa_node.records import DeliveryState, SeriesFacts, SeriesState, StoredInstance
from dicom_qa_node.store import (
    Accounts,
    Audit,
    Database,
    Folding,
    Jobs,
    LogQuery,
    LogSearch,
    Outbox,
    QualityLog,
    Registry,
    Retention,
    Reviews,
    Scanners,
)
from dicom_qa_node.store.schema import metadata
from tests.older_rows import IMAGES, PATIENT, SERIES, STATES, fill, rows_of, tables_of

MIGRATIONS = Path(dicom_qa_node.store.__file__).parent / "migrations"
REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]
NOW = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)

Held = dict[str, tuple[sa.Table, list[tuple[Any, ...]]]]


def test_the_newest_revision_is_known_without_alembic(tmp_path):
    with closing(Database(f"sqlite:///{tmp_path}/none.db")) as database:
        assert database.revision() == ("", REVISIONS[-1])


@pytest.fixture(params=REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/q.db"
    return str(request.getfixturevalue("postgresql").create(migrated=False))


@pytest.fixture
def older(empty_url: str, revision: str) -> Iterator[tuple[Database, Held]]:
    """Return a database at a revision, filled, and what its tables held."""
    with closing(Database(empty_url)) as database:
        _upgrade_to(database, revision)
        with database.write() as connection:
            counts = fill(connection)
            held = {table.name: (table, rows_of(connection, table)) for table in tables_of(connection)}
        assert database.revision()[0] == revision
        assert min(counts.values()) > 0, counts
        print(f"revision {revision}: {sum(counts.values())} rows in {len(counts)} tables")
        yield database, held


def _upgrade_to(database: Database, revision: str) -> None:
    if database.absent_file is not None:
        database.absent_file.touch()
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database._migrating() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_revisions_follow_each_other():
    assert REVISIONS[0] == "0001"
    assert len(REVISIONS) >= 8


def test_every_row_is_still_there_and_is_worked_on(older):
    database, held = older
    head = database.upgrade()
    assert head == REVISIONS[-1]
    with database.read() as connection:
        for table, before in held.values():
            assert rows_of(connection, table) == before, table.name
        assert _differences(connection) == []
    _read_through_the_store(database, set(held))
    folded = len(held["chart_points"][1]) if "chart_points" in held else 0
    _work_goes_on(database, still_to_fold=7 - folded)


def _differences(connection: sa.Connection) -> list[Any]:
    def ours(_object: object, name: str, kind: str, *_rest: object) -> bool:
        return not (kind in ("table", "index") and ("log_text" in name or "procrastinate" in name))

    return compare_metadata(MigrationContext.configure(connection, opts={"include_object": ours}), metadata)


def _read_through_the_store(database: Database, tables: set[str]) -> None:
    registry, outbox, log = Registry(database), Outbox(database), QualityLog(database)
    for uid, state in zip(SERIES, STATES, strict=True):
        row = registry.series(uid)
        assert (row.state, row.received, row.facts.patient_name) == (SeriesState(state), IMAGES, PATIENT)
        assert len(registry.instances(uid)) == IMAGES
        assert len(registry.history(uid)) == 1
    assert [item.reason for item in registry.quarantined()] == ["no pixel data"]
    assert log.count() == 6
    entry = log.entry(SERIES[5])
    assert (entry.version, entry.result.score, entry.result.findings[0].key) == (2, 2.5, "noise_high")
    assert outbox.report(SERIES[5]).predecessor_uid == outbox.report(SERIES[5], 1).sop_instance_uid
    assert outbox.counts() == {
        DeliveryState.PENDING: 1, DeliveryState.SENDING: 0, DeliveryState.DELIVERED: 3, DeliveryState.PARKED: 1
    }  # fmt: skip
    assert registry.counts() == {state: STATES.count(state.value) for state in SeriesState}
    # Nothing waits to be delivered of those two and of the parked one.
    gone = Retention(database).expired(NOW, NOW)
    assert gone == [item.path for number in (4, 5, 6) for item in registry.instances(SERIES[number])]
    page = LogSearch(database).page(LogQuery(words="muster eri", patients=True))
    assert {row.facts.series_instance_uid for row in page.rows} == set(SERIES[2:])
    marks = {row.facts.series_instance_uid: row.delivery.name for row in page.rows}
    assert [marks[uid] for uid in SERIES[2:]] == ["NONE", "WAITING", "DELIVERED", "DELIVERED", "PARKED"]
    assert len(LogSearch(database).versions(SERIES[5])) == 2
    if "accounts" in tables:
        assert [account.name for account in Accounts(database).all()] == ["erna", "rolf"]
        assert len(Audit(database).entries()) == len(SERIES)
    if "reviews" in tables:
        (review,) = Reviews(database).of(SERIES[4])
        assert (review.reviewer, review.score, review.comment) == ("rolf", 1.5, "doubled edges")
    if "scanners" in tables:
        assert Scanners(database).scanner(1).name == "CT7"


def _work_goes_on(database: Database, still_to_fold: int) -> None:
    """Claim the waiting job, deliver the waiting report, take a late image, review, fold the charts."""
    registry, jobs, outbox = Registry(database), Jobs(database), Outbox(database)
    job = jobs.claim("test")
    assert job.series_instance_uid == SERIES[1]
    verdict = QualityLog(database).entry(SERIES[2]).result
    assert jobs.finish(job, replace(verdict, series_instance_uid=SERIES[1]))
    delivery = outbox.claim(["pacs"])
    assert outbox.delivered(delivery, "0x0000 success")
    assert registry.series(SERIES[3]).state is SeriesState.DELIVERED
    (row,) = LogSearch(database).versions(SERIES[3])
    assert row.delivery.name == "DELIVERED"
    registry.record([_late(SERIES[4])])
    assert (registry.series(SERIES[4]).state, registry.series(SERIES[4]).version) == (SeriesState.RECEIVING, 2)
    Reviews(database).add(SERIES[5], 2, reviewer="rolf", agrees=True)
    assert registry.rescore(SERIES[5], actor="test")
    assert Folding(database).take_in() == still_to_fold


def _late(uid: str) -> StoredInstance:
    facts = SeriesFacts(uid, "1.2.826.0.2", "CT")
    return StoredInstance(f"{uid}.99", "1.2", "1.2", "late", "0" * 64, 9, NOW, "CT1", "a99", facts)


@pytest.mark.parametrize("revision", REVISIONS[:1], indirect=True)
def test_an_upgrade_that_fails_changes_nothing(older, monkeypatch):
    database, held = older

    whole = command.upgrade

    def fail_at_the_end(*arguments: Any) -> None:
        whole(*arguments)
        raise RuntimeError("power cut")

    before = database.revision()
    monkeypatch.setattr(command, "upgrade", fail_at_the_end)
    with pytest.raises(RuntimeError, match="power cut"):
        database.upgrade()
    monkeypatch.undo()
    assert database.revision() == before
    with database.read() as connection:
        assert {table.name for table in tables_of(connection)} == set(held)
    assert database.upgrade() == REVISIONS[-1]
