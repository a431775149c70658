"""The node answers the same queries as DCMTK's dcmqrscp that holds the same objects, point by point."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.query.service import open_query_service
from tests.conftest import poll_until
from tests.peers.query_cases import DEVIATIONS, PATIENT, QUERIES
from tests.query_samples import PATIENT_FIND, STUDY_FIND, fill, identifier, serving

pytestmark = [pytest.mark.peers("dcmqrscp", "dcmqridx"), pytest.mark.integration]

QRSCP = """
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {folder} RW (500, 1024mb) ANY
AETable END
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, int]]:
    folder = tmp_path_factory.mktemp("node")
    config = Config.model_validate(
        {"database_url": f"sqlite:///{folder}/q.db", "spool_dir": folder / "spool", "query": {"images": True}}
    )
    database = Database(config.database_url)
    database.upgrade()
    fill(config, database)
    with serving(config, database, open_query_service(config, database)) as port:
        yield config, port
    database.close()


@pytest.fixture(scope="module")
def dcmqrscp(node: tuple[Config, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("qrscp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "db").mkdir()
    (folder / "qrscp.cfg").write_text(QRSCP.format(port=port, folder=folder / "db"))
    # Its C-STORE knows no Comprehensive 3D SR; what is in its index it answers for all the same.
    spool = node[0].spool_dir
    files = [str(path) for part in ("instances", "reports") for path in (spool / part).rglob("*.dcm")]
    subprocess.run([_dcmtk("dcmqridx"), str(folder / "db"), *files], check=True, capture_output=True, timeout=120)
    server = subprocess.Popen(
        [_dcmtk("dcmqrscp"), "-c", str(folder / "qrscp.cfg")], env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        poll_until(lambda: _listening(port), 20, "dcmqrscp listens")
        yield port
    finally:
        server.terminate()
        server.wait(20)


def _dcmtk(name: str) -> str:
    path = shutil.which(name, path="/usr/bin")
    assert path is not None
    return path


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked(port: int, called: str, model: str, query: Dataset) -> tuple[list[tuple[str, ...]], str]:
    """Return the matches, each as the values of what was asked for, and how the query ended."""
    ae = AE("ASKER")
    ae.acse_timeout = ae.dimse_timeout = 20
    sop_class = PATIENT_FIND if model == PATIENT else STUDY_FIND
    ae.add_requested_context(sop_class)
    assoc = ae.associate("127.0.0.1", port, ae_title=called)
    assert assoc.is_established
    keywords = [element.keyword for element in query if element.keyword != "SpecificCharacterSet"]
    matches, end = [], ""
    for status, answer in assoc.send_c_find(query, sop_class):
        if answer is not None and status.Status in (0xFF00, 0xFF01):
            matches.append(tuple(_shown(answer, keyword) for keyword in keywords))
        else:
            end = "success" if status.Status == 0 else "refused"
    assoc.release()
    return sorted(matches), end


def _shown(answer: Dataset, keyword: str) -> str:
    value: Any = answer.get(keyword)
    if value is None:
        return ""
    return "\\".join(sorted(map(str, value))) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("name", QUERIES)
def test_same_answers(name: str, node: tuple[Config, int], dcmqrscp: int) -> None:
    model, level, keys = QUERIES[name]
    query = identifier(level, **keys)
    ours = asked(node[1], "DICOMQA", model, query)
    theirs = asked(dcmqrscp, "QRSCP", model, query)
    if name not in DEVIATIONS:
        assert ours == theirs
        return
    why, keyword, values = DEVIATIONS[name]
    assert ours != theirs, f"no deviation any more: {why}"
    place = [element.keyword for element in query].index(keyword)
    assert {match[place] for match in ours[0]} == values


def test_enough_queries_agree() -> None:
    assert len(QUERIES) - len(DEVIATIONS) >= 60
