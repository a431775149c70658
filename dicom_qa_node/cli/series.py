"""``series list|rescore|release|park``, and everything known of one series as a document or a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.exit_codes import WrongState
from dicom_qa_node.cli.output import AsJson, say, score_text, show_rows
from dicom_qa_node.cli.terminal_tables import print_pairs, print_table
from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.domain.result_json import result_values
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.domain.uids import LARGEST_ID

if TYPE_CHECKING:
    from dicom_qa_node.db.engine import Database
    from dicom_qa_node.domain.results import LogEntry
    from dicom_qa_node.flow.outbox import OutboxRow
    from dicom_qa_node.flow.registry import Registry, SeriesRow

__all__ = ["SeriesUid", "app", "as_document", "print_page", "resolved", "sheet_of"]


def as_document(
    row: SeriesRow,
    entry: LogEntry | None,
    history: Sequence[dict[str, Any]],
    deliveries: Sequence[OutboxRow],
    spool: Path,
) -> dict[str, Any]:
    """Return the series as JSON values; paths are those on this machine."""
    from dicom_qa_node.config.scoring import priority_name

    return {
        "series_instance_uid": row.facts.series_instance_uid,
        "state": row.state,
        "state_since": row.state_since,
        "reason": row.parked_reason or row.complete_reason,
        "version": row.version,
        "received": row.received,
        "expected": row.expected,
        "conflicts": row.conflicts,
        "calling_ae": row.calling_ae,
        "site": row.site,
        "priority": priority_name(row.priority),
        "pair_series_uid": row.pair_series_uid,
        "facts": {key: value for key, value in asdict(row.facts).items() if value},
        "scored_version": None if entry is None else entry.version,
        "scored_at": None if entry is None else entry.scored_at,
        "score_text": None if entry is None else score_text(entry.result),
        "verdict": None if entry is None else result_values(entry.result),
        "picture": None if entry is None else sheet_of(spool, entry),
        "deliveries": [_delivery(item, spool) for item in deliveries],
        "history": [{key: event[key] for key in _EVENT} for event in history],
    }


_DELIVERY = ("delivery", "target", "document", "state", "attempts", "last_answer", "file")
_EVENT = ("at", "version", "old_state", "new_state", "reason", "actor")


def sheet_of(spool_dir: Path, entry: LogEntry) -> Path | None:
    """Return the picture of the salient slices with their scores, None if the spool has it no more."""
    from dicom_qa_node.spool.layout import SpoolLayout

    folder = SpoolLayout(spool_dir).pictures(entry.facts.series_instance_uid, entry.version)
    return folder / "sheet.png" if (folder / "sheet.png").is_file() else None


def _delivery(item: OutboxRow, spool: Path) -> dict[str, Any]:
    return {
        "delivery": item.delivery_id,
        "target": item.target,
        "document": item.report.kind,
        "state": item.state,
        "attempts": item.attempts,
        "last_answer": item.last_answer,
        "delivered_at": item.delivered_at,
        "version": item.report.version,
        "report_uid": item.report.sop_instance_uid,
        "file": str(spool / item.report.path),
    }


def print_page(document: dict[str, Any]) -> None:
    """Print the document as tables, the state and what it means first."""
    print_pairs("Series", {key: document[key] for key in _HEAD if document[key] not in (None, "", [])})
    print_pairs("Patient, study and equipment", document["facts"])
    found = document["verdict"]
    if found is not None:
        print_pairs(f"Verdict on version {document['scored_version']}", _verdict_pairs(document, found))
        print_table("Salient slices", found["slices"], ("index", "sop_instance_uid", "score", "weight", "reason"))
        print_table("Measurements", [_measured(item) for item in found["measurements"]], ())
        print_table("Findings", found["findings"], ("severity", "sentence", "evidence"))
    print_table(
        "Deliveries",
        document["deliveries"],
        ("delivery", "target", "document", "state", "attempts", "last_answer", "file"),
    )
    print_table("History", document["history"], _EVENT)


_HEAD = (
    "series_instance_uid", "state", "state_since", "reason", "version", "received", "expected", "conflicts",
    "calling_ae", "site", "priority", "pair_series_uid", "picture",
)  # fmt: skip


def _verdict_pairs(document: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    model = found["model"]
    return {
        "score (0-4)": document["score_text"],
        "grade": found["grade"] or "none",
        "scored at": document["scored_at"],
        "modality class": found["kind"],
        "images used": found["instances_used"],
        "model": f"{model['name']} {model['version']} ({model['sha256'][:12]})",
    }


def _measured(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "measurement": item["meaning"],
        "value": item["not_applicable"] or ("no finite value" if item["value"] is None else f"{item['value']:.4g}"),
        "unit": item["unit"],
        "usual": _range(item["low"], item["high"]),
        "direction": item["direction"],
        "detail": item["detail"],
    }


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return "" if high is None else f"{high:g} or less"


app = typer.Typer(help="Series and their states.", no_args_is_help=True)

SeriesUid = Annotated[
    str, typer.Argument(help="Series Instance UID, or an end of it that no other series has.", metavar="SERIES_UID")
]


@app.command("list")
def list_series(
    context: typer.Context,
    state: Annotated[list[SeriesState] | None, typer.Option(help="Only this state; may be given again.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST_ID, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List series, the latest arrival first, with their state and why they stand there."""
    from dicom_qa_node.flow.registry import Registry

    with open_database(config_of(context)) as database:
        found = Registry(database).list_series(state or tuple(SeriesState), limit=limit)
    show_rows(
        "Series",
        [_row(item) for item in found],
        as_json=as_json,
        empty="no series in these states" if state else "no series",
    )


