"""The whole schema: every module of tables, under the one metadata that the revisions are compared with."""

from __future__ import annotations

from dicom_qa_node.store import account_tables, alert_tables, heat_requests, review_tables, scanner_tables, tables

__all__ = ["PARTS", "metadata"]

PARTS = (tables, account_tables, review_tables, scanner_tables, alert_tables, heat_requests)
metadata = tables.metadata
