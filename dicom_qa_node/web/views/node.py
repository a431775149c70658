"""The node as it runs: checks, queues, throughput, processes, errors, peers, targets, parked deliveries, tasks."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.states import DeliveryState
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.flow.node_statistics import NodeStatistics
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.refused_callers import RefusedCallers
from dicom_qa_node.models.registry import all_cards
from dicom_qa_node.web.access import Permission, account_of, guarded, note
from dicom_qa_node.web.node_view import config_lines, flow_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_PARKED_SHOWN = 50
_REFUSED_SHOWN = 50


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/node", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/node/now", guarded(Permission.VIEW, _now), methods=["GET"]),
        Route("/node/echo/{target}", guarded(Permission.ACT, _echo), methods=["POST"]),
        Route("/node/deliveries/retry", guarded(Permission.ACT, _retry_all), methods=["POST"]),
        Route("/node/deliveries/{delivery_id:int}/retry", guarded(Permission.ACT, _retry), methods=["POST"]),
    ]


def _show(request: Request, status: int = 200, echoed: tuple[str, bool, str] | None = None) -> Response:
    site, account = site_of(request), account_of(request)
    facts = NodeStatistics(site.database)
    context = {
        "errors": facts.last_errors(), "peers": facts.peers(), "tasks": facts.task_runs(), "echoed": echoed,
        "refused": RefusedCallers(site.database).latest(_REFUSED_SHOWN),
        "targets": site.config.deliver.targets, "parked_rows": Outbox(site.database).parked(_PARKED_SHOWN),
        "models": sorted(all_cards().values(), key=lambda card: card.name), "chosen": site.config.score.model,
        "settings": config_lines(site.config) if account.may(Permission.ACT) else [],
    }  # fmt: skip
    return page(request, "node/node.html", status, **_current(site), **context)


def _now(request: Request) -> Response:
    return page(request, "node/_now.html", **_current(site_of(request)))


def _current(site: Site) -> dict[str, Any]:
    health = site.node.health()
    flow = flow_of(site, health)
    beats = Heartbeats(site.database).all()
    return {
        "health": health, "flow": flow, "beats": beats, "most": max([*flow.hours, 1]),
        "parked": sum(found.get(DeliveryState.PARKED.value, 0) for found in flow.undelivered.values()),
        "waiting": sum(sum(found.values()) for found in flow.undelivered.values()),
        "clock": site.clock(),
    }  # fmt: skip


def _echo(request: Request) -> Response:
    site, target = site_of(request), request.path_params["target"]
    if target not in {item.name for item in site.config.deliver.targets}:
        raise HTTPException(404)
    ok, words = site.actions.echo(target)
    note(request, "node.echo", kind="target", ident=target, detail="answers" if ok else "does not answer")
    return _show(request, echoed=(target, ok, words))


def _retry(request: Request) -> Response:
    site, number = site_of(request), min(request.path_params["delivery_id"], LARGEST_ID)
    if not Outbox(site.database).retry([number], actor=account_of(request).name):
        raise HTTPException(409, "This delivery does not wait any more.")
    note(request, "delivery.retry", kind="delivery", ident=str(number))
    return redirect(request, "/node?retried=1#parked")


def _retry_all(request: Request) -> Response:
    site = site_of(request)
    done = Outbox(site.database).retry(actor=account_of(request).name, waiting=False)
    note(request, "delivery.retry", kind="delivery", ident="all parked deliveries", detail=f"{done} deliveries")
    return redirect(request, f"/node?retried={done}#parked")
