"""``db upgrade|backup``: the schema and a consistent copy of the database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.exit_codes import NotFound
from dicom_qa_node.cli.present import AsJson, say, show_json

__all__ = ["app"]

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command()
def upgrade(context: typer.Context, as_json: AsJson = False) -> None:
    """Create the database or bring its schema to the revision of this version; `serve` does so at its start."""
    from dicom_qa_node.store import Database

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
