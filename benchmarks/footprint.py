"""What a series and an image take up in PostgreSQL, from generated rows and the sizes that the server itself tells.

python -m benchmarks.footprint [--series 5000] [--images 100000] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.registry import Registry
from tests.postgresql_server import programs, running_server
from tests.realistic_log import fill

IMAGES_OF_A_SERIES = 200
_SIZES = sa.text(
    "SELECT relname, pg_total_relation_size(relid) FROM pg_stat_user_tables WHERE relname NOT LIKE 'alembic%'"
)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; exit code 0."""
    options = _parser().parse_args(arguments)
    found = programs()
    if found is None:
        raise SystemExit("needs the Debian package postgresql")
    with running_server(found) as server:
        database = Database(server.create())
        empty = _sizes(database)
        fill(database, series=options.series, seed=1)
        while ChartIngest(database).take_in():
            pass
        logged = _sizes(database)
        _receive(Registry(database), options.images)
        received = _sizes(database)
        database.close()
    rows = [("series", *item) for item in _grown(empty, logged, options.series)]
    rows += [("image", *item) for item in _grown(logged, received, options.images)]
    for per, table, size in rows:
        print(f"per {per:6}  {table:22} {size:9.0f} bytes")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("per", "table", "bytes"), *((p, t, round(s, 1)) for p, t, s in rows)])
    return 0


def _receive(registry: Registry, images: int) -> None:
    """Record rows of images as a receiver does, in series of equal length."""
    for first in range(0, images, IMAGES_OF_A_SERIES):
        facts = SeriesHeader(f"1.2.826.0.1.3680043.10.99.{first}.123456789012345", "1.2.826.0.1.99", "CT")
        registry.record([_image(facts, first + number) for number in range(IMAGES_OF_A_SERIES)])


def _image(facts: SeriesHeader, number: int) -> StoredInstance:
    uid = f"1.2.826.0.1.3680043.10.98.123456789012345.{number}"
    return StoredInstance(
        uid, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", f"instances/3f/{number:032x}.dcm", f"{number:064x}",
        530_000, utc_now(), "SCANNER-1", facts.series_instance_uid[-32:], facts, number,
    )  # fmt: skip


def _sizes(database: Database) -> dict[str, int]:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
        return {name: int(size) for name, size in connection.execute(_SIZES)}


def _grown(before: dict[str, int], after: dict[str, int], count: int) -> list[tuple[str, float]]:
    """Return what each table grew by for each of ``count``, the largest first, and the sum of all."""
    grown = {name: (size - before.get(name, 0)) / count for name, size in after.items()}
    listed = [(name, size) for name, size in sorted(grown.items(), key=lambda item: -item[1]) if size >= 1]
    return [*listed, ("all tables", sum(grown.values()))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=5000, help="series in the log")
    parser.add_argument("--images", type=int, default=100_000, help="rows of images")
    parser.add_argument("--csv", type=Path, help="write the figures here")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
