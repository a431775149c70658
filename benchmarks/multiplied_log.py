"""Makes a log of millions of series from a generated one, by plain SQL: each series many times, a moment apart.

    fill_base(database)
    multiply(Path("base/quality.db"), Path("large/quality.db"), copies=100)

Every copy has its own UIDs, patient, accession number and time, so that the numbers of results follow their times as
in a log that grew; scanners, protocols, scores and findings are those of the original. The newest `WITH_IMAGES` series
alone have images, as on a node whose retention works. Indexes and triggers are made at the end. Ten million series are
about 30 GB, and take some minutes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.drifts import Drifts
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.quality_log.full_text import patient_words

__all__ = ["BASE", "IMAGES", "WITH_IMAGES", "fill_base", "multiply"]

BASE = 100_000
"""How many series are generated; a log has a multiple of them."""

WITH_IMAGES = 2000
"""How many of the newest series still have their images."""
IMAGES = 20
"""How many images each of them has."""

_CACHE_KIB = 1_500_000
_TIMES = {
    "series": ("state_since", "first_received_at", "last_received_at"), "results": ("scored_at",),
    "reports": ("created_at",), "outbox": ("created_at", "next_attempt_at", "delivered_at"),
    "log_rows": ("scored_at",), "reviews": ("at",), "chart_points": ("at",), "events": ("at",),
}  # fmt: skip
_NUMBERS = {
    "results": ("result_id",), "outbox": ("delivery_id",), "log_rows": ("result_id",), "log_found": ("result_id",),
    "reviews": ("review_id",), "chart_points": ("result_id",), "events": ("event_id",),
}  # fmt: skip
_NAMES = {
    "series": ("series_instance_uid", "study_instance_uid", "frame_of_reference_uid"),
    "results": ("series_instance_uid",),
    "reports": ("sop_instance_uid", "report_series_uid", "series_instance_uid", "path"),
    "outbox": ("report_uid", "series_instance_uid"),
    "log_rows": ("series_instance_uid",), "reviews": ("series_instance_uid",), "log_found": (), "chart_points": (),
    "events": ("series_instance_uid",),
}  # fmt: skip
_SPECIAL = {
    "series": {
        "patient_id": "b.patient_id || c.dashed", "accession_number": "b.accession_number || c.dashed",
        "received": "0", "forgotten": "b.received",
    },
}  # fmt: skip
_COUNTS = {"log_facets": "rows", "chart_groups": "total", "chart_weeks": "total", "counters": "value"}
_LEFT_OUT = ("alembic_version", "log_text", "sqlite_", "state_counts")


def fill_base(database: Database) -> None:
    """Fill an empty database with `BASE` series of four years, their charts folded, their results cut short."""
    from tests.realistic_log import fill

    fill(database, BASE, light=True, days=1460)
    ingest, drifts = ChartIngest(database), Drifts(database, ChartRules())
    for step in (lambda: ingest.take_in(limit=2000), ingest.refresh_weeks, drifts.look):
        while step():
            pass
    # Slices are most of a result. Only the page of one series reads them, and they would be 30 GB of ten million.
    with database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE results SET payload = json_remove(json_set(payload, '$.slices', json('[]')), '$.measurements[2]', "
            "'$.measurements[1]')"
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.connection.driver_connection.execute("VACUUM")  # type: ignore[union-attr]


def multiply(base: Path, target: Path, copies: int) -> None:
    """Write each series of ``base`` ``copies`` times into ``target``, a database with the schema and nothing in it."""
    os.environ.setdefault("SQLITE_TMPDIR", str(target.parent))
    connection = sqlite3.connect(target, isolation_level=None)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{_CACHE_KIB}"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("ATTACH ? AS base", (str(base),))
    later = _put_aside(connection)
    step_s = _step_s(connection) / copies
    connection.execute(
        "CREATE TEMP TABLE copies (k INTEGER PRIMARY KEY, earlier TEXT, dotted TEXT, dashed TEXT, word TEXT)"
    )
    connection.executemany(
        "INSERT INTO copies VALUES (?, ?, ?, ?, ?)", [_copy(k, copies, step_s) for k in range(copies)]
    )
    _index_words(connection, copies)
    for (table,) in connection.execute("SELECT name FROM base.sqlite_master WHERE type = 'table'").fetchall():
        if not table.startswith(_LEFT_OUT):
            _copy_table(connection, table, copies)
    _add_images(connection)
    for statement in later:
        connection.execute(statement)
    for table in ("series", "outbox"):
        connection.execute(f"INSERT INTO state_counts SELECT '{table}', state, 0, count(*) FROM {table} GROUP BY state")
    connection.close()
    # As a node has it; it stays with the file.
    with sqlite3.connect(target) as again:
        again.execute("PRAGMA journal_mode=WAL")


def _put_aside(connection: sqlite3.Connection) -> list[str]:
    """Drop indexes and triggers; return the statements that make them again."""
    kept = connection.execute(
        "SELECT type, name, sql FROM main.sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
    ).fetchall()
    for kind, name, _ in kept:
        connection.execute(f"DROP {kind} main.{name}")
    return [sql for _, _, sql in sorted(kept, key=lambda item: item[0])]


def _step_s(connection: sqlite3.Connection) -> float:
    """Return the mean time between two results, in seconds."""
    query = (
        "SELECT (julianday(max(scored_at)) - julianday(min(scored_at))) * 86400 / max(1, count(*)) FROM base.results"
    )
    return float(connection.execute(query).fetchone()[0])


def _copy(k: int, copies: int, step_s: float) -> tuple[int, str, str, str, str]:
    # The last copy is the original, so that nothing lies in the future and known UIDs are found.
    if k == copies - 1:
        return k, "-0 seconds", "", "", ""
    return k, f"-{(copies - 1 - k) * step_s:.3f} seconds", f".{k}", f"-{k}", f" {k}"


def _copy_table(connection: sqlite3.Connection, table: str, copies: int) -> None:
    columns = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
    known = {row[1] for row in connection.execute(f"PRAGMA base.table_info({table})")}
    columns = [name for name in columns if name in known]
    if table in _NAMES:
        values = [_changed(table, name, copies) for name in columns]
        source = f"base.{table} AS b CROSS JOIN temp.copies AS c"
    else:
        values = [f"b.{name} * {copies}" if _COUNTS.get(table) == name else f"b.{name}" for name in columns]
        source = f"base.{table} AS b"
    connection.execute(f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {source}")


def _changed(table: str, name: str, copies: int) -> str:
    own: Mapping[str, str] = _SPECIAL.get(table, {})
    if name in own:
        return own[name]
    if name in _NUMBERS.get(table, ()):
        return f"(b.{name} - 1) * {copies} + c.k + 1"
    if name in _TIMES.get(table, ()):
        return f"strftime('%Y-%m-%d %H:%M:%f000', b.{name}, c.earlier)"
    if name in _NAMES[table]:
        return f"b.{name} || c.dotted"
    return f"b.{name}"


def _index_words(connection: sqlite3.Connection, copies: int) -> None:
    names = [field.name for field in fields(SeriesHeader)]
    query = (
        f"SELECT r.result_id, {', '.join(f's.{name}' for name in names)} FROM base.results AS r "
        "JOIN base.series AS s USING (series_instance_uid)"
    )
    connection.execute("CREATE TEMP TABLE words (result_id INTEGER PRIMARY KEY, words TEXT)")
    rows = (
        (row[0], patient_words(SeriesHeader(**dict(zip(names, row[1:], strict=True)))))
        for row in _all(connection, query)
    )
    connection.executemany("INSERT INTO words VALUES (?, ?)", rows)
    connection.execute(
        f"INSERT INTO main.log_text (rowid, words) SELECT (b.result_id - 1) * {copies} + c.k + 1, b.words || c.word "
        "FROM temp.words AS b CROSS JOIN temp.copies AS c"
    )


def _all(connection: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    return connection.execute(query).fetchall()


def _add_images(connection: sqlite3.Connection) -> None:
    newest = f"SELECT rowid FROM main.series ORDER BY rowid DESC LIMIT {WITH_IMAGES}"
    connection.execute(
        f"UPDATE main.series SET received = {IMAGES}, kept = {IMAGES}, forgotten = 0 WHERE rowid IN ({newest})"
    )
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    connection.execute(
        numbers + "INSERT INTO main.instances (series_instance_uid, sop_instance_uid, sop_class_uid, "
        "transfer_syntax_uid, path, sha256, size_bytes, received_at, calling_ae, association_id, number_of_frames, "
        "expected_group, conflict) SELECT series_instance_uid, series_instance_uid || '.' || i, "
        "'1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', "
        "'instances/00/' || series_instance_uid || '.' || i || '.dcm', printf('%064d', i), 525000, last_received_at, "
        "calling_ae, 'a', 1, '', 0 FROM main.series CROSS JOIN n "
        f"WHERE main.series.rowid IN ({newest})",
        (IMAGES,),
    )
