"""The whole schema: every module of tables, under the one metadata that the revisions are compared with."""

from __future__ import annotations

from dicom_qa_node.db import (
    account_tables,
    backfill_tables,
    chart_tables,
    dose_tables,
    log_tables,
    orthanc_tables,
    phantom_tables,
    review_tables,
    tables,
)

__all__ = ["PARTS", "metadata"]

PARTS = (
    tables, account_tables, log_tables, chart_tables, review_tables, dose_tables, orthanc_tables, backfill_tables,
    phantom_tables,
)  # fmt: skip
metadata = tables.metadata
