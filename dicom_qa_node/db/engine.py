"""Opens the database: SQLite in WAL mode by default, PostgreSQL by address, schema by Alembic."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as into_sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError

from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Misconfigured, Permanent, Transient

__all__ = ["DamagedDatabase", "Database", "SharedClock", "insert_ignore", "insert_new_paths"]

_ASK_AGAIN_S = 30.0


def _since_boot_s() -> float:
    # Unlike time.monotonic, it goes on while the machine sleeps, and nobody sets it.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SharedClock:
    """Returns the server's time (UTC), to within the time of one question; safe for use from several threads.

    Parameters
    ----------
    ask
        Returns the server's time; asked when the last answer is half a minute old.
    elapsed_s
        Seconds since some moment, never set back.
    """

    def __init__(self, ask: Callable[[], dt.datetime], elapsed_s: Callable[[], float] = _since_boot_s) -> None:
        self._ask, self._elapsed_s = ask, elapsed_s
        self._lock = threading.Lock()
        self._told: tuple[dt.datetime, float] | None = None
        self._asked = 0.0

    def __call__(self) -> dt.datetime:
        """Return the time.

        Raises
        ------
        Transient
            The server never answered; after its first answer the clock goes on without it.
        """
        told = self._told
        if told is None or self._elapsed_s() - self._asked >= _ASK_AGAIN_S:
            told = self._renewed()
        at, then = told
        return at + dt.timedelta(seconds=self._elapsed_s() - then)

    def _renewed(self) -> tuple[dt.datetime, float]:
        with self._lock:
            if self._told is not None and self._elapsed_s() - self._asked < _ASK_AGAIN_S:
                return self._told
            self._asked = self._elapsed_s()
            try:
                answer = self._ask()
            except Transient:
                if self._told is None:
                    raise
                return self._told
            # Half of what the question took lies after the answer.
            self._told = answer, (self._asked + self._elapsed_s()) / 2
            return self._told


_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS = 30_000
# Rows of an index that are looked at for its statistics (sqlite.org/lang_analyze, section 4).
_ANALYSED = 1000
# Seconds, the last in ms (connection parameters of libpq); without them a host that is cut off waits for minutes.
_LOST_AFTER = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}  # fmt: skip
# The same for the server's end. Its own default is two hours, for which a host that vanished in a transaction would
# keep the rows that it had locked.
_AT_THE_SERVER = {
    "keepalives_idle": "tcp_keepalives_idle", "keepalives_interval": "tcp_keepalives_interval",
    "keepalives_count": "tcp_keepalives_count", "tcp_user_timeout": "tcp_user_timeout",
}  # fmt: skip
_CLOCKS_AGREE = dt.timedelta(seconds=2)
# SQLITE_NOTADB and SQLITE_CORRUPT (sqlite.org/rescode.html).
_DAMAGED = ("not a database", "malformed")
_REPAIR = "stop the node, then restore a backup, or make a new database from the spool: dicom-qa-node db rebuild --new"


class DamagedDatabase(Misconfigured):
    """The file of the embedded database is not a database, or its content is damaged."""


class Database:
    """One database, opened once per process.

    Parameters
    ----------
    url
        SQLAlchemy address, ``sqlite:///path`` or ``postgresql+psycopg://…``.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        try:
            self.engine = sa.create_engine(self.url, connect_args={} if self.is_sqlite else _missed(self.url))
        except ModuleNotFoundError as error:
            needed = f"database_url needs the Python package {error.name}; install it beside the node (pip install)"
            raise Misconfigured(needed) from error
        except sa.exc.ArgumentError as error:
            raise Misconfigured(f"database_url cannot be used: {error}") from error
        if not self.is_sqlite and importlib.util.find_spec("procrastinate") is None:
            raise Misconfigured("database_url needs Procrastinate: pip install 'dicom-qa-node[postgresql]'")
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin)
        else:
            sa.event.listen(self.engine, "connect", partial(_tell_server, _server_settings(self.url)))
        self._shared_clock = SharedClock(self._server_time)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def absent_file(self) -> Path | None:
        """Return the file of the embedded database while it is not there: to connect would make an empty one."""
        file = self.file
        return None if file is None or file.exists() else file

    @property
    def file(self) -> Path | None:
        """Return the file of the embedded database, None for one in memory and for PostgreSQL."""
        name = self.url.database
        return Path(name) if self.is_sqlite and name and name != ":memory:" else None

    def now(self) -> dt.datetime:
        """Return the time that every host on this database shares, in UTC: the server's, or this host's for SQLite.

        Raises
        ------
        Transient
            The server was never asked before, and is out of reach.
        """
        return utc_now() if self.is_sqlite else self._shared_clock()

    def skew(self) -> dt.timedelta:
        """Return what to add to a time of this host's clock; nothing where the clocks agree within seconds."""
        ahead = dt.timedelta(0) if self.is_sqlite else self._shared_clock() - utc_now()
        return ahead if abs(ahead) > _CLOCKS_AGREE else dt.timedelta(0)

    def _server_time(self) -> dt.datetime:
        with self.read() as connection:
            found: dt.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return found.astimezone(dt.UTC)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that may write; committed and durable on leaving the block.

        Raises
        ------
        Transient
            The database is locked, full or out of reach.
        """
        with (
            _translated(),
            self.engine.connect().execution_options(qa_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a consistent view for reading."""
        with _translated(), self.engine.connect() as connection:
            yield connection

    def upgrade(self) -> str:
        """Bring the schema to the newest revision and return that revision; several processes may call it at once.

        Raises
        ------
        Misconfigured
            The file of the database cannot be made, or its schema is from before the first release or from a newer
            version of this software.
        """
        if self.file is not None:
            _make_file(self.file)
        self._refuse_unknown()
        current, head = self.revision()
        if current == head and self.is_sqlite:
            return head
        # Here only: Alembic takes longer to load than a command that reads may take.
        from alembic import command
        from alembic.config import Config as AlembicConfig

        config = AlembicConfig()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._migrating() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return self.revision()[0]

    @contextmanager
    def _migrating(self) -> Iterator[sa.Connection]:
        """Open a transaction in which SQLite may rebuild a table that others refer to (sqlite.org/lang_altertable)."""
        with _translated(), self.engine.connect().execution_options(qa_write=True) as connection:
            if self.is_sqlite:
                _set_sqlite(connection, foreign_keys="OFF", legacy_alter_table="ON")
            try:
                with connection.begin():
                    yield connection
                    if self.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise Permanent("the upgrade would break references between tables; nothing was changed")
            finally:
                if self.is_sqlite:
                    _set_sqlite(connection, foreign_keys="ON", legacy_alter_table="OFF")

    def revision(self) -> tuple[str, str]:
        """Return the schema revision of the database ("" when empty) and the newest one this version knows."""
        current = ""
        if self.absent_file is None:
            with self.read() as connection:
                current = _current(connection)
        return current, _known()[-1]

    def has_schema(self) -> bool:
        """Whether the database has the tables of a revision that this version knows."""
        return self.revision()[0] in _known()

    def require_current(self) -> str:
        """Refuse to work without a database, or on an old or newer schema; return the revision.

        Raises
        ------
        Misconfigured
            With what an operator does about it.
        """
        current, head = self.revision()
        if current == head:
            return current
        if self.absent_file is not None:
            raise Misconfigured(
                f"there is no database at {self.absent_file} yet; start the node (serve) "
                "or run: dicom-qa-node db upgrade"
            )
        self._refuse_unknown()
        raise Misconfigured(
            f"the database is at revision {current or '(empty)'}, this version needs {head}; "
            "run: dicom-qa-node db upgrade"
        )

    def _refuse_unknown(self) -> None:
        current, head = self.revision()
        if current and current < _known()[0]:
            raise Misconfigured(
                f"the database is at revision {current}, from before the first release, and cannot be upgraded. "
                f"Stop the node and make a new database from the spool: {self._rebuild_command()}"
            )
        if current and current not in _known():
            raise Misconfigured(
                f"the database is at revision {current}, made by a newer version of this software; this one knows "
                f"{head} at most: install the newer version, or restore a backup from before its upgrade"
            )

    def _rebuild_command(self) -> str:
        if self.is_sqlite:
            return "dicom-qa-node db rebuild --new"
        return "create an empty database, name it in database_url, then run: dicom-qa-node db rebuild"

    def backup(self, target: Path) -> None:
        """Copy the running SQLite database to ``target`` consistently (online backup).

        Raises
        ------
        Misconfigured
            The database is not SQLite: use the database's own tools.
        """
        if not self.is_sqlite:
            raise Misconfigured("db backup copies SQLite only; use pg_dump for PostgreSQL")
        if target.exists():
            raise Permanent(f"{target} exists; a backup never overwrites a file")
        partial = target.with_name(f"{target.name}.partial")
        _create_private(partial)
        source = sqlite3.connect(str(self.url.database))
        destination = sqlite3.connect(partial)
        try:
            source.backup(destination)
        finally:
            destination.close()
            source.close()
        partial.rename(target)

    def damage(self) -> str:
        """Return what is wrong with the file of the embedded database in SQLite's words; "" if nothing is."""
        if not self.is_sqlite or self.absent_file is not None:
            return ""
        found = sqlite3.connect(str(self.url.database))
        try:
            (word,) = found.execute("PRAGMA quick_check(1)").fetchone()
            return "" if word == "ok" else str(word)
        except sqlite3.OperationalError as error:
            raise Transient(f"database: {error}") from error
        except sqlite3.DatabaseError as error:
            return str(error)
        finally:
            found.close()

    def put_aside(self, at: dt.datetime) -> Path | None:
        """Rename the file of the embedded database and what belongs to it; return the new name, None if there is none.

        Raises
        ------
        Misconfigured
            The database is not SQLite.
        """
        if not self.is_sqlite:
            raise Misconfigured("only the embedded database is a file; make an empty one and name it in database_url")
        self.close()
        name = Path(str(self.url.database))
        aside = name.with_name(f"{name.name}.{at:%Y%m%d-%H%M%S}")
        for ending in ("-wal", "-shm", ""):
            part = name.with_name(f"{name.name}{ending}")
            if part.exists():
                part.rename(aside.with_name(f"{aside.name}{ending}"))
        return aside if aside.exists() else None

    def checkpoint(self) -> None:
        """Fold SQLite's write-ahead log into the database file and refresh its statistics; nothing elsewhere."""
        if self.is_sqlite:
            with _translated(), self.engine.connect() as connection:
                raw = connection.connection.cursor()
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                # Without a limit every index is read from end to end, and nobody may write meanwhile.
                raw.execute(f"PRAGMA analysis_limit={_ANALYSED}")
                raw.execute("PRAGMA optimize")
                raw.close()

    def close(self) -> None:
        """Close every connection; call it before a fork and at the end."""
        self.engine.dispose()


