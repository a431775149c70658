"""Damaged data sets on their way in: each is kept, or refused with a status that says why, and its row can be written.

The same code as behind a C-STORE, without the network: header walk, spool, receipt, registry. Every batch is then read
back from the files alone, as after a crash. ``QA_FUZZ_SEED`` chooses other damage, ``QA_FUZZ_DATA_SETS`` how many
``-m load`` tries on each kind of database.
"""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

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
from tests.load.mutations import KINDS, WILD_UIDS, Image, mutated, read_image

pytestmark = [
    pytest.mark.full,
    pytest.mark.serial,
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom"),
]

LOAD = int(os.environ.get("QA_FUZZ_DATA_SETS", "20000"))
BATCH = 250
LONGEST_S, MOST_GROWTH_MB = 30.0, 120
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
        found += [read_image(path) for path in small[:4]]
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
    chance, known = random.Random(seed), images(shared_data / "dicom")
    layout, registry, receipts = SpoolLayout(tmp_path / "spool"), Registry(any_database), []
    layout.create()
    intake = StoreHandler(SpoolWriter(layout), DiskGauge(layout.root, 1, 1), receipts.append)
    statuses: Counter[tuple[str, Status]] = Counter()
    process, before = psutil.Process(), 0
    for start in range(0, count, BATCH):
        for number in range(start, min(start + BATCH, count)):
            image, kind = chance.choice(known).renamed(str(number)), chance.choice(KINDS)
            body = mutated(image, kind, chance)
            began = time.monotonic()
            received = intake.open(request_of(image, chance), image.transfer_syntax_uid, SENDER)
            for at in range(0, len(body), 16384):
                received.write(body[at : at + 16384])
            answer = received.finish()
            assert answer.status in {Status.SUCCESS, *REFUSALS}, (number, kind, image.source, answer)
            assert time.monotonic() - began < LONGEST_S, (number, kind, image.source)
            statuses[kind, answer.status] += 1
        check(registry, layout, receipts)
        receipts.clear()
        before = before or process.memory_info().rss
    print(f"\n{count} data sets: {dict(Counter(status.name for _, status in statuses.elements()))}")
    assert {status for _, status in statuses} > {Status.SUCCESS}
    assert process.memory_info().rss - before < MOST_GROWTH_MB << 20


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
