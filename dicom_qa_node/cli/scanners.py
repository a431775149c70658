"""``scanners``: where they stand, drift alarms, new baselines, and the names of scanners and protocols."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.output import AsJson, say, show_rows
from dicom_qa_node.cli.quality_log import parse_since
from dicom_qa_node.domain.errors import NotFound

if TYPE_CHECKING:
    from dicom_qa_node.accounts.audit import Audit
    from dicom_qa_node.charts.naming import Naming
    from dicom_qa_node.charts.scanners import Scanner, Scanners

__all__ = ["app"]

app = typer.Typer(help="Scanners: drift alarms, baselines, names.", no_args_is_help=True)

ScannerId = Annotated[int, typer.Argument(help="Number of the scanner, see `scanners list`.", min=1)]
Reason = Annotated[str, typer.Option(help="Why; kept with the baseline.")]


@dataclass(frozen=True, slots=True)
class _Desk:
    scanners: Scanners
    naming: Naming
    audit: Audit

    def note(self, event: str, kind: str, ident: str, detail: str) -> None:
        self.audit.record(event, actor=actor(), kind=kind, ident=ident, detail=detail)

    def one(self, scanner_id: int) -> Scanner:
        found = self.scanners.scanner(scanner_id)
        if found is None:
            raise NotFound(f"there is no scanner {scanner_id}")
        return found


@contextmanager
def _desk(context: typer.Context) -> Iterator[_Desk]:
    from dicom_qa_node.accounts.audit import Audit
    from dicom_qa_node.charts.baselines import chart_rules
    from dicom_qa_node.charts.naming import Naming
    from dicom_qa_node.charts.scanners import Scanners

    config = config_of(context)
    with open_database(config) as database:
        yield _Desk(Scanners(database, chart_rules(config.charts)), Naming(database), Audit(database))


@app.command("list")
def list_scanners(context: typer.Context, as_json: AsJson = False) -> None:
    """List the scanners: drift alarms, grades of the last 7 days."""
    with _desk(context) as desk:
        rows = [
            {
                "scanner": card.scanner.scanner_id,
                "name": card.scanner.name,
                "stands": card.light.value,
                "alarms": card.alarms,
                "series": card.count,
                "diagnostic": card.grades.get("diagnostic", 0),
                "limited": card.grades.get("limited", 0),
                "non-diagnostic": card.grades.get("non-diagnostic", 0),
            }
            for card in desk.scanners.overview()
        ]
    show_rows("Scanners", rows, as_json=as_json, empty="no series has been scored yet")


@app.command()
def alarms(
    context: typer.Context,
    ended: Annotated[bool, typer.Option("--all", help="Those that ended, and improvements, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List drift alarms with their cause, the latest first."""
    with _desk(context) as desk:
        found = desk.scanners.alarms(only_open=not ended, notes=ended)
        rows = [
            {
                "alarm": alarm.alarm_id,
                "began": alarm.began_at,
                "ended": alarm.ended_at,
                "chart": f"{alarm.kind.upper()}: {alarm.protocol}",
                "cause": alarm.sentence or alarm.meaning,
            }
            for alarm in found
        ]
    show_rows("Drift alarms", rows, as_json=as_json, empty="no drift")


@app.command()
def accept(
    context: typer.Context,
    alarm: Annotated[int, typer.Argument(help="Number of the alarm, see `scanners alarms`.", min=1)],
    reason: Reason = "",
) -> None:
    """Accept what changed: the chart's baseline begins anew where the drift began."""
    with _desk(context) as desk:
        found = next((item for item in desk.scanners.alarms(notes=True, limit=1000) if item.alarm_id == alarm), None)
        group = None if found is None else desk.scanners.group(found.group_id)
        if found is None or group is None:
            raise NotFound(f"there is no open drift {alarm}")
        why = reason or f"accepted: {found.sentence or found.meaning}"
        desk.scanners.accept_change(group, found.began_at, reason=why, author=actor())
        desk.note("baseline.accept", "scanner", str(group.scanner_id), f"{group.protocol}: {why}")
    say(f"{group.protocol}: new baseline from {found.began_at:%Y-%m-%d %H:%M} UTC")


@app.command("new-baseline")
def new_baseline(
    context: typer.Context,
    scanner: ScannerId,
    since: Annotated[str, typer.Option(help="Local date or time, or an age such as 2d: when the service was.")],
    reason: Reason = "",
) -> None:
    """Begin the baselines of every chart of a scanner anew, such as after a service event."""
    moment = parse_since(since)
    with _desk(context) as desk:
        found = desk.one(scanner)
        why = reason or "new baseline from the command line"
        count = desk.scanners.accept_event(found.scanner_id, moment, reason=why, author=actor())
        detail = f"{count} groups from {moment:%Y-%m-%d %H:%M} UTC: {why}"
        desk.note("baseline.accept", "scanner", str(found.scanner_id), detail)
    say(f"{found.name}: {count} charts begin anew at {moment:%Y-%m-%d %H:%M} UTC")


@app.command()
def name(
    context: typer.Context,
    scanner: ScannerId,
    new: Annotated[str, typer.Argument(help='The name; "" is the one that the headers give.')],
) -> None:
    """Give a scanner a name in charts, log and exports."""
    with _desk(context) as desk:
        shown = desk.naming.name_scanner(scanner, new, author=actor())
        desk.note("scanner.name", "scanner", str(scanner), f"called {shown}")
    say(f"scanner {scanner} is called {shown}")


@app.command()
def merge(
    context: typer.Context,
    scanner: ScannerId,
    into: Annotated[int, typer.Argument(help="Number of the scanner it is shown as; 0: itself again.", min=0)],
) -> None:
    """Show a scanner as part of another, or on its own again."""
    with _desk(context) as desk:
        desk.naming.merge(scanner, into or None, author=actor())
        detail = f"shown as scanner {into}" if into else "stands for itself"
        desk.note("scanner.merge", "scanner", str(scanner), detail)
    say(f"scanner {scanner}: {detail}")


@app.command()
def protocol(
    context: typer.Context,
    written: Annotated[str, typer.Argument(help="Protocol Name (0018,1030) as the scanner writes it.")],
    shown: Annotated[str, typer.Argument(help='What it is shown as; "" takes it back.')],
) -> None:
    """Show a protocol under another name in charts, log and exports."""
    with _desk(context) as desk:
        desk.naming.map_protocol(written, shown, author=actor())
        desk.note("protocol.name", "protocol", written[:200], f"shown as {shown or written}"[:500])
    say(f"{written}: shown as {shown or written}")
