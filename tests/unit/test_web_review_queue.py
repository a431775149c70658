"""The review queue as pages: by plain forms, audited, one after the other."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from dicom_qa_node.accounts.audit import Audit, AuditFilter
from dicom_qa_node.domain.results import Finding, Severity
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.quality_log.review_queue import QueueScope, ReviewQueue
from dicom_qa_node.quality_log.reviews import Reviews
from tests.realistic_log import fill
from tests.web_site import NAMES, Role, logged_in, open_site


@pytest.fixture
def site(tmp_path):
    site = open_site(tmp_path)
    fill(site.database, 200, days=20)
    yield site
    site.database.close()


@pytest.fixture
def client(site):
    return logged_in(site, Role.REVIEWER)


@pytest.fixture
def waiting(site):
    return ReviewQueue(site.database).page(QueueScope.OPEN, number_of(site, Role.REVIEWER), limit=500)


def number_of(site, role: Role) -> int:
    return site.accounts.named(NAMES[role]).account_id


def uid_of(item) -> str:
    return item.row.facts.series_instance_uid


def send(client, uid, version=1, **form):
    return client.post(f"/review/{uid}/v{version}", data={"csrf": client.csrf, **form})


def shown(page: str) -> str:
    found = re.search(r'action="/review/([0-9.]+)/v\d+"', page)
    return found[1] if found else ""


def words_of(answer) -> dict[str, str]:
    assert answer.status_code == 303, answer.text
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


def test_the_longest_waiting_is_shown_and_the_next_follows_a_decision(site, client, waiting):
    assert len(waiting) > 4
    assert shown(client.get("/review").text) == uid_of(waiting[0])
    words = words_of(send(client, uid_of(waiting[0]), opinion="agree"))
    assert words == {"series": uid_of(waiting[1]), "said": "agree", "of": uid_of(waiting[0])}
    page = client.get(f"/review?series={words['series']}&said=agree&of={words['of']}").text
    assert shown(page) == uid_of(waiting[1])
    assert f"series={uid_of(waiting[2])}" in page
    (review,) = Reviews(site.database).of(uid_of(waiting[0]))
    assert (review.reviewer, review.agrees, review.score) == ("rudi", True, None)


def test_the_gravest_finding_stands_first(client, monkeypatch):
    entry_of = QualityLog.entry
    found = tuple(Finding(one.value, one, "") for one in (Severity.INFO, Severity.ERROR, Severity.WARNING))

    def entry(log, uid, version=None):
        entry = entry_of(log, uid, version)
        return replace(entry, result=replace(entry.result, findings=found))

    monkeypatch.setattr(QualityLog, "entry", entry)
    page = client.get("/review").text
    shown = re.findall(r'<li><span class="badge [a-z]*">(error|warning|info)</span>', page)
    assert shown == ["error", "warning", "info"]


def test_a_decision_in_the_middle_goes_on_from_there(client, waiting):
    assert words_of(send(client, uid_of(waiting[3]), opinion="agree"))["series"] == uid_of(waiting[4])
    last = uid_of(waiting[-1])
    assert "series" not in words_of(send(client, last, opinion="agree"))


def test_an_own_score_and_a_comment_are_signed(site, client, waiting):
    item = next(item for item in waiting if item.row.score is not None and item.row.score > 1)
    words = words_of(send(client, uid_of(item), opinion="own", score="0", reason="motion", comment=" Breathing. "))
    assert words["said"] == "disagree"
    (review,) = Reviews(site.database).of(uid_of(item))
    assert (review.agrees, review.score, review.reason, review.comment) == (False, 0.0, "motion", "Breathing.")
    noted = next(row for row in Audit(site.database).entries(AuditFilter(), 20) if row.event == "series.review")
    assert (noted.ident, noted.actor, noted.detail) == (uid_of(item), "rudi", "v1 disagree motion")


def test_an_own_review_without_anything_is_refused_and_stays(site, client, waiting):
    words = words_of(send(client, uid_of(waiting[0]), opinion="own"))
    assert words["series"] == uid_of(waiting[0])
    assert "who disagrees says why" in words["problem"]
    assert Reviews(site.database).of(uid_of(waiting[0])) == []


def test_a_series_is_assigned_and_shown_to_its_person_alone(site, client, waiting):
    uid, ada = uid_of(waiting[2]), number_of(site, Role.ADMIN)
    answer = client.post(
        f"/review/{uid}/assign", data={"csrf": client.csrf, "account": str(ada), "note": "<b>Liver?</b>"}
    )
    assert words_of(answer) == {"series": uid, "said": "assigned"}
    assert f"series={uid}" not in client.get("/review").text
    page = logged_in(site, Role.ADMIN).get("/review?scope=mine").text
    assert shown(page) == uid
    assert "&lt;b&gt;Liver?" in page
    assert (
        next(row for row in Audit(site.database).entries(AuditFilter(), 20) if row.event == "review.assign").detail
        == "to ada"
    )
    vera = number_of(site, Role.VIEWER)
    refused = client.post(f"/review/{uid}/assign", data={"csrf": client.csrf, "account": str(vera)})
    assert "cannot review" in words_of(refused)["problem"]


def test_viewers_have_no_queue(site, waiting):
    client = logged_in(site, Role.VIEWER)
    assert client.get("/review").status_code == 403
    assert send(client, uid_of(waiting[0]), opinion="agree").status_code == 403
    assert '"/review"' not in client.get("/log").text


def test_what_does_not_wait_and_what_is_unknown_has_its_page(client, waiting):
    send(client, uid_of(waiting[0]), opinion="agree")
    page = client.get(f"/review?series={uid_of(waiting[0])}").text
    assert "does not wait for a review" in page
    assert shown(page) == uid_of(waiting[0])
    for odd in ("1.2.3", "<script>", "9" * 80):
        answer = client.get("/review", params={"series": odd})
        assert answer.status_code == 200
        assert "Not found" in answer.text
    assert client.get("/review?scope=odd&age=odd").status_code == 200


def test_a_forged_form_changes_nothing(site, client, waiting):
    answer = client.post(f"/review/{uid_of(waiting[0])}/v1", data={"opinion": "agree"})
    assert answer.status_code == 403
    assert Reviews(site.database).of(uid_of(waiting[0])) == []
