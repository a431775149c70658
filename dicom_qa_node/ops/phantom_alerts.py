"""Alerts about QC phantoms: one for each due date that passed without a run, and for each run that failed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.config import AlertRule, Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.qc_phantoms import PhantomKind, QcOutcome
from dicom_qa_node.ops.alert_evaluation import AlertEvaluator, matches
from dicom_qa_node.quality_control.qc_calendar import Missed, QcSchedules
from dicom_qa_node.quality_control.runs import PhantomRuns, Run

__all__ = ["PhantomAlerts"]

_FAILED = (QcOutcome.OUTSIDE, QcOutcome.NOT_ANALYSED)
_LOOK_BACK = dt.timedelta(days=2)


class PhantomAlerts:
    """Looks at calendar and runs; an alert that was written before is not written again."""

    def __init__(self, config: Config, database: Database, judge: AlertEvaluator) -> None:
        self._settings, self._judge = config.phantoms, judge
        self._rules = [rule for rule in config.alerts.applied() if rule.about == "phantom"]
        self._rules = self._rules if config.alerts.enabled else []
        self._alerts, self._zone = Alerts(database), ZoneInfo(config.charts.timezone)
        self._schedules, self._runs = QcSchedules(database), PhantomRuns(database)

    def look(self, now: dt.datetime | None = None) -> int:
        """Write the alerts that are new; return how many."""
        today = (now or utc_now()).astimezone(self._zone).date()
        missed = self._schedules.missed(self._settings.analyse, today)
        failed = [
            run for run in self._runs.between(today - _LOOK_BACK, today) if run.phantom and run.outcome in _FAILED
        ]
        found = [alert for rule in self._rules for alert in self._of_rule(rule, missed, failed)]
        return len(self._alerts.add(found)) if found else 0

    def _of_rule(self, rule: AlertRule, missed: list[Missed], failed: list[Run]) -> Iterator[NewAlert]:
        for item in missed:
            phantom = item.phantom
            if matches(rule, phantom.scanner, phantom.protocol):
                due = f"{item.last}" if item.first == item.last else f"{item.first} to {item.last}"
                words = f"{phantom.name} ({phantom.what.label}) is missing: due {due}, {phantom.schedule}"
                scanner = "" if "*" in phantom.scanner else phantom.scanner
                yield self._alert(rule, f"{phantom.name} missing {item.last}", words, scanner)
        for run in failed:
            if matches(rule, run.scanner, run.protocol):
                title = PhantomKind(run.kind).label
                remark = f": {run.remark}" if run.remark else ""
                words = f"{run.phantom} ({title}) {run.outcome.value} on {run.day}{remark}"
                yield self._alert(rule, f"{run.series_instance_uid} version {run.version}", words, run.scanner, run)

    def _alert(self, rule: AlertRule, occasion: str, words: str, scanner: str, run: Run | None = None) -> NewAlert:
        return NewAlert(
            occasion=f"{rule.name}: phantom {occasion}"[:250],
            rule=rule.name,
            subject=AlertSubject.PHANTOM,
            text=words[:500],
            scanner=scanner,
            scanner_id=None if run is None else run.scanner_id,
            series_instance_uid=None if run is None else run.series_instance_uid,
            sends=self._judge.sends(rule),
        )