@app.command()
def rescore(context: typer.Context, series_uid: SeriesUid) -> None:
    """Score a series again as a new version; its new report names the old one as predecessor."""
    from dicom_qa_node.flow.registry import Registry

    _command(context, series_uid, Registry.rescore, "queued to be scored again", "it is arriving or about to be scored")


@app.command()
def release(context: typer.Context, series_uid: SeriesUid) -> None:
    """Try a parked series again, or score a receiving one with the images that are there."""
    from dicom_qa_node.flow.registry import Registry

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


def resolved(database: Database, named: str) -> str:
    """Return the Series Instance UID that an operator named, in full or by its end.

    Raises
    ------
    NotFound
        No series has it, or several have.
    """
    from dicom_qa_node.flow.series_uids import SHORTEST, series_uids

    found = series_uids(database, named)
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"several series end with {named}: {', '.join(found)}")
    hint = f"; a short UID needs its last {SHORTEST} characters" if len(named.lstrip("….")) < SHORTEST else ""
    raise NotFound(f"no series {named}{hint}")


@app.command("take-newer")
def take_newer(context: typer.Context, series_uid: SeriesUid) -> None:
    """Score the images that came again under the same UIDs; the new report replaces the one before."""
    from dicom_qa_node.flow.conflicts import Conflicts
    from dicom_qa_node.spool.layout import SpoolLayout

    layout = SpoolLayout(config_of(context).spool_dir)

    def act(conflicts: Conflicts, uid: str, *, actor: str) -> bool:
        return conflicts.take_newer(uid, layout, actor=actor)

    _command(context, series_uid, act, "queued to be scored with the newer images", _NO_CONFLICT, Conflicts)


@app.command("keep-stored")
def keep_stored(context: typer.Context, series_uid: SeriesUid) -> None:
    """Settle a conflict for the images that came first; those that came again stay in the spool, unscored."""
    from dicom_qa_node.flow.conflicts import Conflicts

    _command(context, series_uid, Conflicts.keep_stored, "the stored images were kept", _NO_CONFLICT, Conflicts)


_NO_CONFLICT = "no image of it came again with another content"


def _command(
    context: typer.Context, named: str, act: Callable[..., bool], done: str, refused: str, view: type[Any] | None = None
) -> None:
    from dicom_qa_node.flow.registry import Registry

    with open_database(config_of(context)) as database:
        registry, uid = Registry(database), resolved(database, named)
        row = registry.series(uid)
        if row is None:
            raise NotFound(f"no series {uid}")
        if not act(registry if view is None else view(database), uid, actor=actor()):
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
