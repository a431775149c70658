"""``outbox list|retry|park``: reports on their way to each target."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.exit_codes import NotFound, WrongState
from dicom_qa_node.cli.present import AsJson, say, show_rows
from dicom_qa_node.records import DeliveryState
from dicom_qa_node.store import Outbox
from dicom_qa_node.store.outbox import OutboxRow

__all__ = ["app"]

app = typer.Typer(help="Reports on their way to the targets.", no_args_is_help=True)

_MANY = 1_000_000

Number = Annotated[int, typer.Argument(help="Number of the delivery (outbox list).", metavar="DELIVERY")]


@app.command("list")
def list_rows(
    context: typer.Context,
    state: Annotated[list[DeliveryState] | None, typer.Option(help="Only this state; may be given again.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, the latest first, with the target's last answer."""
    with open_database(config_of(context)) as database:
        found = Outbox(database).rows(state or tuple(DeliveryState), limit=limit)
    show_rows("Outbox", [_row(item) for item in found], as_json=as_json, empty="no deliveries")


@app.command()
def retry(
    context: typer.Context,
    delivery: Annotated[int | None, typer.Argument(help="Number of the delivery.", metavar="[DELIVERY]")] = None,
    target: Annotated[str | None, typer.Option(help="Every parked or waiting delivery to this target.")] = None,
) -> None:
    """Send a parked or waiting report at once: one by its number, or all for one target."""
    if (delivery is None) == (target is None):
        raise typer.BadParameter("give the number of a delivery or --target NAME")
    with open_database(config_of(context)) as database:
        outbox = Outbox(database)
        if delivery is not None:
            before = _one(outbox, delivery)
            if not outbox.retry(delivery, actor=actor()):
                raise WrongState(f"delivery {delivery} is {before.state}: only PARKED and PENDING ones can be retried")
            say(f"delivery {delivery} to {before.target}: will be sent now")
            return
        waiting = outbox.rows([DeliveryState.PARKED, DeliveryState.PENDING], limit=_MANY)
        chosen = [row for row in waiting if row.target == target]
        if not chosen:
            raise NotFound(f"no parked or waiting delivery to {target}")
        sent = sum(outbox.retry(row.delivery_id, actor=actor()) for row in chosen)
    say(f"{sent} deliveries to {target}: will be sent now")


@app.command()
def park(
    context: typer.Context,
    delivery: Number,
    reason: Annotated[str, typer.Option(help="Why; shown with the delivery.")] = "parked by an operator",
) -> None:
    """Stop trying to send a report; `outbox retry` takes it up again."""
    with open_database(config_of(context)) as database:
        outbox = Outbox(database)
        before = _one(outbox, delivery)
        if not outbox.park_row(delivery, reason, actor=actor()):
            raise WrongState(f"delivery {delivery} is {before.state}: only a PENDING one can be parked")
    say(f"delivery {delivery} to {before.target}: parked")


def _one(outbox: Outbox, number: int) -> OutboxRow:
    found = next((row for row in outbox.rows(limit=_MANY) if row.delivery_id == number), None)
    if found is None:
        raise NotFound(f"no delivery {number}")
    return found


def _row(item: OutboxRow) -> dict[str, Any]:
    waits = item.state in (DeliveryState.PENDING, DeliveryState.SENDING)
    return {
        "delivery": item.delivery_id,
        "target": item.target,
        "state": item.state,
        "attempts": item.attempts,
        "next_attempt": item.next_attempt_at if waits else None,
        "delivered": item.delivered_at,
        "last_answer": item.last_answer,
        "series_instance_uid": item.report.series_instance_uid,
        "version": item.report.version,
        "report_uid": item.report.sop_instance_uid,
    }
