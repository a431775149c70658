"""A whole node under kill -9: whatever dies and whenever, nothing acknowledged is lost and nothing is reported twice.

Series are pushed as a scanner does, which sends again what was not acknowledged, while processes of the node are
killed at random moments, the supervisor among them. The log of the run must not hold the patient.
"""

from __future__ import annotations

import copy
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pydicom
import pytest
import yaml
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.phantom import ct_series, phantom_uid
from dicom_qa_node.records import SeriesState
from dicom_qa_node.store import Database, Outbox, QualityLog, Registry

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROOT = Path(__file__).parents[2]
NAME, PATIENT_ID, ACCESSION, BIRTH_DATE = "Zwirnhuber^Quirina", "PID-83412-X", "ACC-771144", "19310717"
SLICES = 10
S = SeriesState
EVERY = tuple(S)
FINISHED = (S.DELIVERED,)
#: Per role: at most how many images of the series must be there, its state, and the longest wait after that (s).
AT_WORK: dict[str, tuple[int, tuple[SeriesState, ...], float]] = {
    "receive": (SLICES - 1, EVERY, 0.1),
    "schedule": (SLICES, EVERY, 0.5),
    "score": (SLICES, (S.SCORING,), 1.0),
    "deliver": (SLICES, (S.SCORED, S.REPORTED), 0.1),
    "web": (0, EVERY, 1.0),
    "serve": (SLICES, EVERY, 2.0),
}


class Sockets:
    """Closes what pynetdicom leaves to the garbage collector when a peer dies in the middle of an association."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []
        self.handlers = [(evt.EVT_CONN_OPEN, self._hold)]

    def _hold(self, event: evt.Event) -> None:
        self._held.append(event.assoc.dul.socket.socket)

    def close(self) -> None:
        for held in self._held:
            held.close()


class Archive:
    """A PACS that counts what arrives; a known SOP Instance UID is answered with 0x0111 (duplicate)."""

    def __init__(self, port: int) -> None:
        self.arrived: Counter[str] = Counter()
        self.documents: dict[str, Dataset] = {}
        ae = AE("ARCHIVE")
        ae.add_supported_context(Comprehensive3DSRStorage, ExplicitVRLittleEndian)
        self._sockets = Sockets()
        handlers = [(evt.EVT_C_STORE, self._store), *self._sockets.handlers]
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def _store(self, event: evt.Event) -> int:
        document = event.dataset
        uid = str(document.SOPInstanceUID)
        self.arrived[uid] += 1
        known = uid in self.documents
        self.documents.setdefault(uid, document)
        return 0x0111 if known else 0x0000

    def close(self) -> None:
        self._server.shutdown()
        self._sockets.close()


class Scanner:
    """Sends series in a thread and sends again what was not acknowledged with Success."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._giving_up = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets = Sockets()
        self.acknowledged: dict[str, Dataset] = {}

    def push(self, images: list[Dataset]) -> None:
        thread = threading.Thread(target=self._push, args=[images], daemon=True)
        self._threads.append(thread)
        thread.start()

    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        self._giving_up.set()
        for thread in self._threads:
            thread.join(30)
        self._sockets.close()

    def _push(self, images: list[Dataset]) -> None:
        left = list(images)
        while left and not self._giving_up.wait(0.1):
            if not self._answers():
                continue
            ae = AE("SCANNER")
            ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
            ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = 10
            association = ae.associate("127.0.0.1", self._port, evt_handlers=self._sockets.handlers)
            if association.is_established:
                left = self._send(association, left)
                association.release()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _send(self, association: object, images: list[Dataset]) -> list[Dataset]:
        for number, image in enumerate(images):
            try:
                status = association.send_c_store(image)  # type: ignore[attr-defined]
            except (RuntimeError, ValueError):
                return images[number:]
            if getattr(status, "Status", None) != 0x0000:
                return images[number:]
            self.acknowledged[str(image.SOPInstanceUID)] = image
        return []


