"""Damaged association dialogues on both ports of a running receiver cost no other association anything.

``QA_FUZZ_SEED`` chooses other damage; 200 dialogues belong to every test run, 2,000 to ``-m load``, or as many as
``QA_FUZZ_DIALOGUES`` says.
"""

from __future__ import annotations

import os
import random
import re
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.spool.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, request_of
from tests.conftest import seed_of
from tests.load.dialogues import Dialogue, Ending, damaged, play, recorder
from tests.load.process_meter import ProcessMeter, Used
from tests.processes import listens
from tests.query_samples import CASES, STUDY_FIND, fill, identifier, images_of
from tests.tls_files import Authority

pytestmark = [
    pytest.mark.full,
    pytest.mark.serial,
    pytest.mark.integration,
    pytest.mark.peers("storescu"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

# The scanner beside them must not be taken for silent where a busy machine holds it up.
TIMEOUT_S, DEADLINE_S, AT_ONCE, FILES = 6.0, 40.0, 10, 10
MOST_GROWTH_MB = 80
#: While one dialogue lasts, with the others that are held meanwhile and the scanner's images.
MOST_INPUT_MB, MOST_INPUT_CPU_S = 40.0, 10.0
STUDY_MOVE, STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.2.3"
NAME = "Adams"


@dataclass
class Node:
    """The running receive role."""

    config: Config
    log: Path
    context: ssl.SSLContext
    worker: psutil.Process
    tls_words: tuple[object, ...]

    @property
    def plain(self) -> int:
        return self.config.receive.port

    @property
    def secure(self) -> int:
        return self.config.receive.tls.port


@pytest.fixture
def node(tmp_path: Path, free_port: Any, background: Any, poll: Any, listening: Any) -> Node:
    hospital = Authority(tmp_path / "hospital")
    own, scanner = hospital.issue("node"), hospital.issue("scanner")
    tls = {
        "enabled": True, "port": free_port(), "ca": str(hospital.ca), "certificate": str(own.certificate),
        "key": str(own.key),
    }  # fmt: skip
    values = {
        "database_url": f"sqlite:///{tmp_path}/q.db",
        "spool_dir": str(tmp_path / "spool"),
        "receive": {
            "host": "127.0.0.1", "port": free_port(), "processes": 1, "storage_commitment": True, "tls": tls,
            "acse_timeout_s": TIMEOUT_S, "dimse_timeout_s": TIMEOUT_S, "network_timeout_s": TIMEOUT_S,
        },
        "spool": {"min_free_mb": 1, "resume_free_mb": 1},
        "query": {"images": True, "timeout_s": 2.0},
    }  # fmt: skip
    path, log = tmp_path / "config.yaml", tmp_path / "node.log"
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    database = Database(config.database_url)
    database.upgrade()
    fill(config, database, CASES[:2])
    database.close()
    process = background([sys.executable, "-m", "dicom_qa_node", "--config", path, "receive"], log)
    poll(lambda: listening(config.receive.tls.port), 60)
    context = ssl.create_default_context(cafile=str(hospital.ca))
    context.check_hostname = False
    context.load_cert_chain(scanner.certificate, scanner.key)
    poll(lambda: "event=listening" in log.read_text(), 60, "the fork of the receiver process")
    worker = poll(lambda: _worker(process.pid, config.receive.tls.port), 60)
    return Node(config, log, context, worker, ("+tls", scanner.key, scanner.certificate, "+cf", hospital.ca))


def _worker(pid: int, port: int) -> psutil.Process | None:
    """Return the process that accepts associations, once the reconciler beside it listens no more."""
    masters = psutil.Process(pid).children()
    found = [child for master in masters for child in master.children() if listens(child, port)]
    return found[0] if len(found) == 1 else None


def new_series() -> str:
    return generate_uid()[:50].rstrip(".")


def image(number: int, series: str) -> Dataset:
    ds = images_of(CASES[2], 1)[0]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.InstanceNumber = series, f"{series}.{number}", number
    return ds


def recorded(node: Node) -> list[Dialogue]:
    """Return what real clients say: each service once, with association and release."""
    study = identifier("STUDY", StudyInstanceUID=CASES[0].study_uid, PatientName=None)
    uid = CASES[0].series_uid + ".1"
    services: dict[str, tuple[list[str], Callable[[Any], Any]]] = {
        "echo": (["1.2.840.10008.1.1"], lambda assoc: assoc.send_c_echo()),
        "store": ([CTImageStorage], lambda assoc: assoc.send_c_store(image(1, new_series()))),
        "find": ([STUDY_FIND], lambda assoc: list(assoc.send_c_find(study, STUDY_FIND))),
        "move": ([STUDY_MOVE], lambda assoc: list(assoc.send_c_move(study, "NOBODY", STUDY_MOVE))),
        "get": ([STUDY_GET, CTImageStorage], lambda assoc: list(assoc.send_c_get(study, STUDY_GET))),
        "commit": ([PUSH_MODEL], lambda assoc: assoc.send_n_action(
            request_of("1.2.3.4.5", str(CTImageStorage), uid), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)),
    }  # fmt: skip
    found = []
    for name, (contexts, talk) in services.items():
        ae = AE("FUZZER")
        for sop_class in contexts:
            ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        roles: list[Any] = [build_role(CTImageStorage, scp_role=True)] if name == "get" else []
        with recorder(node.plain) as (port, dialogue):
            assoc = ae.associate("127.0.0.1", port, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
            assert assoc.is_established, name
            talk(assoc)
            assoc.release()
            found.append(dialogue(name))
    assert all(len(dialogue.turns) >= 3 for dialogue in found), found
    return found


class Transfer(threading.Thread):
    """A scanner that goes about its work on both ports meanwhile: storescu, in processes of its own."""

    def __init__(self, node: Node, folder: Path, run_tool: Any) -> None:
        super().__init__()
        self._node, self._folder, self._run_tool = node, folder, run_tool
        self.done = threading.Event()
        self.failed: list[str] = []
        self.sent = 0
        self.longest_s = 0.0

    def run(self) -> None:
        self._folder.mkdir()
        series = new_series()
        files = [self._folder / f"{number}.dcm" for number in range(FILES)]
        for number, path in enumerate(files):
            image(number, series).save_as(path, enforce_file_format=True)
        secure = False
        while not self.done.is_set():
            secure, began = not secure, time.monotonic()
            place = ["127.0.0.1", self._node.secure if secure else self._node.plain]
            done = self._run_tool("storescu", *(self._node.tls_words if secure else ()), "+II", *place, *files)
            if done.returncode:
                self.failed.append(done.stderr)
            self.sent += FILES
            self.longest_s = max(self.longest_s, time.monotonic() - began)


def measures(worker: psutil.Process) -> tuple[int, int, float]:
    """Return threads, file descriptors beside the pool of database connections, and resident megabytes."""
    pool = sum("/q.db" in file.path for file in worker.open_files())
    return worker.num_threads(), worker.num_fds() - pool, worker.memory_info().rss / 2**20


LOAD = int(os.environ.get("QA_FUZZ_DIALOGUES", "2000"))


@pytest.mark.parametrize("count", [200, pytest.param(LOAD, marks=pytest.mark.load, id="load")])
def test_damaged_dialogues_harm_nobody(node: Node, poll: Any, tmp_path: Path, run_tool: Any, count: int) -> None:
    seed = seed_of("QA_FUZZ_SEED")
    chance = random.Random(seed)
    dialogues = recorded(node)
    for dialogue in dialogues:
        # Once undamaged, which also loads what the node loads only when it is asked.
        ending = play(dialogue, node.plain, None, DEADLINE_S)
        assert ending.closed
        assert len(ending.said) > 40, dialogue.name
    poll(lambda: node.worker.num_threads() < 10, 20)
    before = measures(node.worker)
    work = [(damaged(chance.choice(dialogues), chance), chance.random()) for _ in range(count)]
    transfer = Transfer(node, tmp_path / "images", run_tool)
    transfer.start()
    began = time.monotonic()

    meter, charged = ProcessMeter(node.worker.pid), []

    def one(item: tuple[Dialogue, float]) -> Ending:
        dialogue, luck = item
        with meter.input() as used:
            charged.append(used)
            if luck < 0.7:
                return play(dialogue, node.plain, None, DEADLINE_S)
            # Some that want TLS get plain bytes.
            return play(dialogue, node.secure, node.context if luck < 0.95 else None, DEADLINE_S)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        endings = list(pool.map(one, work))
    took_s = time.monotonic() - began
    transfer.done.set()
    transfer.join(60)
    poll(lambda: all(now <= then for now, then in zip(measures(node.worker)[:2], before[:2], strict=True)), 30,
         f"as before: {before}, now {measures(node.worker)}")  # fmt: skip
    _tell(work, endings, transfer, before, measures(node.worker), took_s)
    _check(node, work, endings, transfer)
    _check_costs(charged)
    assert measures(node.worker)[2] < before[2] + MOST_GROWTH_MB


def _check_costs(charged: list[Used]) -> None:
    """Hold the receiver to its bounds for every dialogue."""
    mb, cpu_s = max(used.grown_mb for used in charged), max(used.cpu_s for used in charged)
    print(f"during one dialogue at most {mb:.1f} MB and {cpu_s:.2f} s of processor more")
    assert mb < MOST_INPUT_MB
    assert cpu_s < MOST_INPUT_CPU_S


def _tell(work: Any, endings: Any, transfer: Transfer, before: Any, after: Any, took_s: float) -> None:
    print(f"\n{len(work)} dialogues in {took_s:.0f} s; slowest end {max(e.closed_after_s for e in endings):.1f} s")
    print("damage", dict(Counter(kind for dialogue, _ in work for kind in dialogue.damage).most_common()))
    print("first PDU of the node", dict(Counter(e.said[:1].hex() or "none" for e in endings)))
    print(f"meanwhile {transfer.sent} images stored, the slowest {FILES} in {transfer.longest_s:.1f} s")
    for name, old, new in zip(("threads", "descriptors", "MB"), before, after, strict=True):
        print(f"{name} before {old:.0f}, after {new:.0f}")


def _check(node: Node, work: Any, endings: list[Ending], transfer: Transfer) -> None:
    open_ones = [dialogue for (dialogue, _), ending in zip(work, endings, strict=True) if not ending.closed]
    assert [(item.name, item.damage) for item in open_ones] == []
    assert transfer.failed == []
    assert transfer.sent >= FILES
    held = {path.stem for path in (node.config.spool_dir / "instances").rglob("*.dcm")}
    assert len(held) >= transfer.sent
    text = node.log.read_text()
    assert "Traceback" not in text
    assert re.findall(r".*\bwhere=.*", text) == []
    assert NAME not in text
    assert "event=malformed" in text
    assert "event=tls_refused" in text
