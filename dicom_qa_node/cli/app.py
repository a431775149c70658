"""Puts the commands together and is the edge where failures become one line and an exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from dicom_qa_node import __version__
from dicom_qa_node.cli import (
    backfill,
    config_commands,
    database,
    demo,
    dose,
    health,
    models,
    monthly_report,
    network,
    outbox,
    phantoms,
    quality_log,
    roles,
    scanners,
    scoring,
    series,
    site_setup,
    users,
)
from dicom_qa_node.cli import users as auditing
from dicom_qa_node.cli.context import invocation
from dicom_qa_node.cli.exit_codes import ExitCode, exit_code_of
from dicom_qa_node.cli.output import complain
from dicom_qa_node.domain.errors import NodeError

__all__ = ["app", "run"]

app = typer.Typer(
    name="dicom-qa-node",
    help="A DICOM node that judges the image quality of CT and PET/CT series and reports it as DICOM SR.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for module in (roles, scoring, quality_log, network, health, auditing, monthly_report, site_setup, demo):
    module.register(app)
app.add_typer(series.app, name="series")
app.add_typer(outbox.app, name="outbox")
app.add_typer(quality_log.app, name="reviews")
app.add_typer(backfill.app, name="backfill")
app.add_typer(dose.app, name="dose")
app.add_typer(dose.levels_app, name="levels")
app.add_typer(models.app, name="models")
app.add_typer(phantoms.app, name="phantoms")
app.add_typer(scanners.app, name="scanners")
app.add_typer(config_commands.app, name="config")
app.add_typer(database.app, name="db")
app.add_typer(users.app, name="users")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicom-qa-node {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", envvar="DICOM_QA_NODE_CONFIG",
            help="Configuration file; without it ./config.yaml if there is one, else the defaults.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:  # fmt: skip
    context.obj = invocation(config)


def _command() -> Callable[[], Any]:
    """Return the command line; every command takes ``--config`` as the program itself does."""
    root = get_command(app)
    (option,) = (item for item in root.params if item.name == "config")
    late = copy(option)
    late.expose_value, late.envvar, late.callback = False, None, _choose_config
    waiting: list[Any] = list(getattr(root, "commands", {}).values())
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        command.params.append(late)
    return root


def _choose_config(context: Any, _option: object, chosen: Any) -> None:
    if chosen is not None:
        context.obj = invocation(Path(chosen))


def run() -> int:
    """Run the command line and return its exit code; no failure of an operator's making shows a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without a letter of a name shows its code instead.
            stream.reconfigure(errors="backslashreplace")
    try:
        _command()()
    except NodeError as error:
        complain(f"error: {error}")
        return exit_code_of(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(f"error: {place}{error.strerror or error}")
        return ExitCode.FAILED
    except UnicodeEncodeError:
        complain("error: an argument holds bytes that are not text in the encoding of this terminal")
        return ExitCode.USAGE
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitCode.FAILED if ended.code else ExitCode.OK
    return ExitCode.OK
