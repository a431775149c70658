"""``reviews list|export``: what people think of the verdicts, and the labelled set a site trains with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.present import AsJson, say, show_rows

if TYPE_CHECKING:
    from dicom_qa_node.store.reviews import Review

__all__ = ["app"]

app = typer.Typer(help="Reviews of verdicts.", no_args_is_help=True)


@app.command("list")
def list_reviews(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List reviews, the latest first."""
    from dicom_qa_node.store import Reviews

    with open_database(config_of(context)) as database:
        found = Reviews(database).latest(limit)
    show_rows("Reviews", [_row(item) for item in found], as_json=as_json, empty="no reviews")


@app.command()
def export(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="New folder for labels.csv and images/.", metavar="DIR")],
) -> None:
    """Write every reviewed series as a labelled set, as `python -m training.evaluate` reads it; no patient data."""
    from dicom_qa_node.ops.label_export import export_labels

    config = config_of(context)
    with open_database(config) as database:
        done = export_labels(database, config.spool_dir, folder)
    say(f"{folder}: {done.pictures} pictures of {done.series} reviewed series")
    if done.missing:
        say(f"{done.missing} slices are left out: their pictures are no longer in the spool")


def _row(item: Review) -> dict[str, Any]:
    return {
        "at": item.at,
        "reviewer": item.reviewer,
        "opinion": "agrees" if item.agrees else "disagrees",
        "score": item.score,
        "reason": item.reason,
        "comment": item.comment,
        "series_instance_uid": item.series_instance_uid,
        "version": item.version,
    }
