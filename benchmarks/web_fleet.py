"""Times the scanner, node and alert pages and their API at the server, over the generated log.

    python -m benchmarks.web_fleet --series 1000000 --folder /var/tmp/qa-bench

The log is filled and the charts are built on the first run of a folder; later runs only measure. Each page is asked
for once to warm up, then timed; a figure is the median and the slowest of the repetitions, in the same process.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from pathlib import Path

from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.drifts import Drifts
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.web.site import Site
from tests.realistic_log import fill
from tests.web_site import NAMES, PASSWORD, LiveNode, logged_in, open_site, web_config


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--series", type=int, default=20_000)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--repeat", type=int, default=9)
    given = options.parse_args()
    site = prepared(given.folder, given.series)
    scanner = max(Scanners(site.database).overview(), key=lambda card: card.count)
    number, group = scanner.scanner.scanner_id, scanner.groups[0].group_id
    print(f"busiest scanner: {scanner.count} series, its busiest group {scanner.groups[0].count}")
    client = logged_in(site, Role.ADMIN)
    one = f"/scanners/{number}?group={group}"
    pages = [
        "/scanners",
        one,
        f"{one}&quantity=global_noise_level",
        f"{one}&points=1000",
        "/node",
        "/node/now",
        "/alerts",
    ]
    pages += [f"/scanners/{number}/chart.json?group={group}", f"/scanners/{number}/chart.csv?group={group}"]
    pages += [f"/api/v1/scanners/{number}/{part}?group={group}" for part in ("chart", "weeks", "fleet")]
    pages += ["/api/v1/node", "/metrics"]
    for path in pages:
        print(measured(client, path, given.repeat))


def prepared(folder: Path, series: int) -> Site:
    if (folder / "quality.db").exists():
        config = web_config(folder)
        database = Database(config.database_url)
        site = Site(config, database, LiveNode(config, database))
        if not site.accounts.all():
            site.accounts.add(NAMES[Role.ADMIN], Role.ADMIN, "", site.passwords.hash(PASSWORD))
    else:
        site = open_site(folder)
        timed("fill the log", lambda: fill(site.database, series=series, seed=1))
    ingest, drifts = ChartIngest(site.database), Drifts(site.database, ChartRules())
    timed("take results into the charts", lambda: exhaust(lambda: ingest.take_in(limit=2000)))
    timed("weekly percentiles", lambda: exhaust(ingest.refresh_weeks))
    timed("drift of every group", lambda: exhaust(drifts.look))
    return site


def exhaust(step) -> int:
    total = 0
    while done := step():
        total += done
    return total


def timed(what: str, work) -> None:
    begun, processor = time.perf_counter(), time.process_time()
    done = work()
    print(f"{what}: {done}, {time.perf_counter() - begun:.1f} s, {time.process_time() - processor:.1f} s of processor")


def measured(client, path: str, repeat: int) -> str:
    spent, used = [], []
    body = client.get(path).content
    for _ in range(repeat):
        begun, processor = time.perf_counter(), time.process_time()
        answer = client.get(path)
        spent.append(1000 * (time.perf_counter() - begun))
        used.append(1000 * (time.process_time() - processor))
        assert answer.status_code == 200, path
    kilobytes, zipped = len(body) / 1000, len(gzip.compress(body)) / 1000
    return (
        f"{path:70} median {statistics.median(spent):6.0f} ms, slowest {max(spent):6.0f} ms, "
        f"processor {statistics.median(used):5.0f} ms, {kilobytes:6.1f} kB ({zipped:.1f} zipped)"
    )


if __name__ == "__main__":
    main()