def insert_ignore(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows that break no unique rule and leave the others alone."""
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), list(rows))


def insert_new_paths(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Insert rows by their unique ``path`` and return the paths that were new."""
    statement = _insert(connection, table).on_conflict_do_nothing().returning(table.c.path)
    return set(connection.execute(statement, list(rows)).scalars()) if rows else set()


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as into_postgresql

        return into_postgresql(table)
    return into_sqlite(table)


class UtcDateTime(sa.TypeDecorator[dt.datetime]):
    """Timezone-aware UTC in Python, naive UTC in the database; anything naive is refused."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        """Convert on the way in."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times must be timezone-aware")
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        """Convert on the way out."""
        return None if value is None else value.replace(tzinfo=dt.UTC)


def _current(connection: sa.Connection) -> str:
    """Return the revision that Alembic noted in the database, "" where it never did."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or ""


@cache
def _known() -> tuple[str, ...]:
    """Return every revision of this version, the newest last: the numbers that the names of their files begin with."""
    return tuple(sorted(path.name.split("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py")))


def _missed(url: sa.URL) -> dict[str, int]:
    """Return how soon a connection over the network counts as lost, where the address does not say it."""
    return {name: value for name, value in _LOST_AFTER.items() if name not in url.query}


def _server_settings(url: sa.URL) -> dict[str, str]:
    """Return the server's settings that make it give a lost connection up as soon as this end does."""
    known = {**_LOST_AFTER, **url.query}
    return {there: str(known[here]) for here, there in _AT_THE_SERVER.items()}


