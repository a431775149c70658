"""A PostgreSQL of the tests' own: made in a temporary folder, on loopback, gone with the test run."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

__all__ = ["PostgresqlServer", "programs", "required_programs", "running_server"]

_CLOSING_S = 1.0


def programs() -> Path | None:
    """Return the folder of the newest installed server programs (Debian keeps them off the path), or None."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0)).parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def required_programs() -> Path:
    """Return the folder of the server programs; where there is none the test is skipped, and fails in CI."""
    found = programs()
    if found is None:
        reason = "no PostgreSQL server is installed (Debian package postgresql)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return found


class PostgresqlServer:
    """A running server; every test gets a database of its own, copied from one that has the schema."""

    def __init__(
        self, port: int, bin_folder: Path, folder: Path, host: str = "127.0.0.1", within: Sequence[str] = ()
    ) -> None:
        self._port, self._numbers = port, count(1)
        self._bin_folder, self._folder = bin_folder, folder
        self._host, self._within = host, within
        self._given_back: list[str] = []

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self._port} -c listen_addresses={self._host} -c fsync=off -k {self._folder / 'run'}"
        more = ("-l", self._folder / "log", "-o", f"{options} -c max_connections=100", "start")
        self._control("-w", "-t", "60", *more)

    def stop(self) -> None:
        """Stop the server as a crash does; what was committed is there when it starts again."""
        self._control("-m", "immediate", "stop")

    def _control(self, *arguments: object) -> None:
        program, data = self._bin_folder / "pg_ctl", self._folder / "data"
        _as_server(program, "-D", data, *arguments, cwd=self._folder, within=self._within)

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql+psycopg://qa@{self._host}:{self._port}/{database}"

    def local(self, url: str) -> str:
        """Return an address of the same database that needs no network."""
        query = {"host": str(self._folder / "run"), "port": str(self._port)}
        return sa.make_url(url)._replace(host=None, port=None, query=query).render_as_string()

    def create(self, *, migrated: bool = True) -> str:
        """Make a database and return its address; ``migrated`` gives it the newest schema and no rows of a test."""
        if migrated and self._given_back:
            return self.url(self._given_back.pop())
        name = f"test{next(self._numbers)}"
        template = self._template if migrated else "template1"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def give_back(self, url: str) -> None:
        """Let a later `create` return this migrated database, emptied: to copy one takes 11 MB and 0.15 s of processor.

        A database that is in use, or whose schema was changed, is left out.
        """
        name = str(sa.make_url(url).database)
        with self._connected(name) as connection:
            if _left_alone(connection) and _schema(connection) == self._fresh.schema:
                self._fresh.restore(connection)
                self._given_back.append(name)

    @cached_property
    def _fresh(self) -> _Content:
        with self._connected(self._template) as connection:
            return _Content.of(connection)

    @cached_property
    def _template(self) -> str:
        from dicom_qa_node.db.engine import Database

        self._run("CREATE DATABASE migrated")
        database = Database(self.local(self.url("migrated")))
        try:
            database.upgrade()
        finally:
            database.close()
        return "migrated"

    def _run(self, statement: str) -> None:
        with self._connected("postgres") as connection:
            connection.execute(statement)

    def _connected(self, database: str) -> psycopg.Connection:
        folder = str(self._folder / "run")
        return psycopg.connect(host=folder, port=self._port, user="qa", dbname=database, autocommit=True)


@dataclass(frozen=True)
class _Content:
    """What a database with the newest schema has in its tables and sequences before anybody writes to it."""

    schema: list[tuple[object, ...]]
    rows: dict[str, bytes]
    sequences: dict[str, int | None]

    @classmethod
    def of(cls, connection: psycopg.Connection) -> _Content:
        rows = {table: _copied_out(connection, table) for table in _written(connection)}
        return cls(_schema(connection), rows, _sequences(connection))

    def restore(self, connection: psycopg.Connection) -> None:
        """Bring tables and sequences back to this, past triggers that refuse it."""
        with connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            written = _written(connection)
            if written:
                connection.execute(f"TRUNCATE {', '.join(written)} CASCADE")
            for table in written & self.rows.keys():
                with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                    copy.write(self.rows[table])
            for name, value in _sequences(connection).items():
                if value != self.sequences[name]:
                    connection.execute(
                        "SELECT setval(%s, %s, %s)", (name, self.sequences[name] or 1, bool(self.sequences[name]))
                    )


