"""``report``: the monthly report of the site or of one scanner, as PDF or workbook."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.output import say

__all__ = ["register"]

_ENDINGS = (".pdf", ".xlsx")


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("report")(report)


def report(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="File to write; its ending, .pdf or .xlsx, is the form.")],
    month: Annotated[str | None, typer.Option(help="Such as 2026-11; without it the last one that is over.")] = None,
    scanner: Annotated[str, typer.Option(help="Only this scanner, as the log names it.")] = "",
) -> None:
    """Write the monthly report: counts, grades, drifts and what was done, reviews, models."""
    if output.suffix.lower() not in _ENDINGS:
        raise typer.BadParameter("the file must end in .pdf or .xlsx", param_hint="--output")
    from dicom_qa_node.dicom_io.durable import replace_file
    from dicom_qa_node.domain.clock import utc_now
    from dicom_qa_node.monthly_report.gather import gather_month
    from dicom_qa_node.monthly_report.month import Month

    try:
        chosen = Month.of(dt.datetime.now().astimezone().date()).previous if month is None else Month.parse(month)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--month") from error
    config = config_of(context)
    with open_database(config) as database:
        figures = gather_month(database, config, chosen, scanner.strip(), now=utc_now())
    if output.suffix.lower() == ".pdf":
        from dicom_qa_node.monthly_report.document import as_pdf

        content = as_pdf(figures)
    else:
        from dicom_qa_node.monthly_report.workbook import as_workbook

        content = as_workbook(figures)
    replace_file(output, content)
    say(f"{output}: {chosen.title}, {figures.series} series of {len(figures.scanners)} scanners")
