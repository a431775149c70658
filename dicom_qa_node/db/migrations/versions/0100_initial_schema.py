"""Initial schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.db.migrations.initial import accounts, charts, flow, quality_log, triggers

revision = "0100"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    for part in (flow, accounts, quality_log, charts):
        part.create()
    triggers.create(dialect)
    if dialect == "postgresql":
        from dicom_qa_node.flow.procrastinate_queue import install

        install(op.get_bind())


def downgrade() -> None:
    connection = op.get_bind()
    cascade = " CASCADE" if connection.dialect.name == "postgresql" else ""
    for table in sa.inspect(connection).get_table_names():
        # The other tables that begin with log_text are the inside of SQLite's full-text index, and go with it.
        if not table.startswith(("alembic_version", "log_text_", "procrastinate_")):
            op.execute(f'DROP TABLE "{table}"{cascade}')
    if connection.dialect.name == "postgresql":
        triggers.drop_functions()
        _remove_procrastinate()


def _remove_procrastinate() -> None:
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
