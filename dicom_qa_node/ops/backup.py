"""A verified copy of the running database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.entries import QualityLog

__all__ = ["Backup", "back_up"]


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup and what was read back from it."""

    path: Path
    size_bytes: int
    revision: str
    series: int
    results: int


def back_up(database: Database, target: Path) -> Backup:
    """Copy the database to ``target`` while the node runs, open the copy and read it back.

    Raises
    ------
    Misconfigured
        The database is not SQLite.
    Permanent
        ``target`` exists, or the copy cannot be read back.
    """
    database.backup(target)
    copy = Database(f"sqlite:///{target}")
    try:
        damage = copy.damage()
        if damage:
            raise Permanent(
                f"the backup {target} is damaged ({damage}), and the database is as well; do not rely on it"
            )
        revision, _ = copy.revision()
        if revision != database.revision()[0]:
            raise Permanent(f"the backup {target} is at schema {revision or '(empty)'}; do not rely on it")
        counts = Registry(copy).counts()
        series = sum(counts[state] for state in SeriesState)
        return Backup(target, target.stat().st_size, revision, series, QualityLog(copy).count())
    finally:
        copy.close()
