"""``series list|rescore|release|park``: where each series stands, and what an operator can do about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.exit_codes import NotFound, WrongState
from dicom_qa_node.cli.present import AsJson, say, show_rows
from dicom_qa_node.records import SeriesState

if TYPE_CHECKING:
    from dicom_qa_node.store import Registry
    from dicom_qa_node.store.registry import SeriesRow

__all__ = ["SeriesUid", "app"]

app = typer.Typer(help="Series and their states.", no_args_is_help=True)

SeriesUid = Annotated[str, typer.Argument(help="Series Instance UID.", metavar="SERIES_UID")]


@app.command("list")
def list_series(
    context: typer.Context,
    state: Annotated[list[SeriesState] | None, typer.Option(help="Only this state; may be given again.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List series, the latest arrival first, with their state and why they stand there."""
    from dicom_qa_node.store import Registry

    with open_database(config_of(context)) as database:
        found = Registry(database).list_series(state or tuple(SeriesState), limit=limit)
    show_rows("Series", [_row(item) for item in found], as_json=as_json, empty="no series")


@app.command()
def rescore(context: typer.Context, series_uid: SeriesUid) -> None:
    """Score a series again as a new version; its new report names the old one as predecessor."""
    from dicom_qa_node.store import Registry

    _command(context, series_uid, Registry.rescore, "queued to be scored again", "it is arriving or about to be scored")


@app.command()
def release(context: typer.Context, series_uid: SeriesUid) -> None:
    """Try a parked series again, or score a receiving one with the images that are there."""
    from dicom_qa_node.store import Registry

    _command(context, series_uid, Registry.release, "released", "only a PARKED or RECEIVING series can be released")


@app.command()
def park(
    context: typer.Context,
    series_uid: SeriesUid,
    reason: Annotated[str, typer.Option(help="Why; shown wherever the series is listed.")] = "parked by an operator",
) -> None:
    """Take a series out of the flow; its images stay in the spool until `series release`."""

    def act(registry: Registry, uid: str, *, actor: str) -> bool:
        return registry.park(uid, reason, actor=actor)

    _command(context, series_uid, act, "parked", "it is parked already")


def _command(context: typer.Context, uid: str, act: Callable[..., bool], done: str, refused: str) -> None:
    from dicom_qa_node.store import Registry

    with open_database(config_of(context)) as database:
        registry = Registry(database)
        row = registry.series(uid)
        if row is None:
            raise NotFound(f"no series {uid}")
        if not act(registry, uid, actor=actor()):
            raise WrongState(f"series {uid} is {row.state}: {refused}")
    say(f"{uid}: {done}")


def _row(item: SeriesRow) -> dict[str, Any]:
    expected = "?" if item.expected is None else str(item.expected)
    return {
        "series_instance_uid": item.facts.series_instance_uid,
        "modality": item.facts.modality,
        "scanner": item.facts.station_name or item.calling_ae,
        "state": item.state,
        "since": item.state_since,
        "version": item.version,
        "images": f"{item.received}/{expected}",
        "reason": item.parked_reason or item.complete_reason,
    }
