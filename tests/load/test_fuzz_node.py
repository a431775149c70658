"""Thousands of damaged real images pushed at a whole node: no crash, no hang, no flood, and no series is lost.

Every file is damaged after it was encoded and sent byte for byte. What the node answers with Success must be in
its spool with those bytes; what it refuses, in quarantine; and every series must come to rest with a report or
with a reason that an operator can read. ``QA_FUZZ_SEED`` chooses other damage, ``QA_FUZZ_FILES`` how many files
``-m load`` sends.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pydicom.valuerep import VR
from pynetdicom import AE, _config
from pynetdicom.sop_class import Verification

from dicom_qa_node.config import load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.spool.image_difference import differences
from tests.conftest import seed_of
from tests.load.mutations import KINDS, SECRETS, Image, mutated, read_image
from tests.load.process_meter import ProcessMeter, Used
from tests.processes import listens, signal_all

# pynetdicom leaves the socket of an association that ends badly to the garbage collector.
pytestmark = [
    pytest.mark.full,
    pytest.mark.serial,
    pytest.mark.integration,
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom"),
]

ROOT = Path(__file__).parents[2]
S = SeriesState
AT_REST = (S.DELIVERED, S.REPORTED, S.PARKED)
LONGEST_S = 30.0
MOST_RECEIVER_MB, MOST_SCORER_MB = 150, 2500
#: For one image in a receiver, with what it does meanwhile for its rows and the other sender; more with its size.
MOST_INPUT_MB, MOST_INPUT_CPU_S = 48.0, 5.0
SENDERS = 2
PYTHON_WORDS = re.compile(r"\w*(?:Error|Exception)\b|Traceback|\.py\b|object at 0x|<class|unexpected error")
BAD_EVENTS = (
    "role_ended", "role_silent", "role_would_not_stop", "receiver_died", "receiver_failed", "scoring_failed",
    "reporting_failed", "store_failed", "worker_recycled", "claim_failed", "accept_failed",
)  # fmt: skip


@dataclass
class Sent:
    """What one file was and what became of it."""

    sop_instance_uid: str
    sha256: str
    source: str
    kind: str
    status: int
    body: Callable[[], bytes]
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass
class Plan:
    """One series to send: its images and the kind of damage of all of them, or None for any."""

    name: str
    images: list[Image]
    kind: str | None


def plans(folder: Path, files: int, rng: random.Random) -> list[Plan]:
    """Return series of real images, each renamed, until there are at least ``files`` images."""
    groups = defaultdict(list)
    for path in sorted(folder.rglob("*.dcm")):
        groups[path.parent].append(path)
    found: list[Plan] = []
    images: dict[Path, Image] = {}
    most = 80 if files > 1000 else 25
    count = 0
    for copy in range(files):
        order = list(groups)
        rng.shuffle(order)
        for group in order:
            if count >= files:
                return found
            if copy > 1 and group.parent.name == "ct":
                # The many pixels of these four cost the scorer most; two copies of each are enough.
                continue
            paths = groups[group][:most]
            for path in paths:
                if path not in images:
                    images[path] = read_image(path)
            kind = rng.choice(KINDS) if rng.random() < 0.5 else None
            found.append(Plan(f"{group.name} {copy}", [images[path].renamed(str(copy)) for path in paths], kind))
            count += len(paths)
    return found


def part10(image: Image, body: bytes) -> bytes:
    """Return a file whose meta information is sound, as the C-STORE request made from it must be."""
    return part10_meta(image.sop_class_uid, image.sop_instance_uid, image.transfer_syntax_uid) + body


def part10_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return what stands before a data set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID("2.25.1")
    meta.FileMetaInformationVersion = b"\0\1"
    buffer = DicomBytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    return buffer.getvalue()


class Senders:
    """Threads that send planned series over one association each, and keep every answer."""

    def __init__(self, port: int, work: Sequence[Plan], folder: Path, seed: int, receivers: Sequence[int]) -> None:
        self.sent: list[Sent] = []
        self.used: list[tuple[Used, int]] = []
        self._meters = [ProcessMeter(pid) for pid in receivers]
        self.broken: list[str] = []
        self.longest_s = 0.0
        self._port, self._folder, self._seed = port, folder, seed
        self._work: queue.SimpleQueue[Plan] = queue.SimpleQueue()
        for plan in work:
            self._work.put(plan)
        self._threads = [threading.Thread(target=self._run, args=[n], daemon=True) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, number: int) -> None:
        path = self._folder / f"sender{number}.dcm"
        while True:
            try:
                plan = self._work.get_nowait()
            except queue.Empty:
                return
            try:
                self._send(plan, path)
            except (RuntimeError, OSError, ValueError) as error:
                self.broken.append(f"{plan.name}: {error!r}")

    def _send(self, plan: Plan, path: Path) -> None:
        ae = AE("SCANNER")
        for sop_class, syntax in {(image.sop_class_uid, image.transfer_syntax_uid) for image in plan.images}:
            ae.add_requested_context(sop_class, syntax)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
        assoc = ae.associate("127.0.0.1", self._port)
        if not assoc.is_established:
            raise RuntimeError("no association")
        # Some images come again, with other damage under the same UID.
        repeated = [image for index, image in enumerate(plan.images) if index % 40 == 20]
        for index, image in enumerate([*plan.images, *repeated]):
            # One kind for the whole series with the same choices: what a scanner does wrong it does in every image.
            alike = plan.kind is not None and index < len(plan.images)
            rng = random.Random(f"{self._seed} {plan.name} {'' if alike else index}")
            kind = plan.kind or rng.choice(KINDS)
            state = rng.getstate()
            body = mutated(image, kind, rng)
            path.write_bytes(part10(image, body))
            begin = time.monotonic()
            with ExitStack() as meters:
                used = [meters.enter_context(meter.input()) for meter in self._meters]
                status = assoc.send_c_store(path)
            self.used += [(item, len(body)) for item in used]
            self.longest_s = max(self.longest_s, time.monotonic() - begin)
            if "Status" not in status:
                raise RuntimeError(f"image {index} ({kind}) of {image.source} got no answer")
            digest = hashlib.sha256(body).hexdigest()
            again = partial(_body_again, image, kind, state)
            sent = image.sop_instance_uid, digest, image.source, kind, int(status.Status)
            self.sent.append(Sent(*sent, again, image.sop_class_uid, image.transfer_syntax_uid))
        assoc.release()


def _body_again(image: Image, kind: str, state: object) -> bytes:
    """Return the body that was sent: its damage depends on the state of its random choices alone."""
    rng = random.Random()
    rng.setstate(state)  # type: ignore[arg-type]
    return mutated(image, kind, rng)


@dataclass
class Watch:
    """Looks at the processes of a node and asks it for an echo until `stop`."""

    process: psutil.Process
    port: int
    peak_mb: Counter[str] = field(default_factory=Counter)
    pids: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    echoes: list[float] = field(default_factory=list)
    failed_echoes: int = 0
    load: list[float] = field(default_factory=list)

    def start(self) -> None:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._look, self._echo)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _look(self) -> None:
        while not self._end.wait(0.5):
            now: Counter[str] = Counter()
            for child in self.process.children(recursive=True):
                try:
                    role, memory = child.cmdline()[-1], child.memory_info().rss >> 20
                    kept = child.ppid() == self.process.pid
                except (psutil.Error, IndexError):
                    continue
                if role.endswith("decoders"):
                    # The decoding children of a scorer are replaced when a frame kills them; their memory is its own.
                    now["score"] += memory
                    continue
                if not kept and role != "receive":
                    # The copy of a role that is about to become a program: the scorer starts its decoders so.
                    continue
                self.pids[role].add(child.pid)
                now[role] = now[role] + memory if role == "score" else max(now[role], memory)
            self.peak_mb |= now
            self.load.append(psutil.getloadavg()[0] / psutil.cpu_count())

    def _echo(self) -> None:
        while not self._end.wait(1):
            begin = time.monotonic()
            ae = AE("PROBE")
            ae.add_requested_context(Verification)
            assoc = ae.associate("127.0.0.1", self.port)
            answered = assoc.is_established and assoc.send_c_echo().get("Status") == 0x0000
            if assoc.is_established:
                assoc.release()
            self.echoes.append(time.monotonic() - begin)
            self.failed_echoes += not answered


@dataclass
class FuzzedNode:
    """A node in a folder of its own, with its log in a file."""

    config_path: Path
    log: Path
    process: subprocess.Popen[bytes]

    def check(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return True


@pytest.fixture
def node(tmp_path, node_config) -> Iterator[FuzzedNode]:
    settings = node_config.model_dump(mode="json", exclude_defaults=True)
    settings["receive"]["processes"] = 2
    settings["complete"] |= {"quiet_s": 3, "pair_wait_s": 10}
    settings["score"] = {"recycle_after": 100_000, "threads": 1}
    settings["deliver"] |= {"targets": [{"kind": "folder", "name": "reports", "path": str(tmp_path / "reports")}]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    log = tmp_path / "node.log"
    command = [sys.executable, "-m", "dicom_qa_node", "--config", str(path), "serve"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=ROOT)
    yield FuzzedNode(path, log, process)
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        signal_all(children)


LOAD = int(os.environ.get("QA_FUZZ_FILES", "5000"))


@pytest.mark.parametrize("files", [150, pytest.param(LOAD, marks=pytest.mark.load, id="load")])
def test_damaged_images_cost_no_series_and_no_process(node, shared_data, tmp_path, poll, listening, monkeypatch, files):
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    seed = seed_of("QA_FUZZ_SEED")
    work = plans(shared_data / "dicom", files, random.Random(seed))
    config = load_config(node.config_path)
    poll(lambda: node.check() and listening(config.receive.port), 120, "the receiver")
    poll(lambda: node.check() and "event=model_ready" in node.log.read_text(), 120, "the scorer")
    watch = Watch(psutil.Process(node.process.pid), config.receive.port)
    watch.start()
    began = time.monotonic()
    receivers = poll(lambda: _receivers(watch.process, config.receive.port), 60, "two receivers")
    senders = Senders(config.receive.port, work, tmp_path, seed, receivers)
    poll(lambda: node.check() and not senders.busy(), 60 + files * 0.2, "every file answered")
    sent_s = time.monotonic() - began
    database = Database(config.database_url)
    try:
        registry = Registry(database)
        poll(lambda: node.check() and _waiting(registry) == 0, 60 + files * 0.3, f"rest: {registry.counts()}")
        watch.stop()
        took_s = time.monotonic() - began
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(60) == 0
        _tell(senders, watch, registry, database, sent_s, took_s)
        _check_processes(node.log, senders, watch)
        _check_costs(senders.used)
        _check_kept(registry, config.spool_dir, senders.sent, tmp_path / "again.dcm")
        _check_series(registry, database, watch, files)
    finally:
        database.close()


def _receivers(process: psutil.Process, port: int) -> list[int]:
    """Return the processes that serve associations, without the one that only looks after them."""
    roles = [child for child in process.children() if child.cmdline()[-1] == "receive"]
    masters = [child for role in roles for child in role.children()]
    found = [child.pid for master in masters for child in master.children() if listens(child, port)]
    return found if len(found) == 2 else []


def _waiting(registry: Registry) -> int:
    return sum(count for state, count in registry.counts().items() if state not in AT_REST)


def _series(registry: Registry) -> list[str]:
    return [row.facts.series_instance_uid for row in registry.list_series(limit=1_000_000)]


def _tell(senders: Senders, watch: Watch, registry: Registry, database: Database, sent_s: float, took_s: float) -> None:
    """Print the figures of the run."""
    statuses: Counter[str] = Counter(f"{item.status:04X}" for item in senders.sent)
    kinds = Counter((item.kind, item.status == 0) for item in senders.sent)
    parked = Counter(re.sub(r"[\d.]{6,}", "UID", row.parked_reason) for row in registry.list_series([S.PARKED], 10_000))
    scored = [seconds for uid in _series(registry) for seconds in _jobs_s(registry, uid)]
    print(f"\nfiles {len(senders.sent)}, sent in {sent_s:.0f} s, all at rest after {took_s:.0f} s")
    print("statuses", dict(statuses), "longest answer", round(senders.longest_s, 2), "s")
    print("kinds (stored/refused)", {kind: (kinds[kind, True], kinds[kind, False]) for kind in KINDS})
    print("series", {state.value: count for state, count in registry.counts().items() if count})
    print("conflicts", sum(row.conflicts for row in registry.list_series(limit=10_000)), end=" ")
    print("results", QualityLog(database).count(), "jobs", len(scored), "longest", round(max(scored), 1), "s")
    print("quarantined", len(registry.quarantined(1_000_000)), "parked:")
    print(*(f"  {count} x {reason}" for reason, count in parked.most_common()), sep="\n")
    print("peak MB", dict(watch.peak_mb), "load per core", round(_load(watch), 2))
    print("echoes", len(watch.echoes), "failed", watch.failed_echoes, "longest", round(max(watch.echoes), 2), "s")


def _load(watch: Watch) -> float:
    return sum(watch.load) / len(watch.load)


def _check_processes(log: Path, senders: Senders, watch: Watch) -> None:
    """No process ended, none grew too large, none fell silent, and the log tells nothing of a patient."""
    assert senders.broken == []
    assert senders.longest_s < LONGEST_S
    text = log.read_text()
    events = Counter(re.findall(r"\bevent=(\w+)", text))
    assert {name: events[name] for name in BAD_EVENTS if events[name]} == {}, re.findall(r".*where=.*", text)[:10]
    assert "Traceback" not in text
    assert re.findall(r".*\bwhere=.*", text) == []
    assert [secret for secret in SECRETS if secret in text] == []
    for role in ("score", "deliver", "schedule", "web"):
        assert len(watch.pids[role]) == 1, role
    assert 0 < watch.peak_mb["receive"] < MOST_RECEIVER_MB
    assert 0 < watch.peak_mb["score"] < MOST_SCORER_MB
    assert watch.failed_echoes == 0
    assert max(watch.echoes) < LONGEST_S


def _check_costs(used: Sequence[tuple[Used, int]]) -> None:
    """Hold each receiver to its bounds for every input, with what the other sender sent it meanwhile."""
    print(
        "for one image at most", max(item.grown_mb for item, _ in used), "MB", max(item.cpu_s for item, _ in used), "s"
    )
    for item, size in used:
        mib = size / (1 << 20)
        assert item.grown_mb < MOST_INPUT_MB + 2 * mib, (item, size)
        assert item.cpu_s < MOST_INPUT_CPU_S + 2 * mib, (item, size)


def _check_kept(registry: Registry, spool: Path, sent: Sequence[Sent], again: Path) -> None:
    """What was answered with Success lies in the spool with its bytes, what was refused in quarantine."""
    stored: dict[tuple[str, str], str] = {}
    for uid in _series(registry):
        stored |= {(item.sop_instance_uid, item.sha256): item.path for item in registry.instances(uid)}
    first = {uid: spool / path for (uid, _), path in stored.items() if path.startswith("instances")}
    for item in sent:
        if item.status == 0x0000 and (item.sop_instance_uid, item.sha256) not in stored:
            # One image in two encodings is kept once, in the first of them, and a value representation is put right.
            assert item.sop_instance_uid in first, item
            body = item.body()
            assert hashlib.sha256(body).hexdigest() == item.sha256, item
            assert _is_same_image(first[item.sop_instance_uid], item, body, again), item
    assert [path for path in stored.values() if not (spool / path).is_file()] == []
    assert list((spool / "incoming").iterdir()) == []
    held = registry.quarantined(1_000_000)
    assert Counter(item.sop_instance_uid for item in held) == Counter(
        item.sop_instance_uid for item in sent if item.status != 0x0000
    )
    for reason in {item.reason for item in held}:
        _check_words(reason)


def _is_same_image(kept: Path, item: Sent, body: bytes, again: Path) -> bool:
    """Return whether a kept file is the image of a body that was sent, or has all but its value representations."""
    held = kept.read_bytes()
    if len(held) > len(body) and _differ_in_representations(held[-len(body) :], body):
        return True
    meta = part10_meta(item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid)
    again.write_bytes(meta + body)
    return not differences(kept, again)


def _differ_in_representations(one: bytes, other: bytes) -> bool:
    """Return whether two data sets differ at most in the two letters of value representations."""

    def is_representation(start: int) -> bool:
        return one[start : start + 2].decode("latin-1") in VR.__members__

    places = [at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return all(is_representation(at) or is_representation(at - 1) for at in places)


def _check_series(registry: Registry, database: Database, watch: Watch, files: int) -> None:
    """Every series has a result or a reason, and none took the scorer too long."""
    uids = _series(registry)
    longest_s = max(seconds for uid in uids for seconds in _jobs_s(registry, uid))
    assert longest_s < LONGEST_S * max(1.0, _load(watch))
    for row in registry.list_series([S.PARKED], 10_000):
        assert row.parked_reason
        _check_words(row.parked_reason)
    reported = [row for row in registry.list_series(AT_REST, 10_000) if row.state is not S.PARKED]
    assert len(reported) >= files / 100
    for entry in QualityLog(database).entries(limit=10_000):
        for finding in entry.result.findings:
            _check_words(f"{finding.sentence} {finding.evidence}")


def _check_words(text: str) -> None:
    assert PYTHON_WORDS.search(text) is None, text
    assert [secret for secret in SECRETS if secret in text] == [], text


def _jobs_s(registry: Registry, uid: str) -> list[float]:
    """Return how long each attempt to score a series took, in seconds."""
    history = registry.history(uid)
    return [
        (after["at"] - before["at"]).total_seconds()
        for before, after in itertools.pairwise(history)
        if before["new_state"] == S.SCORING
    ]
