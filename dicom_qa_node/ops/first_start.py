"""The first start: there is no default password but a one-time link with which the first administrator is made."""

from __future__ import annotations

import logging
from pathlib import Path

from dicom_qa_node.accounts.accounts import Accounts
from dicom_qa_node.config import Config
from dicom_qa_node.dicom_io.durable import replace_file
from dicom_qa_node.log import log_event

__all__ = ["address_of_pages", "new_setup_link", "offer_setup_link", "setup_link_file"]

_LOGGER = logging.getLogger(__name__)


def setup_link_file(config: Config) -> Path:
    """Return where the link is written."""
    return config.web.setup_link_file or config.spool_dir.parent / "setup-link"


def address_of_pages(config: Config, port: int | None = None) -> str:
    """Return the address that users type, without a slash at the end."""
    web = config.web
    if web.public_url:
        return web.public_url.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(web.host, f"[{web.host}]" if ":" in web.host else web.host)
    scheme = "https" if web.tls_certificate else "http"
    return f"{scheme}://{host}:{port or web.port}"


def offer_setup_link(config: Config, accounts: Accounts, port: int | None = None) -> str | None:
    """Write a new link to the log and to a file while there is no account; afterwards take the file away."""
    if accounts.any():
        setup_link_file(config).unlink(missing_ok=True)
        return None
    link = new_setup_link(config, accounts, port)
    log_event(_LOGGER, logging.WARNING, "setup_link", link=link, hours=config.web.setup_link_hours)
    return link


def new_setup_link(config: Config, accounts: Accounts, port: int | None = None) -> str:
    """Make a link, which puts an end to the one before, and write it to the file (mode 0600)."""
    secret = accounts.invite(None, config.web.setup_link_hours)
    link = f"{address_of_pages(config, port)}/setup/{secret}"
    _write(setup_link_file(config), f"{link}\n")
    return link


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode(), mode=0o600)
    except OSError as error:
        # The log has the link too; a folder that cannot be written to must not keep the pages away.
        log_event(_LOGGER, logging.WARNING, "setup_link_file_failed", file=str(path), error=error.strerror)
