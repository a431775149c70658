"""DCMTK's findscu, movescu and getscu, and Orthanc as an asking PACS, get what the node holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.query.service import open_query_service
from tests.peers.orthanc_peer import start_orthanc
from tests.query_samples import CASES, digest, fill, serving

pytestmark = [pytest.mark.peers("findscu", "movescu", "getscu", "Orthanc"), pytest.mark.integration]


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Database]]:
    """A spool and a database with every case."""
    folder = tmp_path_factory.mktemp("holder")
    config = Config.model_validate({"database_url": f"sqlite:///{folder}/q.db", "spool_dir": folder / "spool"})
    database = Database(config.database_url)
    database.upgrade()
    fill(config, database)
    yield config, database
    database.close()


def with_query(config: Config, **query: Any) -> Config:
    return config.model_copy(update={"query": type(config.query).model_validate(query)})


def stored(config: Config, *parts: str) -> dict[str, str]:
    files = [path for part in parts for path in (config.spool_dir / part).rglob("*.dcm")]
    return dict(map(digest, files))


def brought(folder: Path) -> dict[str, str]:
    return dict(digest(path) for path in folder.iterdir())


def keys(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("-k", pair)]


def test_findscu_finds_reports_only(holder: Any, run_tool: Any, tmp_path: Path) -> None:
    config, database = holder
    with serving(config, database, open_query_service(config, database)) as port:
        done = run_tool(
            "findscu", "-S", "-aec", "DICOMQA", "-X", "-od", tmp_path, "127.0.0.1", port,
            *keys("QueryRetrieveLevel=STUDY", "PatientName=Brown*", "StudyInstanceUID", "ModalitiesInStudy",
                  "NumberOfStudyRelatedInstances", "PatientID"),
            check=True,
        )  # fmt: skip
    answers = [dcmread(path, force=True) for path in sorted(tmp_path.iterdir())]
    assert done.returncode == 0
    assert {answer.StudyInstanceUID for answer in answers} == {CASES[7].study_uid, CASES[8].study_uid}
    assert {answer.ModalitiesInStudy for answer in answers} == {"SR"}
    assert sorted(answer.NumberOfStudyRelatedInstances for answer in answers) == [1, 2]
    assert {answer.RetrieveAETitle for answer in answers} == {"DICOMQA"}


@pytest.mark.parametrize(
    ("charset", "name", "number"),
    [
        ("ISO_IR 100", "Müller*".encode("latin-1"), 3),
        ("ISO_IR 192", "*=山田*".encode(), 4),
        ("ISO_IR 192", "*山田*".encode(), 4),
        ("ISO_IR 144", "Люк*".encode("iso8859-5"), 6),
        ("GB18030", "*=王*".encode("gb18030"), 7),
    ],
)
def test_findscu_in_the_character_set_of_the_asker(
    holder: Any, run_tool: Any, tmp_path: Path, charset: str, name: bytes, number: int
) -> None:
    config, database = holder
    from pydicom import Dataset

    query = Dataset()
    query.SpecificCharacterSet = charset
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = ""
    query.PatientName = name.decode({"ISO_IR 100": "latin-1", "ISO_IR 144": "iso8859-5"}.get(charset, "utf-8")
                                    if charset != "GB18030" else "gb18030")  # fmt: skip
    query.save_as(tmp_path / "query.dcm", implicit_vr=True, little_endian=True)
    (tmp_path / "answers").mkdir()
    with serving(config, database, open_query_service(config, database)) as port:
        run_tool(
            "findscu", "-S", "-aec", "DICOMQA", "-X", "-od", tmp_path / "answers", "127.0.0.1", port,
            tmp_path / "query.dcm", check=True,
        )  # fmt: skip
    (answer,) = [dcmread(path, force=True) for path in (tmp_path / "answers").iterdir()]
    case = CASES[number - 1]
    assert answer.StudyInstanceUID == case.study_uid
    assert str(answer.PatientName) == case.name


def test_getscu_brings_the_stored_bytes(holder: Any, run_tool: Any, tmp_path: Path) -> None:
    config, database = holder
    config = with_query(config, images=True)
    with serving(config, database, open_query_service(config, database)) as port:
        done = run_tool(
            "getscu", "-v", "-S", "+B", "-aec", "DICOMQA", "-od", tmp_path, "127.0.0.1", port,
            *keys("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={CASES[8].study_uid}"), check=True,
        )  # fmt: skip
    everything, got = stored(config, "instances", "reports"), brought(tmp_path)
    assert len(got) == 18
    assert got.items() <= everything.items()
    assert re.search(r"Completed Suboperations : 18", done.stdout + done.stderr)


def test_movescu_moves_a_patient(holder: Any, run_tool: Any, free_port: Any, tmp_path: Path) -> None:
    config, database = holder
    back = free_port()
    config = with_query(config, destinations=[{"ae_title": "MOVER", "host": "127.0.0.1", "port": back}])
    with serving(config, database, open_query_service(config, database)) as port:
        done = run_tool(
            "movescu", "-v", "-P", "-aet", "MOVER", "-aem", "MOVER", "-aec", "DICOMQA", "+P", back, "-od",
            tmp_path, "127.0.0.1", port, *keys("QueryRetrieveLevel=PATIENT", "PatientID=PAT-8"), check=True,
        )  # fmt: skip
    got = brought(tmp_path)
    assert len(got) == 3, done.stdout + done.stderr
    assert got.items() <= stored(config, "reports").items()
    assert "Received Final Move Response (Success)" in done.stdout + done.stderr


def test_movescu_to_an_unknown_destination(holder: Any, run_tool: Any) -> None:
    config, database = holder
    with serving(config, database, open_query_service(config, database)) as port:
        done = run_tool(
            "movescu", "-v", "-S", "-aem", "NOBODY", "-aec", "DICOMQA", "127.0.0.1", port,
            *keys("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={CASES[0].study_uid}"),
        )  # fmt: skip
    assert "MoveDestinationUnknown" in done.stdout + done.stderr


def test_orthanc_queries_and_retrieves(
    holder: Any, tmp_path: Path, free_port: Any, background: Any, poll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, database = holder
    ports = [free_port(), free_port()]
    destination = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": ports[0]}
    config = with_query(config, destinations=[destination])
    with serving(config, database, open_query_service(config, database)) as port:
        orthanc = start_orthanc(tmp_path, lambda: ports.pop(0), background, poll, port)
        found = orthanc.ask("modalities/node/query", {"Level": "Study", "Query": {"PatientID": "PAT-8"}})
        answers = orthanc.ask(f"queries/{found['ID']}/answers?expand&simplify")
        assert {answer["StudyInstanceUID"] for answer in answers} == {CASES[7].study_uid, CASES[8].study_uid}
        orthanc.ask(f"queries/{found['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
        assert len(orthanc.ask("instances")) == 3
        japanese = {"Level": "Study", "Query": {"PatientName": "Yamada*"}}
        found = orthanc.ask("modalities/node/query", japanese)
        (answer,) = orthanc.ask(f"queries/{found['ID']}/answers?expand&simplify")
        assert answer["PatientName"] == CASES[3].name
        series = {"Level": "Series", "Query": {"StudyInstanceUID": CASES[8].study_uid, "Modality": "SR"}}
        found = orthanc.ask("modalities/node/query", series)
        assert len(orthanc.ask(f"queries/{found['ID']}/answers")) == 2
    uids = {item["MainDicomTags"]["SOPInstanceUID"] for item in orthanc.ask("instances?expand")}
    assert uids <= set(stored(config, "reports"))
