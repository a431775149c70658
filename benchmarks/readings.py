"""What an operator can ask of a node: every reading command and every page, to be timed within one process.

    for reading in (*commands(config_path, uid), *pages(site, uid)):
        reading.act()

Commands are called as their process would be, without its start; pages are asked of the application itself, without a
network. So the figures are what the question costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.testclient import TestClient
from typer.testing import CliRunner

from benchmarks.web_log import QUESTIONS
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.cli.app import app
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.ops.web_server import LiveNode
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Site

__all__ = ["COMMANDS", "Reading", "commands", "newest_series", "pages"]

COMMANDS = (
    "health",
    "series list",
    "series list --state RECEIVING",
    "series list --state COMPLETE",
    "series list --state REPORTED",
    "series list --state DELIVERED",
    "series list --state PARKED",
    "series list --state REPORTED --state PARKED",
    "log",
    "log --csv --limit 1000",
    "log --grade diagnostic",
    "log --grade non-diagnostic",
    "log --modality PT",
    "log --modality MR",
    "log --scanner CT-A2",
    "log --scanner nobody",
    "log --since 24h",
    "log --since 365d",
    "log --since 365d --grade limited",
    "log --scanner PET-C3 --grade non-diagnostic",
    "log --scanner CT-A2 --modality PT",
    "log --modality PT --grade non-diagnostic",
    "log --since 24h --scanner CT-A2 --modality CT --grade limited",
    "log --since 365d --scanner CT-A2 --modality PT --grade limited",
    "outbox list",
    "outbox list --parked",
    "outbox list --state PENDING",
    "outbox list --state DELIVERED",
    "outbox list --target pacs",
    "outbox list --target elsewhere",
    "outbox list --parked --target elsewhere",
    "outbox list --parked --target pacs --after 1000000",
    "reviews list",
    "audit",
    "audit --actor nobody",
    "audit --event login --since 7d",
    "users list",
)
"""Every command that lists, with each of its filters alone and in the mixtures that few or no rows meet."""

_PAGES = (
    "/node", "/node/now", "/alerts", "/alerts/open", "/reviews", "/audit", "/users", "/scanners",
    "/metrics", "/healthz", "/readyz",
    "/api/v1/me", "/api/v1/accounts", "/api/v1/audit", "/api/v1/reviews", "/api/v1/node", "/api/v1/node/processes",
    "/api/v1/node/peers", "/api/v1/node/tasks", "/api/v1/node/errors", "/api/v1/node/parked-deliveries",
    "/api/v1/alerts", "/api/v1/alerts/open", "/api/v1/alerts/messages", "/api/v1/scanners", "/api/v1/scanners/alarms",
    "/api/v1/series", "/api/v1/series?sort=score&grade=non-diagnostic",
)  # fmt: skip
_TURNED = ("all", "outliers first", "five common filters", "common name")


@dataclass(frozen=True)
class Reading:
    """One question; ``act`` asks it once and raises where the answer is not usable."""

    what: str
    act: Callable[[], object]


def commands(config: Path, uid: str) -> Iterator[Reading]:
    """Yield every command of `COMMANDS`, and those about one series."""
    for line in (*COMMANDS, f"show {uid}", f"outbox explain {uid}"):
        words = line.split()
        yield Reading(f"dicom-qa-node {line.replace(uid, 'UID')}", lambda words=words: _run(config, words))  # type: ignore[misc]


def _run(config: Path, words: Sequence[str]) -> None:
    done = CliRunner().invoke(app, ["--config", str(config), *words])
    # 1: done, and the node is not well.
    if done.exit_code not in (0, 1) or (done.exception is not None and not isinstance(done.exception, SystemExit)):
        raise RuntimeError(f"{' '.join(words)}: {done.output[-500:]} {done.exception!r}")


def pages(config: Config, database: Database, uid: str) -> Iterator[Reading]:
    """Yield the log page for every question of `web_log`, later pages of some, and every other page."""
    site = Site(config, database, LiveNode(config, database))
    client = TestClient(create_app(site), base_url="http://localhost", headers=_headers(site))
    for name, query in QUESTIONS.items():
        yield _page(client, f"log page: {name}", f"/log?{query}")
    for name in _TURNED:
        yield _page(client, f"log page, the next: {name}", _next(client, QUESTIONS[name]))
    yield _page(client, "log page: new rows", f"/log/rows?than={LogSearch(database).newest() - 20}")
    yield _page(client, "series page", f"/series/{uid}")
    for path in ("", "/versions", "/reviews"):
        yield _page(client, f"API: one series{path}", f"/api/v1/series/{uid}{path}")
    for path in _PAGES:
        yield _page(client, path, path)
    yield from _scanner_pages(client, database)


def _scanner_pages(client: TestClient, database: Database) -> Iterator[Reading]:
    card = max(Scanners(database).overview(), key=lambda card: card.count)
    number, group = card.scanner.scanner_id, card.groups[0].group_id
    for path in ("", "/chart.json", "/chart.csv"):
        yield _page(client, f"the busiest scanner{path}", f"/scanners/{number}{path}?group={group}")
    yield _page(client, "the busiest scanner, 1,000 points", f"/scanners/{number}?group={group}&points=1000")
    for path in ("chart", "weeks", "fleet", "events"):
        yield _page(client, f"API: its {path}", f"/api/v1/scanners/{number}/{path}?group={group}")


def _headers(site: Site) -> dict[str, str]:
    row = site.accounts.named("benchmark") or site.accounts.add("benchmark", Role.ADMIN)
    secret, _ = site.accounts.add_token(row.account_id, "benchmark", Role.ADMIN, 1)
    return {"Authorization": f"Bearer {secret}", "Accept": "text/html"}


def _page(client: TestClient, what: str, path: str) -> Reading:
    def ask() -> None:
        answer = client.get(path)
        # 503: healthz of a node that does not run.
        if answer.status_code not in (200, 503):
            raise RuntimeError(f"{path}: {answer.status_code}")

    return Reading(what, ask)


def _next(client: TestClient, query: str) -> str:
    found = re.search(r'rel="next" href="\?([^"]+)"', client.get(f"/log?{query}").text)
    return "/log?" + (found[1].replace("&amp;", "&") if found else query)


def newest_series(database: Database) -> str:
    """Return the series that was scored last."""
    return LogSearch(database).page(LogQuery(), limit=1).rows[0].facts.series_instance_uid
