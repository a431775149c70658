"""A scanner that opens one association per image, four at a time: nothing is lost, and one report comes of it."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicom_qa_node.config import Config, load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.report.report_builder import report_pending
from tests.processes import processor_s
from tests.report_samples import verdict
from tests.unit.encoded_images import ct

pytestmark = [pytest.mark.integration, pytest.mark.peers("storescu")]

IMAGES, AT_ONCE = 120, 4


def test_a_storm_of_single_image_associations_makes_one_report(
    tmp_path: Path, node_config: Config, background: Any, listening: Any, poll: Any, run_tool: Any
) -> None:
    values = node_config.model_dump(mode="json")
    # Long enough that only the known count can complete the series.
    values["complete"]["quiet_s"] = 3600.0
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    database = Database(config.database_url)
    database.upgrade()
    receiver, _ = [
        background([sys.executable, "-m", "dicom_qa_node", "--config", path, role], tmp_path / f"{role}.log")
        for role in ("receive", "schedule")
    ]
    files, uid = _series(tmp_path / "images")
    poll(lambda: listening(config.receive.port), 60)

    began, used_s = time.monotonic(), _processor_s(receiver.pid)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(lambda file: run_tool("storescu", "127.0.0.1", config.receive.port, file), files))
    took_s = time.monotonic() - began
    used_s = _processor_s(receiver.pid) - used_s
    print(f"\n{IMAGES} associations of one image, {AT_ONCE} at a time: {IMAGES / took_s:.1f} images/s;", end=" ")
    print(f"the receiver used {used_s / IMAGES * 1000:.0f} ms of processor time for each")
    assert [item.stderr for item in done if item.returncode] == []

    registry, jobs = Registry(database), Jobs(database)
    poll(lambda: registry.series(uid).state is SeriesState.COMPLETE, 30, "complete by its count")
    held = registry.instances(uid)
    assert len(held) == len({item.sop_instance_uid for item in held}) == IMAGES
    assert len(list((config.spool_dir / "instances").rglob("*.dcm"))) == IMAGES
    completed = [row for row in registry.history(uid) if row["new_state"] == SeriesState.COMPLETE]
    assert len(completed) == 1
    job = jobs.claim("w")
    assert job is not None
    jobs.finish(job, verdict(held))
    assert jobs.claim("w") is None
    assert report_pending(Outbox(database), registry, config.spool_dir, config) == 1
    assert report_pending(Outbox(database), registry, config.spool_dir, config) == 0
    database.close()


def _processor_s(pid: int) -> float:
    return processor_s(psutil.Process(pid).children(recursive=True))


def _series(folder: Path) -> tuple[list[Path], str]:
    folder.mkdir()
    uid, study, frame = generate_uid(), generate_uid(), generate_uid()
    files = [folder / f"{number}.dcm" for number in range(IMAGES)]
    for number, file in enumerate(files):
        image = ct(
            rows=512, SeriesInstanceUID=uid, StudyInstanceUID=study, FrameOfReferenceUID=frame,
            InstanceNumber=number + 1, ImagesInAcquisition=IMAGES, ImagePositionPatient=[0, 0, number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[0.7, 0.7],
        )  # fmt: skip
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(file, enforce_file_format=True)
    return files, uid
