"""What the node page shows: series in progress, and the configuration without secrets."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dicom_qa_node.config import Config
from dicom_qa_node.config.redaction import HIDDEN, redacted
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.node_statistics import NodeStatistics
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.web.site import Health, Site

__all__ = ["HIDDEN", "Flow", "config_lines", "flow_of"]


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
    facts, registry, now = NodeStatistics(site.database), Registry(site.database), site.clock()
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


def config_lines(config: Config) -> list[tuple[str, str]]:
    """Return every key with its value as text, in the order of the file."""
    return list(_lines("", redacted(config)))


def _lines(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _lines(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and not all(isinstance(item, str) for item in value):
        for number, inner in enumerate(value):
            yield from _lines(f"{path}[{number}]", inner)
    else:
        yield path, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "empty" if value is None or value in ("", {}) else str(value)
