"""Saved views of the log and notifications: each account's own, shared by choice, with a link each."""

from __future__ import annotations

import pytest

from dicom_qa_node.accounts.notification_reads import NotificationReads
from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.quality_log.review_queue import QueueScope, ReviewQueue
from dicom_qa_node.quality_log.saved_filters import SavedFilters
from dicom_qa_node.web.access import Account, permissions_of
from dicom_qa_node.web.notification_list import NotificationKind, mark_all_read, notifications_of, unread_count
from tests.realistic_log import fill
from tests.web_site import NAMES, Role, logged_in, open_site


@pytest.fixture
def site(tmp_path):
    site = open_site(tmp_path)
    fill(site.database, 150, days=20)
    yield site
    site.database.close()


def account(site, role: Role) -> Account:
    row = site.accounts.named(NAMES[role])
    return Account(row.account_id, row.name, row.name, role, permissions_of(role, site), "", None, True)


def save(client, query: str, name: str, **more: str):
    return client.post("/log/views", data={"csrf": client.csrf, "query": query, "name": name, **more})


def test_a_view_is_saved_opened_by_its_link_and_removed(site):
    client = logged_in(site, Role.REVIEWER)
    answer = save(client, "scanner=CT-A2&sort=score&odd=1", "  My  scanner ")
    assert answer.headers["location"] == "/log?scanner=CT-A2&sort=score"
    (view,) = SavedFilters(site.database).of(account(site, Role.REVIEWER).account_id)
    assert (view.name, view.query, view.shared, view.owner) == ("My scanner", "scanner=CT-A2&sort=score", False, "rudi")
    page = client.get("/log?sort=score&scanner=CT-A2").text
    assert f'href="/log/views/{view.filter_id}" aria-current="true"' in page
    assert client.get(f"/log/views/{view.filter_id}").headers["location"] == "/log?scanner=CT-A2&sort=score"
    removed = client.post(f"/log/views/{view.filter_id}/remove", data={"csrf": client.csrf})
    assert removed.status_code == 303
    assert SavedFilters(site.database).of(account(site, Role.REVIEWER).account_id) == []
    assert client.get(f"/log/views/{view.filter_id}").status_code == 404


def test_others_see_a_view_only_where_it_is_shared(site):
    client, other = logged_in(site, Role.REVIEWER), logged_in(site, Role.VIEWER)
    save(client, "grade=limited", "Own")
    save(client, "grade=non-diagnostic", "For <all>", shared="yes")
    own, shared = sorted(
        SavedFilters(site.database).of(account(site, Role.REVIEWER).account_id), key=lambda v: v.shared
    )
    assert other.get(f"/log/views/{own.filter_id}").status_code == 404
    assert other.get(f"/log/views/{shared.filter_id}").headers["location"] == "/log?grade=non-diagnostic"
    page = other.get("/log").text
    assert "For &lt;all&gt;" in page
    assert "shared by rudi" in page
    assert ">Own<" not in page
    assert other.post(f"/log/views/{shared.filter_id}/remove", data={"csrf": other.csrf}).status_code == 404


def test_a_search_for_words_is_not_shared_for_it_may_name_a_patient(site):
    client = logged_in(site, Role.REVIEWER)
    assert "problem=a%20view%20that%20searches" in save(client, "q=Garcia", "Garcia", shared="yes").headers["location"]
    assert SavedFilters(site.database).of(account(site, Role.REVIEWER).account_id) == []
    assert save(client, "q=Garcia", "Garcia").headers["location"] == "/log?q=Garcia"


def test_names_and_numbers_of_views_are_bounded(site):
    filters, me = SavedFilters(site.database), account(site, Role.ADMIN).account_id
    for bad in ("", "   ", "x" * 61):
        with pytest.raises(Permanent, match="needs a name"):
            filters.save(me, bad, "", shared=False)
    with pytest.raises(Permanent, match="too many filters"):
        filters.save(me, "long", "q=" + "x" * 1500, shared=False)
    for number in range(50):
        filters.save(me, f"view {number}", "", shared=False)
    with pytest.raises(Permanent, match="at most 50"):
        filters.save(me, "one more", "", shared=False)
    filters.save(me, "view 7", "grade=limited", shared=True)
    assert [view.query for view in filters.of(me) if view.name == "view 7"] == ["grade=limited"]


def alert(site, number: int, **more) -> int:
    (made,) = Alerts(site.database).add([NewAlert(f"o{number}", "rule", AlertSubject.NODE, f"text {number}", **more)])
    return made


def test_notifications_are_unread_per_account(site):
    admin, viewer = account(site, Role.ADMIN), account(site, Role.VIEWER)
    numbers = [alert(site, n) for n in range(3)]
    alert(site, 3, trouble="node: silent scanner 4")
    assert unread_count(site, admin) == unread_count(site, viewer) == 4
    NotificationReads(site.database).mark(admin.account_id, "alert", numbers[1])
    NotificationReads(site.database).mark(admin.account_id, "alert", numbers[1])
    assert (unread_count(site, admin), unread_count(site, viewer)) == (3, 4)
    mark_all_read(site, admin)
    alert(site, 4)
    assert (unread_count(site, admin), unread_count(site, viewer)) == (1, 5)
    kinds = [item.kind for item in notifications_of(site, admin)]
    assert kinds.count(NotificationKind.MISSING) == 1
    Alerts(site.database).add(
        [NewAlert("q", "rule", AlertSubject.PHANTOM, "Water (water phantom) is missing: due today")]
    )
    missed = notifications_of(site, admin)[0]
    assert (missed.kind, missed.path) == (NotificationKind.MISSING, "/phantoms")
    Alerts(site.database).acknowledge(numbers[0], by="ada")
    assert numbers[0] not in [item.number for item in notifications_of(site, viewer)]


def test_who_is_asked_for_a_review_is_notified_until_it_is_signed(site):
    rudi = account(site, Role.REVIEWER)
    queue = ReviewQueue(site.database)
    uid = queue.page(QueueScope.OPEN, rudi.account_id, limit=1)[0].row.facts.series_instance_uid
    queue.assign(uid, rudi.account_id, by="ada", note="Motion?")
    (item,) = notifications_of(site, rudi)
    assert (item.kind, item.text, item.path) == (
        NotificationKind.REVIEW, "ada asks for your review: Motion?", f"/review?series={uid}"
    )  # fmt: skip
    assert notifications_of(site, account(site, Role.ADMIN)) == []
    client = logged_in(site, Role.REVIEWER)
    assert 'class="bell-count">1<' in client.get("/log").text
    assert "Motion?" in client.get("/notifications").text
    form = {"csrf": client.csrf, "source": "review", "number": str(item.number)}
    assert client.post("/notifications/read", data=form).status_code == 303
    assert "bell-count" not in client.get("/log").text
    client.post(f"/review/{uid}/v1", data={"csrf": client.csrf, "opinion": "agree"})
    assert notifications_of(site, rudi) == []
    for bad in ({"source": "odd", "number": "1"}, {"source": "alert", "number": "x"}):
        assert client.post("/notifications/read", data={"csrf": client.csrf, **bad}).status_code == 400
    assert client.post("/notifications/read", data={"csrf": client.csrf}).status_code == 303
