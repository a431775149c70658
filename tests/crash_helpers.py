"""A whole node that is killed at work, a scanner that sends again what was not acknowledged, an archive that counts.

`KillRun` pushes series through the node, kills processes of its roles, and accounts for every image and report.
"""

from __future__ import annotations

import copy
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pydicom
import yaml
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.phantom import ct_series, phantom_uid
from dicom_qa_node.quality_log.entries import QualityLog
from tests.conftest import poll_until
from tests.processes import signal_all

__all__ = ["AT_WORK", "SLICES", "Archive", "KillRun", "RunningNode", "Scanner", "Sockets", "kill_run"]

ROOT = Path(__file__).parents[1]
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

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.arrived: Counter[str] = Counter()
        self.documents: dict[str, Dataset] = {}
        ae = AE("ARCHIVE")
        ae.add_supported_context(Comprehensive3DSRStorage, ExplicitVRLittleEndian)
        self._sockets = Sockets()
        handlers = [(evt.EVT_C_STORE, self._store), *self._sockets.handlers]
        self._server = ae.start_server((host, port), block=False, evt_handlers=handlers)

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

    def about(self) -> Counter[str]:
        """Return how many of the documents are about each series."""
        return Counter(_evidence_series(document) for document in self.documents.values())


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
    program: str = "dicom_qa_node"
    process: subprocess.Popen[bytes] | None = None
    killed: list[str] = field(default_factory=list)

    def start(self) -> None:
        command = [sys.executable, "-m", self.program, "--config", str(self.config_path), "serve"]
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=ROOT)

    def processes(self, role: str) -> list[psutil.Process]:
        assert self.process is not None
        if role == "serve":
            return [psutil.Process(self.process.pid)]
        return [p for p in psutil.Process(self.process.pid).children(recursive=True) if _role(p) == role]

    def kill(self, role: str, chance: random.Random) -> None:
        """Kill one process of a role, if it has one now; the supervisor is started again, as systemd does."""
        alive = self.processes(role)
        if not alive:
            return
        signal_all([chance.choice(alive)])
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

    def end(self) -> None:
        """Leave no process behind."""
        if self.process is not None and self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            signal_all(children)


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


def _evidence_series(document: Dataset) -> str:
    (evidence,) = document.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    return str(series.SeriesInstanceUID)


