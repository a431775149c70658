from __future__ import annotations

from pathlib import Path

import pytest

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import InvalidUid, check_uid, is_uid, uid_key
from dicom_qa_node.spool.layout import SpoolLayout

HOSTILE = [
    "",
    "../../etc/passwd",
    "1.2.3/../../x",
    "1.2\0.3",
    "1..2",
    ".1.2",
    "1.2.",
    "1",
    "1.2\n",
    "a.b",
    "１.２",
]


@pytest.mark.parametrize("text", ["1.2", "1.2.840.10008.1.2", "2.25.0", "1." + "2" * 62, "1.02.3"])
def test_uids_that_archives_store_are_accepted(text: str) -> None:
    assert is_uid(text)
    assert check_uid(text, "x") == text


@pytest.mark.parametrize("text", [*HOSTILE, "1." + "2" * 63])
def test_anything_else_is_no_uid(text: str) -> None:
    assert not is_uid(text)
    with pytest.raises(InvalidUid):
        check_uid(text, "SOP Instance UID")


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isascii()])
def test_no_string_of_a_peer_leads_out_of_the_spool(tmp_path: Path, text: str) -> None:
    layout = SpoolLayout(tmp_path)
    for path in (layout.instance(text), layout.conflict(text, "0" * 64)):
        assert path.resolve().is_relative_to(tmp_path.resolve())
        assert set(path.stem) <= set("0123456789abcdef-")


def test_different_uids_have_different_keys_of_one_length() -> None:
    keys = {uid_key(f"1.2.{number}") for number in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {32}


def test_create_makes_private_folders_and_may_be_repeated(tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path / "spool")
    layout.create()
    layout.create()
    assert len(list(layout.instances.iterdir())) == 256
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_a_stored_path_must_stay_inside(tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path)
    assert layout.absolute("instances/00/x.dcm") == tmp_path / "instances/00/x.dcm"
    for path in ("../x", "/etc/passwd", "instances/../../x"):
        with pytest.raises(Permanent):
            layout.absolute(path)
