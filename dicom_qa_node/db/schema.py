"""The whole schema: every module of tables, under the one metadata that the revisions are compared with."""

from __future__ import annotations

from dicom_qa_node.db import account_tables, chart_tables, log_tables, tables
from dicom_qa_node.flow import heat_map_requests, refused_callers

__all__ = ["PARTS", "metadata"]

PARTS = (tables, account_tables, log_tables, chart_tables, chart_tables, heat_map_requests, refused_callers)
metadata = tables.metadata
