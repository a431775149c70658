"""Prometheus metrics, read from the store when they are asked for; counts and ages only, never patient data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_qa_node import __version__
from dicom_qa_node.charts.alerts import Alerts
from dicom_qa_node.charts.counters import BUCKETS_S
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.flow.node_statistics import NodeStatistics
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.ops.health import HealthReport, HealthSnapshot, Level

__all__ = ["NodeCollector", "exposition"]

_PREFIX = "dicom_qa_node_"
_HISTOGRAMS = {
    "score_duration_seconds": "How long scoring a series took",
    "completion_lag_seconds": "From the last image of a series to its completion",
    "turnaround_seconds": "From the last image of a series to its score",
}
#: A site with more scanners than this has their scores added up under one name.
MOST_SCANNERS = 200
_OTHER = "(other scanners)"

Counts = Sequence[tuple[Mapping[str, str], float]]


class NodeCollector(Collector):
    """Turns facts and health into metrics.

    Parameters
    ----------
    config
        The configuration.
    look
        Returns the facts and their assessment as of now.
    database
        Where the counters of the flow are.
    """

    def __init__(
        self, config: Config, look: Callable[[], tuple[HealthSnapshot, HealthReport]], database: Database
    ) -> None:
        self._config = config
        self._look = look
        self._database = database

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
        if facts.series is not None:
            counts = {state.value: float(count) for state, count in Outbox(self._database).counts().items()}
            yield _by_label("deliveries", "Deliveries of reports by state", "state", counts)
            yield from _counted(NodeStatistics(self._database), report.at)
            yield from _watched(self._database)


def exposition(collector: Collector) -> bytes:
    """Return the metrics in Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _flow(facts: HealthSnapshot, now: dt.datetime) -> Iterable[Metric]:
    if facts.series is not None:
        counts = {state.value: float(count) for state, count in facts.series.items()}
        yield _by_label("series", "Series by state", "state", counts)
        waiting = facts.oldest_waiting
        age = 0.0 if waiting is None else max(0.0, (now - waiting).total_seconds())
        yield _gauge("queue_age_seconds", "How long the oldest series in COMPLETE has waited for a scorer", age)


def _processes(facts: HealthSnapshot, now: dt.datetime) -> Iterable[Metric]:
    family = GaugeMetricFamily(
        f"{_PREFIX}heartbeat_age_seconds", "Seconds since a process was heard of", labels=["role", "process"]
    )
    for beat in facts.heartbeats:
        family.add_metric([beat.role, beat.name], max(0.0, (now - beat.seen_at).total_seconds()))
    yield family


def _counted(facts: NodeStatistics, now: dt.datetime) -> Iterable[Metric]:
    counters = facts.counters()
    received = CounterMetricFamily(_PREFIX + "received_images", "Images stored, by the number of the latest one")
    received.add_metric([], facts.received_images())
    yield received
    yield _counter("scored_images", "Images of the series scored so far", (), counters)
    yield _counter("scores", "Series scored, by scanner, kind and grade", ("scanner", "kind", "grade"), counters)
    yield _counter("score_sum", "Sum of the scores, by scanner and kind", ("scanner", "kind"), counters)
    yield _counter("score_count", "Number of scores in score_sum, by scanner and kind", ("scanner", "kind"), counters)
    yield _counter("findings", "Findings, by key and severity", ("finding", "severity"), counters)
    for name, text in _HISTOGRAMS.items():
        yield _histogram(name, text, counters)
    family = GaugeMetricFamily(
        f"{_PREFIX}undelivered", "Reports that a target does not have, by state", labels=["target", "state"]
    )
    for target, states in facts.undelivered_by_target().items():
        for state, number in states.items():
            family.add_metric([target, state], number)
    yield family
    oldest = facts.oldest_undelivered()
    age = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
    yield _gauge("undelivered_age_seconds", "Age of the oldest report that a target does not have", age)
    failing = {task.name: float(bool(task.error)) for task in facts.task_runs()}
    yield _by_label("task_failing", "1 if the last run of a periodic task failed", "task", failing)


def _watched(database: Database) -> Iterable[Metric]:
    cards = Scanners(database).overview()
    drifting: dict[str, float] = {}
    for card in cards:
        name = card.scanner.name if len(cards) <= MOST_SCANNERS else _OTHER
        drifting[name] = drifting.get(name, 0.0) + card.alarms
    yield _by_label("drift_alarms", "Open drift alarms, by scanner", "scanner", drifting)
    waiting = Alerts(database).count_unacknowledged()
    yield _gauge("alerts_unacknowledged", "Alerts that nobody has acknowledged", waiting)


def _counter(name: str, text: str, labels: Sequence[str], counters: Mapping[str, Counts]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=list(labels))
    for values, number in _bounded(labels, counters.get(name, ())).items():
        family.add_metric(list(values), number)
    return family


def _bounded(labels: Sequence[str], found: Counts) -> dict[tuple[str, ...], float]:
    scanners = sorted({given["scanner"] for given, _ in found if "scanner" in given})
    known = set(scanners[:MOST_SCANNERS])
    totals: dict[tuple[str, ...], float] = {}
    for given, number in found:
        values = tuple(
            _OTHER if label == "scanner" and given[label] not in known else given.get(label, "") for label in labels
        )
        totals[values] = totals.get(values, 0.0) + number
    return totals


def _histogram(name: str, text: str, counters: Mapping[str, Counts]) -> Metric:
    counts = {given["le"]: number for given, number in counters.get(name, ())}
    total, buckets = 0.0, []
    for limit in (*(f"{limit:g}" for limit in BUCKETS_S), "+Inf"):
        total += counts.get(limit, 0.0)
        buckets.append((limit, total))
    family = HistogramMetricFamily(_PREFIX + name, text)
    family.add_metric([], buckets, sum(number for _, number in counters.get(f"{name}_sum", ())))
    return family


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _by_label(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
