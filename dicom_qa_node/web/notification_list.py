"""Notifications of an account: alerts that nobody has acknowledged, reviews it is asked for, and what is missing."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from dicom_qa_node.accounts.notification_reads import NotificationReads
from dicom_qa_node.charts.alerts import Alert, Alerts, AlertSubject
from dicom_qa_node.quality_log.review_queue import Assignment, ReviewQueue
from dicom_qa_node.web.access import Account, Permission
from dicom_qa_node.web.site import Site

__all__ = ["SOURCES", "Notification", "NotificationKind", "mark_all_read", "notifications_of", "unread_count"]

_MOST = 100
#: How `ops.alert_evaluation` names, behind its rule, the trouble that nothing comes from a scanner any more.
_SILENT = ": silent scanner"


class NotificationKind(StrEnum):
    """What a notification is about; the value is shown."""

    ALERT = "alert"
    MISSING = "missing"
    REVIEW = "review"


#: Where a notification comes from; with its number this names it in what an account has read.
SOURCES = ("alert", "review")


@dataclass(frozen=True, slots=True)
class Notification:
    """One entry of the list; ``path`` leads to what it is about."""

    source: str
    number: int
    kind: NotificationKind
    at: dt.datetime
    text: str
    path: str
    unread: bool


def notifications_of(site: Site, account: Account) -> list[Notification]:
    """Return the notifications of an account, the latest first, at most a hundred of each source."""
    reads = NotificationReads(site.database)
    alerts = Alerts(site.database, clock=site.clock).unacknowledged(_MOST)
    asked = _asked(site, account)
    new_alerts = reads.unread(account.account_id, "alert", (alert.alert_id for alert in alerts))
    new_asked = reads.unread(account.account_id, "review", (item.assignment_id for item in asked))
    found = [_of_alert(alert, alert.alert_id in new_alerts) for alert in alerts]
    found += [_of_assignment(item, item.assignment_id in new_asked) for item in asked]
    return sorted(found, key=lambda item: item.at, reverse=True)


def unread_count(site: Site, account: Account) -> int:
    """Return how many are unread."""
    return sum(item.unread for item in notifications_of(site, account))


def mark_all_read(site: Site, account: Account) -> None:
    """Mark all that an account has now as read."""
    reads, found = NotificationReads(site.database), notifications_of(site, account)
    for source in SOURCES:
        numbers = [item.number for item in found if item.source == source]
        if numbers:
            reads.mark_all(account.account_id, source, max(numbers))


def _asked(site: Site, account: Account) -> list[Assignment]:
    if not account.may(Permission.REVIEW):
        return []
    return ReviewQueue(site.database, clock=site.clock).assigned_to(account.account_id, _MOST)


def _of_alert(alert: Alert, unread: bool) -> Notification:
    missed_check = alert.subject is AlertSubject.PHANTOM and not alert.series_instance_uid
    missing = missed_check or _SILENT in (alert.trouble or "")
    path = "/phantoms" if missed_check else "/alerts"
    if alert.series_instance_uid:
        path = f"/series/{alert.series_instance_uid}"
    elif alert.scanner_id:
        path = f"/scanners/{alert.scanner_id}"
    kind = NotificationKind.MISSING if missing else NotificationKind.ALERT
    return Notification("alert", alert.alert_id, kind, alert.created_at, alert.text, path, unread)


def _of_assignment(item: Assignment, unread: bool) -> Notification:
    text = f"{item.assigned_by} asks for your review" + (f": {item.note}" if item.note else "")
    path = f"/review?series={item.series_instance_uid}"
    return Notification("review", item.assignment_id, NotificationKind.REVIEW, item.assigned_at, text, path, unread)
