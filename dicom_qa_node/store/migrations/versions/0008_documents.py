"""Documents beside the report: pages for people, key objects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OLD = "uq_reports_series_instance_uid_version"


def upgrade() -> None:
    with op.batch_alter_table("reports") as reports:
        reports.add_column(_kind())
        reports.drop_constraint(_OLD, type_="unique")
        reports.create_unique_constraint(f"{_OLD}_kind", ["series_instance_uid", "version", "kind"])
    op.add_column("outbox", _kind())


def _kind() -> sa.Column[str]:
    return sa.Column("kind", sa.String(length=16), nullable=False, server_default="report")
