"""``backfill``: past series from an archive, at a bounded rate behind all live work."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.exit_codes import WrongState
from dicom_qa_node.cli.output import AsJson, say, show_json, show_rows
from dicom_qa_node.domain.backfill import BackfillRequest, EntryState
from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.domain.uids import LARGEST_ID

if TYPE_CHECKING:
    from dicom_qa_node.domain.backfill import BackfillRun, SeriesEntry
    from dicom_qa_node.flow.backfill_runs import BackfillRuns

__all__ = ["app"]

app = typer.Typer(help="Past series from an archive, behind all live work.", invoke_without_command=True)

Number = Annotated[int, typer.Argument(max=LARGEST_ID, help="Number of the run (backfill list).", metavar="RUN")]


@app.callback()
def start(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Option("--from", help="Archive: a name of backfill.sources or of a target of kind dicom.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="First study date, such as 2026-01-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Last study date; without it today.")] = None,
    scanner: Annotated[str, typer.Option(help="Only series of this Station Name.")] = "",
    modality: Annotated[str, typer.Option(help="Modalities, separated by commas.")] = "CT,PT",
    rate: Annotated[
        float | None, typer.Option(min=0.01, max=3600, help="Series in an hour; without it backfill.rate_per_hour.")
    ] = None,
    deliver: Annotated[bool, typer.Option("--deliver", help="Send the reports to the targets, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring past series in; without --from show how far the runs are. The role deliver does the work."""
    if context.invoked_subcommand is not None:
        return
    if source is None:
        _list(context, as_json=as_json)
        return
    if since is None:
        raise typer.BadParameter("the first study date is missing", param_hint="--since")
    from dicom_qa_node.config.backfill import source_named, source_names
    from dicom_qa_node.flow.backfill_runs import BackfillRuns

    config = config_of(context)
    if source_named(config.backfill, config.deliver, source) is None:
        known = ", ".join(source_names(config.backfill, config.deliver)) or "none"
        raise NotFound(f"no archive is called {source!r}; backfill.sources and the dicom targets have: {known}")
    today = dt.datetime.now().astimezone().date()
    first, last = _date(since, "--since"), today if until is None else _date(until, "--until")
    if last < first:
        raise typer.BadParameter("the last day lies before the first", param_hint="--until")
    request = BackfillRequest(
        source, first, last, modalities_of(modality), rate or config.backfill.rate_per_hour, scanner.strip(), deliver
    )  # fmt: skip
    with open_database(config) as database:
        number = BackfillRuns(database).start(request, by=actor())
    if as_json:
        show_json({"run": number})
    else:
        say(f"backfill {number}: {source}, studies of {first} to {last}, {request.rate_per_hour:g} series an hour")
        say("the role deliver works on it; dicom-qa-node backfill list shows how far it is")


@app.command("list")
def list_runs(context: typer.Context, as_json: AsJson = False) -> None:
    """List the runs, the latest first, and how far they are."""
    _list(context, as_json=as_json)


@app.command()
def show(
    context: typer.Context,
    number: Number,
    state: Annotated[EntryState, typer.Option(help="Series in this state.")] = EntryState.FAILED,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST_ID, help="Series at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show series of a run with the words: those that failed, or in another state."""
    from dicom_qa_node.flow.backfill_runs import BackfillRuns

    with open_database(config_of(context)) as database:
        runs = BackfillRuns(database)
        _known(runs, number)
        found = runs.entries(number, state, limit)
    show_rows(f"Backfill {number}", [_entry_row(item) for item in found], as_json=as_json, empty=f"no {state} series")


@app.command()
def pause(context: typer.Context, number: Number) -> None:
    """Let a run rest; what is under way is finished."""
    _changed(context, number, "pause", "paused")


@app.command()
def resume(context: typer.Context, number: Number) -> None:
    """Go on with a run that rests or was stopped."""
    _changed(context, number, "resume", "goes on")


@app.command()
def stop(context: typer.Context, number: Number) -> None:
    """End a run; what it has not retrieved stays in the archive."""
    _changed(context, number, "stop", "stopped")


def modalities_of(text: str) -> tuple[str, ...]:
    """Return the modalities of a list such as ``CT,PT``; those that the node does not score are refused."""
    found = tuple(dict.fromkeys(word.strip().upper() for word in text.split(",") if word.strip()))
    if not found or set(found) - {"CT", "PT"}:
        raise typer.BadParameter("the node scores CT and PT", param_hint="--modality")
    return found


def _list(context: typer.Context, *, as_json: bool) -> None:
    from dicom_qa_node.flow.backfill_runs import BackfillRuns

    with open_database(config_of(context)) as database:
        runs = BackfillRuns(database).runs()
    show_rows("Backfill", [_run_row(run) for run in runs], as_json=as_json, empty="no backfill was started")


def _changed(context: typer.Context, number: int, name: str, became: str) -> None:
    from dicom_qa_node.flow.backfill_runs import BackfillRuns

    with open_database(config_of(context)) as database:
        runs = BackfillRuns(database)
        run = _known(runs, number)
        change: Callable[[int], bool] = getattr(runs, name)
        if not change(number):
            raise WrongState(f"backfill {number} is {run.state}")
    say(f"backfill {number}: {became}")


def _known(runs: BackfillRuns, number: int) -> BackfillRun:
    run = runs.run(number)
    if run is None:
        raise NotFound(f"there is no backfill {number}")
    return run


def _date(text: str, option: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a date such as 2026-01-01", param_hint=option) from error


def _run_row(run: BackfillRun) -> dict[str, Any]:
    request = run.request
    return {
        "run": run.run_id,
        "state": run.state,
        "source": request.source,
        "days": f"{request.first_day} to {request.last_day}",
        "searched_to": min(run.next_day - dt.timedelta(days=1), request.last_day),
        "scanner": request.scanner,
        "an_hour": request.rate_per_hour,
        "found": run.found,
        "waiting": run.waiting,
        "moved": run.moved,
        "scored": run.scored,
        "skipped": run.skipped,
        "failed": run.failed,
        "holds_it_up": run.words,
    }


def _entry_row(item: SeriesEntry) -> dict[str, Any]:
    return {
        "series_instance_uid": item.series_instance_uid,
        "study_date": item.study_date,
        "modality": item.modality,
        "state": item.state,
        "attempts": item.attempts,
        "words": item.words,
    }
