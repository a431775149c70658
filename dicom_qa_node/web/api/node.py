"""The node in the API: health, flow, processes, peers, tasks, parked deliveries, and an echo of a target."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import BaseModel, ConfigDict

from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.flow.node_statistics import NodeStatistics
from dicom_qa_node.flow.outbox import Outbox, OutboxRow
from dicom_qa_node.web.access import note
from dicom_qa_node.web.api.dependencies import Actor, CurrentSite, Viewer
from dicom_qa_node.web.node_view import config_lines, flow_of
from dicom_qa_node.web.site import Site

__all__ = ["router"]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class CheckOut(_Out):
    """One check; ``level`` is ok, degraded or failed."""

    name: str
    level: str
    detail: str


class NodeOut(BaseModel):
    """The node as it is; ages in seconds, null for nothing waiting."""

    level: str
    at: dt.datetime
    checks: list[CheckOut]
    series: dict[str, int]
    oldest_waiting_s: float | None
    undelivered: dict[str, dict[str, int]]
    oldest_undelivered_s: float | None
    scored_per_hour: list[int]
    received_last_hour: int


class ProcessOut(_Out):
    """A process that was heard of."""

    name: str
    role: str
    host: str
    pid: int
    started_at: dt.datetime
    seen_at: dt.datetime
    detail: str


class PeerOut(_Out):
    """A peer that has opened associations."""

    calling_ae: str
    host: str
    last_at: dt.datetime


class TaskOut(_Out):
    """A periodic task; ``error`` is that of its last run."""

    name: str
    every_s: float
    last_at: dt.datetime | None
    took_s: float | None
    next_at: dt.datetime | None
    error: str


class ErrorOut(_Out):
    """The latest error of a kind."""

    kind: str
    text: str
    about: str
    at: dt.datetime | None


class ParkedDelivery(BaseModel):
    """A report that was given up for one target."""

    delivery_id: int
    target: str
    series_instance_uid: str
    attempts: int
    last_answer: str
    created_at: dt.datetime


class Echoed(BaseModel):
    """What a target answered."""

    target: str
    answers: bool
    words: str


class Queued(BaseModel):
    """How many deliveries were queued again."""

    queued: int


api = APIRouter(prefix="/node", tags=["node"])


@api.get("")
def node(site: CurrentSite, account: Viewer) -> NodeOut:
    """Return health and flow."""
    health = site.node.health()
    flow = flow_of(site, health)
    return NodeOut(
        level=str(health.level),
        at=health.at,
        checks=[CheckOut(name=c.name, level=str(c.level), detail=c.detail) for c in health.checks],
        series={state.value: number for state, number in flow.series.items()},
        oldest_waiting_s=flow.oldest_waiting_s,
        undelivered=flow.undelivered,
        oldest_undelivered_s=flow.oldest_undelivered_s,
        scored_per_hour=flow.hours,
        received_last_hour=flow.received_hour,
    )


@api.get("/processes")
def processes(site: CurrentSite, account: Viewer) -> list[ProcessOut]:
    """Return the processes."""
    return [ProcessOut.model_validate(beat) for beat in Heartbeats(site.database).all()]


@api.get("/peers")
def peers(site: CurrentSite, account: Viewer) -> list[PeerOut]:
    """Return the peers, the latest contact first."""
    return [PeerOut.model_validate(peer) for peer in NodeStatistics(site.database).peers()]


@api.get("/tasks")
def tasks(site: CurrentSite, account: Viewer) -> list[TaskOut]:
    """Return the periodic tasks."""
    return [TaskOut.model_validate(task) for task in NodeStatistics(site.database).task_runs()]


@api.get("/errors")
def errors(site: CurrentSite, account: Viewer) -> list[ErrorOut]:
    """Return the latest error of each kind."""
    return [ErrorOut.model_validate(error) for error in NodeStatistics(site.database).last_errors()]


@api.get("/configuration")
def configuration(site: CurrentSite, account: Actor) -> dict[str, str]:
    """Return the configuration as loaded, secrets hidden."""
    return dict(config_lines(site.config))


@api.get("/parked-deliveries")
def parked_deliveries(
    site: CurrentSite, account: Viewer, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[ParkedDelivery]:
    """Return reports that were given up, the latest first."""
    return [_parked_delivery(row) for row in Outbox(site.database).parked(limit)]


@api.post("/parked-deliveries/{delivery_id}/retry")
def retry(
    request: Request, site: CurrentSite, account: Actor, delivery_id: Annotated[int, Path(ge=1, le=LARGEST_ID)]
) -> Queued:
    """Queue one delivery again; 409 if it does not wait."""
    done = Outbox(site.database).retry([delivery_id], actor=account.name)
    if not done:
        raise HTTPException(409, "this delivery does not wait")
    note(request, "delivery.retry", kind="delivery", ident=str(delivery_id))
    return Queued(queued=done)


@api.post("/targets/{target}/echo")
def echo(request: Request, site: CurrentSite, account: Actor, target: Annotated[str, Path(max_length=64)]) -> Echoed:
    """Ask a target whether it answers."""
    if target not in {item.name for item in site.config.deliver.targets}:
        raise HTTPException(404, "there is no such target")
    ok, words = site.actions.echo(target)
    note(request, "node.echo", kind="target", ident=target, detail="answers" if ok else "does not answer")
    return Echoed(target=target, answers=ok, words=words)


def router(_site: Site) -> APIRouter:
    """Return the calls of this file."""
    return api


def _parked_delivery(row: OutboxRow) -> ParkedDelivery:
    names = ("delivery_id", "target", "attempts", "last_answer", "created_at")
    values = {name: getattr(row, name) for name in names}
    return ParkedDelivery(**values, series_instance_uid=row.report.series_instance_uid)
