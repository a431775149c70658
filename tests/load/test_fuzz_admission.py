"""Damaged data sets on their way in: each is kept, or refused with a status that says why, and its row can be written.

The same code as behind a C-STORE, without the network: header walk, spool, receipt, registry. Every batch is then read
back from the files alone, as after a crash. Memory and processor time of every input have a bound.
``QA_FUZZ_SEED`` chooses other damage, ``QA_FUZZ_DATA_SETS`` how many ``-m load`` tries on each kind of database.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.element_scanner import default_text
from dicom_qa_node.domain.series import Quarantined, Receipt, StoredInstance
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.receive.fastpath.command_sets import StoreRequest
from dicom_qa_node.receive.reconcile import reconcile
from dicom_qa_node.receive.store_handler import Sender, StoreHandler
from dicom_qa_node.receive.store_status import Status
from dicom_qa_node.spool.disk_space import DiskGauge, delete_files
from dicom_qa_node.spool.incoming import SpoolWriter
from dicom_qa_node.spool.layout import SpoolLayout
from tests.conftest import seed_of
from tests.load.mutations import KINDS, WILD_UIDS, Image, deflated, mutated, read_image
from tests.load.process_meter import ProcessMeter

pytestmark = [
    pytest.mark.full,
    pytest.mark.serial,
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom"),
]

LOAD = int(os.environ.get("QA_FUZZ_DATA_SETS", "20000"))
BATCH = 250
LONGEST_S, MOST_GROWTH_MB = 30.0, 120
#: For one input, and beside it for each MiB that was received; a mapped file counts as memory where it was read.
MOST_INPUT_MB, MOST_MB_PER_MIB = 8.0, 1.0
MOST_INPUT_CPU_S, MOST_CPU_S_PER_MIB = 0.5, 0.75
MOST_BATCH_MB = 64.0
SENDER = Sender("FUZZER", "DICOMQA", "association")
REFUSALS = {Status.INVALID_OBJECT_INSTANCE, Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, Status.CANNOT_UNDERSTAND}


class _Forgetful:
    """A registry that knows nothing, and keeps what reconciling gives it."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []

    def record(self, receipts: Any) -> None:
        self.receipts += receipts

    def known_paths(self, _paths: Any) -> set[str]:
        return set()


def images(folder: Path) -> list[Image]:
    """Return a few real images of each series, those of less than a megabyte."""
    found = []
    for group in sorted({path.parent for path in folder.rglob("*.dcm")}):
        small = [path for path in sorted(group.glob("*.dcm")) if path.stat().st_size < 1 << 20]
        read = [read_image(path) for path in small[:4]]
        found += read + [deflated(image) for image in read[:1] if image.transfer_syntax_uid == ExplicitVRLittleEndian]
    return found


def request_of(image: Image, chance: random.Random) -> StoreRequest:
    uid = image.sop_instance_uid
    if chance.random() < 0.05:
        uid = default_text(chance.choice((*WILD_UIDS, b"1.2\x003", b"9" * 70000)))
    return StoreRequest(1, image.sop_class_uid, uid, has_data_set=True)


@pytest.mark.parametrize("count", [500, pytest.param(LOAD, marks=pytest.mark.load, id="load")])
def test_damaged_data_sets_are_kept_or_refused(
    any_database: Database, shared_data: Path, tmp_path: Path, count: int
) -> None:
    seed = seed_of("QA_FUZZ_SEED")
    # Each kind of database gets other data sets.
    chance, known = random.Random(f"{seed} {any_database.is_sqlite}"), images(shared_data / "dicom")
    layout, registry, receipts = SpoolLayout(tmp_path / "spool"), Registry(any_database), []
    layout.create()
    intake = StoreHandler(SpoolWriter(layout), DiskGauge(layout.root, 1, 1), receipts.append)
    statuses: Counter[tuple[str, Status]] = Counter()
    process, before, meter, worst = psutil.Process(), 0, ProcessMeter(os.getpid()), Worst()
    for start in range(0, count, BATCH):
        for number in range(start, min(start + BATCH, count)):
            image, kind = chance.choice(known).renamed(str(number)), chance.choice(KINDS)
            body, request = mutated(image, kind, chance), request_of(image, chance)
            began, cpu_began = time.monotonic(), time.thread_time()
            with meter.input() as used:
                received = intake.open(request, image.transfer_syntax_uid, SENDER)
                for at in range(0, len(body), 16384):
                    received.write(body[at : at + 16384])
                answer = received.finish()
            cpu_s = time.thread_time() - cpu_began
            assert answer.status in {Status.SUCCESS, *REFUSALS}, (number, kind, image.source, answer)
            assert time.monotonic() - began < LONGEST_S, (number, kind, image.source)
            worst.input(len(body), used.grown_mb, cpu_s, (number, kind, image.source))
            statuses[kind, answer.status] += 1
        with meter.input() as used:
            check(registry, layout, receipts)
        assert used.grown_mb < MOST_BATCH_MB, start
        receipts.clear()
        gc.collect()
        before = before or process.memory_info().rss
        if start // BATCH % 40 == 39:
            print(f"{start + BATCH} data sets, {worst}", flush=True)
    print(f"\n{count} data sets: {dict(Counter(status.name for _, status in statuses.elements()))}, {worst}")
    assert {status for _, status in statuses} > {Status.SUCCESS}
    assert process.memory_info().rss - before < MOST_GROWTH_MB << 20


@dataclasses.dataclass
class Worst:
    """The most that one input cost so far."""

    mb: float = 0.0
    cpu_s: float = 0.0
    input_of_cpu: object = None

    def input(self, size: int, mb: float, cpu_s: float, name: object) -> None:
        """Hold one input to its bounds, which grow with what was received."""
        mib = size / (1 << 20)
        assert mb < MOST_INPUT_MB + MOST_MB_PER_MIB * mib, (name, size, mb)
        assert cpu_s < MOST_INPUT_CPU_S + MOST_CPU_S_PER_MIB * mib, (name, size, cpu_s)
        self.mb = max(self.mb, mb)
        if cpu_s > self.cpu_s:
            self.cpu_s, self.input_of_cpu = cpu_s, (name, size)

    def __str__(self) -> str:
        return f"at most {self.mb:.1f} MB and {self.cpu_s:.2f} s of processor for one ({self.input_of_cpu})"


def check(registry: Registry, layout: SpoolLayout, receipts: list[Receipt]) -> None:
    """Record the receipts of one batch, compare them with what the files say, and remove both."""
    registry.record(receipts)
    held = {item.path: item for item in receipts if isinstance(item, StoredInstance | Quarantined)}
    assert registry.known_paths(held) == held.keys()
    forgetful = _Forgetful()
    done = reconcile(layout, forgetful)
    assert (done.files, done.added, done.parts, done.damaged) == (len(held), len(held), 0, 0)
    for found in forgetful.receipts:
        assert isinstance(found, StoredInstance | Quarantined)
        assert without_series(found) == without_series(held[found.path])
    notices = [str(Path(path).with_suffix(".json")) for path in held if path.startswith("quarantine")]
    assert delete_files(layout, [*held, *notices]).failed == ()
    assert [path for path in layout.root.rglob("*") if path.is_file()] == []


def without_series(item: StoredInstance | Quarantined) -> dict[str, Any]:
    """Return a receipt without what only its reception knows: the facts of its series' first image, the remark."""
    names = {field.name for field in dataclasses.fields(item)} - {"series", "remark"}
    return {name: getattr(item, name) for name in names}
