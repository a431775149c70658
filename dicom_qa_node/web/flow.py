"""What is on its way through the node, counted for the node page and the API."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from dicom_qa_node.records import SeriesState
from dicom_qa_node.store import NodeFacts, Registry
from dicom_qa_node.web.site import Health, Site

__all__ = ["Flow", "flow_of"]


@dataclass(frozen=True, slots=True)
class Flow:
    """Counts and ages of what is on its way; ages in seconds, None for nothing waiting."""

    series: dict[SeriesState, int]
    oldest_waiting_s: float | None
    undelivered: dict[str, dict[str, int]]
    oldest_undelivered_s: float | None
    scored_hour: int
    scored_day: int
    received_hour: int
    hours: list[int]


def flow_of(site: Site, health: Health) -> Flow:
    """Count what is on its way now; the series by state are those that ``health`` has counted."""
    facts, registry, now = NodeFacts(site.database), Registry(site.database), site.clock()
    hours = facts.scored_per_hour(now)
    return Flow(
        series=dict(registry.counts() if health.series is None else health.series),
        oldest_waiting_s=_age(registry.oldest_waiting(), now),
        undelivered=facts.undelivered_by_target(),
        oldest_undelivered_s=_age(facts.oldest_undelivered(), now),
        scored_hour=hours[-1],
        scored_day=sum(hours),
        received_hour=facts.received_since(now - dt.timedelta(hours=1)),
        hours=hours,
    )


def _age(since: dt.datetime | None, now: dt.datetime) -> float | None:
    return None if since is None else max(0.0, (now - since).total_seconds())