@dataclass
class RunningNode:
    """The node as an operator starts it, with its log in a file."""

    config_path: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    killed: list[str] = field(default_factory=list)

    def start(self) -> None:
        command = [sys.executable, "-m", "dicom_qa_node", "--config", str(self.config_path), "serve"]
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=ROOT)

    def processes(self, role: str) -> list[psutil.Process]:
        assert self.process is not None
        if role == "serve":
            return [psutil.Process(self.process.pid)]
        return [p for p in psutil.Process(self.process.pid).children(recursive=True) if _role(p) == role]

    def kill(self, role: str, chance: random.Random) -> None:
        """Kill one process of a role; the supervisor is started again, as systemd does."""
        os.kill(chance.choice(self.processes(role)).pid, signal.SIGKILL)
        self.killed.append(role)
        if role == "serve":
            assert self.process is not None
            self.process.wait()
            self.start()

    def check(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return True

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def _role(process: psutil.Process) -> str:
    try:
        return process.cmdline()[-1]
    except (psutil.Error, IndexError):
        return ""


def series_of(template: list[Dataset], number: int) -> list[Dataset]:
    """Return the template as another series of another study of the same patient."""
    images = []
    for index, image in enumerate(template):
        changed = copy.deepcopy(image)
        changed.PatientName, changed.PatientID = NAME, PATIENT_ID
        changed.AccessionNumber, changed.PatientBirthDate = ACCESSION, BIRTH_DATE
        changed.StudyInstanceUID = phantom_uid(number, "kill9", "study")
        changed.SeriesInstanceUID = phantom_uid(number, "kill9", "series")
        changed.FrameOfReferenceUID = phantom_uid(number, "kill9", "frame")
        changed.SOPInstanceUID = phantom_uid(number, "kill9", index)
        changed.file_meta.MediaStorageSOPInstanceUID = changed.SOPInstanceUID
        images.append(changed)
    return images


@pytest.fixture
def archive(free_port: Callable[[], int]) -> Iterator[tuple[Archive, int]]:
    port = free_port()
    archive = Archive(port)
    yield archive, port
    archive.close()


@pytest.fixture
def node(tmp_path, node_config: Config, archive) -> Iterator[RunningNode]:
    settings = node_config.model_dump(mode="json", exclude_defaults=True)
    settings["receive"]["processes"] = 2
    settings["complete"]["quiet_s"] = 60
    settings["score"] = {"lease_s": 5, "max_attempts": 20, "threads": 1}
    settings["log"] = {"level": "debug"}
    target = {"name": "archive", "kind": "dicom", "host": "127.0.0.1", "port": archive[1], "ae_title": "ARCHIVE"}
    settings["deliver"] |= {"lease_s": 5, "targets": [target]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    node = RunningNode(path, tmp_path / "node.log")
    yield node
    if node.process is not None and node.process.poll() is None:
        children = psutil.Process(node.process.pid).children(recursive=True)
        node.process.kill()
        node.process.wait()
        for child in children:
            if child.is_running():
                child.kill()


@pytest.fixture
def scanner(node: RunningNode) -> Iterator[Scanner]:
    scanner = Scanner(load_config(node.config_path).receive.port)
    yield scanner
    scanner.close()


@pytest.mark.parametrize("rounds", [8, pytest.param(30, marks=pytest.mark.load)])
def test_nothing_is_lost_and_nothing_is_sent_twice(node, scanner, archive, poll, rounds):
    seed = int(os.environ.get("QA_KILL9_SEED", random.SystemRandom().randrange(10**6)))
    print(f"QA_KILL9_SEED={seed}")
    chance = random.Random(seed)
    template = ct_series(7, slices=SLICES, rows=128)
    sent: dict[str, list[Dataset]] = {}
    node.start()
    config = load_config(node.config_path)
    poll(lambda: node.check() and node.processes("receive"), 60, "the receiver")
    database = Database(config.database_url)
    registry = Registry(database)
    try:
        for number in range(rounds):
            images = series_of(template, number)
            sent[str(images[0].SeriesInstanceUID)] = images
            scanner.push(images)
            _kill_at_work(node, registry, images, chance, poll)
        poll(lambda: node.check() and not scanner.busy(), 120, "every image acknowledged")
        poll(lambda: node.check() and _delivered(registry) == len(sent), 60 + 10 * rounds, "all delivered")
        assert node.stop() == 0
        print("killed:", Counter(node.killed), "sent again:", archive[0].arrived.total() - len(sent))
        assert len(node.killed) == rounds
        _check_images(registry, config.spool_dir, scanner, sent)
        _check_results(registry, database, archive[0], sent)
    finally:
        database.close()
    _check_log(node.log)


def _kill_at_work(
    node: RunningNode, registry: Registry, images: list[Dataset], chance: random.Random, poll: Callable[..., object]
) -> None:
    """Kill a random role a random moment after a new series has reached the step at which that role works on it."""
    role = chance.choice(list(AT_WORK))
    count, states, longest_s = AT_WORK[role]
    count = chance.randint(0, count)
    uid = str(images[0].SeriesInstanceUID)

    def reached() -> bool:
        row = registry.series(uid)
        if row is None:
            return count == 0
        return row.received >= count and (row.state in states or row.state in FINISHED)

    poll(lambda: node.check() and reached(), 120, f"the moment to kill {role}")
    threading.Event().wait(chance.uniform(0, longest_s))
    poll(lambda: node.check() and node.processes(role), 60, f"a process of {role}")
    node.kill(role, chance)


def _delivered(registry: Registry) -> int:
    counts = registry.counts()
    assert counts[SeriesState.PARKED] == 0, [row.parked_reason for row in registry.list_series([SeriesState.PARKED])]
    return counts[SeriesState.DELIVERED]


def _check_images(registry: Registry, spool: Path, scanner: Scanner, sent: dict[str, list[Dataset]]) -> None:
    assert len(scanner.acknowledged) == SLICES * len(sent)
    for series, images in sent.items():
        stored = {item.sop_instance_uid: item for item in registry.instances(series)}
        assert set(stored) == {str(image.SOPInstanceUID) for image in images}
        assert registry.series(series).received == SLICES
        for image in images:
            kept = pydicom.dcmread(spool / stored[str(image.SOPInstanceUID)].path)
            assert kept.PixelData == image.PixelData
            assert kept.PatientName == NAME
    assert list((spool / "incoming").iterdir()) == []


def _check_results(registry: Registry, database: Database, archive: Archive, sent: dict[str, list[Dataset]]) -> None:
    outbox = Outbox(database)
    expected = set()
    for series in sent:
        row = registry.series(series)
        assert row.version == 1, registry.history(series)
        words = Counter(event["new_state"] for event in registry.history(series))
        assert words["SCORED"] == words["REPORTED"] == words["DELIVERED"] == 1
        expected.add(outbox.report(series).sop_instance_uid)
    assert QualityLog(database).count() == len(sent)
    assert set(archive.documents) == expected
    about = Counter(_evidence_series(document) for document in archive.documents.values())
    assert about == Counter(list(sent))


def _evidence_series(document: Dataset) -> str:
    (evidence,) = document.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    return str(series.SeriesInstanceUID)


def _check_log(log: Path) -> None:
    text = log.read_text()
    assert "event=role_ended" in text
    for secret in (*NAME.split("^"), PATIENT_ID, ACCESSION, BIRTH_DATE):
        assert secret not in text
    assert "Traceback" not in text
