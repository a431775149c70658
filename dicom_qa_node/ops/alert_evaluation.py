"""Decides what is worth an alert, in the role ``schedule``: rules over new results, drifts and the node's own troubles.

Nothing here waits for a mail server: alerts and their messages are rows, written with what gave rise to them;
`ops.alert_delivery` sends them.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert, Send
from dicom_qa_node.charts.baselines import chart_rules
from dicom_qa_node.charts.chart_ingest import ChartIngest, NewResult
from dicom_qa_node.charts.drifts import Drifts, NewAlarm
from dicom_qa_node.charts.naming import Naming
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.config import AlertRule, Config
from dicom_qa_node.config import Alerts as AlertSettings
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.results import Severity
from dicom_qa_node.flow.node_statistics import NodeStatistics
from dicom_qa_node.ops.health import HealthReport, Level

__all__ = ["AlertEvaluator", "NodeAlerts", "matches", "quiet_until", "update_charts"]

_CATCHING_UP = dt.timedelta(days=8)
_QUIET_STEP = dt.timedelta(minutes=5)
_SEVERITIES = [severity.value for severity in (Severity.INFO, Severity.WARNING, Severity.ERROR)]


class AlertEvaluator:
    """Applies the rules of the configuration; ``clock`` returns the current UTC time."""

    def __init__(self, config: Config, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._config, self._clock = config.alerts, clock
        self._rules = config.alerts.applied() if config.alerts.enabled else []

    def results(self, new: Sequence[NewResult]) -> list[NewAlert]:
        """Return the alerts that newly scored series give rise to."""
        oldest = self._clock() - dt.timedelta(hours=self._config.newest_hours)
        recent = [item for item in new if item.scored_at >= oldest and not _late(item)]
        return [alert for item in recent for alert in self._of_result(item)]

    def drifts(self, begun: Sequence[NewAlarm]) -> list[NewAlert]:
        """Return the alerts of drifts that began."""
        return [
            self._alert(rule, f"{alarm.alarm_id}", _drift_words(alarm), AlertSubject.DRIFT, scanner=alarm)
            for alarm in begun
            for rule in self._about("drift")
            if matches(rule, alarm.scanner, alarm.protocol_name or alarm.protocol)
        ]

    def troubles(self, found: Sequence[tuple[str, str]]) -> list[NewAlert]:
        """Return the alerts of the node's troubles: pairs of a key that stays the same while it lasts, and words."""
        return [
            self._alert(rule, key, words, AlertSubject.NODE, trouble=f"{rule.name}: {key}")
            for key, words in found
            for rule in self._about("node")
        ]

    def sends(self, rule: AlertRule) -> tuple[Send, ...]:
        """Return through which channels a rule's alert goes, and when at the earliest."""
        now = self._clock()
        due = now if rule.urgent else quiet_until(self._config, now + dt.timedelta(minutes=self._config.gather_minutes))
        return tuple(Send(name, due, rule.urgent) for name in rule.channels or self._config.channels())

    def _of_result(self, item: NewResult) -> Iterator[NewAlert]:
        for rule in self._about("grade"):
            if (
                item.grade is not None
                and item.grade.value in rule.grades
                and matches(rule, item.scanner, item.protocol)
            ):
                score = "" if item.score is None else f", score {item.score:.2f}"
                words = f"{item.grade.value}{score} ({item.kind.upper()}, {item.protocol}){_why(item)}"
                yield self._alert(rule, _occasion(item), words, AlertSubject.GRADE, series=item)
        for rule in self._about("finding"):
            keys = [key for key, severity in item.findings if _worth(rule, key, severity)]
            if keys and matches(rule, item.scanner, item.protocol):
                words = f"{', '.join(keys)} ({item.kind.upper()}, {item.protocol}){_why(item)}"
                yield self._alert(rule, _occasion(item), words, AlertSubject.FINDING, series=item)

    def _about(self, subject: str) -> list[AlertRule]:
        return [rule for rule in self._rules if rule.about == subject]

    def _alert(
        self,
        rule: AlertRule,
        occasion: str,
        words: str,
        subject: AlertSubject,
        *,
        series: NewResult | None = None,
        scanner: NewAlarm | None = None,
        trouble: str | None = None,
    ) -> NewAlert:
        about = series or scanner
        return NewAlert(
            occasion=f"{rule.name}: {subject.value} {occasion}"[:250],
            rule=rule.name,
            subject=subject,
            text=words[:500],
            scanner="" if about is None else about.scanner,
            scanner_id=None if about is None else about.scanner_id,
            series_instance_uid=None if series is None else series.series_instance_uid,
            trouble=None if trouble is None else trouble[:200],
            sends=self.sends(rule),
        )


