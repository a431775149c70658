"""The tables of who may do what: accounts, invitations, sessions, tokens, failed logins, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_qa_node.db.engine import UtcDateTime
from dicom_qa_node.db.tables import metadata

__all__ = [
    "accounts",
    "api_tokens",
    "audit_cursors",
    "audit_log",
    "invitations",
    "login_throttle",
    "oidc_logins",
    "web_sessions",
]

_HASH = sa.String(64)
_ACCOUNT = "accounts.account_id"

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("account_id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("full_name", sa.Text, nullable=False, server_default=""),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password_hash", sa.Text, nullable=False, server_default=""),
    sa.Column("issuer", sa.Text),
    sa.Column("subject", sa.Text),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("password_at", UtcDateTime),
    sa.Column("last_login_at", UtcDateTime),
    sa.Index("ix_accounts_issuer_subject", "issuer", "subject", unique=True),
)

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("token_hash", _HASH, primary_key=True),
    sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("used_at", UtcDateTime),
)

web_sessions = sa.Table(
    "web_sessions",
    metadata,
    sa.Column("token_hash", _HASH, primary_key=True),
    sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), nullable=False),
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("user_agent", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Index("ix_web_sessions_account_id", "account_id"),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("token_id", sa.Integer, primary_key=True),
    sa.Column("account_id", sa.Integer, sa.ForeignKey(_ACCOUNT), nullable=False),
    sa.Column("parent_id", sa.Integer, sa.ForeignKey("api_tokens.token_id")),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("token_hash", _HASH, nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("last_used_at", UtcDateTime),
    sa.Column("revoked_at", UtcDateTime),
    sa.Index("ix_api_tokens_account_id", "account_id"),
)

login_throttle = sa.Table(
    "login_throttle",
    metadata,
    sa.Column("key", sa.String(192), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("failed_at", UtcDateTime, nullable=False),
    sa.Column("blocked_until", UtcDateTime),
)

oidc_logins = sa.Table(
    "oidc_logins",
    metadata,
    sa.Column("state_hash", _HASH, primary_key=True),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("verifier", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("audit_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("ident", sa.Text, nullable=False),
    sa.Column("study_instance_uid", sa.Text, nullable=False),
    sa.Column("patient_id", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index("ix_audit_log_at", "at"),
    sa.Index("ix_audit_log_actor", "actor", "audit_id"),
    sa.Index("ix_audit_log_event", "event", "audit_id"),
    sa.Index("ix_audit_log_ident", "ident", "audit_id"),
    sqlite_autoincrement=True,
)

audit_cursors = sa.Table(
    "audit_cursors",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("audit_id", sa.Integer, nullable=False),
)
