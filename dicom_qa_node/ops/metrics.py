"""Prometheus metrics, read from the store when they are asked for; counts and ages only, never patient data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_qa_node import __version__
from dicom_qa_node.config import Config
from dicom_qa_node.ops.health import Facts, HealthReport, Level

__all__ = ["NodeCollector", "exposition"]

_PREFIX = "dicom_qa_node_"


class NodeCollector(Collector):
    """Turns facts and health into metrics.

    Parameters
    ----------
    config
        The configuration.
    look
        Returns the facts and their assessment as of now.
    """

    def __init__(self, config: Config, look: Callable[[], tuple[Facts, HealthReport]]) -> None:
        self._config = config
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """Read the store and yield every metric."""
        facts, report = self._look()
        yield _gauge("info", "Version of the node", 1, version=__version__, model=self._config.score.model)
        yield _by_label(
            "health", "1 for the level that holds: ok, degraded, failed", "level",
            {level.value: float(level is report.level) for level in Level},
        )  # fmt: skip
        yield _by_label(
            "check_ok", "1 if the check is ok", "check", {c.name: float(c.level is Level.OK) for c in report.checks}
        )
        yield from _flow(facts, report.at)
        yield from _processes(facts, report.at)
        if facts.disk is not None:
            yield _gauge("disk_free_bytes", "Free space of the spool's file system", facts.disk.free_bytes)
            yield _gauge("disk_total_bytes", "Size of the spool's file system", facts.disk.total_bytes)


def exposition(collector: Collector) -> bytes:
    """Return the metrics in Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _flow(facts: Facts, now: dt.datetime) -> Iterable[Metric]:
    if facts.series is not None:
        counts = {state.value: float(count) for state, count in facts.series.items()}
        yield _by_label("series", "Series by state", "state", counts)
        waiting = facts.oldest_waiting
        age = 0.0 if waiting is None else max(0.0, (now - waiting).total_seconds())
        yield _gauge("queue_age_seconds", "How long the oldest series in COMPLETE has waited for a scorer", age)
    if facts.deliveries is not None:
        counts = {state.value: float(count) for state, count in facts.deliveries.items()}
        yield _by_label("deliveries", "Deliveries of reports by state", "state", counts)


def _processes(facts: Facts, now: dt.datetime) -> Iterable[Metric]:
    family = GaugeMetricFamily(
        f"{_PREFIX}heartbeat_age_seconds", "Seconds since a process was heard of", labels=["role", "process"]
    )
    for beat in facts.heartbeats:
        family.add_metric([beat.role, beat.name], max(0.0, (now - beat.seen_at).total_seconds()))
    yield family


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _by_label(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
