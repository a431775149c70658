"""``log`` and ``show``: the quality log as a table, JSON or CSV, and everything known of one series."""

from __future__ import annotations

import csv
import datetime as dt
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.exit_codes import NotFound
from dicom_qa_node.cli.present import AsJson, score_text, show_json, show_rows
from dicom_qa_node.cli.series import SeriesUid
from dicom_qa_node.cli.series_page import as_document, print_page
from dicom_qa_node.cli.verdict_json import verdict
from dicom_qa_node.records import Grade, utc_now
from dicom_qa_node.safe_text import csv_cell

if TYPE_CHECKING:
    from dicom_qa_node.records import LogEntry

__all__ = ["parse_since", "register"]

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
    limit: Annotated[int, typer.Option(min=1, help="Rows at most, the latest first.")] = 50,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with one column per measurement.")] = False,
) -> None:
    """Show the quality log: every scored version of every series, without patient data."""
    from dicom_qa_node.store import LogFilter, QualityLog

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
    if as_csv:
        _print_csv(entries)
    elif as_json:
        show_json([_head(entry) | verdict(entry.result) for entry in entries])
    else:
        show_rows("Quality log", [_row(entry) for entry in entries], as_json=False, empty="nothing scored yet")


def show(
    context: typer.Context,
    series_uid: SeriesUid,
    version: Annotated[int | None, typer.Option(min=1, help="A scored version; without it the latest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one series, patient included: state, history, score, measurements, findings, deliveries."""
    from dicom_qa_node.store import Outbox, QualityLog, Registry

    config = config_of(context)
    with open_database(config) as database:
        registry = Registry(database)
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
    age = re.fullmatch(r"(\d+)([mhdw])", text.strip())
    if age:
        return utc_now() - dt.timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no date, time or age such as 24h", param_hint="--since") from error
    return moment.astimezone(dt.UTC)


def _scanner(entry: LogEntry) -> str:
    from dicom_qa_node.store.log_rows import scanner_name

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
        "grade": entry.result.grade,
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
    "low", "high", "grade", "findings", "model", "model_sha256", "state", "report_uid", "deliveries",
)  # fmt: skip


def _csv_row(entry: LogEntry) -> dict[str, Any]:
    result = entry.result
    low, high = result.interval or (None, None)
    values = (
        entry.scored_at.isoformat(), result.series_instance_uid, entry.facts.study_instance_uid, entry.version,
        _scanner(entry), result.modality, result.kind.value, result.score, low, high, result.grade,
        " ".join(finding.key for finding in result.findings), f"{result.model.name} {result.model.version}",
        result.model.sha256, entry.state.value, entry.report_uid,
        " ".join(f"{target}={state}" for target, state, _ in entry.deliveries),
    )  # fmt: skip
    measured = {f"{item.name} [{item.unit}]": item.value for item in result.measurements if item.value is not None}
    return dict(zip(_CSV_HEAD, values, strict=True)) | measured
