"""A receiver in a process of its own and the peers that talk to it, for the integration tests of receiving."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.series import StoredInstance
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.spool.layout import SpoolLayout
from tests.conftest import ROOT, poll_until
from tests.processes import listens, signal_all
from tests.unit.encoded_images import EXPLICIT, encoded


class Receiver:
    """The receive role as an operator runs it, on a free port and an empty folder."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.layout = SpoolLayout(config.spool_dir)
        self.log = folder / "receiver.log"

    @property
    def port(self) -> int:
        return self.config.receive.port

    def start(self, fault: str = "") -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.config.model_dump(mode="json")))
        (self.folder / "ready").unlink(missing_ok=True)
        command = [sys.executable, "-W", "error", "-m", "tests.integration.receiver", str(path), fault]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([part for part in command if part], cwd=ROOT, stderr=log, stdout=log)
        poll_until(lambda: (self.folder / "ready").exists() or self.process.poll() is not None, 30, "receiver")
        assert self.process.poll() is None, self.log.read_text()

    def stop(self, timeout_s: float = 40) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """End every process of the receiver with SIGKILL."""
        assert self.process is not None
        signal_all(self.tree())
        self.process.kill()
        self.process.wait()

    def tree(self) -> list[psutil.Process]:
        """Return the master and the receiver processes."""
        assert self.process is not None
        if not psutil.pid_exists(self.process.pid):
            return []
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """Return the receiver processes, those that hold the listening port under the master."""
        master = psutil.Process(self.process.pid).children() if self.process else []
        found = [child for parent in master for child in parent.children()]
        return [child for child in found if listens(child, self.port)]

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        database = Database(self.config.database_url)
        try:
            yield Registry(database)
        finally:
            database.close()

    def rows(self, series_instance_uid: str) -> list[StoredInstance]:
        with self.registry() as registry:
            return registry.instances(series_instance_uid)

    def files(self) -> list[Path]:
        return sorted(self.layout.instances.rglob("*.dcm"))


@contextmanager
def association(
    receiver: Receiver,
    calling: str = "SCANNER",
    called: str = "DICOMQA",
    syntaxes: Sequence[str] = (EXPLICIT,),
    sop_classes: Sequence[str] = (CTImageStorage, "1.2.840.10008.1.1"),
) -> Iterator[Association]:
    """Open an association as a scanner does; released at the end if it still stands."""
    ae = AE(calling)
    for sop_class in sop_classes:
        for syntax in syntaxes:
            ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate("127.0.0.1", receiver.port, ae_title=called)
    # pynetdicom leaves its socket open when the peer was the first to go.
    connection = assoc.dul.socket.socket if assoc.dul.socket is not None else None
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        if assoc.is_alive():
            assoc.join(10)
        if connection is not None:
            connection.close()


def store_bytes(
    assoc: Association, data: bytes, sop_class: str, sop_instance: str, syntax: str = EXPLICIT, claimed: str = ""
) -> Dataset:
    """Send a C-STORE with any bytes as its data set and return the status data set (empty without an answer).

    ``claimed`` is the SOP class of the request if that is not the one of the presentation context.
    """
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = UID(claimed or sop_class)
    # A peer may send what the setter refuses.
    request._affected_sop_instance_uid = UID(sop_instance, validation_mode=IGNORE)
    request.Priority = 2
    request.DataSet = BytesIO(data)
    context = next(
        cx for cx in assoc.accepted_contexts if cx.abstract_syntax == sop_class and cx.transfer_syntax[0] == syntax
    )
    assoc._reactor_checkpoint.clear()
    poll_until(lambda: assoc._is_paused, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assoc.dimse.send_msg(request, context.context_id)
        _, answer = assoc.dimse.get_msg(block=True)
    status = assoc._check_received_status(answer) if answer is not None else Dataset()
    assoc._reactor_checkpoint.set()
    return status


def store(assoc: Association, ds: Dataset, syntax: str = EXPLICIT) -> Dataset:
    """Send a data set as it is."""
    return store_bytes(assoc, encoded(ds, syntax), str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax)


def raw_connection(receiver: Receiver) -> socket.socket:
    """Connect without a word of DICOM."""
    return socket.create_connection(("127.0.0.1", receiver.port), 10)


def kill_hard(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


MakeReceiver = Callable[..., Receiver]


def receiver_fixture(tmp_path: Path, node_config: Config) -> Iterator[MakeReceiver]:
    """Yield ``make(fault="", **receive_settings)``; every receiver is gone when the test ends."""
    made: list[Receiver] = []

    def make(fault: str = "", spool: dict[str, Any] | None = None, **settings: Any) -> Receiver:
        config = node_config.model_copy(
            update={
                "receive": node_config.receive.model_copy(update=settings),
                "spool": node_config.spool.model_copy(update=spool or {}),
            }
        )
        receiver = Receiver(config, tmp_path / "receiver")
        made.append(receiver)
        receiver.start(fault)
        return receiver

    yield make
    for receiver in made:
        if receiver.process is not None:
            receiver.kill()
