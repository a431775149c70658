"""The review queue: what waits, in which order, who is asked, and what takes a series out of it."""

from __future__ import annotations

import datetime as dt
from itertools import product

import pytest
import sqlalchemy as sa

from dicom_qa_node.accounts.accounts import Accounts
from dicom_qa_node.db.log_tables import GRADE_CODES, SEVERITY_CODES, ReviewMark, log_rows
from dicom_qa_node.db.review_tables import WAITS_FOR_REVIEW
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Grade
from dicom_qa_node.quality_log.review_queue import QueueItem, QueueReason, QueueScope, ReviewQueue, reason_of
from dicom_qa_node.quality_log.reviews import Reviews
from dicom_qa_node.quality_log.search import lines
from tests.realistic_log import fill

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def filled(any_database):
    fill(any_database, 300, until=NOW, days=90, light=True)
    return any_database


@pytest.fixture
def people(filled) -> dict[str, int]:
    accounts = Accounts(filled)
    roles = {"rita": Role.REVIEWER, "raj": Role.REVIEWER, "vera": Role.VIEWER}
    return {name: accounts.add(name, role, name.title(), "").account_id for name, role in roles.items()}


@pytest.fixture
def queue(filled) -> ReviewQueue:
    return ReviewQueue(filled, clock=lambda: NOW)


def uids(items: list[QueueItem]) -> list[str]:
    return [item.row.facts.series_instance_uid for item in items]


def a_good_series(database) -> str:
    """Return a diagnostic series that nobody has to look at."""
    r = log_rows.c
    query = sa.select(r.series_instance_uid).where(r.grade == 1, r.latest == 1, r.review == 0).limit(1)
    with database.read() as connection:
        return str(connection.execute(query).scalar_one())


def test_the_rule_of_the_index_is_the_rule_of_the_pages(filled):
    with filled.read() as connection:
        numbers = list(connection.execute(sa.select(log_rows.c.result_id)).scalars())
    values = product((0, 1), ReviewMark, GRADE_CODES.values(), SEVERITY_CODES.values())
    with filled.write() as connection:
        for number, (latest, review, grade, severity) in zip(numbers, values, strict=False):
            same = log_rows.c.result_id == number
            connection.execute(
                log_rows.update().where(same).values(latest=latest, review=int(review), grade=grade, severity=severity)
            )
    with filled.read() as connection:
        indexed = set(connection.execute(sa.select(log_rows.c.result_id).where(sa.text(WAITS_FOR_REVIEW))).scalars())
        shown = {row.result_id for row in lines(connection, numbers) if reason_of(row)}
    assert shown == indexed
    assert len(indexed) > 5


def test_what_waits_longest_comes_first_and_pages_follow_both_ways(queue, people):
    everything = queue.page(QueueScope.OPEN, people["rita"], limit=500)
    assert len(everything) == queue.count(QueueScope.OPEN, people["rita"]) > 12
    assert [item.place for item in everything] == sorted(item.place for item in everything)
    assert {item.reason for item in everything} == {QueueReason.NON_DIAGNOSTIC, QueueReason.LIMITED}
    assert all(item.row.review is ReviewMark.NONE and item.row.latest for item in everything)
    place, walked = None, []
    while step := queue.page(QueueScope.OPEN, people["rita"], beyond=place, limit=7):
        walked += step
        place = step[-1].place
    assert uids(walked) == uids(everything)
    before = queue.page(QueueScope.OPEN, people["rita"], beyond=everything[9].place, back=True, limit=4)
    assert uids(before) == uids(everything)[8:4:-1]


def test_old_series_leave_the_queue_unless_somebody_is_asked(queue, people):
    old = queue.page(QueueScope.OPEN, people["rita"], limit=1)[0]
    since = NOW - dt.timedelta(days=30)
    uid = old.row.facts.series_instance_uid
    assert uid not in uids(queue.page(QueueScope.OPEN, people["rita"], since=since, limit=500))
    queue.assign(uid, people["rita"], by="ada")
    found = queue.page(QueueScope.OPEN, people["rita"], since=since, limit=500)
    assert uids(found)[0] == uid
    assert found[0].place == old.place