def _tell_server(settings: dict[str, str], connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    for name, value in settings.items():
        cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
    cursor.close()
    connection.commit()


def _make_file(database: Path) -> None:
    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create_private(database)
    except OSError as error:
        raise Misconfigured(f"cannot make the database {database}: {error}") from error


def _create_private(path: Path) -> None:
    # SQLite takes an empty file for a new database, and gives its write-ahead log the same permissions.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    for beside in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if beside.is_file():
            beside.chmod(0o600)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _set_sqlite(connection: sa.Connection, **settings: str) -> None:
    # By the driver itself: within a transaction SQLite takes no notice of foreign_keys.
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    for name, value in settings.items():
        driver.execute(f"PRAGMA {name}={value}")


def _begin(connection: sa.Connection) -> None:
    # A deferred transaction that turns into a write fails at once when another writer was faster; IMMEDIATE waits.
    mode = "IMMEDIATE" if connection.get_execution_options().get("qa_write") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    # PostgreSQL's word for a server that is read-only for now, as while another takes over, is an internal error.
    except (OperationalError, InternalError) as error:
        raise Transient(f"database: {error.orig}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Transient(f"database: {error.orig}") from error
        if isinstance(error.orig, sqlite3.DatabaseError) and any(word in str(error.orig) for word in _DAMAGED):
            raise DamagedDatabase(
                f"the file of database_url is not an SQLite database, or damaged: {error.orig}; {_REPAIR}"
            ) from error
        raise
