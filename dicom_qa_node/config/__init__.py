"""The configuration: one schema with defaults and help, one strict YAML loader, built once and passed down.

Every key of ``config.yaml`` is a field of a section here, one module per kind of section; the commented file and the
table in the documentation are generated from it (``dicom-qa-node config schema``). A wrong file reports every problem
at once.
"""

from __future__ import annotations

from dicom_qa_node.config.alerts import AlertRule, Alerts, Charts, EmailChannel, WebhookChannel
from dicom_qa_node.config.backfill import Backfill, RetrieveSource
from dicom_qa_node.config.delivery import (
    Companion,
    Deliver,
    DicomTarget,
    DicomwebTarget,
    FolderTarget,
    Report,
    SenderTarget,
    Target,
)
from dicom_qa_node.config.dicom_services import ClientTls, Complete, Destination, Peer, Query, Receive, ServerTls, Spool
from dicom_qa_node.config.loader import Config, ConfigProblem, InvalidConfig, Log, load_config, parse_config
from dicom_qa_node.config.monthly_report import MonthlyReport
from dicom_qa_node.config.orthanc import Orthanc, SeriesSelection
from dicom_qa_node.config.phantoms import Phantom, PhantomRule, Phantoms
from dicom_qa_node.config.scoring import Grades, Score
from dicom_qa_node.config.web import AuditSyslog, Oidc, Web

__all__ = [
    "AlertRule",
    "Alerts",
    "AuditSyslog",
    "Backfill",
    "Charts",
    "ClientTls",
    "Companion",
    "Complete",
    "Config",
    "ConfigProblem",
    "Deliver",
    "Destination",
    "DicomTarget",
    "DicomwebTarget",
    "EmailChannel",
    "FolderTarget",
    "Grades",
    "InvalidConfig",
    "Log",
    "MonthlyReport",
    "Oidc",
    "Orthanc",
    "Peer",
    "Phantom",
    "PhantomRule",
    "Phantoms",
    "Query",
    "Receive",
    "Report",
    "RetrieveSource",
    "Score",
    "SenderTarget",
    "SeriesSelection",
    "ServerTls",
    "Spool",
    "Target",
    "Web",
    "WebhookChannel",
    "load_config",
    "parse_config",
]
