"""The log page finds what a plain look at every row finds: in any order, on every page, on both databases."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.log_tables import DeliveryMark, ReviewMark, reviews
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Finding, Grade, Severity
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.filters import Cursor, LogOrder, LogQuery
from dicom_qa_node.quality_log.full_text import words_of
from dicom_qa_node.quality_log.reviews import Reviews
from dicom_qa_node.quality_log.rows import LAST_BIT, SHARED_KEY, Bits, deviation_from
from dicom_qa_node.quality_log.search import LogSearch
from tests.fake_clock import PassingTime
from tests.realistic_log import fill
from tests.unit.test_store_flow import SERIES, T0, instance, result

END = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def database(any_database):
    return any_database


@pytest.fixture
def filled(database):
    fill(database, 400, seed=5, until=END, days=60)
    return database


def every(search: LogSearch, chosen: LogQuery, size: int = 37) -> list[int]:
    """Walk forward through all pages, then back again, and return the numbers of the rows."""
    page = search.page(chosen, limit=size)
    pages = [page]
    while page.older is not None:
        page = search.page(chosen, page.older, size)
        pages.append(page)
    assert pages[0].newer is None
    assert {p.count for p in pages} == {sum(len(p.rows) for p in pages)}
    for before, here in zip(pages[-2::-1], pages[:0:-1], strict=True):
        assert search.page(chosen, here.newer, size).rows == before.rows
    return [row.result_id for p in pages for row in p.rows]


QUERIES = {
    "all": (LogQuery(), lambda r: True),
    "versions": (LogQuery(all_versions=True), None),
    "scanner": (LogQuery(scanner="CT-A2"), lambda r: r.scanner == "CT-A2"),
    "site and grade": (
        LogQuery(site="Klinikum am See", grades=(Grade.LIMITED, Grade.NON_DIAGNOSTIC)),
        lambda r: r.facts.institution_name == "Klinikum am See" and r.grade in (Grade.LIMITED, Grade.NON_DIAGNOSTIC),
    ),
    "no score": (LogQuery(grades=(None,)), lambda r: r.score is None),
    "finding": (LogQuery(finding="noise_high"), lambda r: "noise_high" in r.findings),
    "unknown finding": (LogQuery(finding="nothing_such"), lambda r: False),
    "severity": (LogQuery(severity=Severity.WARNING), lambda r: r.severity in (Severity.WARNING, Severity.ERROR)),
    "parked": (LogQuery(delivery=DeliveryMark.PARKED), lambda r: r.delivery is DeliveryMark.PARKED),
    "reviewed": (LogQuery(review=ReviewMark.AGREED), lambda r: r.review is ReviewMark.AGREED),
    "score": (LogQuery(score_from=2.0, score_to=2.5), lambda r: r.score is not None and 2.0 <= r.score <= 2.5),
    "time": (LogQuery(since=END - dt.timedelta(days=9)), lambda r: r.scored_at >= END - dt.timedelta(days=9)),
    "protocol word": (LogQuery(words="thorax"), lambda r: "thorax" in r.facts.study_description.lower()),
    "finding word": (LogQuery(words="starvation"), lambda r: "photon_starvation" in r.findings),
    "two words": (LogQuery(words="lung CT-C1"), lambda r: "Lung" in r.facts.protocol_name and r.scanner == "CT-C1"),
    "words and filter of facets": (
        LogQuery(words="thorax altair", scanner="CT-A2"),
        lambda r: r.scanner == "CT-A2" and "thorax" in r.facts.study_description.lower(),
    ),
    "words of different facets": (LogQuery(words="shoulder whole"), lambda r: False),
    "words of facets and of a finding": (
        LogQuery(words="thorax motion"),
        lambda r: "thorax" in r.facts.study_description.lower() and "motion" in r.findings,
    ),
    "patient": (LogQuery(words="garcia", patients=True), lambda r: r.facts.patient_name.startswith("Garcia")),
    "patient in part": (LogQuery(words="o'nei", patients=True), lambda r: "O'Neill" in r.facts.patient_name),
    "umlaut": (LogQuery(words="MULLER", patients=True), lambda r: "Müller" in r.facts.patient_name),
    "patient and scanner": (
        LogQuery(words="smith ct-b1", patients=True),
        lambda r: "Smith" in r.facts.patient_name and r.scanner == "CT-B1",
    ),
    "patient refused": (LogQuery(words="garcia"), lambda r: False),
    "operators": (LogQuery(words='" OR * AND (NEAR', patients=True), lambda r: False),
    "uid": (
        LogQuery(words="1.2.826.0.1.3680043.10.77.2.7"),
        lambda r: r.facts.study_instance_uid == "1.2.826.0.1.3680043.10.77.2.7",
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_filter_finds_what_it_says(filled, name):
    chosen, fits = QUERIES[name]
    search = LogSearch(filled)
    rows = [row for row in search.stream(LogQuery(all_versions=True)) if chosen.all_versions or row.latest]
    assert len(rows) == 400 + sum(not row.latest for row in rows)
    expected = [row.result_id for row in rows if fits is None or fits(row)]
    assert every(search, chosen) == expected
    assert [row.result_id for row in search.stream(chosen)] == expected


@pytest.mark.parametrize("name", ["all", "scanner", "no score", "severity", "patient"])
@pytest.mark.parametrize("order", [LogOrder.SCORE, LogOrder.DEVIATION])
@pytest.mark.parametrize("descending", [False, True])
def test_rows_without_a_key_come_last_in_both_directions(filled, name, order, descending):
    chosen = replace(QUERIES[name][0], order=order, descending=descending)
    search = LogSearch(filled)
    found = every(search, chosen)
    assert set(found) == set(every(search, QUERIES[name][0]))
    keys = [getattr(row, order.value) for row in search.rows(found)]
    present = [key for key in keys if key is not None]
    assert present == sorted(present, reverse=descending)
    assert all(key is None for key in keys[len(present) :])


def test_names_of_every_script_are_found(filled):
    search = LogSearch(filled)
    for words, name in (
        ("山田", "Yamada"),
        ("홍", "Hong"),
        ("小东", "Wang"),
        ("кузнецова", "Кузнецова"),
        ("やまだ", "Yamada"),
    ):
        found = search.page(LogQuery(words=words, patients=True), limit=200).rows
        assert found
        assert all(row.facts.patient_name.startswith(name) for row in found)


def test_new_rows_come_in_by_number(filled):
    search = LogSearch(filled)
    last = search.newest()
    assert search.newer(LogQuery(), last) == ()
    assert [row.result_id for row in search.newer(LogQuery(all_versions=True), last - 3)] == [last, last - 1, last - 2]


def test_counting_ends_at_its_limit(filled, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.quality_log.search.MOST_COUNTED", 100)
    page = LogSearch(filled).page(LogQuery(), limit=10)
    assert (page.count, page.more) == (100, True)


def test_common_facets_are_walked_in_order(filled, monkeypatch):
    chosen = LogQuery(site="Northfield General", finding="metal", order=LogOrder.SCORE, descending=False)
    rare = every(LogSearch(filled), chosen)
    for bound in ("_RARE_ROWS", "_RARE_OF_FACETS"):
        monkeypatch.setattr(f"dicom_qa_node.quality_log.filters.{bound}", -1)
    assert every(LogSearch(filled), chosen) == rare
    assert rare


def test_a_foreign_cursor_gives_a_page_and_no_error(filled):
    page = LogSearch(filled).page(LogQuery(order=LogOrder.SCORE), Cursor(None, 10**12, back=True), 5)
    assert len(page.rows) == 5


def scored(database, number: int = 1, score: float = 3.0, findings: tuple[Finding, ...] = ()) -> str:
    """Carry one series to SCORED by the store's own steps."""
    facts = replace(SERIES, series_instance_uid=f"1.2.3.{number}", protocol_name="Chest")
    registry, jobs = Registry(database), Jobs(database, clock=PassingTime(T0, database))
    registry.record([instance(1, facts)])
    assert registry.complete(registry.receiving()[0], reason="test", at=T0)
    job = jobs.claim("w")
    done = replace(result(score), series_instance_uid=facts.series_instance_uid, findings=findings)
    assert jobs.finish(job, done)
    return facts.series_instance_uid


