"""``log``, ``show`` and ``reviews``: the quality log as a table or a file."""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.output import AsJson, json_text, say, score_text, show_json, show_rows
from dicom_qa_node.cli.series import SeriesUid, as_document, print_page, resolved
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.domain.result_json import result_values
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.domain.uids import LARGEST_ID

if TYPE_CHECKING:
    from dicom_qa_node.domain.results import LogEntry
    from dicom_qa_node.quality_log.filters import LogQuery
    from dicom_qa_node.quality_log.reviews import Review

__all__ = ["app", "parse_since", "register"]

_NO_MATCH, _NOTHING = "no series match the filter", "nothing scored yet"
_SHOWN = 50
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("log")(log)
    app.command("show")(show)


class DatesOf(StrEnum):
    """What --since and --until of ``log`` are compared with."""

    ACQUIRED = "acquired"
    SCORED = "scored"


class LogFormat(StrEnum):
    """How ``log`` shows or writes the quality log."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    XLSX = "xlsx"
    PARQUET = "parquet"


def log(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="A date, a time (ISO 8601) or an age: 30m, 24h, 7d, 2w.")] = None,
    until: Annotated[str | None, typer.Option(help="The same; a date counts to its end.")] = None,
    by: Annotated[
        DatesOf, typer.Option(help="Compare whole days of the acquisition, or the time of the scoring.")
    ] = DatesOf.ACQUIRED,
    scanner: Annotated[str | None, typer.Option(help="Station name, or what the log calls the scanner.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Protocol Name of the series.")] = None,
    modality: Annotated[str | None, typer.Option(help="CT or PT.")] = None,
    grade: Annotated[Grade | None, typer.Option(help="Only this grade.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_ID, help="Rows at most, the latest first; 50, or all of them in a file."),
    ] = None,
    wanted: Annotated[
        LogFormat, typer.Option("--format", help="csv, xlsx and parquet have the columns of docs/exports.md.")
    ] = LogFormat.TABLE,
    output: Annotated[Path | None, typer.Option(help="File to write; it is replaced when it is complete.")] = None,
    patients: Annotated[bool, typer.Option("--patients", help="Write the patients' columns, too.")] = False,
    versions: Annotated[bool, typer.Option("--all-versions", help="Write replaced versions, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The same as --format csv.")] = False,
) -> None:
    """Show the quality log, every scored version of every series, or write the latest versions to a file."""
    from dicom_qa_node.quality_log.filters import LogQuery

    wanted = _format_of(wanted, as_json, as_csv)
    chosen = LogQuery(
        **_times(by, since, until),
        scanner=scanner,
        protocol=protocol,
        modality=None if modality is None else modality.upper(),
        grades=() if grade is None else (grade,),
        all_versions=versions or wanted in (LogFormat.TABLE, LogFormat.JSON),
    )
    if wanted is LogFormat.TABLE:
        if output is not None:
            raise typer.BadParameter("a table goes to the terminal; choose another --format", param_hint="--output")
        _show_table(context, chosen, limit or _SHOWN)
    elif wanted is LogFormat.JSON:
        _write_json(context, chosen, limit or (_SHOWN if output is None else None), output)
    else:
        _write_file(context, wanted, chosen, limit, output, patients=patients)


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


def parse_until(text: str) -> dt.datetime:
    """Return the moment before which rows count: `parse_since`, a whole date to its end."""
    moment = parse_since(text)
    try:
        return moment + dt.timedelta(days=1) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()) else moment
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is too late a date", param_hint="--until") from error


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


def _times(by: DatesOf, since: str | None, until: str | None) -> dict[str, Any]:
    """Return the fields of a `LogQuery` for --since and --until."""
    from dicom_qa_node.quality_log.filters import LogOrder

    begin, end = None if since is None else parse_since(since), None if until is None else parse_until(until)
    if by is DatesOf.SCORED or (begin is None and end is None):
        return {"since": begin, "until": end}
    return {
        "order": LogOrder.ACQUIRED,
        "acquired_from": None if begin is None else begin.astimezone().date(),
        "acquired_until": None if end is None else (end - dt.timedelta(microseconds=1)).astimezone().date(),
    }


def _format_of(wanted: LogFormat, as_json: bool, as_csv: bool) -> LogFormat:
    named = [wanted] if wanted is not LogFormat.TABLE else []
    named += [LogFormat.JSON] if as_json else []
    named += [LogFormat.CSV] if as_csv else []
    if len(set(named)) > 1:
        raise typer.BadParameter("choose one format")
    return named[0] if named else wanted


def _show_table(context: typer.Context, chosen: LogQuery, limit: int) -> None:
    from dicom_qa_node.quality_log.entries import LogFilter, QualityLog

    with open_database(config_of(context)) as database:
        entries = list(QualityLog(database).chosen(chosen, limit=limit))
        filtered = not entries and bool(QualityLog(database).entries(LogFilter(), limit=1))
    rows = [_row(entry) for entry in entries]
    show_rows("Quality log", rows, as_json=False, empty=_NO_MATCH if filtered else _NOTHING)


def _write_json(context: typer.Context, chosen: LogQuery, limit: int | None, output: Path | None) -> None:
    """Write one JSON list, an entry at a time."""
    from dicom_qa_node.quality_log.entries import QualityLog

    with _opened(output) as file, open_database(config_of(context)) as database:
        lead = b"["
        for entry in QualityLog(database).chosen(chosen, limit=limit):
            file.write(lead + json_text(_head(entry) | result_values(entry.result)).encode(errors="backslashreplace"))
            lead = b",\n"
        file.write(b"[]\n" if lead == b"[" else b"]\n")


def _write_file(
    context: typer.Context, wanted: LogFormat, chosen: LogQuery, limit: int | None, output: Path | None, *,
    patients: bool,
) -> None:  # fmt: skip
    from dicom_qa_node.quality_log.export_columns import columns_for
    from dicom_qa_node.quality_log.export_formats import ExportFormat, require_format, write_export
    from dicom_qa_node.quality_log.export_rows import export_rows

    kind = ExportFormat(wanted.value)
    if output is None and kind is not ExportFormat.CSV:
        raise typer.BadParameter(f"{kind.value} needs a file", param_hint="--output")
    require_format(kind)
    with open_database(config_of(context)) as database, _opened(output) as file:
        rows = export_rows(database, chosen, patients=patients, limit=limit)
        write_export(kind, columns_for(patients=patients), rows, file)


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Give the file to write to, standard output without one."""
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    from dicom_qa_node.dicom_io.durable import replacing

    with replacing(output) as file:
        yield file


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
