from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from dicom_qa_node.config import Config
from tests.integration.receive_peer import MakeReceiver, association, receiver_fixture, store
from tests.unit.encoded_images import ct, encoded

pytestmark = pytest.mark.integration
SUCCESS = 0


@pytest.fixture
def make_receiver(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    yield from receiver_fixture(tmp_path, node_config)


@pytest.mark.parametrize("fault", ["kill-before-fsync", "kill-before-name", "kill-after-name"])
def test_a_receiver_killed_between_two_durable_steps(
    make_receiver: MakeReceiver, poll: Callable[..., Any], fault: str
) -> None:
    receiver = make_receiver(fault=fault)
    ds = ct()
    with association(receiver) as assoc:
        assert "Status" not in store(assoc, ds), "no answer before the bytes are durable"
    assert (receiver.folder / "fault-happened").exists()

    def send_again() -> bool:
        with association(receiver) as assoc:
            return assoc.is_established and store(assoc, ds).Status == SUCCESS

    poll(send_again, timeout_s=20)
    (path,) = receiver.files()
    assert path.read_bytes().endswith(encoded(ds))
    poll(lambda: len(receiver.rows(ds.SeriesInstanceUID)) == 1)
    with receiver.registry() as registry:
        poll(lambda: [item.open_associations for item in registry.receiving()] == [0])
    poll(lambda: not list(receiver.layout.incoming.iterdir()), timeout_s=10)
    assert not list(receiver.layout.conflicts.iterdir())


def test_random_kills_lose_nothing_that_was_acknowledged(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver(processes=2)
    chance = random.Random(11)
    series = generate_uid()
    acknowledged: dict[str, bytes] = {}
    for _ in range(8):
        victims = receiver.workers()
        with association(receiver) as assoc:
            if not assoc.is_established:
                continue
            for number in range(chance.randint(1, 6)):
                ds = ct(SeriesInstanceUID=series, InstanceNumber=number)
                if store(assoc, ds).get("Status") == SUCCESS:
                    acknowledged[ds.SOPInstanceUID] = encoded(ds)
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)
        poll(lambda: len(receiver.workers()) == 2)
    assert len(acknowledged) > 8
    for uid, data in acknowledged.items():
        assert receiver.layout.instance(uid).read_bytes().endswith(data)
    poll(lambda: {row.sop_instance_uid for row in receiver.rows(series)} >= set(acknowledged), timeout_s=20)


def test_the_whole_receiver_killed_and_started_again(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver(processes=2)
    series = generate_uid()
    with association(receiver) as assoc:
        for _ in range(5):
            assert store(assoc, ct(SeriesInstanceUID=series)).Status == SUCCESS
        receiver.kill()
    receiver.start()
    poll(lambda: len(receiver.rows(series)) == 5)
    with receiver.registry() as registry:
        poll(lambda: [item.open_associations for item in registry.receiving()] == [0])


def test_the_port_is_free_again_when_only_the_first_process_is_killed(make_receiver: MakeReceiver) -> None:
    receiver = make_receiver()
    assert receiver.process is not None
    receiver.process.kill()
    receiver.process.wait()
    receiver.start()
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == SUCCESS


def test_stopping_lets_a_running_association_finish(make_receiver: MakeReceiver, poll: Callable[..., Any]) -> None:
    receiver = make_receiver()
    assert receiver.process is not None
    with association(receiver) as assoc:
        assert store(assoc, ct()).Status == SUCCESS
        receiver.process.terminate()
        poll(lambda: not _accepts(receiver.port), timeout_s=10)
        ds = ct()
        assert store(assoc, ds).Status == SUCCESS
    assert receiver.stop() == 0
    assert len(receiver.rows(ds.SeriesInstanceUID)) == 1, "rows are written before the end"


def _accepts(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
