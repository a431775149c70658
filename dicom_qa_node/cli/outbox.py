"""``outbox list|retry|park|explain``: reports on their way to each target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_qa_node.cli.context import actor, config_of, open_database
from dicom_qa_node.cli.exit_codes import WrongState
from dicom_qa_node.cli.output import AsJson, say, show_json, show_rows
from dicom_qa_node.cli.series import SeriesUid, resolved
from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.domain.states import DeliveryState
from dicom_qa_node.domain.uids import LARGEST_ID

if TYPE_CHECKING:
    from dicom_qa_node.flow.outbox import Outbox, OutboxRow

__all__ = ["app"]

app = typer.Typer(help="Reports on their way to the targets.", no_args_is_help=True)

Number = Annotated[
    int, typer.Argument(max=LARGEST_ID, help="Number of the delivery (outbox list).", metavar="DELIVERY")
]


@app.command("list")
def list_rows(
    context: typer.Context,
    state: Annotated[list[DeliveryState] | None, typer.Option(help="Only this state; may be given again.")] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Only deliveries that failed permanently.")] = False,
    target: Annotated[str | None, typer.Option(help="Only deliveries to this target.")] = None,
    after: Annotated[
        int | None, typer.Option(max=LARGEST_ID, help="Continue below this number, the last of the page before.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=LARGEST_ID, help="Rows at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, the latest first, with the target's last answer."""
    from dicom_qa_node.flow.outbox import Outbox

    if parked and state:
        raise typer.BadParameter("give --parked or --state, not both")
    chosen = [DeliveryState.PARKED] if parked else (state or tuple(DeliveryState))
    with open_database(config_of(context)) as database:
        found = Outbox(database).rows(chosen, limit=limit, after=after, target=target)
    show_rows("Outbox", [_row(item) for item in found], as_json=as_json, empty="no deliveries")


@app.command()
def retry(
    context: typer.Context,
    delivery: Annotated[
        int | None, typer.Argument(max=LARGEST_ID, help="Number of the delivery.", metavar="[DELIVERY]")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Every parked or waiting delivery to this target.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every parked or waiting delivery.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send parked or waiting reports at once: one by its number, all for one target, or all."""
    from dicom_qa_node.flow.outbox import Outbox

    if [delivery is not None, target is not None, every].count(True) != 1:
        raise typer.BadParameter("give the number of a delivery, --target NAME or --all")
    with open_database(config_of(context)) as database:
        outbox = Outbox(database)
        if delivery is not None:
            before = _one(outbox, delivery)
            if not outbox.retry([delivery], actor=actor()):
                raise WrongState(f"delivery {delivery} is {before.state}: only PARKED and PENDING ones can be retried")
            words, sent = f"delivery {delivery} to {before.target}", 1
        else:
            sent = outbox.retry(target=target, actor=actor())
            if not sent:
                raise NotFound(f"no parked or waiting delivery{f' to {target}' if target else ''}")
            words = f"{sent} deliveries{f' to {target}' if target else ''}"
    _done(words, "will be sent now", sent, as_json=as_json)


@app.command()
def park(
    context: typer.Context,
    delivery: Number,
    reason: Annotated[str, typer.Option(help="Why; shown with the delivery.")] = "parked by an operator",
    as_json: AsJson = False,
) -> None:
    """Stop trying to send a report; `outbox retry` takes it up again."""
    from dicom_qa_node.flow.outbox import Outbox

    with open_database(config_of(context)) as database:
        outbox = Outbox(database)
        before = _one(outbox, delivery)
        if not outbox.park_row(delivery, reason, actor=actor()):
            raise WrongState(f"delivery {delivery} is {before.state}: only a PENDING one can be parked")
    _done(f"delivery {delivery} to {before.target}", "parked", 1, as_json=as_json)


@app.command()
def explain(context: typer.Context, series_uid: SeriesUid, as_json: AsJson = False) -> None:
    """Say which targets a series' latest report goes to, and why not to the others: then, and by the rules of now."""
    from dicom_qa_node.config.delivery import decide, traits_of
    from dicom_qa_node.flow.outbox import Outbox
    from dicom_qa_node.flow.registry import Registry
    from dicom_qa_node.quality_log.entries import QualityLog

    config = config_of(context)
    with open_database(config) as database:
        series_uid = resolved(database, series_uid)
        outbox, entry = Outbox(database), QualityLog(database).entry(series_uid)
        if entry is None:
            raise NotFound(f"series {series_uid} is not in the quality log")
        sender, report = outbox.sender_of(series_uid), outbox.report(series_uid)
        sent = [row for row in outbox.deliveries_of(series_uid) if row.report == report]
        withheld = Registry(database).not_delivered(series_uid)
        kept = {} if report is None else outbox.unrouted(report.sop_instance_uid)
    traits = traits_of(entry.facts, entry.result, sender.ae_title, sender.host)
    now = {
        item.target: withheld or item.why_not for item in decide(config.deliver.targets, config.receive.peers, traits)
    }
    then = {row.target: f"{row.state}: {row.last_answer}".removesuffix(": ") for row in sent}
    then |= {target: f"not sent, {reason}" for target, reason in kept.items()}
    rows = [
        {
            "target": target,
            "report": then.get(target, "not a target when the report was made" if report else "no report yet"),
            "now": "not a target" if target not in now else now[target] or "gets it",
        }
        for target in dict.fromkeys([*now, *then])
    ]
    show_rows("Targets", rows, as_json=as_json, empty="no targets are configured")


def _done(what: str, became: str, count: int, *, as_json: bool) -> None:
    if as_json:
        show_json({"deliveries": count, "result": became})
    else:
        say(f"{what}: {became}")


def _one(outbox: Outbox, number: int) -> OutboxRow:
    found = outbox.row(number)
    if found is None:
        raise NotFound(f"no delivery {number}")
    return found


def _row(item: OutboxRow) -> dict[str, Any]:
    waits = item.state in (DeliveryState.PENDING, DeliveryState.SENDING)
    return {
        "delivery": item.delivery_id,
        "target": item.target,
        "document": item.report.kind,
        "state": item.state,
        "attempts": item.attempts,
        "next_attempt": item.next_attempt_at if waits else None,
        "delivered": item.delivered_at,
        "last_answer": item.last_answer,
        "series_instance_uid": item.report.series_instance_uid,
        "version": item.report.version,
        "report_uid": item.report.sop_instance_uid,
        "sent_uid": item.sent_uid,
    }
