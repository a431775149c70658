"""Site and priority of a series; on PostgreSQL Procrastinate keeps the queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

#: The newest step of Procrastinate's own schema that this revision makes; a later one needs a revision of its own.
PROCRASTINATE_STEP = "03.04.00_50_post_add_retry_failed_job_procedure"
_LIVE = "('READY', 'RUNNING')"


def upgrade() -> None:
    for table, column in (("series", "priority"), ("jobs", "rank")):
        op.add_column(table, sa.Column("site", sa.Text, nullable=False, server_default="default"))
        op.add_column(table, sa.Column(column, sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_jobs_due", "jobs", ["state", "rank", "available_at", "job_id"])
    if op.get_bind().dialect.name == "postgresql":
        from dicom_qa_node.store.procrastinate_queue import install

        install(op.get_bind())
        _move_in()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # No worker runs during a downgrade; whoever is on a job there has no lease that could lapse.
        op.execute(sa.text("UPDATE jobs SET state = 'READY', lease_token = NULL WHERE state = 'RUNNING'"))
        _remove()
    op.drop_index("ix_jobs_due", "jobs")
    for table, column in (("jobs", "rank"), ("series", "priority")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
            batch.drop_column("site")


def _move_in() -> None:
    op.execute(
        sa.text(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at) "
            "SELECT s.site, j.kind, s.priority, j.series_instance_uid, j.kind || ' ' || j.job_id, "
            "jsonb_build_object('job_id', j.job_id), j.available_at AT TIME ZONE 'UTC' "
            "FROM jobs j JOIN series s ON s.series_instance_uid = j.series_instance_uid "
            f"WHERE j.state IN {_LIVE} ORDER BY j.available_at, j.job_id"
        )
    )


def _remove() -> None:
    for query in (
        "SELECT 'DROP TABLE ' || quote_ident(tablename) || ' CASCADE' FROM pg_tables "
        "WHERE schemaname = current_schema() AND starts_with(tablename, 'procrastinate_')",
        "SELECT 'DROP FUNCTION ' || oid::regprocedure || ' CASCADE' FROM pg_proc "
        "WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'procrastinate_')",
        "SELECT 'DROP TYPE ' || oid::regtype || ' CASCADE' FROM pg_type "
        "WHERE typnamespace = current_schema()::regnamespace AND starts_with(typname, 'procrastinate_')",
    ):
        for statement in op.get_bind().exec_driver_sql(query).scalars().all():
            op.get_bind().exec_driver_sql(statement)
