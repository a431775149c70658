"""Initial triggers: append-only tables, the delivery mark of a log row, counts by state; and two indexes made by hand.

The full-text index differs between the databases; the index of the ends of UIDs is one of an expression, which
SQLAlchemy does not reflect.
"""

from __future__ import annotations

from alembic import op

__all__ = ["create", "drop_functions"]

_FUNCTIONS = ("audit_log_append_only", "charts_append_only", "log_rows_mark", "reviews_refuse", "state_counts_note")

_AUDIT = "the audit log is append-only"
_CHARTS = ("chart_baselines", "scanner_events")

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

_COUNTED = ("series", "outbox")
_ADD = (
    "INSERT INTO state_counts (counted, state, entry, number) VALUES ({table}, {row}.state, {entry}, {number}) "
    "ON CONFLICT (counted, state, entry) DO UPDATE SET number = state_counts.number + excluded.number;"
)


def create(dialect: str) -> None:
    """Create the indexes and the triggers of one dialect, ``sqlite`` or ``postgresql``."""
    op.execute(
        "CREATE INDEX ix_series_uid_end ON series (substr(series_instance_uid, length(series_instance_uid) - 11))"
    )
    for statement in _sqlite() if dialect == "sqlite" else _postgresql():
        op.execute(statement)


def drop_functions() -> None:
    """Remove the trigger functions of PostgreSQL, after the tables that call them."""
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}()")


def _sqlite() -> list[str]:
    plus = {table: _ADD.format(table=f"'{table}'", row="NEW", entry=0, number=1) for table in _COUNTED}
    minus = {table: _ADD.format(table=f"'{table}'", row="OLD", entry=0, number=-1) for table in _COUNTED}
    return [
        # The words arrive split and case-folded; the tokenizer only separates them, and prefixes of two are common.
        "CREATE VIRTUAL TABLE log_text USING fts5(words, content='', detail=none, prefix='2 3', "
        "tokenize='unicode61 remove_diacritics 0')",
        *_sqlite_append_only("audit_log", _AUDIT),
        # INSERT OR REPLACE deletes without asking the trigger for deletions.
        "CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log "
        "WHEN EXISTS (SELECT 1 FROM audit_log WHERE audit_id = NEW.audit_id) "
        f"BEGIN SELECT RAISE(ABORT, '{_AUDIT}'); END",
        *_sqlite_append_only("reviews", "reviews are append-only"),
        *(line for table in _CHARTS for line in _sqlite_append_only(table, f"{table} is append-only")),
        f"CREATE TRIGGER log_rows_outbox_new AFTER INSERT ON outbox BEGIN {_MARK} END",
        "CREATE TRIGGER log_rows_outbox_state AFTER UPDATE OF state ON outbox "
        f"WHEN NEW.state <> OLD.state AND {_SETTLED} BEGIN {_MARK} END",
        *(f"CREATE TRIGGER {t}_counted_new AFTER INSERT ON {t} BEGIN {plus[t]} END" for t in _COUNTED),
        *(f"CREATE TRIGGER {t}_counted_gone AFTER DELETE ON {t} BEGIN {minus[t]} END" for t in _COUNTED),
        *(
            f"CREATE TRIGGER {table}_counted_moved AFTER UPDATE OF state ON {table} "
            f"WHEN NEW.state <> OLD.state BEGIN {minus[table]} {plus[table]} END"
            for table in _COUNTED
        ),
    ]


def _sqlite_append_only(table: str, message: str) -> list[str]:
    return [
        f"CREATE TRIGGER {table}_no_{change} BEFORE {change} ON {table} BEGIN SELECT RAISE(ABORT, '{message}'); END"
        for change in ("update", "delete")
    ]


def _postgresql() -> list[str]:
    # A row for each transaction: nobody waits for the count of somebody else.
    plus = _ADD.format(table="TG_TABLE_NAME", row="NEW", entry="txid_current()", number=1)
    minus = _ADD.format(table="TG_TABLE_NAME", row="OLD", entry="txid_current()", number=-1)
    note = "FOR EACH ROW {when}EXECUTE FUNCTION state_counts_note()"
    moved = note.format(when="WHEN (NEW.state <> OLD.state) ")
    return [
        "CREATE TABLE log_text (result_id integer PRIMARY KEY, words text NOT NULL)",
        "CREATE INDEX ix_log_text_words ON log_text USING gin (to_tsvector('simple', words))",
        _function("audit_log_append_only", f"RAISE EXCEPTION '{_AUDIT}';"),
        "CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE ON audit_log "
        "FOR EACH ROW EXECUTE FUNCTION audit_log_append_only()",
        "CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only()",
        _function("charts_append_only", "RAISE EXCEPTION 'this table is append-only';"),
        *(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION charts_append_only()"
            for table in _CHARTS
        ),
        _function("reviews_refuse", "RAISE EXCEPTION 'reviews are append-only';"),
        "CREATE TRIGGER reviews_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reviews "
        "FOR EACH STATEMENT EXECUTE FUNCTION reviews_refuse()",
        _function("log_rows_mark", f"{_MARK} RETURN NULL;"),
        "CREATE TRIGGER log_rows_outbox_new AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION log_rows_mark()",
        "CREATE TRIGGER log_rows_outbox_state AFTER UPDATE OF state ON outbox FOR EACH ROW "
        f"WHEN (NEW.state <> OLD.state AND {_SETTLED}) EXECUTE FUNCTION log_rows_mark()",
        _function(
            "state_counts_note",
            f"IF TG_OP <> 'INSERT' THEN {minus} END IF; IF TG_OP <> 'DELETE' THEN {plus} END IF; RETURN NULL;",
        ),
        *(
            f"CREATE TRIGGER {table}_counted AFTER INSERT OR DELETE ON {table} {note.format(when='')}"
            for table in _COUNTED
        ),
        *(f"CREATE TRIGGER {table}_counted_moved AFTER UPDATE OF state ON {table} {moved}" for table in _COUNTED),
    ]


def _function(name: str, body: str) -> str:
    return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