def test_a_result_brings_its_row_and_a_delivery_its_mark(database):
    finding = Finding("noise_high", Severity.WARNING, "s")
    uid = scored(database, findings=(finding, replace(finding, key="motion", severity=Severity.ERROR)))
    search, outbox = LogSearch(database), Outbox(database, clock=PassingTime(T0, database))
    (row,) = search.versions(uid)
    assert (row.findings, row.severity, row.delivery) == (("noise_high", "motion"), Severity.ERROR, DeliveryMark.NONE)
    report = ReportRef("2.25.1", "1.2.840", "2.25.9", uid, 1, "r/1", T0, None)
    assert outbox.add_report(report, ["a", "b"])
    assert search.versions(uid)[0].delivery is DeliveryMark.WAITING
    assert outbox.delivered(outbox.claim(["a"]), "0x0000")
    assert search.versions(uid)[0].delivery is DeliveryMark.WAITING
    assert outbox.park(outbox.claim(["b"]), "0xA700")
    assert search.versions(uid)[0].delivery is DeliveryMark.PARKED


def test_only_the_last_version_is_the_latest(database):
    uid = scored(database)
    assert Registry(database).rescore(uid, actor="test", at=T0)
    jobs = Jobs(database, clock=PassingTime(T0, database))
    assert jobs.finish(jobs.claim("w"), replace(result(2.0), series_instance_uid=uid))
    assert [(row.version, row.latest) for row in LogSearch(database).versions(uid)] == [(2, True), (1, False)]
    assert [row.version for row in LogSearch(database).page(LogQuery()).rows] == [2]
    assert len(LogSearch(database).page(LogQuery(all_versions=True)).rows) == 2


