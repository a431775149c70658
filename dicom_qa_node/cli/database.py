"""``db upgrade|backup|rebuild``: the schema, a consistent copy, and recovery from the spool."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import AsJson, progress_bar, say, show_json
from dicom_qa_node.domain.errors import NotFound

if TYPE_CHECKING:
    from rich.progress import TaskID

    from dicom_qa_node.ops.rebuild import Rebuilt

__all__ = ["app"]

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command()
def upgrade(context: typer.Context, as_json: AsJson = False) -> None:
    """Create the database or bring its schema to the revision of this version; `serve` does so at its start."""
    from dicom_qa_node.db.engine import Database

    database = Database(config_of(context).database_url)
    try:
        before, _ = database.revision()
        after = database.upgrade()
    finally:
        database.close()
    if as_json:
        show_json({"before": before, "after": after})
    else:
        say(f"database at revision {after}" + ("" if before == after else f" (was {before or 'empty'})"))


@app.command()
def backup(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Copy the running database to a file, consistently, and read the copy back; the node keeps working."""
    from dicom_qa_node.ops.backup import back_up

    if not target.absolute().parent.is_dir():
        raise NotFound(f"there is no folder {target.absolute().parent}")
    with open_database(config_of(context)) as database:
        done = back_up(database, target)
    if as_json:
        show_json(asdict(done))
    else:
        size = f"{done.size_bytes / 2**20:.1f} MiB"
        say(f"{done.path}: {size}, {done.series} series, {done.results} results, schema {done.revision}; read back")


@app.command()
def rebuild(
    context: typer.Context,
    new: Annotated[
        bool, typer.Option("--new", help="Rename the database that is there, begin with an empty one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Record what lies in the spool and is not in the database: images, verdicts, reports. The node must be stopped.

    Running it again changes nothing. Exit code 1 when a file could not be used: it is named and stays in the spool.
    """
    from dicom_qa_node.ops.rebuild import rebuild as rebuild_database

    config = config_of(context)
    if not config.spool_dir.is_dir():
        raise NotFound(f"there is no spool at {config.spool_dir}")
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        done = rebuild_database(config, new=new, progress=show)
    if as_json:
        show_json(asdict(done))
    else:
        _tell(done)
    if done.damaged or done.unreadable:
        raise typer.Exit(ExitCode.FAILED)


def _tell(done: Rebuilt) -> None:
    if done.aside is not None:
        say(f"the database that was there is now {done.aside}")
    say(f"{done.files} files in the spool: {done.added} recorded now, {done.damaged} damaged (now in quarantine)")
    say(f"{done.restored} reported versions restored, {done.known} were known; {done.series} series in the database")
    if done.without_verdict:
        say(f"{done.without_verdict} reports without their verdict: their series are scored again")
    for name in done.unreadable:
        typer.echo(f"{name}: cannot be used", err=True)
