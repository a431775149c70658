"""The receiver notes that a series came again, where a target has asked for its report then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from dicom_qa_node.config import load_config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.orthanc_tables import repeated_series
from dicom_qa_node.deliver.send_files import Peer, files_below, send_files
from dicom_qa_node.flow.registry import Registry
from tests.report_samples import write_series

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("wanted", [True, False])
def test_images_that_come_again_are_noted_by_their_series(
    tmp_path: Path, free_port: Any, background: Any, listening: Any, poll: Any, wanted: bool
) -> None:
    port = free_port()
    target = {"kind": "folder", "name": "out", "path": str(tmp_path / "out"), "resend_on_duplicate": wanted}
    values = {
        "database_url": f"sqlite:///{tmp_path}/q.db",
        "spool_dir": str(tmp_path / "spool"),
        "receive": {"host": "127.0.0.1", "port": port, "processes": 1},
        "spool": {"min_free_mb": 1, "resume_free_mb": 1},
        "deliver": {"targets": [target]},
    }
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(values))
    config = load_config(tmp_path / "node.yaml")
    database = Database(config.database_url)
    database.upgrade()
    background([sys.executable, "-m", "dicom_qa_node", "--config", tmp_path / "node.yaml", "receive"])
    poll(lambda: listening(port), 40, "the receiver listens")
    images = write_series(tmp_path / "images")
    files, node = files_below([tmp_path / "images"]), Peer("127.0.0.1", port, "DICOMQA", "SCANNER", 10)
    for _ in range(2):
        assert send_files(files, node).failed == []
    registry, uid = Registry(database), images[0].series.series_instance_uid

    def noted() -> list[str]:
        with database.read() as connection:
            return list(connection.execute(sa.select(repeated_series.c.series_instance_uid)).scalars())

    poll(lambda: registry.series(uid) is not None and not registry.receiving()[0].open_associations, 20, "recorded")
    if wanted:
        assert poll(noted, 20, "noted") == [uid]
    else:
        # Both associations are closed in the database, so that everything before them is recorded.
        poll(lambda: ended(database) == 2, 20, "both associations have ended")
        assert noted() == []
    assert registry.series(uid).received == 9
    database.close()


def ended(database: Database) -> int:
    query = sa.text("SELECT count(*) FROM associations WHERE closed_at IS NOT NULL")
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())
