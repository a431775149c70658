"""The only door to the database: what arrived, what is to be done, what was found, where it went.

`Database` opens it; `Registry` (series and instances), `Jobs`, `QualityLog`, `Outbox` and `Liveness` are the
views the stages use. Every state change is one transaction and leaves one row in ``events``.
"""

from __future__ import annotations

from dicom_qa_node.store.accounts import Accounts, Role
from dicom_qa_node.store.alerts import Alerts
from dicom_qa_node.store.audit import Audit
from dicom_qa_node.store.baselines import ChartRules, Drifts
from dicom_qa_node.store.engine import Database
from dicom_qa_node.store.folding import Folding
from dicom_qa_node.store.heat_requests import HeatRequests
from dicom_qa_node.store.jobs import Jobs
from dicom_qa_node.store.liveness import Liveness
from dicom_qa_node.store.log_query import Cursor, LogOrder, LogQuery
from dicom_qa_node.store.log_search import LogSearch
from dicom_qa_node.store.node_facts import NodeFacts
from dicom_qa_node.store.outbox import Outbox
from dicom_qa_node.store.quality import LogFilter, QualityLog
from dicom_qa_node.store.registry import Registry
from dicom_qa_node.store.retention import Retention
from dicom_qa_node.store.reviews import Reviews
from dicom_qa_node.store.scanners import Scanners
from dicom_qa_node.store.service_events import ServiceEvents
from dicom_qa_node.store.sessions import Sessions
from dicom_qa_node.store.set_back import recall_from_future
from dicom_qa_node.store.state_counts import fold_counts

__all__ = [
    "Accounts",
    "Alerts",
    "Audit",
    "ChartRules",
    "Cursor",
    "Database",
    "Drifts",
    "Folding",
    "HeatRequests",
    "Jobs",
    "Liveness",
    "LogFilter",
    "LogOrder",
    "LogQuery",
    "LogSearch",
    "NodeFacts",
    "Outbox",
    "QualityLog",
    "Registry",
    "Retention",
    "Reviews",
    "Role",
    "Scanners",
    "ServiceEvents",
    "Sessions",
    "fold_counts",
    "recall_from_future",
]
