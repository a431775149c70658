"""A receiver whose spool lies on a small file system of its own: the disk never goes below the watermark."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from dicom_qa_node.config import Config
from tests import raw_association as raw
from tests.hostile_data_sets import element, head
from tests.integration.receive_peer import MakeReceiver, Receiver, association, raw_connection, receiver_fixture, store
from tests.unit.encoded_images import ct

pytestmark = pytest.mark.integration

MIB = 1 << 20
DISK_MB, MIN_FREE_MB, RESUME_FREE_MB = 96, 48, 56
#: What several receivers may write between two looks at the disk: a MiB each, and what the file system needs itself.
SLACK_MB = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a file system in memory of its own; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"no file system can be mounted here: {done.stderr.strip()}"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def receiver(tmp_path: Path, disk: Path, node_config: Config) -> Iterator[Receiver]:
    config = node_config.model_copy(update={"spool_dir": disk / "spool"})
    makers: Iterator[MakeReceiver] = receiver_fixture(tmp_path, config)
    make = next(makers)
    limits = {"min_free_mb": MIN_FREE_MB, "resume_free_mb": RESUME_FREE_MB, "quarantine_percent": 10.0}
    yield make(processes=2, spool=limits)
    with suppress(StopIteration):
        next(makers)


class LowestFree(threading.Thread):
    """Looks at the free space without a pause until it is stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._ended = folder, threading.Event()
        self.bytes = 1 << 62

    def run(self) -> None:
        while not self._ended.wait(0.001):
            self.bytes = min(self.bytes, free_bytes(self._folder))

    def __enter__(self) -> LowestFree:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(10)


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def image(uid: str, size: int) -> bytes:
    return head(uid) + element(0x7FE0, 0x10, b"OW", bytes(size))


def rubbish(uid: str, size: int) -> bytes:
    """Return a data set that is refused after it was received as a whole: it is another instance than announced."""
    return image(uid + ".9", size)


def store_raw(receiver: Receiver, uid: str, data: bytes) -> int:
    with closing(raw_connection(receiver)) as connection:
        connection.settimeout(60)
        connection.sendall(raw.request(contexts=[raw.context(1, raw.CT, [raw.EXPLICIT])]))
        assert raw.answer(connection)[0] == 2
        connection.sendall(raw.store_request(uid))
        raw.send_data_set(connection, data)
        status = raw.status_of(raw.answer(connection)[1])
        connection.sendall(struct.pack(">BBLL", 5, 0, 4, 0))
        raw.answer(connection)
        return status


def a_scanner_is_served(receiver: Receiver) -> bool:
    with association(receiver, "SCANNER") as assoc:
        return assoc.is_established and store(assoc, ct()).Status == 0x0000


def test_one_large_object_never_takes_the_disk_below_its_watermark(receiver: Receiver, disk: Path) -> None:
    uid = "1.2.826.0.1.3680043.10.998.1"
    with LowestFree(disk) as lowest:
        assert store_raw(receiver, uid, image(uid, 88 * MIB)) == 0xA700
    assert lowest.bytes > (MIN_FREE_MB - SLACK_MB) * MIB
    assert free_bytes(disk) > (DISK_MB - 4) * MIB
    assert list(receiver.layout.incoming.rglob("*.part")) == []
    assert a_scanner_is_served(receiver)


def test_several_large_objects_at_once_stay_above_it_too(receiver: Receiver, disk: Path) -> None:
    statuses: list[int] = []

    def one(number: int) -> None:
        uid = f"1.2.826.0.1.3680043.10.998.2.{number}"
        statuses.append(store_raw(receiver, uid, image(uid, 30 * MIB)))

    threads = [threading.Thread(target=one, args=[number]) for number in range(4)]
    with LowestFree(disk) as lowest:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert set(statuses) <= {0, 0xA700}
    assert len(statuses) == 4
    assert lowest.bytes > (MIN_FREE_MB - SLACK_MB) * MIB


def test_rubbish_cannot_close_the_node_for_its_scanners(
    receiver: Receiver, disk: Path, poll: Callable[..., Any]
) -> None:
    share = DISK_MB * MIB // 10
    for number in range(60):
        uid = f"1.2.826.0.1.3680043.10.998.3.{number}"
        # Every eighth is larger than a quarter of the share, of which the beginning is kept.
        size = 20 * MIB if number % 8 == 0 else MIB
        assert store_raw(receiver, uid, rubbish(uid, size)) == 0x0117
        held = sum(path.stat().st_size for path in receiver.layout.quarantine.iterdir())
        assert held < share + 3 * MIB, number
        if number % 10 == 9:
            assert a_scanner_is_served(receiver), number
    left = {path.stem for path in receiver.layout.quarantine.glob("*.dcm")}
    assert 0 < len(left) < 60
    assert {path.stem for path in receiver.layout.quarantine.glob("*.json")} == left
    assert free_bytes(disk) > RESUME_FREE_MB * MIB
    poll(lambda: "event=quarantine_trimmed" in receiver.log.read_text())
