"""``health``: whether every part of the node is well, as the web role's ``/health`` says it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from dicom_qa_node.cli.context import config_of
from dicom_qa_node.cli.exit_codes import ExitCode
from dicom_qa_node.cli.output import AsJson, say, show_json, show_rows

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("health")(health)


def health(context: typer.Context, as_json: AsJson = False) -> None:
    """Check database, spool, disk, model, every role, queue and deliveries; exit code 1 unless all is ok."""
    from dicom_qa_node.db.engine import Database
    from dicom_qa_node.ops.health import Level, ModelCheck, assess, gather, time_of

    config = config_of(context)
    database = Database(config.database_url)
    try:
        facts = gather(config, database, ModelCheck(config))
        report = assess(facts, config, time_of(facts, database))
    finally:
        database.close()
    if as_json:
        show_json(asdict(report))
    else:
        rows = [asdict(check) for check in report.checks]
        show_rows("Health", rows, as_json=False, empty="nothing was checked")
        say(f"the node is {report.level}")
    if report.level is not Level.OK:
        raise typer.Exit(ExitCode.FAILED)
