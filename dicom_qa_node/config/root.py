"""The whole configuration: every section an operator can set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_qa_node.config.alerts import Alerts, Charts
from dicom_qa_node.config.base import AeTitle, Section
from dicom_qa_node.config.delivery import Deliver, DicomTarget, Report
from dicom_qa_node.config.querying import Query
from dicom_qa_node.config.receiving import Complete, Receive, Spool
from dicom_qa_node.config.scoring import Score
from dicom_qa_node.config.web import Web
from dicom_qa_node.limits import FindingRules

__all__ = ["Config", "Log"]


class Log(Section):
    """Log output on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level written")
    format: Literal["text", "json"] = Field("text", description="one text line or one JSON object per event")


class Config(Section):
    """Everything an operator can set."""

    ae_title: AeTitle = Field("DICOMQA", description="AE title of this node")
    database_url: str = Field(
        "sqlite:///var/dicom-qa-node/quality.db",
        pattern=r"^(sqlite|postgresql(\+\w+)?)://",
        json_schema_extra={"allowed": "address starting with sqlite:// or postgresql://"},
        description="SQLAlchemy address of the database",
    )
    spool_dir: Path = Field(
        Path("var/dicom-qa-node/spool"), strict=False, description="folder of images, reports and pictures"
    )
    receive: Receive = Field(default_factory=Receive, description="the C-STORE SCP")
    spool: Spool = Field(default_factory=Spool, description="disk watermarks and retention")
    complete: Complete = Field(default_factory=Complete, description="when a series counts as complete")
    score: Score = Field(default_factory=Score, description="the scoring workers")
    findings: FindingRules = Field(default_factory=FindingRules, description="when a measurement becomes a finding")
    report: Report = Field(default_factory=Report, description="contents of the Structured Report")
    deliver: Deliver = Field(default_factory=Deliver, description="targets and retries")
    query: Query = Field(default_factory=Query, description="the query/retrieve SCP")
    web: Web = Field(default_factory=Web, description="health, metrics, quality log")
    charts: Charts = Field(default_factory=Charts, description="control charts and drift")
    alerts: Alerts = Field(default_factory=Alerts, description="alerts by e-mail and webhook")
    log: Log = Field(default_factory=Log, description="log output")

    @model_validator(mode="after")
    def _committing_targets_may_call(self) -> Config:
        known = {peer.ae_title.strip() for peer in self.receive.peers}
        for target in self.deliver.targets:
            if not isinstance(target, DicomTarget) or not target.require_commitment:
                continue
            if not self.receive.allow_unknown_peers and target.ae_title.strip() not in known:
                raise ValueError(
                    f"target {target.name} is to commit to reports, but {target.ae_title} may not call the "
                    "node with the result: list it in receive.peers"
                )
        return self
