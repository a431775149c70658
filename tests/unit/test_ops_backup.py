"""The backup of a running database can be opened and says what it holds."""

from __future__ import annotations

import pytest

from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.clock import utc_now
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.series import SeriesHeader, StoredInstance
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.ops.backup import back_up


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    yield database
    database.close()


def test_backup_is_read_back(database, tmp_path):
    facts = SeriesHeader("1.2.3", "1.2", "CT")
    item = StoredInstance("1.2.3.1", "1.2", "1.2", "a/1", "0" * 64, 9, utc_now(), "SC", "a", facts)
    Registry(database).record([item])
    done = back_up(database, tmp_path / "copy.db")
    assert (done.series, done.results) == (1, 0)
    assert done.revision == database.revision()[0]
    assert done.size_bytes == (tmp_path / "copy.db").stat().st_size > 0


def test_a_backup_never_overwrites(database, tmp_path):
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(Permanent, match="never overwrites"):
        back_up(database, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"