def _left_alone(connection: psycopg.Connection) -> bool:
    """Return whether nobody else is connected; a server process ends a moment after its client has closed."""
    deadline = time.monotonic() + _CLOSING_S
    while _others(connection):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _others(connection: psycopg.Connection) -> int:
    found = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    ).fetchone()
    assert found
    return int(found[0])


def _schema(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Return checksums of what the schema and the planner's statistics consist of."""
    parts = (
        "SELECT md5(string_agg(x::text, '' ORDER BY attrelid, attnum)) FROM pg_attribute x WHERE attrelid >= 16384",
        "SELECT md5(string_agg(concat(oid, relname, relowner, reloptions), '' ORDER BY oid)) FROM pg_class "
        "WHERE oid >= 16384",
        *(
            f"SELECT md5(string_agg(x::text, '' ORDER BY oid)) FROM {catalogue} x WHERE oid >= 16384"
            for catalogue in ("pg_attrdef", "pg_constraint", "pg_proc", "pg_trigger", "pg_type")
        ),
        "SELECT count(*)::text FROM pg_statistic WHERE starelid >= 16384",
    )
    return connection.execute(" UNION ALL ".join(parts)).fetchall()


def _written(connection: psycopg.Connection) -> set[str]:
    """Return the tables that have, or had, a row."""
    found = connection.execute(
        "SELECT oid::regclass::text FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0"
    )
    return {name for (name,) in found}


def _copied_out(connection: psycopg.Connection, table: str) -> bytes:
    with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
        return b"".join(map(bytes, copy))


def _sequences(connection: psycopg.Connection) -> dict[str, int | None]:
    found = connection.execute(
        "SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename), last_value FROM pg_sequences"
    )
    return dict(found.fetchall())


@contextmanager
def running_server(bin_folder: Path, host: str = "127.0.0.1", within: Sequence[str] = ()) -> Iterator[PostgresqlServer]:
    """Start a server and stop it at the end; as root it runs as the user ``postgres``, as it must.

    Parameters
    ----------
    host
        Address that it listens on.
    within
        Put before its command, such as what runs it in a network of its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="qa-postgresql-"))
    data, socket_folder, port = folder / "data", folder / "run", _free_port()
    socket_folder.mkdir()
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        for path in (folder, socket_folder):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    _as_server(bin_folder / "initdb", "-D", data, "-U", "qa", "-A", "trust", "-E", "UTF8", "--no-sync", cwd=folder)
    # The addresses of tests.multi_host; the server listens on nothing else but loopback.
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all qa 198.18.0.0/15 trust\n")
    server = PostgresqlServer(port, bin_folder, folder, host, within)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _as_server(program: Path, *arguments: object, cwd: Path, within: Sequence[str] = ()) -> None:
    command = [str(program), *map(str, arguments)]
    if os.geteuid() == 0:
        command = ["runuser", "-u", "postgres", "--", *command]
    command = [*within, *command]
    # The server inherits the pipes of whoever starts it: with a pipe, this would wait for the server's end.
    with (cwd.parent / f"{cwd.name}.out").open("w+") as output:
        done = subprocess.run(command, cwd=cwd, stdout=output, stderr=output, stdin=subprocess.DEVNULL, timeout=120)
        output.seek(0)
        said = output.read()
    Path(output.name).unlink()
    if done.returncode:
        raise RuntimeError(f"{program.name} ended with {done.returncode}:\n{said}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
