"""Links to viewers: what the configuration takes, and that no value of a series can change an address."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dicom_qa_node.config import Web
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.web.viewer_links import viewer_links
from tests.scored_series import add_ct
from tests.web_site import Role, logged_in, open_site

FACTS = SeriesHeader("1.2.3.4", "1.2.3", "CT", patient_id="A/7 &x=1", accession_number="ACC#9")
OHIF = (
    "https://pacs.example/ohif/viewer?StudyInstanceUIDs={StudyInstanceUID}&initialSeriesInstanceUID={SeriesInstanceUID}"
)
WEASIS = (
    "weasis://%24dicom%3Ars%20--url%20%22https%3A%2F%2Fpacs.example%2Frs%22%20-r%20%22studyUID%3D{StudyInstanceUID}%22"
)


def web(*urls: str, **more: object) -> Web:
    return Web.model_validate({"viewers": [{"name": f"v{n}", "url": url} for n, url in enumerate(urls)], **more})


def links(web: Web, facts: SeriesHeader = FACTS, *, patients: bool = True) -> list[str]:
    return [link.url for link in viewer_links(web.viewers, facts, patients=patients)]


def test_the_examples_of_the_documentation_give_addresses():
    assert links(web(OHIF, WEASIS)) == [
        "https://pacs.example/ohif/viewer?StudyInstanceUIDs=1.2.3&initialSeriesInstanceUID=1.2.3.4",
        "weasis://%24dicom%3Ars%20--url%20%22https%3A%2F%2Fpacs.example%2Frs%22%20-r%20%22studyUID%3D1.2.3%22",
    ]


def test_values_are_encoded_and_cannot_leave_their_place():
    own = "https://pacs.example/open?pid={PatientID}&acc={AccessionNumber}&uid={StudyInstanceUID}"
    assert links(web(own)) == ["https://pacs.example/open?pid=A%2F7%20%26x%3D1&acc=ACC%239&uid=1.2.3"]


@pytest.mark.parametrize("uid", ["", "1.2'><script>", "javascript:alert(1)", "1..2", "1.2/../3", "9" * 65])
def test_what_is_not_a_uid_gives_no_link(uid):
    assert links(web(OHIF), SeriesHeader("1.2.3.4", uid, "CT")) == []


def test_who_sees_no_patients_gets_no_link_that_names_one():
    found = web(OHIF, "https://pacs.example/?pid={PatientID}&uid={StudyInstanceUID}")
    assert len(links(found)) == 2
    assert len(links(found, patients=False)) == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("javascript:alert({StudyInstanceUID})", "not in viewer_schemes"),
        ("JavaScript:alert({StudyInstanceUID})", "not in viewer_schemes"),
        ("data:text/html,{StudyInstanceUID}", "not in viewer_schemes"),
        ("radiant://?n=pstv&v={StudyInstanceUID}", "not in viewer_schemes"),
        ("/viewer?uid={StudyInstanceUID}", "not an address"),
        ("https://pacs.example/ {StudyInstanceUID}", "not an address"),
        ("java\nscript:{StudyInstanceUID}", "not an address"),
        ('https://pacs.example/"{StudyInstanceUID}', "percent-encoded"),
        ("https://pacs.example/{PatientName}?{StudyInstanceUID}", r"\{PatientName\}"),
        ("https://pacs.example/{StudyInstanceUID", "brace"),
        ("https://pacs.example/viewer", "names no study"),
        ("https://{StudyInstanceUID}/viewer", "placeholder"),
        ("https://user@pacs.example/{StudyInstanceUID}", "host"),
        ("https:///{StudyInstanceUID}", "host"),
    ],
)
def test_a_template_that_cannot_be_right_is_refused(url, reason):
    with pytest.raises(ValidationError, match=reason):
        web(url)


def test_further_schemes_are_configured_and_dangerous_ones_never_are():
    assert links(web("radiant://?n=pstv&v={StudyInstanceUID}", viewer_schemes=["radiant"])) == [
        "radiant://?n=pstv&v=1.2.3"
    ]
    for scheme in ("javascript", "data", "vbscript", "file", "blob", "bad scheme", "-x", ""):
        with pytest.raises(ValidationError, match="viewer_schemes"):
            web(OHIF, viewer_schemes=[scheme])


def test_the_pages_show_them(tmp_path):
    site = open_site(tmp_path, viewers=[{"name": "OHIF", "url": OHIF}])
    uid = add_ct(site.config, site.database, tmp_path, rows=64, slices=8)
    client = logged_in(site, Role.VIEWER)
    for path in ("/log", f"/series/{uid}"):
        page = client.get(path).text
        assert f"initialSeriesInstanceUID={uid}" in page, path
        assert 'rel="noopener noreferrer"' in page
    queue = logged_in(site, Role.REVIEWER).get(f"/review?series={uid}").text
    assert f"initialSeriesInstanceUID={uid}" in queue
    site.database.close()
