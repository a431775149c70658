"""The only door to the database: what arrived, what is to be done, what was found, where it went.

`Database` opens it; `Registry` (series and instances), `Jobs`, `QualityLog`, `Outbox` and `Liveness` are the
views the stages use. Every state change is one transaction and leaves one row in ``events``.

Each view is imported when it is first asked for: what a command does not use, it does not load (a chart needs numpy).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULE_OF = {
    "Accounts": "accounts",
    "Alerts": "alerts",
    "Audit": "audit",
    "ChartRules": "baselines",
    "Cursor": "log_query",
    "Database": "engine",
    "Drifts": "baselines",
    "Folding": "folding",
    "HeatRequests": "heat_requests",
    "Jobs": "jobs",
    "Liveness": "liveness",
    "LogFilter": "quality",
    "LogOrder": "log_query",
    "LogQuery": "log_query",
    "LogSearch": "log_search",
    "NodeFacts": "node_facts",
    "Outbox": "outbox",
    "QualityLog": "quality",
    "Registry": "registry",
    "Retention": "retention",
    "Reviews": "reviews",
    "Role": "accounts",
    "Scanners": "scanners",
    "ServiceEvents": "service_events",
    "Sessions": "sessions",
    "fold_counts": "state_counts",
    "recall_from_future": "set_back",
}

# Hidden from the type checker, which would take any name for one of this package.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = view = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return view