def test_a_deviation_needs_a_history_and_a_scatter():
    assert deviation_from(3.0, [3.0] * 19) is None
    assert deviation_from(None, [3.0] * 30) is None
    assert deviation_from(2.5, [3.0] * 30) == pytest.approx(-10)
    spread = [2.8, 3.0, 3.2] * 10
    assert deviation_from(2.0, spread) == pytest.approx(-1 / (1.4826 * 0.2))


def test_findings_beyond_the_bits_share_the_last_one():
    bits = Bits({})
    masks = [bits.mask([f"key{number}"]) for number in range(70)]
    assert len(set(masks)) == LAST_BIT + 1
    assert masks[-1] == 1 << LAST_BIT
    assert bits.named()[SHARED_KEY] == LAST_BIT
    assert max(masks) < 1 << 63


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Müller^Jürgen", ["muller", "jurgen"]),
        ("O'Neill-Smith", ["o", "neill", "smith"]),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["yamada", "tarou", "山田", "太郎", "やまた", "たろう"]),
        ("Hong=洪^吉洞=홍^길동", ["hong", "洪", "吉洞", "홍", "길동"]),
        ("ＡＢＣ １２", ["abc", "12"]),
        ('"; DROP TABLE x--', ["drop", "table", "x"]),
    ],
)
def test_words_are_cut_in_any_script(text, words):
    assert words_of(text) == words


def test_reviews_are_signed_counted_by_their_last_word_and_never_changed(database):
    uid = scored(database)
    kept = Reviews(database, clock=PassingTime(T0, database))
    search = LogSearch(database)
    kept.add(uid, 1, reviewer="ada", agrees=True)
    assert search.versions(uid)[0].review is ReviewMark.AGREED
    kept.add(uid, 1, reviewer="ben", agrees=False, score=1.5, reason="noise")
    assert search.versions(uid)[0].review is ReviewMark.DIVIDED
    kept.add(uid, 1, reviewer="ada", agrees=False, comment="on second thought")
    assert search.versions(uid)[0].review is ReviewMark.DISAGREED
    assert [(r.reviewer, r.agrees, r.at) for r in kept.of(uid)] == [
        ("ada", True, T0),
        ("ben", False, T0),
        ("ada", False, T0),
    ]
    for change in (reviews.update().values(comment="x"), reviews.delete()):
        with pytest.raises(DBAPIError), database.write() as connection:
            connection.execute(change)
    assert len(kept.of(uid)) == 3


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"version": 2}, "no scored version 2"),
        ({"score": 4.5}, "between 0 and 4"),
        ({"score": float("nan")}, "between 0 and 4"),
        ({"agrees": False}, "says why"),
        ({"reason": "because"}, "none of the reasons"),
        ({"comment": "x" * 2001}, "2000 characters"),
        ({"reviewer": ""}, "a name"),
    ],
)
def test_a_review_that_makes_no_sense_is_refused(database, values, problem):
    uid = scored(database)
    wanted = {"version": 1, "reviewer": "ada", "agrees": True} | values
    with pytest.raises(Permanent, match=problem):
        Reviews(database).add(uid, **wanted)
    assert Reviews(database).of(uid) == []


def test_a_label_is_the_mean_of_the_last_words(database):
    uid = scored(database, score=3.0)
    kept = Reviews(database)
    kept.add(uid, 1, reviewer="ada", agrees=True)
    kept.add(uid, 1, reviewer="ben", agrees=False, score=1.0)
    kept.add(uid, 1, reviewer="cyd", agrees=False, comment="no idea")
    (label,) = kept.labels()
    assert (label.score, label.reviewers, label.study_instance_uid) == (2.0, 2, "1.2")


def test_series_facts_of_the_log_are_those_of_the_series(database):
    uid = scored(database)
    (row,) = LogSearch(database).versions(uid)
    with database.read() as connection:
        stored = connection.execute(sa.select(t.series)).one()
    assert row.facts == SeriesHeader(**{name: getattr(stored, name) for name in t.HEADER_COLUMNS})
