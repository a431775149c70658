"""Databases with the newest schema and nothing in them, copied from one that the migrations made once per test process.

``tests/unit/test_schema_revisions.py`` and every node that a test starts as a process of its own run the migrations.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from dicom_qa_node.db.engine import Database

__all__ = ["copy_empty_database", "upgrade_by_copy"]

_upgrade = Database.upgrade


@cache
def _migrated() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dicom-qa-node-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    database = Database(f"sqlite:///{folder}/quality.db")
    _upgrade(database)
    database.checkpoint()
    database.close()
    return folder / "quality.db"


def copy_empty_database(file: Path) -> None:
    """Make ``file`` an SQLite database with the newest schema."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(_migrated(), file)


def upgrade_by_copy(database: Database) -> str:
    """Do what `Database.upgrade` does; the migrations run only where there is an older schema to bring forward."""
    if (absent := database.absent_file) is not None:
        with suppress(OSError):  # the upgrade meets it too, and words it
            copy_empty_database(absent)
    return _upgrade(database)
