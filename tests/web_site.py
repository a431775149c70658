"""A site with one account per role, for tests of pages and of the API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.ops.web_server import LiveNode
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Actions, Site
from tests.empty_database import copy_empty_database

PASSWORD = "quiet morning tomograph"
NAMES = {Role.VIEWER: "vera", Role.REVIEWER: "rudi", Role.ADMIN: "ada"}
HOST = "http://127.0.0.1"


def web_config(folder: Path, **web: Any) -> Config:
    """Return a configuration in ``folder`` with cheap password hashes; ``web`` are further keys of its section."""
    (folder / "spool").mkdir(parents=True, exist_ok=True)
    cheap = {"host": "127.0.0.1", "port": 0, "password_memory_mb": 8, "password_passes": 1}
    return Config.model_validate(
        {
            "database_url": f"sqlite:///{folder}/quality.db",
            "spool_dir": folder / "spool",
            "spool": {"min_free_mb": 1, "resume_free_mb": 1},
            "web": {**cheap, **web},
        }
    )


def open_site(
    folder: Path, clock: Any = None, actions: Actions | None = None, *, database_url: str = "", **web: Any
) -> Site:
    """Return a site over a new database with the accounts vera (viewer), rudi (reviewer) and ada (admin).

    ``database_url`` names one with the newest schema; without it the site makes its own.
    """
    config = web_config(folder, **web)
    if database_url:
        config = config.model_copy(update={"database_url": database_url})
    else:
        copy_empty_database(folder / "quality.db")
    database = Database(config.database_url)
    more = {"clock": clock} if clock else {}
    site = Site(config, database, LiveNode(config, database), actions or Actions(), **more)
    kept = site.passwords.hash(PASSWORD)
    for role, name in NAMES.items():
        site.accounts.add(name, role, name.title(), kept)
    return site


def stranger(site: Site, **headers: str) -> TestClient:
    """Return a client without a session; it follows no redirects and raises nothing of the server's."""
    return TestClient(
        create_app(site), base_url=HOST, follow_redirects=False, raise_server_exceptions=False, headers=headers
    )


def log_in(client: TestClient, name: str, password: str = PASSWORD, **more: str) -> Any:
    """Fill in the form of the login page and return the answer."""
    form = client.get("/login", headers={"accept": "text/html"})
    found = re.search(r'name="csrf" value="([^"]+)"', form.text)
    assert found, form.text
    return client.post("/login", data={"csrf": found[1], "name": name, "password": password, **more})


def logged_in(site: Site, role: Role = Role.ADMIN) -> TestClient:
    """Return a client with a session; its ``csrf`` is the token that changes need."""
    client = stranger(site, accept="text/html")
    answer = log_in(client, NAMES[role])
    assert answer.status_code == 303, answer.text
    client.csrf = csrf_of(client)  # type: ignore[attr-defined]
    return client


def csrf_of(client: TestClient) -> str:
    """Return the token of the client's session."""
    found = re.search(r'<meta name="csrf-token" content="([^"]+)"', client.get("/account").text)
    assert found
    return found[1]


def bearer(site: Site, role: Role = Role.ADMIN) -> dict[str, str]:
    """Return the header of an API token of the account of that role."""
    row = site.accounts.named(NAMES[role])
    assert row is not None
    secret, _ = site.accounts.add_token(row.account_id, "test", role, 1)
    return {"Authorization": f"Bearer {secret}"}
