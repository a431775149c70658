"""QIDO-RS and WADO-RS within bounds: the length of lists, the number of keys, time, and memory of what is sent."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator

import httpx2
import pytest

from dicom_qa_node.config import Config
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.web.dicomweb import wado
from tests.integration.test_dicomweb import Service, _serving
from tests.load.process_meter import ProcessMeter
from tests.query_samples import CASES, fill, images_of, keep
from tests.web_site import bearer, open_site

pytestmark = pytest.mark.integration

MOST_MB, MOST_CPU_S = 24.0, 2.0
MIB = 1 << 20
LARGE_MB = 64
IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A web role with three cases, and one image of 64 MB."""
    site = open_site(tmp_path_factory.mktemp("node"), api_per_minute=100_000)
    config = Config.model_validate({**site.config.model_dump(), "query": {"images": True}})
    site = dataclasses.replace(site, config=config)
    fill(config, site.database, CASES[:3])
    with _serving(site) as address:
        yield Service(site, f"{address}/dicom-web", {})
    site.database.close()


@pytest.fixture(scope="module")
def large(service: Service) -> str:
    """Keep an image of 64 MB; return its address."""
    ds = images_of(CASES[0], 1)[0]
    ds.SOPInstanceUID = f"{CASES[0].series_uid}.999"
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.BitsAllocated = 512, 512, LARGE_MB * 2, 16
    ds.PixelData = bytes(LARGE_MB * MIB)
    held = keep(service.site.config.spool_dir, ds)
    Registry(service.site.database).record([held])
    return f"/studies/{CASES[0].study_uid}/series/{CASES[0].series_uid}/instances/{ds.SOPInstanceUID}"


COSTLY = {
    "parameters": ("/studies?" + "&".join(["includefield=PatientName"] * 400), 400),
    "UIDs in a list": ("/studies?StudyInstanceUID=" + ",".join(["1.2.3"] * 8000), 400),
    "UIDs that are allowed": ("/studies?StudyInstanceUID=" + ",".join(f"1.2.{n}" for n in range(500)), 204),
    "alternatives of a text": ("/studies?PatientID=" + "%5C".join(["X"] * 500), 400),
    "wildcards": ("/studies?PatientName=" + "*a" * 30 + "b", 204),
    "more wildcards than allowed": ("/studies?PatientName=" + "*a" * 20_000, 400),
    "a value of 50 kB": ("/studies?PatientName=" + "x" * 50_000, 400),
    "a path of attributes": ("/instances?" + ".".join(["ConceptNameCodeSequence"] * 1000) + "=1", 400),
    "every field, many times": ("/instances?includefield=" + ",".join(["all"] * 10_000), 200),
    "unknown fields": ("/studies?includefield=" + ",".join(["Nonsense"] * 5000), 400),
    "a window of billions": ("/instances?limit=2147483647&offset=2147483647", 204),
    "a date range of nonsense": ("/studies?StudyDate=" + "-" * 1000, 204),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_search_is_answered_for_little(service: Service, name: str) -> None:
    path, status = COSTLY[name]
    service.get("/studies")
    meter, began = ProcessMeter(os.getpid()), time.process_time()
    with meter.input() as used:
        answer = service.get(path)
    assert answer.status_code == status, answer.text[:300]
    assert time.process_time() - began < MOST_CPU_S
    assert used.grown_mb < MOST_MB


def test_a_search_that_takes_too_long_is_refused_with_what_helps(service: Service) -> None:
    query = service.site.config.query.model_copy(update={"search_s": 1e-9})
    config = service.site.config.model_copy(update={"query": query})
    with _serving(dataclasses.replace(service.site, config=config)) as address:
        url, headers = f"{address}/dicom-web/instances", bearer(service.site, Role.REVIEWER)
        answer = httpx2.get(url, headers=headers, timeout=20)
    assert answer.status_code == 413
    assert "name more keys" in answer.json()["detail"]


@pytest.mark.parametrize("accept", ["application/dicom", 'multipart/related; type="application/dicom"'])
def test_what_is_retrieved_is_read_while_it_is_sent(service: Service, large: str, accept: str) -> None:
    service.get("/studies")
    meter, received = ProcessMeter(os.getpid()), 0
    with meter.input() as used:
        headers = {**bearer(service.site, Role.REVIEWER), "accept": accept}
        with httpx2.stream("GET", service.url + large, headers=headers, timeout=60) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_raw():
                received += len(piece)
    assert received > LARGE_MB * MIB
    assert used.grown_mb < MOST_MB


def test_metadata_of_a_large_object_costs_its_header(service: Service, large: str) -> None:
    service.get("/studies")
    meter = ProcessMeter(os.getpid())
    with meter.input() as used:
        answer = service.get(f"{large}/metadata")
    assert answer.status_code == 200
    assert used.grown_mb < MOST_MB


def test_what_is_too_large_is_not_encoded_anew(service: Service, large: str, monkeypatch) -> None:
    monkeypatch.setattr(wado, "_MOST_ENCODED_BYTES", (LARGE_MB - 1) * MIB)
    meter = ProcessMeter(os.getpid())
    with meter.input() as used:
        answer = service.get(large, accept=f"application/dicom; transfer-syntax={IMPLICIT}")
    assert answer.status_code == 406
    assert "too large to be encoded anew" in answer.json()["detail"]
    assert used.grown_mb < MOST_MB
