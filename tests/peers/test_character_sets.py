"""Names in many character sets, stored by storescu, are found by findscu and answered as its user can read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import PersonName

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.query.service import open_query_service
from tests.query_samples import CASES, Case, images_of, serving

pytestmark = [pytest.mark.peers("findscu", "storescu", "dcmdump"), pytest.mark.integration]

LATIN, UTF8 = "ISO_IR 100", "ISO_IR 192"
JAPANESE, KATAKANA = ["", "ISO 2022 IR 87"], ["ISO 2022 IR 13", "ISO 2022 IR 87"]
KOREAN, CHINESE = ["", "ISO 2022 IR 149"], ["", "ISO 2022 IR 58"]

NAMES: dict[str, tuple[str | list[str], str]] = {
    "german": (LATIN, "Müller^Jörg"),
    "japanese": (JAPANESE, "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "katakana": (KATAKANA, "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^花子=やまだ^はなこ"),
    "korean": (KOREAN, "Hong^Gildong=洪^吉洞=홍^길동"),
    "gb2312": (CHINESE, "Zhang^XiaoDong=张^小东"),
    "gb18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "gbk": ("GBK", "Li^Na=李^娜"),
    "cyrillic": ("ISO_IR 144", "Люксембург^Роза"),
    "greek": ("ISO_IR 126", "Διονυσιος"),
    "polish": ("ISO_IR 101", "Wałęsa^Łucja"),
    "unicode": (UTF8, "Žluťoučký^Kůň=王^小東"),
}


def name_in(charset: str | list[str], name: str) -> str | PersonName:
    """Return a name as a data set takes it."""
    if charset != CHINESE:
        return name
    # pydicom writes no escape sequences for GB 2312 (PS3.5 annex K.2): before each component that needs them.
    parts = [f"{part}" if part.isascii() else f"\x1b$)A{part}" for part in re.split(r"([=^])", name)]
    return PersonName("".join(parts).encode("gb2312"), ["iso8859", "iso_ir_58"])


def case_of(number: int, label: str) -> Case:
    charset, name = NAMES[label]
    return replace(
        CASES[0], number=100 + number, name=name_in(charset, name), patient_id=label.upper(), charset=charset
    )


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Database, dict[str, Path]]]:
    """An empty node, and a file of every name."""
    folder = tmp_path_factory.mktemp("node")
    config = Config.model_validate(
        {"database_url": f"sqlite:///{folder}/q.db", "spool_dir": folder / "spool", "query": {"images": True}}
    )
    database = Database(config.database_url)
    database.upgrade()
    files = {}
    for number, label in enumerate(NAMES):
        (image,) = images_of(case_of(number, label), 1)
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        files[label] = folder / f"{label}.dcm"
        image.save_as(files[label], enforce_file_format=True)
    yield config, database, files
    database.close()


class Asker:
    """A findscu that asks in a character set."""

    def __init__(self, port: int, folder: Path, run_tool: Any) -> None:
        self._port, self._folder, self._run_tool = port, folder, run_tool
        self._asked = 0

    def ask(self, charset: str | list[str], **keys: str) -> list[Dataset]:
        self._asked += 1
        query, answers = self._folder / f"{self._asked}.dcm", self._folder / f"{self._asked}"
        answers.mkdir()
        ds = Dataset()
        ds.SpecificCharacterSet = charset
        ds.QueryRetrieveLevel = "STUDY"
        ds.StudyInstanceUID = ds.PatientID = ds.PatientName = ""
        for keyword, value in keys.items():
            setattr(ds, keyword, name_in(charset, value) if keyword == "PatientName" else value)
        ds.save_as(query, implicit_vr=True, little_endian=True)
        self._run_tool("findscu", "-S", "-X", "-od", answers, "127.0.0.1", self._port, query, check=True)
        return [dcmread(path, force=True) for path in sorted(answers.iterdir())]

    def patients(self, charset: str | list[str], name: str) -> set[str]:
        return {str(answer.PatientID) for answer in self.ask(charset, PatientName=name)}


@pytest.fixture
def asker(held: Any, tmp_path: Path, run_tool: Any) -> Iterator[Asker]:
    config, database, files = held
    with serving(config, database, open_query_service(config, database)) as port:
        run_tool("storescu", "127.0.0.1", port, *files.values(), check=True)
        yield Asker(port, tmp_path, run_tool)


def charset_of(answer: Dataset) -> list[str]:
    value = answer.get("SpecificCharacterSet", "")
    return [value or ""] if isinstance(value, str) or value is None else [str(part) for part in value]


def test_each_name_comes_back_in_the_character_set_that_asks(asker: Asker, run_tool: Any) -> None:
    dumped = 0
    for label, (charset, name) in NAMES.items():
        first = name.split("=")[-1].split("^")[0]
        (answer,) = asker.ask(charset, PatientID=label.upper())
        assert str(answer.PatientName) == name, label
        asked = [charset] if isinstance(charset, str) else charset
        assert charset_of(answer) == asked, label
        # What DCMTK makes of the bytes; as Debian builds it, it knows no ISO 2022 Japanese.
        shown = run_tool("dcmdump", "+U8", answer.filename)
        assert f"[{name}]" in shown.stdout or "is not supported" in shown.stderr, shown
        dumped += shown.returncode == 0
        assert label.upper() in asker.patients(charset, f"*{first}*"), label
    assert dumped >= 8


def test_unicode_asks_for_them_all_and_finds_each(asker: Asker) -> None:
    for label, (_, name) in NAMES.items():
        (answer,) = asker.ask(UTF8, PatientID=label.upper())
        assert str(answer.PatientName) == name, label
        assert charset_of(answer) == [UTF8]
        for group in name.split("="):
            assert label.upper() in asker.patients(UTF8, f"{group.split('^')[0]}*"), group


def test_a_set_that_cannot_carry_a_name_is_answered_in_unicode(asker: Asker) -> None:
    for label in ("japanese", "korean", "gb18030", "cyrillic"):
        for asked in (LATIN, "", "ISO_IR 126"):
            (answer,) = asker.ask(asked, PatientID=label.upper())
            assert charset_of(answer) == [UTF8]
            assert str(answer.PatientName) == NAMES[label][1]


def test_case_and_component_groups(asker: Asker) -> None:
    assert asker.patients(LATIN, "MÜLLER^jörg") == {"GERMAN"}
    assert asker.patients("ISO_IR 144", "люксембург*") == {"CYRILLIC"}
    assert asker.patients("ISO_IR 101", "WAŁĘSA*") == {"POLISH"}
    assert asker.patients(JAPANESE, "=山田*") == {"JAPANESE", "KATAKANA"}
    assert asker.patients(JAPANESE, "==やまだ^は*") == {"KATAKANA"}
    assert asker.patients(JAPANESE, "yamada*=山田^花子") == set()
    assert asker.patients(KOREAN, "HONG*==홍*") == {"KOREAN"}
    assert asker.patients("", "li^na") == {"GBK"}
