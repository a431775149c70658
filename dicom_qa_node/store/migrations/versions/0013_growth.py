"""For logs of ten million: counts by state, series that have images, orders of lists, reports without a header."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COUNTED = ("series", "outbox")
_KEPT = sa.text("kept > 0")
_UNINDEXED = sa.text("unindexed = true")
_LISTED = (
    ("ix_report_headers_layout", "report_headers", ["layout", "sop_instance_uid"]),
    ("ix_series_state_last_received_at", "series", ["state", "last_received_at"]),
    ("ix_outbox_target_delivery_id", "outbox", ["target", "delivery_id"]),
)
_ADD = (
    "INSERT INTO state_counts (counted, state, entry, number) VALUES ({table}, {row}.state, {entry}, {number}) "
    "ON CONFLICT (counted, state, entry) DO UPDATE SET number = state_counts.number + excluded.number;"
)


def upgrade() -> None:
    op.create_table(
        "state_counts",
        sa.Column("counted", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("entry", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("counted", "state", "entry", name=op.f("pk_state_counts")),
    )
    for table in _COUNTED:
        op.execute(f"INSERT INTO state_counts SELECT '{table}', state, 0, count(*) FROM {table} GROUP BY state")
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_triggers()
    else:
        _postgresql_triggers()
    op.add_column("series", sa.Column("kept", sa.Integer(), nullable=False, server_default="0"))
    # Of millions of series few have images: only those are written.
    op.execute(
        "UPDATE series SET kept = (SELECT count(*) FROM instances AS i "
        "WHERE i.series_instance_uid = series.series_instance_uid) "
        "WHERE series_instance_uid IN (SELECT series_instance_uid FROM instances)"
    )
    op.create_index("ix_series_kept", "series", ["state", "state_since"], sqlite_where=_KEPT, postgresql_where=_KEPT)
    for name, table, columns in _LISTED:
        op.create_index(name, table, columns)
    op.add_column("reports", sa.Column("unindexed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE reports SET unindexed = true WHERE NOT EXISTS "
        "(SELECT 1 FROM report_headers AS h WHERE h.sop_instance_uid = reports.sop_instance_uid)"
    )
    op.create_index(
        "ix_reports_unindexed",
        "reports",
        ["sop_instance_uid"],
        sqlite_where=_UNINDEXED,
        postgresql_where=_UNINDEXED,
    )


def _sqlite_triggers() -> None:
    for table in _COUNTED:
        plus = _ADD.format(table=f"'{table}'", row="NEW", entry=0, number=1)
        minus = _ADD.format(table=f"'{table}'", row="OLD", entry=0, number=-1)
        op.execute(f"CREATE TRIGGER {table}_counted_new AFTER INSERT ON {table} BEGIN {plus} END")
        op.execute(
            f"CREATE TRIGGER {table}_counted_moved AFTER UPDATE OF state ON {table} "
            f"WHEN NEW.state <> OLD.state BEGIN {minus} {plus} END"
        )
        op.execute(f"CREATE TRIGGER {table}_counted_gone AFTER DELETE ON {table} BEGIN {minus} END")


def _postgresql_triggers() -> None:
    # A row for each transaction: nobody waits for the count of somebody else.
    plus = _ADD.format(table="TG_TABLE_NAME", row="NEW", entry="txid_current()", number=1)
    minus = _ADD.format(table="TG_TABLE_NAME", row="OLD", entry="txid_current()", number=-1)
    op.execute(
        "CREATE FUNCTION state_counts_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP <> 'INSERT' THEN {minus} END IF; IF TG_OP <> 'DELETE' THEN {plus} END IF; RETURN NULL; END $$"
    )
    for table in _COUNTED:
        call = "FOR EACH ROW {when}EXECUTE FUNCTION state_counts_note()"
        changed = call.format(when="WHEN (NEW.state <> OLD.state) ")
        op.execute(f"CREATE TRIGGER {table}_counted AFTER INSERT OR DELETE ON {table} {call.format(when='')}")
        op.execute(f"CREATE TRIGGER {table}_counted_moved AFTER UPDATE OF state ON {table} {changed}")


def downgrade() -> None:
    op.drop_index("ix_reports_unindexed", "reports")
    with op.batch_alter_table("reports") as reports:
        reports.drop_column("unindexed")
    for name, table, _ in _LISTED:
        op.drop_index(name, table)
    op.drop_index("ix_series_kept", "series")
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table in _COUNTED:
        for trigger in ("new", "moved", "gone") if sqlite else ("", "moved"):
            name = f"{table}_counted_{trigger}".rstrip("_")
            op.execute(f"DROP TRIGGER {name}" + ("" if sqlite else f" ON {table}"))
    if not sqlite:
        op.execute("DROP FUNCTION state_counts_note()")
    op.drop_table("state_counts")
    with op.batch_alter_table("series") as series:
        series.drop_column("kept")
