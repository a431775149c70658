"""The comparison of two series as a page: which is chosen, what is shown when the images are gone, who sees what."""

from __future__ import annotations

import datetime as dt
import json
import re
import statistics

import pytest
import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.log_tables import log_rows
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.quality_log.similar_series import SimilarSeries
from tests.realistic_log import fill
from tests.scored_series import add_ct
from tests.web_site import Role, logged_in, open_site

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site = open_site(folder)
    fill(site.database, 600, days=60)
    yield site
    site.original_slices.close()
    site.database.close()


@pytest.fixture(scope="module")
def uids(site, tmp_path_factory) -> list[str]:
    work = tmp_path_factory.mktemp("work")
    return [add_ct(site.config, site.database, work / f"{seed}", seed=seed, rows=64, slices=8) for seed in (3, 4)]


@pytest.fixture(scope="module")
def client(site):
    return logged_in(site, Role.REVIEWER)


@pytest.fixture
def log(any_database):
    fill(any_database, 500, until=NOW, days=60)
    return any_database


def rows_of(database, *conditions):
    with database.read() as connection:
        numbers = list(
            connection.execute(sa.select(log_rows.c.result_id).where(log_rows.c.latest == 1, *conditions)).scalars()
        )
    return LogSearch(database).rows(numbers)


def as_of_one_patient(database, *series: tuple[str, dict[str, str]]) -> None:
    with database.write() as connection:
        for uid, values in series:
            same = t.series.c.series_instance_uid == uid
            connection.execute(
                t.series.update().where(same).values(patient_id="P7", patient_birth_date="19500101", **values)
            )


def test_the_prior_is_the_last_earlier_one_of_the_protocol(log):
    rows = [row for row in rows_of(log) if row.facts.modality == "CT"][:6]
    own, same, older, other, later, namesake = (row.facts.series_instance_uid for row in rows)
    words = {"body_part_examined": "ABDOMEN", "study_time": "080000"}
    as_of_one_patient(
        log,
        (own, {"protocol_name": "Liver", "study_date": "20260210", "study_instance_uid": "1.9.1", **words}),
        (same, {"protocol_name": "Liver", "study_date": "20251101", "study_instance_uid": "1.9.2", **words}),
        (older, {"protocol_name": "Liver", "study_date": "20240101", "study_instance_uid": "1.9.3", **words}),
        (other, {"protocol_name": "Kidney", "study_date": "20260101", "study_instance_uid": "1.9.4", **words}),
        (later, {"protocol_name": "Liver", "study_date": "20260220", "study_instance_uid": "1.9.5", **words}),
        (namesake, {"protocol_name": "Liver", "study_date": "20260201", "study_instance_uid": "1.9.6", **words}),
    )
    with log.write() as connection:
        connection.execute(
            t.series.update().where(t.series.c.series_instance_uid == namesake).values(patient_birth_date="19990101")
        )
    (row,) = rows_of(log, log_rows.c.series_instance_uid == own)
    found = SimilarSeries(log).prior(row)
    assert found.row is not None
    assert (found.row.facts.series_instance_uid, found.why) == (same, "the patient's prior series of the same protocol")
    with log.write() as connection:
        mine = t.series.c.series_instance_uid.in_([same, older])
        connection.execute(t.series.update().where(mine).values(protocol_name="Spleen"))
    found = SimilarSeries(log).prior(row)
    assert found.row is not None
    assert found.row.facts.series_instance_uid == other
    assert "another protocol" in found.why


def test_a_patient_without_an_id_has_no_prior(log):
    row = rows_of(log)[0]
    with log.write() as connection:
        connection.execute(t.series.update().values(patient_id=""))
    (row,) = rows_of(log, log_rows.c.result_id == row.result_id)
    assert SimilarSeries(log).prior(row).row is None


def test_the_median_series_is_nearest_the_median_of_the_last(log):
    r = log_rows.c
    with log.read() as connection:
        largest = sa.select(r.facet_id).group_by(r.facet_id).order_by(sa.func.count().desc()).limit(1)
        facet = connection.execute(largest).scalar_one()
        of_it = sa.select(r.result_id, r.score).where(r.facet_id == facet, r.latest == 1)
        found = connection.execute(of_it.order_by(r.scored_at.desc())).all()
    (own,) = LogSearch(log).rows([found[0].result_id])
    scores = [row.score for row in found[1:51] if row.score is not None]
    assert len(scores) > 20
    chosen = SimilarSeries(log).median_score(own)
    assert chosen.row is not None
    centre = statistics.median(scores)
    assert abs(chosen.row.score - centre) == min(abs(score - centre) for score in scores)
    assert f"of the last {len(scores)} of this scanner and protocol" in chosen.why
    noisy = SimilarSeries(log).median_noise(own, own_noise(log, own.result_id))
    assert noisy.row is not None
    assert SimilarSeries(log).median_noise(own, "nothing").row is None


