"""Schema revisions: they match the tables, each can be taken back, a failed upgrade changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import dicom_qa_node.db
from dicom_qa_node.cli.app import run
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.schema import metadata
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.flow.registry import Registry

MIGRATIONS = Path(dicom_qa_node.db.__file__).parent / "migrations"
REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]
SCHEMA = {
    "sqlite": ("SELECT type, name, sql FROM sqlite_master WHERE name <> 'sqlite_sequence'",),
    "postgresql": (
        "SELECT table_name, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT oid::regprocedure::text, prosrc, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT typname, typtype::text, '' FROM pg_type WHERE typnamespace = 'public'::regnamespace",
    ),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Return a database without a table, of either kind."""
    url = f"sqlite:///{tmp_path}/q.db"
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgresql").create(migrated=False))
    else:
        (tmp_path / "q.db").touch()
    with closing(Database(url)) as database:
        yield database


def migrate(database: Database, direction: str, revision: str) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database._migrating() as connection:
        config.attributes["connection"] = connection
        getattr(command, direction)(config, revision)


def schema_of(database: Database) -> set[tuple[Any, ...]]:
    """Return tables, indexes, triggers and functions, without Alembic's own table and in SQL without layout."""

    def plain(value: object) -> str:
        return re.sub(r"[\s\"]+", "", str(value))

    with database.read() as connection:
        statements = SCHEMA[connection.dialect.name]
        rows = [row for statement in statements for row in connection.exec_driver_sql(statement)]
    return {tuple(map(plain, row)) for row in rows if "alembic_version" not in f"{row}"}


def test_the_newest_revision_is_known_without_alembic(tmp_path):
    with closing(Database(f"sqlite:///{tmp_path}/none.db")) as database:
        assert database.revision() == ("", REVISIONS[-1])


def test_revisions_are_numbered_in_their_order():
    assert sorted(REVISIONS) == REVISIONS
    assert REVISIONS[0] == "0100"


def defaults_differ(
    _context: object, column: sa.Column[Any], _table: object, there: str, _d: object, here: str
) -> bool:
    """Compare server defaults as SQL without its quotes and casts; Alembic's own comparison stumbles over ''."""

    def plain(default: str | None) -> str:
        return re.sub(r"::[\w ]+|['\"()]|nextval.*", "", default or "").replace("false", "0").replace("true", "1")

    return plain(there) != plain(here)


@pytest.mark.filterwarnings("ignore:.*expression-based index ix_series_uid_end")
def test_the_revisions_make_what_the_tables_describe(any_database):
    def compared(_object: object, name: str, kind: str, *_rest: object) -> bool:
        # Made by hand, since each database has its own kind; and made by Procrastinate.
        return not (
            kind in ("table", "index") and any(word in name for word in ("log_text", "uid_end", "procrastinate"))
        )

    with any_database.read() as connection:
        options = {"include_object": compared, "compare_server_default": defaults_differ}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_every_revision_can_be_taken_back(empty):
    before, below = schema_of(empty), "base"
    for revision in REVISIONS:
        migrate(empty, "upgrade", revision)
        made = schema_of(empty)
        assert made != before
        migrate(empty, "downgrade", below)
        assert schema_of(empty) == before, f"the downgrade of {revision} leaves something behind, or takes too much"
        migrate(empty, "upgrade", revision)
        assert schema_of(empty) == made
        before, below = made, revision
    empty.require_current()


def test_an_upgrade_that_fails_changes_nothing(empty, monkeypatch):
    whole = command.upgrade

    def fail_at_the_end(*arguments: Any) -> None:
        whole(*arguments)
        raise RuntimeError("power cut")

    monkeypatch.setattr(command, "upgrade", fail_at_the_end)
    with pytest.raises(RuntimeError, match="power cut"):
        empty.upgrade()
    monkeypatch.undo()
    assert empty.revision()[0] == ""
    assert schema_of(empty) == set()
    assert empty.upgrade() == REVISIONS[-1]


def before_the_first_release(database: Database, revision: str = "0014") -> None:
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(sa.text(f"INSERT INTO alembic_version VALUES ('{revision}')"))
        # Not the columns of today: nothing but the revision may be read.
        connection.execute(sa.text("CREATE TABLE heartbeats (name TEXT)"))


@pytest.mark.parametrize("revision", ["0001", "0014"])
def test_a_database_from_before_the_first_release_is_refused_with_what_to_do(empty, revision):
    before_the_first_release(empty, revision)
    made = schema_of(empty)
    advice = r"db rebuild --new" if empty.is_sqlite else r"empty database.*database_url.*db rebuild"
    for refused in (empty.upgrade, empty.require_current):
        with pytest.raises(Misconfigured, match=rf"{revision}, from before the first release.*{advice}"):
            refused()
    assert (schema_of(empty), empty.revision()[0]) == (made, revision)


def test_the_advice_for_such_a_database_works(tmp_path, monkeypatch, capsys):
    """The command that the refusal names makes a database that works, and keeps the old one under another name."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "node.yaml").write_text(
        json.dumps({"database_url": f"sqlite:///{tmp_path}/q.db", "spool_dir": str(tmp_path / "spool")})
    )
    (tmp_path / "q.db").touch()
    with closing(Database(f"sqlite:///{tmp_path}/q.db")) as database:
        before_the_first_release(database)
    for arguments, code in ((("db", "upgrade"), 3), (("db", "rebuild", "--new"), 0), (("db", "upgrade"), 0)):
        monkeypatch.setattr("sys.argv", ["dicom-qa-node", "--config", str(tmp_path / "node.yaml"), *arguments])
        assert run() == code, arguments
        assert ("db rebuild --new" in capsys.readouterr().err) == (code == 3)
    assert len(list(tmp_path.glob("q.db.2*"))) == 1
    with closing(Database(f"sqlite:///{tmp_path}/q.db")) as database:
        database.require_current()
        assert sum(Registry(database).counts().values()) == 0
