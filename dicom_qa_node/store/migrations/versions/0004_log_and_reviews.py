"""Columns the quality log is searched by; reviews."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_qa_node.store.engine import UtcDateTime
from dicom_qa_node.store.log_backfill import fill_log_rows

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SEARCHED = ["result_id", "facet_id", "grade", "severity", "findings", "delivery", "review", "latest"]
_WORDS = (
    "site", "scanner", "model", "modality", "kind", "body_part", "protocol", "description", "study_description",
)  # fmt: skip

_MARK = """
UPDATE log_rows SET delivery = (
    SELECT CASE WHEN sum(CASE WHEN o.state = 'PARKED' THEN 1 ELSE 0 END) > 0 THEN 3
                WHEN sum(CASE WHEN o.state <> 'DELIVERED' THEN 1 ELSE 0 END) > 0 THEN 1 ELSE 2 END
    FROM reports AS r JOIN outbox AS o ON o.report_uid = r.sop_instance_uid
    WHERE r.series_instance_uid = log_rows.series_instance_uid AND r.version = log_rows.version)
WHERE series_instance_uid = NEW.series_instance_uid
AND version = (SELECT version FROM reports WHERE sop_instance_uid = NEW.report_uid);
"""
_SETTLED = "(NEW.state IN ('DELIVERED', 'PARKED') OR OLD.state IN ('DELIVERED', 'PARKED'))"


def upgrade() -> None:
    _tables()
    _text_index()
    fill_log_rows(op.get_bind())
    for name, columns in {
        "ix_log_rows_scored_at": ["scored_at", *_SEARCHED],
        "ix_log_rows_score": ["score", *_SEARCHED, "scored_at"],
        "ix_log_rows_deviation": ["deviation", *_SEARCHED, "scored_at", "score"],
        "ix_log_rows_facet_id": ["facet_id", "scored_at"],
        "ix_log_rows_series_instance_uid": ["series_instance_uid", "version"],
        **{f"ix_log_rows_{name}": [name] for name in ("grade", "severity", "delivery", "review")},
    }.items():
        op.create_index(name, "log_rows", columns)
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_triggers()
    else:
        _postgresql_triggers()


def _tables() -> None:
    op.create_table(
        "log_facets",
        sa.Column("facet_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _WORDS),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("facet_id", name=op.f("pk_log_facets")),
        sa.UniqueConstraint("digest", name=op.f("uq_log_facets_digest")),
    )
    op.create_table(
        "log_findings",
        sa.Column("bit", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bit", name=op.f("pk_log_findings")),
        sa.UniqueConstraint("key", name=op.f("uq_log_findings_key")),
    )
    op.create_table(
        "log_rows",
        sa.Column("result_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("latest", sa.SmallInteger(), nullable=False),
        sa.Column("scored_at", UtcDateTime(), nullable=False),
        sa.Column("facet_id", sa.Integer(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("low", sa.Float(), nullable=True),
        sa.Column("high", sa.Float(), nullable=True),
        sa.Column("grade", sa.SmallInteger(), nullable=False),
        sa.Column("severity", sa.SmallInteger(), nullable=False),
        sa.Column("findings", sa.BigInteger(), nullable=False),
        sa.Column("deviation", sa.Float(), nullable=True),
        sa.Column("worst_slice", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("delivery", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("review", sa.SmallInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["results.result_id"], name=op.f("fk_log_rows_result_id")),
        sa.ForeignKeyConstraint(["facet_id"], ["log_facets.facet_id"], name=op.f("fk_log_rows_facet_id")),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_log_rows")),
    )
    op.create_table(
        "log_found",
        sa.Column("bit", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("result_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("bit", "result_id", name=op.f("pk_log_found")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reviews",
        sa.Column("review_id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("agrees", sa.Boolean(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["series_instance_uid"], ["series.series_instance_uid"], name=op.f("fk_reviews_series_instance_uid")
        ),
        sa.PrimaryKeyConstraint("review_id", name=op.f("pk_reviews")),
    )
    op.create_index("ix_reviews_series_instance_uid", "reviews", ["series_instance_uid", "version", "review_id"])
    op.create_index("ix_reviews_at", "reviews", ["at"])


def _text_index() -> None:
    if op.get_bind().dialect.name == "sqlite":
        # The words come cut and folded; the tokenizer only has to split them again, and prefixes of two are common.
        op.execute(
            "CREATE VIRTUAL TABLE log_text USING fts5(words, content='', detail=none, prefix='2 3', "
            "tokenize='unicode61 remove_diacritics 0')"
        )
        return
    op.execute("CREATE TABLE log_text (result_id integer PRIMARY KEY, words text NOT NULL)")
    op.execute("CREATE INDEX ix_log_text_words ON log_text USING gin (to_tsvector('simple', words))")


def _sqlite_triggers() -> None:
    op.execute(f"CREATE TRIGGER log_rows_outbox_new AFTER INSERT ON outbox BEGIN {_MARK} END")
    op.execute(
        f"CREATE TRIGGER log_rows_outbox_state AFTER UPDATE OF state ON outbox "
        f"WHEN NEW.state <> OLD.state AND {_SETTLED} BEGIN {_MARK} END"
    )
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER reviews_no_{verb.lower()} BEFORE {verb} ON reviews "
            "BEGIN SELECT RAISE(ABORT, 'reviews are append-only'); END"
        )


def _postgresql_triggers() -> None:
    op.execute(
        f"CREATE FUNCTION log_rows_mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_MARK} RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER log_rows_outbox_new AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION log_rows_mark()"
    )
    op.execute(
        "CREATE TRIGGER log_rows_outbox_state AFTER UPDATE OF state ON outbox FOR EACH ROW "
        f"WHEN (NEW.state <> OLD.state AND {_SETTLED}) EXECUTE FUNCTION log_rows_mark()"
    )
    op.execute(
        "CREATE FUNCTION reviews_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'reviews are append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER reviews_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reviews "
        "FOR EACH STATEMENT EXECUTE FUNCTION reviews_refuse()"
    )


def downgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for trigger in ("log_rows_outbox_new", "log_rows_outbox_state"):
        op.execute(f"DROP TRIGGER {trigger}" + ("" if sqlite else " ON outbox"))
    for table in ("log_text", "log_found", "log_rows", "log_findings", "log_facets", "reviews"):
        op.execute(f"DROP TABLE {table}")
    if not sqlite:
        op.execute("DROP FUNCTION log_rows_mark()")
        op.execute("DROP FUNCTION reviews_refuse()")