def test_an_assigned_series_is_in_the_queue_of_its_person_alone(queue, people, filled):
    uid = a_good_series(filled)
    assert queue.item(uid) is None
    made = queue.assign(uid, people["rita"], by="ada", note="Is the liver still readable?")
    assert (made.name, made.assigned_by, made.note) == ("rita", "ada", "Is the liver still readable?")
    item = queue.item(uid)
    assert item is not None
    assert (item.reason, item.row.grade) == (QueueReason.ASSIGNED, Grade.DIAGNOSTIC)
    for scope, person, there in (
        (QueueScope.OPEN, "rita", True), (QueueScope.MINE, "rita", True), (QueueScope.ALL, "raj", True),
        (QueueScope.OPEN, "raj", False), (QueueScope.MINE, "raj", False),
    ):  # fmt: skip
        assert (uid in uids(queue.page(scope, people[person], limit=500))) is there, (scope, person)
    assert uids(queue.page(QueueScope.MINE, people["rita"])) == [uid]


def test_one_person_at_a_time_is_asked_and_handing_on_keeps_the_place(queue, people):
    first = queue.page(QueueScope.OPEN, people["rita"], limit=1)[0]
    uid = first.row.facts.series_instance_uid
    queue.assign(uid, people["rita"], by="ada")
    queue.assign(uid, people["raj"], by="rita")
    item = queue.item(uid)
    assert item is not None
    assert item.assignment is not None
    assert (item.assignment.name, item.place) == ("raj", first.place)
    assert queue.assigned_to(people["rita"]) == []
    assert queue.withdraw(uid)
    assert not queue.withdraw(uid)
    assert uids(queue.page(QueueScope.OPEN, people["rita"], limit=1)) == [uid]


def test_who_cannot_review_is_not_asked(queue, people):
    uid = uids(queue.page(QueueScope.OPEN, people["rita"], limit=1))[0]
    with pytest.raises(Permanent, match="vera is a viewer"):
        queue.assign(uid, people["vera"], by="ada")
    with pytest.raises(Permanent, match="no such account"):
        queue.assign(uid, 999, by="ada")
    with pytest.raises(Permanent, match="no score"):
        queue.assign("1.2.3", people["rita"], by="ada")
    with pytest.raises(Permanent, match="300 characters"):
        queue.assign(uid, people["rita"], by="ada", note="x" * 301)
    assert queue.page(QueueScope.MINE, people["rita"]) == []


def test_a_review_takes_a_series_out_and_closes_its_assignment(queue, people, filled):
    one, two = queue.page(QueueScope.OPEN, people["rita"], limit=2)
    reviews = Reviews(filled, clock=lambda: NOW)
    reviews.add(one.row.facts.series_instance_uid, one.row.version, reviewer="rita", agrees=True)
    assert queue.item(one.row.facts.series_instance_uid) is None
    uid = two.row.facts.series_instance_uid
    queue.assign(uid, people["raj"], by="ada")
    reviews.add(uid, two.row.version, reviewer="rita", agrees=True)
    left = queue.item(uid)
    assert left is not None, "rita's review does not answer what raj was asked"
    assert left.reason is QueueReason.ASSIGNED
    reviews.add(uid, two.row.version, reviewer="raj", agrees=True)
    assert queue.item(uid) is None


@pytest.mark.parametrize(("off", "agrees"), [(0.4, True), (-0.5, True), (0.6, False), (-1.2, False)])
def test_an_own_score_near_the_nodes_agrees(filled, off, agrees):
    r = log_rows.c
    with filled.read() as connection:
        row = connection.execute(sa.select(log_rows).where(r.score.between(1.5, 3), r.latest == 1).limit(1)).one()
    made = Reviews(filled).score(row.series_instance_uid, row.version, row.score + off, reviewer="rita")
    assert (made.agrees, made.score) == (agrees, row.score + off)


def test_reviews_stay_append_only(queue, people, filled):
    uid = uids(queue.page(QueueScope.OPEN, people["rita"], limit=1))[0]
    Reviews(filled).score(uid, 1, 1.0, reviewer="rita", comment="Motion.")
    with pytest.raises(Exception, match="append-only"), filled.write() as connection:
        connection.execute(sa.text("UPDATE reviews SET score = 4"))
