"""Lists of commands: right for every mixture of filters, and no dearer where the log has grown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.retention_candidates import Retention
from dicom_qa_node.index.catalogue import Catalogue
from dicom_qa_node.quality_log.entries import LogFilter, QualityLog
from dicom_qa_node.quality_log.review_queue import Place, QueueScope, ReviewQueue
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.quality_log.similar_series import SimilarSeries
from tests.realistic_log import fill

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
SINCE = NOW - dt.timedelta(days=60)
S = SeriesState


@pytest.fixture
def database(any_database):
    fill(any_database, 300, until=NOW, light=True)
    return any_database


def subsets(items: list[Any]) -> Iterator[tuple[Any, ...]]:
    return chain.from_iterable(combinations(items, number) for number in range(1, len(items) + 1))


def test_the_log_is_filtered_by_every_mixture(database):
    columns = ("series_instance_uid", "version", "scored_at", "scanner", "modality", "grade")
    query = sa.select(*(t.results.c[name] for name in columns))
    with database.read() as connection:
        rows = connection.execute(query.order_by(t.results.c.scored_at.desc(), t.results.c.result_id.desc())).all()
    log, shown = QualityLog(database), 0
    mixtures = product((None, "CT-A2", "nobody"), (None, "CT", "MR"), (None, Grade.LIMITED), (None, SINCE), (None, NOW))
    for scanner, modality, grade, since, until in mixtures:
        chosen = LogFilter(since=since, until=until, scanner=scanner, modality=modality, grade=grade)
        fit = [
            (row.series_instance_uid, row.version)
            for row in rows
            if (scanner in (None, row.scanner)) and (modality in (None, row.modality))
            and (grade is None or row.grade == grade.value) and (since is None or row.scored_at >= since)
            and (until is None or row.scored_at < until)
        ]  # fmt: skip
        found = [(item.facts.series_instance_uid, item.version) for item in log.entries(chosen, limit=40, offset=3)]
        assert found == fit[3:43], chosen
        shown += len(found)
    assert shown > 300


def test_a_long_log_is_read_in_pages_and_stays_in_order(database, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.quality_log.entries._BATCH", 7)
    found = QualityLog(database).entries(limit=50)
    assert len(found) == 50
    assert [item.scored_at for item in found] == sorted((item.scored_at for item in found), reverse=True)


def test_series_are_listed_by_every_mixture_of_states(database):
    states = [S.REPORTED, S.DELIVERED, S.PARKED, S.COMPLETE]
    registry = Registry(database)
    latest = registry.list_series(limit=1000)
    assert [row.last_received_at for row in latest] == sorted((row.last_received_at for row in latest), reverse=True)
    assert len(latest) == 300
    for wanted in subsets(states):
        fit = [row for row in latest if row.state in wanted]
        assert registry.list_series(wanted, limit=20, offset=2) == fit[2:22], wanted


def test_deliveries_are_listed_by_every_mixture(database):
    outbox = Outbox(database)
    with database.write() as connection:
        some = t.outbox.c.delivery_id % 5
        connection.execute(t.outbox.update().where(some == 0).values(target="second"))
        connection.execute(t.outbox.update().where(some == 1).values(state="PARKED"))
    everything = outbox.rows(limit=1000)
    assert [row.delivery_id for row in everything] == list(range(len(everything), 0, -1))
    for wanted, target, after in product(subsets(list(DeliveryState)), (None, "second", "nobody"), (None, 100)):
        fit = [
            row
            for row in everything
            if row.state in wanted and target in (None, row.target) and (after is None or row.delivery_id < after)
        ]
        assert outbox.rows(wanted, limit=20, target=target, after=after) == fit[:20], (wanted, target, after)


ASKED: dict[str, Callable[[Database], object]] = {
    "counts of series": lambda database: Registry(database).counts(),
    "counts of deliveries": lambda database: Outbox(database).counts(),
    "all series": lambda database: Registry(database).list_series(limit=20),
    **{
        f"series in {state}": lambda database, state=state: Registry(database).list_series([state], limit=1)  # type: ignore[misc]
        for state in S
    },
    "two states": lambda database: Registry(database).list_series([S.DELIVERED, S.REPORTED], limit=2),
    "all deliveries": lambda database: Outbox(database).rows(limit=20),
    "what was delivered": lambda database: Outbox(database).rows([DeliveryState.DELIVERED], limit=20),
    "one target": lambda database: Outbox(database).rows(limit=20, target="pacs"),
    "another target": lambda database: Outbox(database).rows(limit=20, target="nobody"),
    "the log": lambda database: QualityLog(database).entries(limit=20),
    "the log of nobody": lambda database: QualityLog(database).entries(LogFilter(scanner="nobody")),
    "reports without a header": lambda database: Catalogue(database).unindexed(),
    "the review queue": lambda database: ReviewQueue(database).page(QueueScope.OPEN, 1, limit=5),
    "the end of the review queue": lambda database: ReviewQueue(database).page(
        QueueScope.OPEN, 1, beyond=Place(NOW, 0), back=True, limit=5
    ),
    "the prior of a patient": lambda database: SimilarSeries(database).prior(LogSearch(database).rows([90])[0]),
    "retention": lambda database: Retention(database).expired(NOW, NOW),
}


@pytest.fixture(scope="module", params=["no statistics", "statistics"])
def two_sizes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Database]]:
    made = [_filled(tmp_path_factory.mktemp("log"), size) for size in (200, 1600)]
    if request.param == "statistics":
        for database in made:
            with database.write() as connection:
                connection.exec_driver_sql("ANALYZE")
    yield made[0], made[1]
    for database in made:
        database.close()


def _filled(folder: Path, size: int) -> Database:
    database = Database(f"sqlite:///{folder}/q.db")
    database.upgrade()
    fill(database, size, until=NOW, light=True)
    return database


@pytest.mark.parametrize("what", ASKED)
def test_eight_times_the_log_costs_no_more_steps(two_sizes, what):
    few, many = (_steps(database, ASKED[what]) for database in two_sizes)
    assert many <= 1.5 * few + 20, f"{few} and {many} hundred steps"


def test_statistics_are_taken_of_a_part_of_a_long_log(two_sizes, monkeypatch):
    for database in two_sizes:
        with database.write() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS sqlite_stat1")
        database.close()
    monkeypatch.setattr("dicom_qa_node.db.engine._ANALYSED", 20)
    few, many = (_steps(database, _look_and_refresh) for database in two_sizes)
    assert many <= 1.5 * few + 20, f"{few} and {many} hundred steps"
    with two_sizes[1].read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sqlite_stat1").scalar_one() > 5


def _look_and_refresh(database: Database) -> None:
    # SQLite refreshes what this connection has asked for.
    for ask in ASKED.values():
        ask(database)
    database.checkpoint()


def _steps(database: Database, ask: Callable[[Database], object]) -> int:
    """Return how many hundreds of steps SQLite's machine takes."""
    ticks = []

    def count(connection: Any, *_more: object) -> None:
        connection.set_progress_handler(lambda: ticks.append(1), 100)

    sa.event.listen(database.engine, "checkout", count)
    ask(database)
    sa.event.remove(database.engine, "checkout", count)
    return len(ticks)