@dataclass
class KillRun:
    """Series on their way through a node whose processes are killed; ``sent`` holds the images of each."""

    node: RunningNode
    scanner: Scanner
    archive: Archive
    database: Database
    spool: Path
    chance: random.Random
    sent: dict[str, list[Dataset]] = field(default_factory=dict)
    template: list[Dataset] = field(default_factory=lambda: ct_series(7, slices=SLICES, rows=128))

    def __post_init__(self) -> None:
        self.registry = Registry(self.database)

    def push(self) -> str:
        """Begin to send another series; return its UID."""
        images = series_of(self.template, len(self.sent))
        uid = str(images[0].SeriesInstanceUID)
        self.sent[uid] = images
        self.scanner.push(images)
        return uid

    def keep_busy(self, abreast: int) -> None:
        """Push series until so many are not delivered yet."""
        for _ in range(self.delivered() + abreast - len(self.sent)):
            self.push()

    def kill_at_work(self, role: str, uid: str) -> None:
        """Kill a role a random moment after a series has reached the step at which that role works on it."""
        count, states, longest_s = AT_WORK[role]
        count = self.chance.randint(0, count)

        def reached() -> bool:
            row = self.registry.series(uid)
            if row is None:
                return count == 0
            return row.received >= count and (row.state in states or row.state in FINISHED)

        poll_until(lambda: self.node.check() and reached(), 120, f"the moment to kill {role}")
        self._kill_after(role, longest_s)

    def kill_any(self, weights: Mapping[str, int], longest_s: float) -> None:
        """Kill a role that runs, if possible while it works on some series, after ``longest_s`` in any case.

        The supervisor only when all that it looks after runs again: a node that never comes up has nothing to lose.
        Then the node gets ``longest_s`` to do something.
        """
        role = poll_until(lambda: self._any_role(weights), 90, "a role that runs")
        states = AT_WORK[role][1]
        self._wait(lambda: self.registry.list_series(states, limit=1), longest_s)
        self._kill_after(role, AT_WORK[role][2])
        before = self._progress()
        self._wait(lambda: self._progress() != before, longest_s)

    def _any_role(self, weights: Mapping[str, int]) -> str:
        self.node.check()
        running = [role for role in weights if self.node.processes(role)]
        if len(running) < len(weights):
            running.remove("serve")
        return self.chance.choices(running, [weights[role] for role in running])[0] if running else ""

    def _progress(self) -> tuple[object, ...]:
        return self.registry.counts(), len(self.scanner.acknowledged), self.archive.arrived.total()

    def _wait(self, until: Callable[[], object], longest_s: float) -> None:
        deadline = time.monotonic() + longest_s
        while self.node.check() and time.monotonic() < deadline and not until():
            threading.Event().wait(0.05)

    def _kill_after(self, role: str, longest_s: float) -> None:
        threading.Event().wait(self.chance.uniform(0, longest_s))
        poll_until(lambda: self.node.check() and self.node.processes(role), 90, f"a process of {role}")
        self.node.kill(role, self.chance)

    def delivered(self) -> int:
        """Return how many series are delivered; none may be parked."""
        counts = self.registry.counts()
        parked = self.registry.list_series([S.PARKED])
        assert counts[S.PARKED] == 0, [row.parked_reason for row in parked]
        return counts[S.DELIVERED]

    def finish(self, timeout_s: float) -> None:
        """Wait until everything is acknowledged and delivered, and stop the node."""
        poll_until(lambda: self.node.check() and not self.scanner.busy(), timeout_s, "every image acknowledged")
        poll_until(lambda: self.node.check() and self.delivered() == len(self.sent), timeout_s, "all delivered")
        assert self.node.stop() == 0

    def summary(self) -> dict[str, Any]:
        """Return what was counted."""
        arrived = self.archive.arrived
        return {
            "kills": len(self.node.killed),
            "per role": dict(sorted(Counter(self.node.killed).items())),
            "series": len(self.sent),
            "images acknowledged": len(self.scanner.acknowledged),
            "images stored": sum(len(self.registry.instances(uid)) for uid in self.sent),
            "reports delivered": len(self.archive.documents),
            "series with two reports": len(self.archive.documents) - len(self.archive.about()),
            "sent again under the same UID": arrived.total() - len(arrived),
        }

    def check(self) -> None:
        """Assert that every image is stored as it was sent, every series judged and reported once, and nothing told."""
        self.check_images()
        self.check_results()
        check_log(self.node.log)

    def check_images(self) -> None:
        """Assert that every acknowledged image is stored as it was sent, once."""
        assert len(self.scanner.acknowledged) == SLICES * len(self.sent)
        for series, images in self.sent.items():
            stored = {item.sop_instance_uid: item for item in self.registry.instances(series)}
            assert set(stored) == {str(image.SOPInstanceUID) for image in images}
            row = self.registry.series(series)
            assert row is not None
            assert (row.received, row.conflicts) == (SLICES, 0)
            for image in images:
                kept = pydicom.dcmread(self.spool / stored[str(image.SOPInstanceUID)].path)
                assert kept.PixelData == image.PixelData
                assert kept.PatientName == NAME
        assert list((self.spool / "incoming").iterdir()) == []

    def check_results(self) -> None:
        """Assert that every series has one verdict and one report, and that the archive has just these."""
        outbox = Outbox(self.database)
        expected = set()
        for series in self.sent:
            row = self.registry.series(series)
            assert row is not None
            assert row.version == 1, self.registry.history(series)
            words = Counter(event["new_state"] for event in self.registry.history(series))
            assert words["SCORED"] == words["REPORTED"] == words["DELIVERED"] == 1
            report = outbox.report(series)
            assert report is not None
            expected.add(report.sop_instance_uid)
        assert QualityLog(self.database).count() == len(self.sent)
        assert set(self.archive.documents) == expected
        assert self.archive.about() == Counter(list(self.sent))


@contextmanager
def kill_run(
    folder: Path,
    settings: Config,
    free_port: Callable[[], int],
    seed: int,
    changes: Mapping[str, Any] | None = None,
    program: str = "dicom_qa_node",
) -> Iterator[KillRun]:
    """Start a node, an archive and a scanner in ``folder``; nothing of them is left at the end.

    ``changes`` are sections of the configuration that this run sets otherwise, ``program`` the module that serves.
    """
    port = free_port()
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(_settings(settings, port) | (changes or {})))
    config = load_config(path)
    archive, scanner = Archive(port), Scanner(config.receive.port)
    node = RunningNode(path, folder / "node.log", program)
    database = Database(config.database_url)
    try:
        node.start()
        poll_until(lambda: node.check() and node.processes("receive"), 60, "the receiver")
        yield KillRun(node, scanner, archive, database, config.spool_dir, random.Random(seed))
    finally:
        scanner.close()
        node.end()
        archive.close()
        database.close()


def _settings(settings: Config, archive_port: int) -> dict[str, Any]:
    values: dict[str, Any] = settings.model_dump(mode="json", exclude_defaults=True)
    values["receive"]["processes"] = 2
    values["complete"]["quiet_s"] = 60
    values["score"] = {"lease_s": 5, "max_attempts": 20, "threads": 1}
    values["log"] = {"level": "debug"}
    target = {"name": "archive", "kind": "dicom", "host": "127.0.0.1", "port": archive_port, "ae_title": "ARCHIVE"}
    values["deliver"] |= {"lease_s": 5, "targets": [target]}
    return values


def check_log(log: Path) -> None:
    """Assert that a log tells of the kills, and neither of the patient nor of an error that nobody expected."""
    told = False
    with log.open() as lines:
        for line in lines:
            told = told or "event=role_ended" in line
            assert not any(secret in line for secret in (*NAME.split("^"), PATIENT_ID, ACCESSION, BIRTH_DATE)), line
            assert "Traceback" not in line
    assert told
