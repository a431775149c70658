"""The keys that a site sets first; the generated file and documentation list them before the others."""

from __future__ import annotations

__all__ = ["BASIC_KEYS"]

BASIC_KEYS = frozenset(
    {
        "ae_title",
        "database_url",
        "spool_dir",
        "receive.port",
        "receive.allow_unknown_peers",
        "receive.require_called_ae",
        "receive.peers",
        "receive.peers[].ae_title",
        "receive.peers[].hosts",
        "receive.peers[].port",
        "receive.tls.enabled",
        "spool.min_free_mb",
        "spool.keep_delivered_days",
        "spool.await_review",
        "complete.quiet_s",
        "complete.pair_wait_s",
        "score.device",
        "score.model",
        "score.grades.diagnostic",
        "score.grades.limited",
        "report.institution_name",
        "report.language",
        "deliver.targets",
        "orthanc.url",
        "orthanc.modality",
        "query.enabled",
        "web.host",
        "web.port",
        "web.public_url",
        "web.trusted_proxies",
        "alerts.email",
        "alerts.webhook",
        "log.format",
    }
)
"""Dotted names as in the documentation; ``[]`` stands for an entry of a list."""