class NodeAlerts:
    """Watches the node: failed checks, silent scanners, reports that are not delivered."""

    def __init__(
        self,
        config: Config,
        database: Database,
        health: Callable[[], HealthReport],
        judge: AlertEvaluator,
        clock: Callable[[], dt.datetime] = utc_now,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steady = steady
        self._config, self._health, self._judge, self._clock = config.alerts, health, judge, clock
        self._alerts, self._facts = Alerts(database, clock=clock), NodeStatistics(database)
        self._scanners = Scanners(database, clock=clock)
        self._since: dict[str, float] = {}

    def look(self) -> int:
        """Begin the alerts of troubles that have lasted, end those of troubles that are over; return how many began."""
        now = self._clock()
        found = dict([*self._checks(), *self._silent(now), *self._undelivered(now)])
        # Durations do not follow the wall clock, which may be set.
        at, patience_s = self._steady(), 60 * self._config.trouble_minutes
        self._since = {key: self._since.get(key, at) for key in found}
        lasting = [(key, words) for key, words in found.items() if at - self._since[key] >= patience_s]
        return len(self._alerts.settle_troubles(self._judge.troubles(lasting)))

    def _checks(self) -> Iterator[tuple[str, str]]:
        for check in self._health().checks:
            if check.level is not Level.OK:
                yield f"check {check.name}", f"{check.name} {check.level.value}: {check.detail}"

    def _silent(self, now: dt.datetime) -> Iterator[tuple[str, str]]:
        hours = self._config.silent_scanner_hours
        if hours:
            for card in self._scanners.overview():
                silent = now - card.scanner.last_at
                # A device that sent a test once, or was taken away long ago, is not missed.
                if card.count >= _REGULAR and dt.timedelta(hours=hours) < silent < _FORGOTTEN:
                    words = f"nothing of {card.scanner.name} was scored since {card.scanner.last_at:%Y-%m-%d %H:%M} UTC"
                    yield f"silent scanner {card.scanner.scanner_id}", words

    def _undelivered(self, now: dt.datetime) -> Iterator[tuple[str, str]]:
        limit = dt.timedelta(minutes=self._config.undelivered_minutes)
        oldest = self._facts.oldest_undelivered()
        if oldest is not None and now - oldest > limit:
            yield "undelivered", f"reports wait for delivery since {oldest:%Y-%m-%d %H:%M} UTC"


_REGULAR = 20
_FORGOTTEN = dt.timedelta(days=60)


def update_charts(config: Config, database: Database, judge: AlertEvaluator) -> Callable[[dt.datetime], None]:
    """Return the task that takes new results into the charts and tells of grades, findings and drifts."""
    charts = config.charts
    rules = chart_rules(charts)
    naming = Naming(database)
    ingest = ChartIngest(database, zone=ZoneInfo(charts.timezone))
    drifts = Drifts(database, rules)

    def run(_now: dt.datetime) -> None:
        # A long backlog (a first start, an imported log) comes in small transactions; the receiver writes in between.
        while ingest.take_in(judge.results, limit=500):
            pass
        while naming.move():
            pass
        while ingest.refresh_weeks():
            pass
        while drifts.look(judge.drifts):
            pass

    return run


def quiet_until(config: AlertSettings, due: dt.datetime) -> dt.datetime:
    """Return the first time from ``due`` on that does not lie in the quiet hours."""
    zone, moment = ZoneInfo(config.timezone), due
    # A week of quiet hours without an end would be a mistake of the configuration; then the message goes out.
    while config.quiet(moment.astimezone(zone)) and moment < due + dt.timedelta(days=7):
        moment += _QUIET_STEP
    return moment


def matches(rule: AlertRule, scanner: str, protocol: str) -> bool:
    """Whether a scanner and a protocol, or patterns of their names, fit those of a rule."""
    return fnmatchcase(scanner.upper(), rule.scanner.upper()) and fnmatchcase(protocol.upper(), rule.protocol.upper())


def _worth(rule: AlertRule, key: str, severity: str) -> bool:
    heavy = _SEVERITIES.index(severity) >= _SEVERITIES.index(rule.severity)
    return heavy and any(fnmatchcase(key, pattern) for pattern in rule.findings)


def _late(item: NewResult) -> bool:
    """Whether a series of long ago arrived only now: a node that was down for a week has no such."""
    return item.acquired_at is not None and item.scored_at - item.acquired_at > _CATCHING_UP


def _occasion(item: NewResult) -> str:
    return f"{item.series_instance_uid} version {item.version}"


def _drift_words(alarm: NewAlarm) -> str:
    return f"{alarm.sentence} ({alarm.kind.upper()}, {alarm.protocol})"


def _why(item: NewResult) -> str:
    return f". {item.why}" if item.why else ""
