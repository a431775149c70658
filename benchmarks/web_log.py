"""Server time of the log page and the series page over a generated log, for every filter and its worst mixtures.

    python -m benchmarks.web_log --database /tmp/million.db --series 1000000

The database is filled on the first run (some minutes for a million series) and kept for the next.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Site

QUESTIONS = {
    "all": "",
    "worst score first": "sort=score",
    "best score first": "sort=score&dir=desc",
    "outliers first": "sort=deviation",
    "one scanner": "scanner=CT-A2",
    "one scanner by score": "scanner=PET-C3&sort=score",
    "site and grade": "site=Klinikum+am+See&grade=non-diagnostic",
    "common finding": "finding=metal",
    "finding that no such series has": "finding=uptake_time_off&modality=CT",
    "rare combination": "finding=suv_implausible&grade=non-diagnostic&review=divided",
    "report parked": "delivery=parked",
    "review queue": "review=none&sort=deviation",
    "disagreed": "review=disagreed",
    "errors, divided, every version": "review=divided&severity=error&versions=all",
    "last 30 days by score": "period=30d&sort=score",
    "score between": "score_from=1.99&score_to=2.0",
    "score between, one scanner, by time": "score_from=1.99&score_to=2.0&scanner=CT-A1&finding=streaks",
    "word of a protocol": "q=thorax",
    "word of a finding": "q=motion+lung",
    "words of a finding, a protocol and a maker": "q=thorax+altair+motion+noise",
    "five common filters": "q=thorax+altair&grade=diagnostic&severity=warning&review=none&score_from=3.4",
    "common name": "q=garcia",
    "common name by score": "q=garcia&sort=score",
    "two names": "q=garcia+anna",
    "name and protocol": "q=garcia+thorax",
    "name that nobody has": "q=xyzzy",
    "UID": "q=1.2.826.0.1.3680043.10.77.3.77",
    "nothing fits": "scanner=CT-A2&grade=none&finding=incomplete&review=divided",
}
LIMIT_MS = 150


class _NoNode:
    """The pages measured here do not ask the node."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def main() -> None:
    """Fill if needed, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, default=Path(tempfile.gettempdir()) / "qa-benchmark-log.db")
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    chosen = parser.parse_args()
    site = _site(chosen.database, chosen.series)
    client = TestClient(create_app(site), base_url="http://localhost", headers=_headers(site))
    rows = [_measured(client, f"log: {name}", f"/log?{query}", chosen.rounds) for name, query in QUESTIONS.items()]
    for name, query in QUESTIONS.items():
        rows.append(_measured(client, f"log, 2nd page: {name}", _second(client, query), chosen.rounds))
    uid = LogSearch(site.database).page(LogQuery()).rows[0].facts.series_instance_uid
    rows.append(_measured(client, "series", f"/series/{uid}", chosen.rounds))
    rows.append(_measured(client, "new rows", "/log/rows?than=1000", chosen.rounds))
    for name, busy, clock, size in rows:
        mark = "  above the limit" if name.startswith("log") and busy > LIMIT_MS else ""
        print(f"{name:55} processor {busy:7.1f} ms  clock {clock:7.1f} ms {size / 1000:7.1f} kB{mark}")
    if chosen.csv:
        with chosen.csv.open("w", newline="") as stream:
            csv.writer(stream).writerows([("page", "processor_ms", "clock_ms", "bytes"), *rows])


def _site(path: Path, series: int) -> Site:
    config = Config.model_validate(
        {"database_url": f"sqlite:///{path}", "spool_dir": path.parent / "spool", "web": {"api_per_minute": 100_000}}
    )
    database = Database(config.database_url)
    database.upgrade()
    if not LogSearch(database).newest():
        from tests.realistic_log import fill

        print(f"filling {path} with {series} series", file=sys.stderr)
        fill(database, series, light=series > 100_000)
    return Site(config, database, _NoNode())


def _headers(site: Site) -> dict[str, str]:
    row = site.accounts.named("benchmark") or site.accounts.add("benchmark", Role.REVIEWER)
    secret, _ = site.accounts.add_token(row.account_id, "benchmark", Role.REVIEWER, 1)
    return {"Authorization": f"Bearer {secret}", "Accept": "text/html"}


def _second(client: TestClient, query: str) -> str:
    text = client.get(f"/log?{query}").text
    found = re.search(r'rel="next" href="\?([^"]+)"', text)
    return "/log?" + (found[1].replace("&amp;", "&") if found else query)


def _measured(client: TestClient, name: str, path: str, rounds: int) -> tuple[str, float, float, int]:
    """Return the medians of the processor's and the clock's time in ms, and the size of the page in bytes.

    On a machine that is busy otherwise only the processor's time says what the page costs.
    """
    busy, times, size = [], [], 0
    client.get(path)
    for _ in range(rounds):
        begun, worked = time.perf_counter(), time.process_time()
        answer = client.get(path)
        busy.append((time.process_time() - worked) * 1000)
        times.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code == 200, (path, answer.status_code)
        size = len(answer.content)
    return name, round(statistics.median(busy), 1), round(statistics.median(times), 1), size


if __name__ == "__main__":
    main()
