"""A database that was deleted, damaged or set back is filled from the spool again: nothing acknowledged is lost."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from dicom_qa_node.cli.app import run
from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.flow.retention_candidates import Retention
from dicom_qa_node.ops.backup import back_up
from dicom_qa_node.ops.rebuild import rebuild
from dicom_qa_node.ops.spool_lock import hold_spool
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.spool.disk_space import delete_files
from dicom_qa_node.spool.result_archive import result_archives
from tests.received_series import Carrier, Ticking
from tests.report_samples import T0

pytestmark = pytest.mark.integration

S = SeriesState
DELIVERED = 3


def config_in(folder: Path) -> Config:
    target = {"name": "copy", "kind": "folder", "path": str(folder / "out"), "companion": {"key_objects": True}}
    settings = {
        "database_url": f"sqlite:///{folder}/node/quality.db",
        "spool_dir": str(folder / "node" / "spool"),
        "deliver": {"targets": [target]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return Config.model_validate(settings)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> tuple[Path, list[str]]:
    """Make a node with three delivered series, one reported, one scored, one received, one not recorded."""
    folder = tmp_path_factory.mktemp("template")
    config = config_in(folder)
    with closing(Database(config.database_url)) as database:
        database.upgrade()
        node = Carrier(config, database, folder, Ticking(T0))
        for number in range(1, DELIVERED + 1):
            node.whole_way(number)
        for number in (4, 5):
            images = node.images(number)
            node.receive(images)
            node.score(str(images[0].SeriesInstanceUID))
            if number == 4:
                node.report()
        node.receive(node.images(6))
        node.receive(node.images(7), recorded=False)
    return folder, node.sent


@pytest.fixture
def config(tmp_path, template) -> Config:
    return config_in(tmp_path)


@pytest.fixture
def node(tmp_path, config, template):
    """Return the stopped node."""
    folder, sent = template
    shutil.copytree(folder / "node", tmp_path / "node")
    with closing(Database(config.database_url)) as database:
        yield Carrier(config, database, tmp_path, Ticking(T0 + dt.timedelta(hours=1)), sent=list(sent))


@pytest.fixture
def qa(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command and gives exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        command = ["dicom-qa-node", "--config", str(tmp_path / "config.yaml"), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        code = run()
        said = capsys.readouterr()
        return int(code), said.out, said.err

    return call


def uid_of(number: int) -> str:
    return f"1.2.826.0.1.3680043.10.1500.1.{number}"


def states(database: Database) -> list[str]:
    return [Registry(database).series(uid_of(number)).state.value for number in range(1, 8)]


def file_of(config: Config) -> Path:
    return Path(config.database_url.removeprefix("sqlite:///"))


def delete(config: Config) -> None:
    for ending in ("", "-wal", "-shm"):
        file_of(config).with_name(f"{file_of(config).name}{ending}").unlink(missing_ok=True)


def damage(config: Config) -> None:
    path = file_of(config)
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            os.pwrite(file.fileno(), os.urandom(2048), 4096 * page + 512)


def test_a_deleted_database_comes_back(node, config):
    log = QualityLog(node.database)
    before = {uid_of(n): log.entry(uid_of(n)) for n in range(1, 5)}
    reports = {uid_of(n): node.outbox.report(uid_of(n)) for n in range(1, 5)}
    node.database.close()
    delete(config)
    steps = []
    done = rebuild(config, progress=lambda *step: steps.append(step))
    print(done)
    assert (done.files, done.added, done.damaged, done.series) == (21, 21, 0, 7)
    assert (done.restored, done.known, done.without_verdict, done.unreadable) == (4, 0, 0, ())
    assert steps[-1] == ("reports", 4, 4)
    assert ("images", 21, 21) in steps
    with closing(Database(config.database_url)) as database:
        assert states(database) == ["REPORTED"] * 4 + ["RECEIVING"] * 3
        for uid, entry in before.items():
            again = QualityLog(database).entry(uid)
            assert (again.result, again.scored_at, again.facts) == (entry.result, entry.scored_at, entry.facts)
            assert Outbox(database).report(uid) == reports[uid]
        assert len(LogSearch(database).page(LogQuery(words="sally", patients=True)).rows) == 4
        node.database = database
        sent_before = list(node.sent)
        assert set(node.deliver()) >= set(sent_before)
        assert len(set(node.sent)) == 2 * (DELIVERED + 1)
        for number in (5, 6, 7):
            node.score(uid_of(number))
            node.report()
        node.deliver()
        assert states(database) == ["DELIVERED"] * 7
        assert {Registry(database).series(uid_of(n)).version for n in range(1, 8)} == {1}


def test_a_second_run_changes_nothing(node, config):
    node.database.close()
    delete(config)
    rebuild(config)
    with closing(Database(config.database_url)) as database:
        node.database = database
        node.deliver()
        before = _dump(database)
    done = rebuild(config)
    assert (done.files, done.added, done.restored, done.known) == (21, 0, 0, 4)
    with closing(Database(config.database_url)) as database:
        assert _dump(database) == before


def _dump(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.connection.driver_connection.iterdump())


def test_a_damaged_database_is_named_put_aside_and_replaced(node, config, qa):
    node.database.close()
    damage(config)
    spoilt = file_of(config).read_bytes()
    for command in (("db", "rebuild"), ("db", "upgrade"), ("log",), ("health",)):
        code, out, err = qa(*command)
        assert "Traceback" not in err
        assert code != 0, command
        assert "damaged" in out + err, (command, out, err)
    assert qa("db", "rebuild")[0] == 3
    code, out, _ = qa("db", "rebuild", "--new", "--json")
    assert code == 0
    done = json.loads(out)
    print(done)
    assert (done["added"], done["restored"], done["series"]) == (21, 4, 7)
    assert Path(done["aside"]).read_bytes() == spoilt
    assert qa("db", "rebuild")[0] == 0
    with closing(Database(config.database_url)) as database:
        assert states(database)[:4] == ["REPORTED"] * 4


def test_a_backup_is_restored_and_caught_up(node, config, tmp_path):
    """What came after the backup was acknowledged too: new series, and a late image of an old one."""
    back_up(node.database, tmp_path / "backup.db")
    node.whole_way(8)
    (*_, late) = node.images(1, slices=4)
    node.receive([late])
    node.score(uid_of(1))
    node.report()
    first, second = node.outbox.report(uid_of(1), 1), node.outbox.report(uid_of(1), 2)
    (*_, later) = node.images(2, slices=4)
    node.receive([later])
    node.database.close()
    delete(config)
    (tmp_path / "backup.db").rename(file_of(config))
    done = rebuild(config)
    print(done)
    assert (done.added, done.restored, done.known) == (3 + 3 + 2, 3, 4)
    with closing(Database(config.database_url)) as database:
        registry, outbox = Registry(database), Outbox(database)
        assert (registry.series(uid_of(1)).state, registry.series(uid_of(1)).version) == (S.REPORTED, 2)
        assert (outbox.report(uid_of(1), 1), outbox.report(uid_of(1), 2)) == (first, second)
        assert second.predecessor_uid == first.sop_instance_uid
        assert (registry.series(uid_of(2)).state, registry.series(uid_of(2)).version) == (S.RECEIVING, 2)
        assert registry.series(uid_of(8)).state is S.REPORTED
        assert [registry.series(uid_of(n)).state for n in (3, 4, 5)] == [S.DELIVERED, S.REPORTED, S.REPORTED]
        node.database = database
        node.score(uid_of(2))
        node.report()
        assert outbox.report(uid_of(2)).version == 2
        node.deliver()
        assert outbox.counts()[DeliveryState.PENDING] == 0


def test_late_images_count_against_the_version_that_knew_them(node, config):
    (*_, late) = node.images(3, slices=4)
    node.receive([late], recorded=False)
    node.database.close()
    delete(config)
    rebuild(config)
    with closing(Database(config.database_url)) as database:
        row = Registry(database).series(uid_of(3))
        assert (row.state, row.version, row.received) == (S.RECEIVING, 2, 4)
        node.database = database
        node.score(uid_of(3))
        node.report()
        assert node.outbox.report(uid_of(3)).predecessor_uid == node.outbox.report(uid_of(3), 1).sop_instance_uid


def test_a_late_image_is_late_when_the_clock_was_set_back(node, config):
    (*_, late) = node.images(3, slices=4)
    node.clock.now -= dt.timedelta(days=2)
    node.receive([late], recorded=False)
    node.database.close()
    delete(config)
    rebuild(config)
    with closing(Database(config.database_url)) as database:
        row = Registry(database).series(uid_of(3))
        assert (row.state, row.version, row.received) == (S.RECEIVING, 2, 4)


def test_an_empty_postgresql_is_filled_too(node, config, postgresql):
    """A node may change its database this way; what is in files only is not put aside there."""
    url = postgresql.create(migrated=False)
    there = config.model_copy(update={"database_url": url})
    with pytest.raises(Misconfigured, match="make an empty one"):
        rebuild(there, new=True)
    done = rebuild(there)
    assert (done.added, done.restored, done.series) == (21, 4, 7)
    assert rebuild(there).known == 4
    with closing(Database(url)) as database:
        assert states(database) == ["REPORTED"] * 4 + ["RECEIVING"] * 3
        assert len(LogSearch(database).page(LogQuery(words="sally", patients=True)).rows) == 4
        again = Carrier(there, database, node.work, node.clock)
        assert set(again.deliver()) >= set(node.sent)
        assert states(database)[:4] == ["DELIVERED"] * 4


def test_a_locked_database_is_named_and_waited_for(node, config, qa, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.db.engine._BUSY_TIMEOUT_MS", 50)
    node.database.close()
    with closing(sqlite3.connect(file_of(config))) as other:
        other.execute("BEGIN IMMEDIATE")
        for command in (("db", "rebuild"), ("series", "park", uid_of(6), "--reason", "x")):
            code, _, err = qa(*command)
            assert code == 6, err
            assert "locked" in err
        assert qa("series", "list")[0] == 0
    assert qa("db", "rebuild")[0] == 0


def test_a_series_whose_images_have_left_is_kept_and_not_sent_again(node, config):
    paths = [item.path for item in node.registry.instances(uid_of(1))]
    delete_files(node.layout, paths)
    Retention(node.database).forget(paths)
    node.database.close()
    delete(config)
    rebuild(config)
    with closing(Database(config.database_url)) as database:
        row = Registry(database).series(uid_of(1))
        assert (row.state, row.version, row.received, row.facts.patient_name) == (S.REPORTED, 1, 3, "Sample^Sally")
        assert QualityLog(database).entry(uid_of(1)).result.score == 2.83
        assert Outbox(database).deliveries_of(uid_of(1)) == []


def test_reports_of_an_older_version_keep_their_numbers(node, config):
    """Without a result archive the verdict is gone; the next report must not take the UID of the one that the PACS
    has."""
    report = node.outbox.report(uid_of(2))
    for path in result_archives(config.spool_dir):
        path.unlink()
    node.database.close()
    delete(config)
    done = rebuild(config)
    assert (done.restored, done.without_verdict) == (0, 4)
    with closing(Database(config.database_url)) as database:
        row = Registry(database).series(uid_of(2))
        assert (row.state, row.version) == (S.RECEIVING, 2)
        node.database = database
        assert node.outbox.report(uid_of(2)).sop_instance_uid == report.sop_instance_uid
        node.score(uid_of(2))
        node.report()
        assert node.outbox.report(uid_of(2)).predecessor_uid == report.sop_instance_uid


def test_files_that_cannot_be_used_are_named_and_stay(node, config, qa):
    archive, other, *_ = result_archives(config.spool_dir)
    report = other.with_suffix(".dcm")
    archive.write_text('{"facts": "Sample^Sally"}')
    report.write_bytes(b"nothing")
    other.unlink()
    image = node.layout.absolute(node.registry.instances(uid_of(6))[0].path)
    image.write_bytes(image.read_bytes()[:-1])
    node.database.close()
    delete(config)
    code, out, err = qa("db", "rebuild")
    assert code == 1
    assert "1 damaged" in out
    assert "1 reports without their verdict" in out
    assert archive.name in err
    assert report.name in err
    assert "Sally" not in out + err
    assert archive.exists()
    assert report.exists()


def test_it_refuses_while_a_node_runs(node, config, qa):
    with hold_spool(config.spool_dir):
        code, _, err = qa("db", "rebuild")
        assert code == 3
        assert "stop it first" in err
    Heartbeats(node.database).beat("score", "score-1@elsewhere")
    with pytest.raises(Misconfigured, match="score-1@elsewhere"):
        rebuild(config)
    with pytest.raises(Misconfigured, match="score-1@elsewhere"):
        rebuild(config, new=True)
    assert file_of(config).exists()
    Heartbeats(node.database).gone("score-1@elsewhere")
    assert rebuild(config).added == 3


def test_without_a_spool_there_is_nothing_to_read(node, config, qa, tmp_path):
    config.spool_dir.rename(tmp_path / "elsewhere")
    code, _, err = qa("db", "rebuild")
    assert code == 4
    assert "no spool" in err
