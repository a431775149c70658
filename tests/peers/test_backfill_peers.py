"""The backfill against real archives: Orthanc and DCMTK's dcmqrscp find by day and send series to the node's port."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_qa_node.config import Config, RetrieveSource
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.deliver.backfill_worker import BackfillWorker
from dicom_qa_node.deliver.retrieve_scu import RetrieveScu
from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.domain.backfill import BackfillRequest, EntryState, RunState, SeriesEntry
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.flow.backfill_runs import BackfillRuns
from tests.peers.orthanc_peer import start_orthanc
from tests.query_samples import ROOT, serving
from tests.unit.encoded_images import EXPLICIT, ct, encoded

pytestmark = [pytest.mark.peers("Orthanc", "dcmqrscp", "dcmqridx"), pytest.mark.integration]

DAYS = (dt.date(2026, 1, 5), dt.date(2026, 1, 6), dt.date(2026, 1, 8))
IMAGES = 3
QRSCP = """
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
node = (DICOMQA, 127.0.0.1, {node})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {folder} RW (500, 1024mb) ANY
AETable END
"""


@dataclass(frozen=True)
class Peer:
    """An archive that holds the series of `made`."""

    source: RetrieveSource
    names_station: bool


def made(folder: Path) -> list[Path]:
    """Write one study a day with a series of each of two scanners; return the files."""
    files = []
    for day_number, day in enumerate(DAYS):
        for series, station in enumerate(("CT7", "CT8")):
            for number in range(IMAGES):
                image = ct()
                image.StudyDate = image.SeriesDate = day.strftime("%Y%m%d")
                image.StudyInstanceUID = f"{ROOT}.7.{day_number}"
                image.SeriesInstanceUID = series_uid(day_number, series)
                image.SOPInstanceUID = f"{series_uid(day_number, series)}.{number}"
                image.StationName, image.InstanceNumber = station, number + 1
                image.PatientID, image.StudyID = f"B{day_number}", f"{day_number}"
                path = folder / f"{day_number}-{series}-{number}.dcm"
                path.write_bytes(encoded(image, EXPLICIT))
                files.append(path)
    return files


def series_uid(day_number: int, series: int) -> str:
    return f"{ROOT}.7.{day_number}.{series}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Config, Database, int]]:
    config = Config.model_validate(
        {
            "database_url": f"sqlite:///{tmp_path}/q.db",
            "spool_dir": tmp_path / "spool",
            "spool": {"min_free_mb": 0},
            "backfill": {"most_waiting": 1000},
        }
    )
    database = Database(config.database_url)
    database.upgrade()
    with serving(config, database) as port:
        yield config, database, port
    database.close()


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def peer(
    request: pytest.FixtureRequest, node: tuple[Config, Database, int], tmp_path: Path, free_port: Any, background: Any,
    poll: Any,
) -> Peer:  # fmt: skip
    (tmp_path / "images").mkdir()
    files = made(tmp_path / "images")
    if request.param == "orthanc":
        orthanc = start_orthanc(tmp_path, free_port, background, poll, node[2])
        for path in files:
            orthanc.ask("instances", path.read_bytes())
        return Peer(source_of(orthanc.dicom_port, "ORTHANC"), names_station=True)
    port, folder = free_port(), tmp_path / "db"
    folder.mkdir()
    (tmp_path / "qrscp.cfg").write_text(QRSCP.format(port=port, folder=folder, node=node[2]))
    subprocess.run([dcmtk("dcmqridx"), str(folder), *map(str, files)], check=True, capture_output=True, timeout=60)
    server = background([dcmtk("dcmqrscp"), "-c", str(tmp_path / "qrscp.cfg")], env={**os.environ, "TCP_NODELAY": "1"})
    poll(lambda: server.poll() is None and answers(port), 20, "dcmqrscp listens")
    return Peer(source_of(port, "QRSCP"), names_station=False)


def source_of(port: int, ae_title: str) -> RetrieveSource:
    return RetrieveSource(name="archive", host="127.0.0.1", port=port, ae_title=ae_title, timeout_s=20)


def dcmtk(name: str) -> str:
    path = shutil.which(name, path="/usr/bin")
    assert path is not None
    return path


def answers(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_of(runs: BackfillRuns, **more: Any) -> int:
    values: dict[str, Any] = {"source": "archive", "modalities": ("CT", "PT"), "rate_per_hour": 3600.0} | more
    return runs.start(BackfillRequest(first_day=DAYS[0], last_day=DAYS[-1], **values), by="kim")


class Steps:
    """A worker whose time a test lets pass."""

    def __init__(self, node: tuple[Config, Database, int], peer: Peer) -> None:
        config, self.database, _ = node
        self.now = utc_now()
        self.runs = BackfillRuns(self.database, lambda: self.now)
        scu = RetrieveScu(peer.source, config.ae_title, 30)
        self.worker = BackfillWorker(config, self.runs, "deliver@here", lambda: self.now, lambda _run: scu)

    def until(self, number: int, reached: Any, steps: int = 60) -> None:
        for _ in range(steps):
            run = self.runs.run(number)
            if reached(run):
                return
            self.now += dt.timedelta(seconds=max(self.worker.step(), 1.0))
        raise AssertionError(self.runs.run(number))


def received(database: Database) -> dict[str, int]:
    with database.read() as connection:
        rows = connection.execute(sa.select(t.series.c.series_instance_uid, t.series.c.received))
        return {row.series_instance_uid: row.received for row in rows}


def test_every_series_of_the_days_arrives_once(node, peer):
    steps = Steps(node, peer)
    number = run_of(steps.runs)
    steps.until(number, lambda run: run.searched and not run.waiting)
    run = steps.runs.run(number)
    assert (run.found, run.moved, run.skipped, run.failed) == (6, 6, 0, 0)
    assert received(node[1]) == {series_uid(day, series): IMAGES for day in range(3) for series in range(2)}
    entries = steps.runs.entries(number, EntryState.MOVED)
    assert {entry.study_date for entry in entries} == set(DAYS)
    # dcmqrscp does not count the images of a series: one whose retrieval was cut is retrieved again as a whole.
    assert {entry.images for entry in entries} == {IMAGES if peer.names_station else None}
    again = run_of(steps.runs)
    steps.until(again, lambda run: run.searched)
    assert steps.runs.run(again).skipped == 6


def test_one_scanner_is_chosen_where_the_archive_names_stations(node, peer):
    steps = Steps(node, peer)
    number = run_of(steps.runs, scanner="ct7")
    steps.until(number, lambda run: run.searched and not run.waiting)
    if peer.names_station:
        assert set(received(node[1])) == {series_uid(day, 0) for day in range(3)}
        assert {entry.words for entry in steps.runs.entries(number, EntryState.SKIPPED)} == {"of CT8"}
    else:
        assert received(node[1]) == {}
        words = {entry.words for entry in steps.runs.entries(number, EntryState.SKIPPED)}
        assert words == {"the archive does not name the station"}


def test_a_modality_that_is_not_asked_for_is_not_found(node, peer):
    scu = RetrieveScu(peer.source, "DICOMQA", 30)
    assert scu.series_of_day(DAYS[0], ("PT",)) == []
    assert scu.series_of_day(dt.date(2026, 1, 7), ("CT",)) == []
    assert len(scu.series_of_day(DAYS[0], ("CT", "PT"))) == 2


def test_an_archive_that_does_not_know_the_node_holds_the_run_up(node, peer):
    entry = SeriesEntry(
        1, 1, series_uid(0, 0), f"{ROOT}.7.0", DAYS[0], "CT", IMAGES, EntryState.MOVING, 1, "", utc_now()
    )  # fmt: skip
    # Orthanc ends the association; both leave the series for later.
    with pytest.raises((Refused, Deferred)) as refused:
        RetrieveScu(peer.source, "NOBODY", 30).move(entry)
    if not peer.names_station:
        assert "does not know the move destination NOBODY" in str(refused.value)
    assert received(node[1]) == {}


def test_kill_9_in_the_middle_of_a_retrieval(node, peer, tmp_path, poll):
    config, database, _ = node
    settings = {
        "database_url": config.database_url, "spool_dir": str(config.spool_dir), "log": {"format": "json"},
        "spool": {"min_free_mb": 0}, "backfill": {
            "most_waiting": 1000, "sources": [peer.source.model_dump(include={"name", "host", "port", "ae_title"})],
        },
    }  # fmt: skip
    import yaml

    (tmp_path / "node.yaml").write_text(yaml.safe_dump(settings))
    runs = BackfillRuns(database)
    number = run_of(runs)
    command = [sys.executable, "-m", "dicom_qa_node", "--config", str(tmp_path / "node.yaml"), "deliver"]
    for kills in range(3):
        before = runs.run(number).moved, under_way(runs, number)
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if kills < 2:
                poll(lambda before=before: (runs.run(number).moved, under_way(runs, number)) != before, 60, "it moves")
            else:
                poll(lambda: (run := runs.run(number)).searched and not run.waiting, 60, "every series was moved")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(20)
    run = runs.run(number)
    assert received(database) == {series_uid(day, series): IMAGES for day in range(3) for series in range(2)}
    assert (run.found, run.moved, run.failed, run.state) == (6, 6, 0, RunState.RUNNING)
    with database.read() as connection:
        stored = connection.execute(sa.select(sa.func.count()).select_from(t.instances)).scalar_one()
    assert stored == 6 * IMAGES


def under_way(runs: BackfillRuns, number: int) -> list[tuple[int, dt.datetime]]:
    return [(entry.entry_id, entry.changed_at) for entry in runs.entries(number, EntryState.MOVING)]
