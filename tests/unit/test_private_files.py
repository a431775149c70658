"""What holds patient data belongs to the node's user alone, whatever umask the process was started with."""

from __future__ import annotations

import os
import stat

import pytest

from dicom_qa_node.db.engine import Database
from dicom_qa_node.ops.backup import back_up
from dicom_qa_node.spool.layout import SpoolLayout

OTHERS = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture(autouse=True)
def _open_umask():
    before = os.umask(0o000)
    yield
    os.umask(before)


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/state/quality.db")
    database.upgrade()
    yield database
    database.close()


def open_to_others(folder):
    return [str(path) for path in (folder, *folder.rglob("*")) if path.stat().st_mode & OTHERS]


def test_database_and_its_write_ahead_log(database, tmp_path):
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE trial (a INTEGER)")
        assert {path.name for path in (tmp_path / "state").iterdir()} > {"quality.db", "quality.db-wal"}
        assert open_to_others(tmp_path / "state") == []


def test_backup_in_a_folder_that_others_read(database, tmp_path):
    backup = back_up(database, tmp_path / "backup.db")
    assert not backup.path.stat().st_mode & OTHERS


def test_spool_folders(tmp_path):
    SpoolLayout(tmp_path / "spool").create()
    assert open_to_others(tmp_path / "spool") == []


def test_spool_folders_that_were_open_before(tmp_path):
    root = tmp_path / "spool"
    (root / "instances" / "00").mkdir(parents=True)
    assert open_to_others(root)
    SpoolLayout(root).create()
    assert open_to_others(root) == []


def test_database_that_was_open_before(tmp_path):
    path = tmp_path / "quality.db"
    path.touch(mode=0o666)
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    assert not path.stat().st_mode & OTHERS


@pytest.mark.parametrize("umask", [0o777, 0o277])
def test_umask_that_takes_the_owner_s_own_rights(tmp_path, umask):
    before = os.umask(umask)
    try:
        SpoolLayout(tmp_path / "spool").create()
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool", *(tmp_path / "spool").rglob("*"))}
    assert modes == {0o700}


def test_a_database_that_is_there_keeps_its_content(database):
    database.close()
    before = database.revision()
    database.upgrade()
    assert database.revision() == before
