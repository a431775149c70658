"""QIDO-RS and WADO-RS over real HTTP, asked by a client library and by hand."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import uvicorn
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian

from dicom_qa_node.accounts.audit import AuditFilter
from dicom_qa_node.config import Config
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Site
from tests.query_samples import CASES, fill, images_of, report_files
from tests.web_site import bearer, open_site

pytestmark = pytest.mark.integration

CT_CASE = CASES[0]
SLICES = len(images_of(CT_CASE))


@dataclass
class Service:
    """A running web role with reports and images of every case."""

    site: Site
    url: str
    reports: dict[str, Dataset]

    def client(self, role: Role = Role.REVIEWER) -> DICOMwebClient:
        return DICOMwebClient(self.url, headers=bearer(self.site, role))

    def get(self, path: str, role: Role | None = Role.REVIEWER, **headers: str) -> httpx2.Response:
        known = {} if role is None else bearer(self.site, role)
        return httpx2.get(self.url + path, headers={**known, **headers}, timeout=20)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("node")
    site = open_site(folder, api_per_minute=100_000)
    config = Config.model_validate({**site.config.model_dump(), "query": {"images": True}})
    site = dataclasses.replace(site, config=config)
    fill(config, site.database)
    with _serving(site) as address:
        found = {str(ds.StudyInstanceUID): ds for ds in map(dcmread, report_files(config))}
        yield Service(site, f"{address}/dicom-web", found)
    site.database.close()


class _serving:  # noqa: N801 - a context manager, used like a function
    def __init__(self, site: Site) -> None:
        settings = uvicorn.Config(
            create_app(site), port=0, log_config=None, access_log=False, lifespan="off", proxy_headers=False, ws="none"
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def value(item: dict[str, Any], tag: str) -> Any:
    return item[tag].get("Value", [None])[0]


def test_client_library_finds_studies_by_their_keys(service):
    client = service.client()
    found = client.search_for_studies(search_filters={"PatientName": "adams^*", "StudyDate": "20260101-20260131"})
    names = sorted(value(item, "00100010")["Alphabetic"] for item in found)
    assert names == ["Adams^Jane", "Adams^John"]
    (study,) = client.search_for_studies(search_filters={"00080050": "ACC-9"})
    assert study["00080061"]["Value"] == ["CT", "PT", "SR"]
    assert (value(study, "00201206"), value(study, "00080056")) == (4, "ONLINE")
    # The library's Host header lacks the port.
    (study,) = service.get("/studies?AccessionNumber=ACC-9").json()
    assert value(study, "00081190") == f"{service.url}/studies/{CASES[8].study_uid}"
    assert client.search_for_studies(search_filters={"PatientID": "NOBODY"}) == []


def test_names_of_every_alphabet_arrive_in_utf_8(service):
    found = service.client().search_for_studies(fields=["PatientName"])
    names = {tuple(value(item, "00100010").values()) for item in found}
    assert ("Yamada^Tarou", "山田^太郎", "やまだ^たろう") in names
    assert ("Wang^XiaoDong", "王^小东") in names
    assert ("Люкceмбypг",) in names
    answer = service.get("/studies?PatientName=M%C3%BCller*")
    assert answer.headers["content-type"] == "application/dicom+json"
    assert "Müller^Jörg" in answer.content.decode("utf-8")
    assert len(answer.json()) == 1


def test_series_and_instances_below_a_study(service):
    client, study = service.client(), CT_CASE.study_uid
    report = service.reports[study]
    series = client.search_for_series(study)
    assert sorted(value(item, "00080060") for item in series) == ["CT", "SR"]
    (found,) = client.search_for_series(study, search_filters={"Modality": "SR"})
    assert value(found, "0020000E") == report.SeriesInstanceUID
    (instance,) = client.search_for_instances(study, report.SeriesInstanceUID)
    assert value(instance, "00080018") == report.SOPInstanceUID
    assert value(instance, "00080016") == report.SOPClassUID
    everywhere = client.search_for_instances(search_filters={"ConceptNameCodeSequence.CodeValue": "126000"})
    assert len(everywhere) == len(CASES)
    assert value(everywhere[0], "0020000D")
    assert client.search_for_instances(search_filters={"ConceptNameCodeSequence.CodeValue": "1"}) == []


def test_pages_and_fields(service):
    client = service.client()
    whole = [value(item, "0020000D") for item in client.search_for_studies()]
    assert len(whole) == len({case.study_uid for case in CASES})
    paged = [
        value(item, "0020000D")
        for offset in range(0, 15, 4)
        for item in client.search_for_studies(limit=4, offset=offset)
    ]
    assert paged == whole
    (found,) = client.search_for_studies(search_filters={"PatientID": "PAT-1"}, fields=["StudyDescription"])
    assert value(found, "00081030") == "CT thorax"
    (instance,) = client.search_for_instances(
        search_filters={"PatientID": "PAT-1", "Modality": "SR"}, fields=["CurrentRequestedProcedureEvidenceSequence"]
    )
    assert instance["0040A375"]["Value"][0]["0020000D"]["Value"] == [CT_CASE.study_uid]
    assert client.search_for_studies(limit=0) == []


def test_fuzzy_matching_is_refused_with_a_warning_and_literal_matching_done(service):
    answer = service.get("/studies?PatientName=Adams^John&fuzzymatching=true")
    assert answer.headers["warning"].startswith("299 ")
    assert len(answer.json()) == 1
    assert "warning" not in service.get("/studies?fuzzymatching=false").headers


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/studies?Favourite=1", "'Favourite' is neither a DICOM keyword nor a tag"),
        ("/studies?0010=1", "'0010' is neither"),
        ("/studies?Modality=CT", "Modality is not a supported query key for studies"),
        ("/studies?PixelData=1", "PixelData is not a supported query key"),
        ("/studies?PatientID=1&PatientID=2", "PatientID is given twice"),
        ("/studies?StudyInstanceUID=1.2.x", "StudyInstanceUID is not a UID"),
        ("/studies/1.2.x/series", "StudyInstanceUID in the path is not a UID"),
        ("/studies/1.2/series?StudyInstanceUID=1.2", "StudyInstanceUID stands in the path already"),
        ("/studies?limit=-1", "limit must be a whole number"),
        ("/studies?offset=1e3", "offset must be a whole number"),
        ("/studies?fuzzymatching=maybe", "fuzzymatching must be true or false"),
        ("/studies?includefield=Nonsense", "'Nonsense' is neither"),
        ("/instances?ConceptNameCodeSequence=x", "is a sequence"),
        ("/instances?SOPClassUID.CodeValue=x", "is not an attribute of an item of a sequence"),
        (f"/studies?PatientID={'x' * 2000}", "The value of PatientID is too long"),
        ("/studies/1..2/metadata", "StudyInstanceUID in the path is not a UID"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(path, words, service):
    answer = service.get(path, accept="application/dicom+json")
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/studies", "application/dicom+xml", 406),
        ("/studies", "text/csv, image/png;q=0.5", 406),
        ("/studies", "not an accept header", 400),
        ("/studies", 'application/dicom+json; q="x"', 400),
        ("/studies", "x" * 5000, 400),
        (f"/studies/{CT_CASE.study_uid}", "application/json", 406),
        (f"/studies/{CT_CASE.study_uid}", "application/dicom", 406),
        (f"/studies/{CT_CASE.study_uid}", 'multipart/related; type="application/octet-stream"', 406),
        (f"/studies/{CT_CASE.study_uid}", 'multipart/related; type="application/dicom"; transfer-syntax=jpeg', 400),
        (
            f"/studies/{CT_CASE.study_uid}",
            'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90',
            406,
        ),
        (f"/studies/{CT_CASE.study_uid}/metadata", "application/dicom", 406),
        ("/studies/1.2.3", "*/*", 404),
        (f"/studies/{CT_CASE.study_uid}/series/1.2.3/metadata", "*/*", 404),
        (f"/studies/1.2.3/series/{CT_CASE.series_uid}", "*/*", 404),
    ],
)
def test_accept_headers_and_absent_objects(path, accept, status, service):
    assert service.get(path, accept=accept).status_code == status


def test_client_library_retrieves_what_is_stored(service):
    client, study = service.client(), CT_CASE.study_uid
    report = service.reports[study]
    got = client.retrieve_instance(study, report.SeriesInstanceUID, report.SOPInstanceUID)
    assert got == report
    whole = client.retrieve_study(study)
    assert sorted(ds.Modality for ds in whole) == ["CT"] * SLICES + ["SR"]
    assert next(ds for ds in whole if ds.Modality == "SR") == report
    streamed = list(client.iter_series(study, CT_CASE.series_uid))
    assert [ds.Modality for ds in streamed] == ["CT"] * SLICES


def test_single_part_is_the_file_itself(service):
    report = service.reports[CT_CASE.study_uid]
    place = f"/studies/{report.StudyInstanceUID}/series/{report.SeriesInstanceUID}/instances/{report.SOPInstanceUID}"
    answer = service.get(place, accept="application/dicom")
    (path,) = [path for path in report_files(service.site.config) if dcmread(path) == report]
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    implicit = service.get(place, accept=f"application/dicom; transfer-syntax={ImplicitVRLittleEndian}")
    assert implicit.headers["content-type"] == f"application/dicom; transfer-syntax={ImplicitVRLittleEndian}"
    assert implicit.content != answer.content


def test_metadata_is_the_whole_report_and_an_image_without_its_pixels(service):
    client, study = service.client(), CT_CASE.study_uid
    report = service.reports[study]
    (found,) = client.retrieve_series_metadata(study, report.SeriesInstanceUID)
    assert Dataset.from_json(found) == report
    for image in client.retrieve_series_metadata(study, CT_CASE.series_uid):
        assert "7FE00010" not in image
        assert value(image, "00280010") > 0
    assert len(client.retrieve_study_metadata(study)) == SLICES + 1


def test_only_roles_that_see_patients_get_anything(service):
    study = CT_CASE.study_uid
    for path in ("/studies", f"/studies/{study}", f"/studies/{study}/metadata", "/instances?PatientID=PAT-1"):
        refused = service.get(path, Role.VIEWER, accept="*/*")
        assert refused.status_code == 403
        stranger = service.get(path, None)
        assert (stranger.status_code, stranger.headers["www-authenticate"]) == (401, "Bearer")
        for answer in (refused, stranger):
            assert b"PAT-1" not in answer.content
            assert b"Adams" not in answer.content
    assert service.get("/studies", None, authorization="Bearer nonsense").status_code == 401


def test_every_retrieval_is_in_the_audit_log(service):
    report = service.reports[CASES[2].study_uid]
    before = len(service.site.audit.entries(AuditFilter(), limit=1000))
    service.client().retrieve_study_metadata(CASES[2].study_uid)
    service.client().search_for_studies()
    entries = service.site.audit.entries(AuditFilter(), limit=1000)
    events = [(entry.event, entry.kind, entry.study_instance_uid) for entry in entries[: len(entries) - before]]
    assert ("dicomweb.retrieve", "study", str(report.StudyInstanceUID)) in events
    assert ("dicomweb.search", "study", "") in events


def test_file_that_is_gone_is_told_before_anything_is_sent(service):
    report = service.reports[CASES[10].study_uid]
    (path,) = [path for path in report_files(service.site.config) if dcmread(path) == report]
    content = path.read_bytes()
    path.unlink()
    try:
        answer = service.get(f"/studies/{CASES[10].study_uid}", accept="*/*")
    finally:
        path.write_bytes(content)
    assert answer.status_code == 410
    assert "no longer in the spool" in answer.text


def test_without_images_only_reports_are_offered(service):
    config = Config.model_validate({**service.site.config.model_dump(), "query": {"images": False}})
    with _serving(dataclasses.replace(service.site, config=config)) as address:
        url = f"{address}/dicom-web/instances?PatientID=PAT-1"
        (found,) = httpx2.get(url, headers=bearer(service.site, Role.ADMIN)).json()
        assert value(found, "00080060") == "SR"
    off = Config.model_validate({**service.site.config.model_dump(), "query": {"enabled": False}})
    with _serving(dataclasses.replace(service.site, config=off)) as address:
        assert httpx2.get(f"{address}/dicom-web/studies", headers=bearer(service.site, Role.ADMIN)).status_code == 404


@pytest.mark.peers("dciodvfy")
def test_what_comes_back_is_valid(service, run_tool, tmp_path):
    report = service.reports[CT_CASE.study_uid]
    client = service.client()
    got = client.retrieve_instance(CT_CASE.study_uid, report.SeriesInstanceUID, report.SOPInstanceUID)
    got.save_as(tmp_path / "got.dcm", enforce_file_format=True)
    done = run_tool("dciodvfy", tmp_path / "got.dcm")
    assert "Comprehensive3DSR" in done.stdout + done.stderr
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
