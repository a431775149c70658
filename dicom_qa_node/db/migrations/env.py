"""Alembic's entry: runs the revisions on the connection that `Database.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from dicom_qa_node.db.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
if context.get_context().dialect.name == "postgresql":
    # A newer release of Procrastinate may be installed than the one that made its tables.
    from dicom_qa_node.flow.procrastinate_queue import follow_release

    follow_release(context.config.attributes["connection"])
