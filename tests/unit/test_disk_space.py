from __future__ import annotations

from pathlib import Path

import pytest

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.spool.disk_space import DiskGauge, DiskUsage, SpoolFull, delete_files, disk_usage
from dicom_qa_node.spool.layout import SpoolLayout

MIB = 1024 * 1024


def test_the_gauge_closes_at_the_watermark_and_opens_again_above_the_other(tmp_path: Path) -> None:
    free, now = [300.0], [0.0]
    gauge = DiskGauge(
        tmp_path,
        100,
        200,
        every_s=1,
        usage=lambda _: DiskUsage(1000 * MIB, int(free[0] * MIB)),
        clock=lambda: now[0],
    )
    answers = []
    for space in (300, 150, 99, 150, 199, 200, 150):
        free[0] = space
        now[0] += 1
        answers.append(gauge.has_room())
    assert answers == [True, True, False, False, False, True, True]


def test_the_gauge_looks_at_the_disk_once_in_a_while(tmp_path: Path) -> None:
    looked, now = [0], [0.0]

    def usage(_: Path) -> DiskUsage:
        looked[0] += 1
        return DiskUsage(10, 10)

    gauge = DiskGauge(tmp_path, 1, 1, every_s=1, usage=usage, clock=lambda: now[0])
    for _ in range(5):
        with pytest.raises(SpoolFull):
            gauge.require_space()
    assert looked == [1]
    now[0] = 1.0
    assert not gauge.has_room()
    assert looked == [2]


def test_disk_usage_is_that_of_the_file_system(tmp_path: Path) -> None:
    found = disk_usage(tmp_path)
    assert 0 < found.free_bytes <= found.total_bytes


def test_only_the_listed_files_go(tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path)
    layout.create()
    paths = [f"instances/00/{number}.dcm" for number in range(4)]
    for path in paths:
        layout.absolute(path).write_bytes(b"12345")
    done = delete_files(layout, [*paths[:2], "instances/00/gone.dcm"])
    assert (done.files, done.freed_bytes, done.failed) == (2, 10, ())
    assert sorted(path.name for path in (tmp_path / "instances/00").iterdir()) == ["2.dcm", "3.dcm"]


def test_a_folder_is_never_deleted(tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path)
    layout.create()
    (tmp_path / "instances/00/x.dcm").write_bytes(b"1")
    assert delete_files(layout, ["instances/00", "instances"]).failed == ("instances/00", "instances")
    assert (tmp_path / "instances/00/x.dcm").exists()


def test_nothing_outside_the_spool_is_deleted(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"1")
    with pytest.raises(Permanent):
        delete_files(SpoolLayout(tmp_path / "spool"), ["../outside"])
    assert outside.exists()
