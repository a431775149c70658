"""``log``, ``show`` and ``reviews``: the quality log as a table, JSON or CSV."""

from __future__ import annotations

import csv
import datetime as dt
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.output import AsJson, say, score_text, show_json, show_rows
from dicom_qa_node.cli.series import SeriesUid, as_document, print_page, resolved
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.domain.result_json import result_values
from dicom_qa_node.domain.results import Grade, RatedPartKind
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.safe_text import csv_cell

if TYPE_CHECKING:
    from dicom_qa_node.domain.results import LogEntry
    from dicom_qa_node.quality_log.reviews import Review

__all__ = ["app", "parse_since", "register"]

_NO_MATCH, _NOTHING = "no series match the filter", "nothing scored yet"
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("log")(log)
    app.command("show")(show)


def log(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="A date, a time (ISO 8601) or an age: 30m, 24h, 7d, 2w.")] = None,
    scanner: Annotated[str | None, typer.Option(help="Station name, or what the log calls the scanner.")] = None,
    modality: Annotated[str | None, typer.Option(help="CT or PT.")] = None,
    grade: Annotated[Grade | None, typer.Option(help="Only this grade.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST_ID, help="Rows at most, the latest first.")] = 50,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with one column per measurement.")] = False,
) -> None:
    """Show the quality log: every scored version of every series, without patient data."""
    from dicom_qa_node.quality_log.entries import LogFilter, QualityLog

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    chosen = LogFilter(
        since=None if since is None else parse_since(since),
        scanner=scanner,
        modality=None if modality is None else modality.upper(),
        grade=grade,
    )
    with open_database(config_of(context)) as database:
        entries = QualityLog(database).entries(chosen, limit=limit)
        filtered = not entries and bool(QualityLog(database).entries(LogFilter(), limit=1))
    if as_csv:
        _print_csv(entries)
    elif as_json:
        show_json([_head(entry) | result_values(entry.result) for entry in entries])
    else:
        show_rows(
            "Quality log", [_row(entry) for entry in entries], as_json=False, empty=_NO_MATCH if filtered else _NOTHING
        )


def show(
    context: typer.Context,
    series_uid: SeriesUid,
    version: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_ID, help="A scored version; without it the latest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one series, patient included: state, history, score, measurements, findings, deliveries."""
    from dicom_qa_node.flow.outbox import Outbox
    from dicom_qa_node.flow.registry import Registry
    from dicom_qa_node.quality_log.entries import QualityLog

    config = config_of(context)
    with open_database(config) as database:
        registry, series_uid = Registry(database), resolved(database, series_uid)
        row = registry.series(series_uid)
        if row is None:
            raise NotFound(f"no series {series_uid}")
        entry = QualityLog(database).entry(series_uid, version)
        if entry is None and version is not None:
            raise NotFound(f"series {series_uid} has no scored version {version}")
        history = registry.history(series_uid)
        deliveries = Outbox(database).deliveries_of(series_uid)
    document = as_document(row, entry, history, deliveries, config.spool_dir)
    if as_json:
        show_json(document)
    else:
        print_page(document)


def parse_since(text: str) -> dt.datetime:
    """Return the moment that ``text`` names: an age (``24h``) or a local date or time."""
    age = re.fullmatch(r"(\d+)([mhdw])", text.strip(), re.ASCII)
    try:
        if age:
            return utc_now() - dt.timedelta(**{_UNITS[age[2]]: int(age[1])})
        return dt.datetime.fromisoformat(text.strip()).astimezone(dt.UTC)
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} lies before the year 1", param_hint="--since") from error
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a date, time or age such as 24h", param_hint="--since") from error


def _scanner(entry: LogEntry) -> str:
    from dicom_qa_node.quality_log.rows import scanner_name

    return scanner_name(entry.facts)


def _head(entry: LogEntry) -> dict[str, Any]:
    return {
        "scored_at": entry.scored_at,
        "state": entry.state,
        "version": entry.version,
        "study_instance_uid": entry.facts.study_instance_uid,
        "scanner": _scanner(entry),
        "report_uid": entry.report_uid,
        "deliveries": [
            {"target": target, "state": state, "answer": answer} for target, state, answer in entry.deliveries
        ],
    }


def _row(entry: LogEntry) -> dict[str, Any]:
    return {
        "scored": entry.scored_at,
        "series_instance_uid": entry.facts.series_instance_uid,
        "scanner": _scanner(entry),
        "kind": entry.result.kind,
        "score": score_text(entry.result),
        "grade": entry.result.grade_text,
        "decided_by": entry.result.decided_by,
        "why": entry.result.why,
        "findings": [finding.key for finding in entry.result.findings],
        "state": entry.state,
        "version": entry.version,
    }


def _print_csv(entries: list[LogEntry]) -> None:
    rows = [_csv_row(entry) for entry in entries]
    columns = list(dict.fromkeys(key for row in rows for key in row)) or list(_CSV_HEAD)
    writer = csv.DictWriter(sys.stdout, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)


_CSV_HEAD = (
    "scored_at", "series_instance_uid", "study_instance_uid", "version", "scanner", "modality", "kind", "score",
    "low", "high", "grade", "grade_low", "decided_by", "ct_score", "pet_score", "display_score",
    "why", "findings", "model", "model_sha256", "state", "report_uid", "deliveries",
)  # fmt: skip


def _csv_row(entry: LogEntry) -> dict[str, Any]:
    result = entry.result
    low, high = result.interval or (None, None)
    values = (
        entry.scored_at.isoformat(), result.series_instance_uid, entry.facts.study_instance_uid, entry.version,
        _scanner(entry), result.modality, result.kind.value, result.score, low, high, result.grade,
        result.grade_low, result.decided_by,
        *(None if (part := result.rated_part(kind)) is None else part.score for kind in RatedPartKind), result.why,
        " ".join(finding.key for finding in result.findings), f"{result.model.name} {result.model.version}",
        result.model.sha256, entry.state.value, entry.report_uid,
        " ".join(f"{target}={state}" for target, state, _ in entry.deliveries),
    )  # fmt: skip
    measured = {f"{item.name} [{item.unit}]": item.value for item in result.measurements if item.value is not None}
    return dict(zip(_CSV_HEAD, values, strict=True)) | measured


app = typer.Typer(help="Reviews of verdicts.", no_args_is_help=True)


@app.command("list")
def list_reviews(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST_ID, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List reviews, the latest first."""
    from dicom_qa_node.quality_log.reviews import Reviews

    with open_database(config_of(context)) as database:
        found = Reviews(database).latest(limit)
    show_rows("Reviews", [_reviews_row(item) for item in found], as_json=as_json, empty="no reviews")


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


def _reviews_row(item: Review) -> dict[str, Any]:
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