def test_a_series_with_images_is_preferred_near_the_median(log):
    r = log_rows.c
    with log.read() as connection:
        largest = sa.select(r.facet_id).group_by(r.facet_id).order_by(sa.func.count().desc()).limit(1)
        of_it = sa.select(r.result_id, r.series_instance_uid, r.score).where(
            r.facet_id == connection.execute(largest).scalar_one(), r.latest == 1
        )
        found = connection.execute(of_it.order_by(r.scored_at.desc())).all()
    (own,) = LogSearch(log).rows([found[0].result_id])
    valued = [row for row in found[1:51] if row.score is not None]
    centre = statistics.median(row.score for row in valued)
    near = sorted(valued, key=lambda row: abs(row.score - centre))
    for number, chosen in ((2, 2), (-1, 0)):
        with log.write() as connection:
            connection.execute(t.series.update().values(kept=0))
            same = t.series.c.series_instance_uid == near[number].series_instance_uid
            connection.execute(t.series.update().where(same).values(kept=5))
        similar = SimilarSeries(log).median_score(own)
        assert similar.row is not None
        assert similar.row.result_id == near[chosen].result_id


def own_noise(database, result_id: int) -> str:
    with database.read() as connection:
        payload = connection.execute(
            sa.select(t.results.c.payload).where(t.results.c.result_id == result_id)
        ).scalar_one()
    names = [item["name"] for item in json.loads(payload)["measurements"]]
    return next(name for name in names if "noise" in name or "cov" in name)


def test_two_series_are_shown_with_their_measurements(client, uids):
    one, two = uids
    page = client.get(f"/series/{one}/compare?with={two}").text
    assert f'data-images="/series/{one}/images"' in page
    assert f'data-images="/series/{two}/images"' in page
    assert "Global noise level" in page
    link = f"https://qa.example/series/{two}?version=1"
    assert f'data-images="/series/{two}/images"' in client.get(f"/series/{one}/compare", params={"with": link}).text


@pytest.mark.parametrize("wanted", ["prior", "median", "noise", "1.2.3.4", "", "x' onload=", "9" * 400])
def test_every_choice_has_a_page(client, uids, wanted):
    answer = client.get(f"/series/{uids[0]}/compare", params={"with": wanted})
    assert answer.status_code == 200
    assert "There is no second series" in answer.text


def test_the_images_come_as_stacks_and_pixels(client, uids):
    uid = uids[0]
    body = client.get(f"/series/{uid}/images").json()
    assert body["source"] == "spool"
    (stack,) = body["stacks"]
    assert len(stack["positions"]) == 8
    answer = client.get(f"{stack['at']}/3")
    assert len(answer.content) == 2 * int(answer.headers["X-Rows"]) * int(answer.headers["X-Columns"]) == 2 * 64 * 64
    assert client.get(f"{stack['at']}/99").status_code == 422
    for window in ("", "lung", "odd"):
        still = client.get(f"/series/{uid}/images/view.png?at=0.4&window={window}")
        assert still.headers["content-type"] == "image/png"
    assert client.get(f"/series/{uid}/images/view.png?at=nan").status_code == 200


def test_when_the_images_are_gone_the_kept_slices_are_shown(site, client, uids):
    uid = uids[1]
    for item in Registry(site.database).instances(uid):
        (site.config.spool_dir / item.path).unlink()
    body = client.get(f"/series/{uid}/images").json()
    assert body["source"] == "kept"
    assert "no longer in the spool" in body["note"]
    places = body["stacks"][0]["positions"]
    assert places == sorted(places)
    assert client.get(body["stacks"][0]["pictures"][0]).headers["content-type"] == "image/png"
    assert client.get(f"/series/{uid}/images/view.png").headers["content-type"] == "image/png"


def test_what_was_never_here_is_gone(site, client):
    with site.database.read() as connection:
        uid = connection.execute(sa.select(log_rows.c.series_instance_uid).limit(1)).scalar_one()
    answer = client.get(f"/series/{uid}/images")
    assert answer.status_code == 410
    assert "no longer in the spool" in answer.json()["detail"]
    assert client.get("/series/1.2.3/compare").status_code == 404


def test_who_sees_no_patients_is_offered_no_prior(site, uids):
    client = logged_in(site, Role.VIEWER)
    page = client.get(f"/series/{uids[0]}/compare?with=prior").text
    assert "Prior of the patient" not in page
    assert not re.search(r"Doe|PH0000", page)
