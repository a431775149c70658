"""The running roles ``receive`` and ``deliver`` serve queries and storage commitment beside storage, on one port."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from dicom_qa_node.config import load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.spool.storage_commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, request_of
from tests.query_samples import CASES, STUDY_FIND, fill, identifier, images_of

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def test_one_port_stores_finds_and_commits(
    tmp_path: Path, free_port: Any, background: Any, listening: Any, poll: Any
) -> None:
    port, back = free_port(), free_port()
    values = {
        "database_url": f"sqlite:///{tmp_path}/q.db",
        "spool_dir": str(tmp_path / "spool"),
        "receive": {
            "host": "127.0.0.1", "port": port, "processes": 2, "storage_commitment": True,
            "peers": [{"ae_title": "SCANNER", "port": back}],
        },
        "spool": {"min_free_mb": 1, "resume_free_mb": 1},
        "deliver": {"retry_first_s": 0.2, "retry_max_s": 0.5},
        "query": {"images": True},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    database = Database(config.database_url)
    database.upgrade()
    fill(config, database, CASES[:1])
    for role in ("receive", "deliver"):
        background([sys.executable, "-m", "dicom_qa_node", "--config", path, role])
    poll(lambda: listening(port), 40, "the receiver listens")
    reports: list[Dataset] = []

    def told(event: evt.Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0, None

    scanner = AE("SCANNER")
    scanner.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = scanner.start_server(("127.0.0.1", back), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, told)])
    (image,) = images_of(CASES[1], 1)
    image.file_meta = Dataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for sop_class in (CTImageStorage, STUDY_FIND, PUSH_MODEL):
        scanner.add_requested_context(sop_class, ExplicitVRLittleEndian)
    assoc = scanner.associate("127.0.0.1", port)
    assert assoc.is_established
    assert assoc.send_c_store(image).Status == 0
    # The row may lag behind; the commitment does not wait for it.
    asked = request_of("1.2.3.4", str(CTImageStorage), str(image.SOPInstanceUID))
    status, _ = assoc.send_n_action(asked, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assert status.Status == 0
    query = identifier("STUDY", StudyInstanceUID=None, ModalitiesInStudy=None)
    found = [answer for _, answer in assoc.send_c_find(query, STUDY_FIND) if answer is not None]
    assoc.release()
    assert CASES[0].study_uid in {answer.StudyInstanceUID for answer in found}
    poll(lambda: reports, 30, "the scanner is told on a new association")
    assert [str(item.ReferencedSOPInstanceUID) for item in reports[0].ReferencedSOPSequence] == [image.SOPInstanceUID]
    assert server is not None
    server.shutdown()
    database.close()
