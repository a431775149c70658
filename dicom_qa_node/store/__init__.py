"""The only door to the database: what arrived, what is to be done, what was found, where it went.

`Database` opens it; `Registry` (series and instances), `Jobs`, `QualityLog`, `Outbox` and `Liveness` are the
views the stages use. Every state change is one transaction and leaves one row in ``events``.
"""

from __future__ import annotations

from dicom_qa_node.store.engine import Database
from dicom_qa_node.store.jobs import Jobs
from dicom_qa_node.store.liveness import Liveness
from dicom_qa_node.store.outbox import Outbox
from dicom_qa_node.store.quality import LogFilter, QualityLog
from dicom_qa_node.store.registry import Registry
from dicom_qa_node.store.retention import Retention

__all__ = ["Database", "Jobs", "Liveness", "LogFilter", "Outbox", "QualityLog", "Registry", "Retention"]
