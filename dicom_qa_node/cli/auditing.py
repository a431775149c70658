"""``audit``: the append-only log of what users did."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from dicom_qa_node.cli.context import config_of, open_database
from dicom_qa_node.cli.present import AsJson, show_rows
from dicom_qa_node.cli.quality import parse_since

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("audit")(audit)


def audit(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="A date, a time (ISO 8601) or an age: 30m, 24h, 7d, 2w.")] = None,
    actor: Annotated[str, typer.Option(help="Only what this login name did.")] = "",
    event: Annotated[str, typer.Option(help="Only events that begin so: login, account, series.")] = "",
    ident: Annotated[str, typer.Option(help="Only what was done to this object.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows at most, the latest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the audit log: who did what, when, from where, and how it ended; patient identifiers only with --json."""
    from dicom_qa_node.store import Audit
    from dicom_qa_node.store.audit import AuditFilter

    chosen = AuditFilter(since=parse_since(since) if since else None, actor=actor, event=event, ident=ident)
    with open_database(config_of(context)) as database:
        rows = [asdict(entry) for entry in Audit(database).entries(chosen, limit)]
    hidden = () if as_json else ("audit_id", "patient_id", "study_instance_uid")
    shown = [{key: value for key, value in row.items() if key not in hidden} for row in rows]
    show_rows("Audit log", shown, as_json=as_json, empty="no row matches")
