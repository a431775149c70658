"""Heat maps on demand: the request is durable, a worker with time makes the maps, the page and the API tell of it."""

from __future__ import annotations

import datetime as dt
import json
from types import SimpleNamespace

import numpy as np
import pytest

from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Permanent, Transient
from dicom_qa_node.flow.heat_map_requests import MAX_ATTEMPTS, HeatRequests
from dicom_qa_node.models.registry import card_of
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.score import heat_maps
from dicom_qa_node.score.heat_maps import RequestedHeatMaps
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import display_name, heat_name, read_manifest
from dicom_qa_node.web.heat_map_state import HeatState, ask_for_maps, heat_of
from tests.scored_series import add_ct
from tests.stub_model import TinyScorer
from tests.unit.test_store_claims import queue
from tests.web_site import bearer, logged_in, open_site, stranger

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> dt.datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


class InUse(TinyScorer):
    """A stand-in with the name of the network that the configuration names."""

    def __init__(self) -> None:
        super().__init__()
        card = card_of("ms_iqa_small")
        self.card = SimpleNamespace(
            name=card.name, version=card.version, sha256=card.sha256, kinds=self.card.kinds, score_range=(0.0, 4.0),
            needs_prompt=False,
        )  # fmt: skip


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def requests(any_database, clock):
    queue(any_database, 3)
    return HeatRequests(any_database, lease_s=60, clock=clock)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.score.pipeline.measure", lambda *_: ())
    monkeypatch.setattr(heat_maps, "_LOOK_S", 0.0)
    site = open_site(tmp_path)
    site.__dict__["uid"] = add_ct(site.config, site.database, tmp_path / "work", slices=8, rows=64, scorer=InUse())
    yield site
    site.database.close()


def folder_of(site):
    return SpoolLayout(site.config.spool_dir).pictures(site.uid, 1)


def entry_of(site):
    return QualityLog(site.database).entry(site.uid)


def worked_off(site, scorer=None) -> int:
    asked, steps = RequestedHeatMaps(site.database, site.config.spool_dir, scorer or InUse()), 0
    while asked.step():
        steps += 1
    return steps


def test_a_request_is_asked_for_once_claimed_once_and_ended(requests, clock):
    assert requests.claim() is None
    assert requests.ask("1.2.1", 1, by="rudi")
    assert not requests.ask("1.2.1", 1, by="ada")
    clock.advance(1)
    assert requests.ask("1.2.2", 1, by="ada")
    first, second = requests.claim(), requests.claim()
    assert (first.series_instance_uid, second.series_instance_uid) == ("1.2.1", "1.2.2")
    assert requests.claim() is None
    assert requests.end(first, "no room")
    assert not requests.end(first)
    found = requests.of("1.2.1", 1)
    assert (found.problem, found.asked_by, found.ended_at) == ("no room", "rudi", clock.now)
    assert requests.ask("1.2.1", 1, by="vera")
    assert requests.of("1.2.1", 1).problem == ""


def test_a_silent_worker_loses_its_request_and_repeated_deaths_end_it(requests, clock):
    requests.ask("1.2.1", 1, by="rudi")
    first = requests.claim()
    clock.advance(59)
    assert requests.renew(first)
    clock.advance(59)
    assert requests.claim() is None
    for _ in range(MAX_ATTEMPTS - 1):
        clock.advance(61)
        assert requests.claim().attempts > 1
    assert not requests.renew(first)
    clock.advance(61)
    assert requests.claim() is None
    assert "ended 3 times" in requests.of("1.2.1", 1).problem


def test_a_request_given_back_counts_as_no_try(requests):
    requests.ask("1.2.1", 1, by="rudi")
    for _ in range(2 * MAX_ATTEMPTS):
        assert requests.release(requests.claim())
    assert requests.claim().attempts == 1


def test_the_worker_makes_what_is_missing_and_nothing_else(site):
    kept = (folder_of(site) / heat_name(1)).read_bytes()
    assert heat_of(site, entry_of(site)).made == {1}
    assert worked_off(site) == 0
    waiting = ask_for_maps(site, entry_of(site), "rudi")
    assert (waiting.state, waiting.made) == (HeatState.WAITING, {1})
    assert worked_off(site) > 7
    ready = heat_of(site, entry_of(site))
    assert (ready.state, ready.made) == (HeatState.READY, set(range(1, ready.slices + 1)))
    assert (folder_of(site) / heat_name(1)).read_bytes() == kept
    with pytest.raises(Permanent, match="every slice"):
        ask_for_maps(site, entry_of(site), "rudi")


def test_maps_need_no_images_but_the_pictures(site):
    for path in SpoolLayout(site.config.spool_dir).instances.rglob("*.dcm"):
        path.unlink()
    for name in read_manifest(folder_of(site)).stored_files():
        (folder_of(site) / name).unlink()
    ask_for_maps(site, entry_of(site), "rudi")
    scorer = InUse()
    worked_off(site, scorer)
    assert heat_of(site, entry_of(site)).state is HeatState.READY
    assert {kind for kind, _ in scorer.seen} == {"ct"}
    assert all(images.dtype == np.uint8 and images.shape[-1] == 3 for _, images in scorer.seen)


def test_pictures_that_go_while_a_request_waits_are_told_of(site):
    ask_for_maps(site, entry_of(site), "rudi")
    (folder_of(site) / display_name(2)).unlink()
    worked_off(site)
    assert "no longer in the spool" in HeatRequests(site.database).of(site.uid, 1).problem
    told = heat_of(site, entry_of(site))
    assert (told.state, told.text) == (HeatState.IMPOSSIBLE, "the pictures of this version are no longer in the spool")
    with pytest.raises(Permanent, match="no longer"):
        ask_for_maps(site, entry_of(site), "rudi")


def test_another_model_explains_no_verdict(site):
    ask_for_maps(site, entry_of(site), "rudi")
    worked_off(site, TinyScorer())
    failed = heat_of(site, entry_of(site))
    assert failed.state is HeatState.FAILED
    assert "now has tiny 1; score the series again" in failed.text


def test_a_failure_ends_the_request_with_its_kind_and_can_be_asked_again(site):
    class Full(InUse):
        def score(self, images, kind, prompts=None):
            raise RuntimeError("Doe^Jane")

    ask_for_maps(site, entry_of(site), "rudi")
    worked_off(site, Full())
    failed = heat_of(site, entry_of(site))
    assert (failed.state, failed.can_ask) == (HeatState.FAILED, True)
    assert "RuntimeError" in failed.text
    assert "Doe" not in failed.text
    ask_for_maps(site, entry_of(site), "rudi")
    worked_off(site)
    assert heat_of(site, entry_of(site)).state is HeatState.READY


def test_a_worker_that_stops_leaves_the_rest_to_the_next(site):
    ask_for_maps(site, entry_of(site), "rudi")
    asked = RequestedHeatMaps(site.database, site.config.spool_dir, InUse())
    for _ in range(8):
        assert asked.step()
    asked.give_back()
    made = heat_of(site, entry_of(site)).made
    assert heat_of(site, entry_of(site)).state is HeatState.WAITING
    worked_off(site)
    assert heat_of(site, entry_of(site)).made > made


def test_a_database_out_of_reach_ends_no_worker(site, monkeypatch):
    asked = RequestedHeatMaps(site.database, site.config.spool_dir, InUse())

    def locked(self):
        raise Transient("database: locked")

    monkeypatch.setattr(HeatRequests, "claim", locked)
    assert not asked.step()


@pytest.mark.parametrize("role", [Role.REVIEWER, Role.ADMIN])
def test_the_button_asks_and_the_page_follows(site, role):
    client, path = logged_in(site, role), f"/series/{site.uid}/v1/heat"
    page = client.get(f"/series/{site.uid}").text
    assert client.get(path).status_code == 200
    assert "Compute the missing heat maps" in page
    assert f'action="{path}"' in page
    assert client.post(path).status_code == 403, "without the token against forgery"
    form = {"csrf": client.csrf, "slice": "3", "look": "lung"}
    assert client.post(path, data=form).headers["location"].endswith("?version=1&slice=3&look=lung#slices")
    form |= {"slice": "3&x=1", "look": "//evil"}
    assert client.post(path, data=form).headers["location"].endswith("?version=1#slices")
    text = client.get(path).text
    assert 'data-heat-state="waiting"' in text
    assert "1 of 7 made" in text
    assert "No scoring worker is running" in text
    Heartbeats(site.database).beat("score", detail="idle")
    assert "while no series waits" in client.get(path).text
    worked_off(site)
    text = client.get(path).text
    assert 'data-heat-state="ready" data-heat-made="1 2 3 4 5 6 7"' in text
    assert client.get(f"{path}/7.png").headers["content-type"] == "image/png"
    assert f'action="{path}"' not in client.get(f"/series/{site.uid}").text
    events = [(row.event, row.outcome.value, row.ident) for row in site.audit.entries() if "heat" in row.event]
    assert events == [("series.heat_maps", "success", site.uid)] * 2


def test_the_page_says_that_the_model_is_missing(site):
    client = logged_in(site, Role.REVIEWER)
    Heartbeats(site.database).beat("score", detail="no model: the weights of model ms_iqa_small are missing")
    client.post(f"/series/{site.uid}/v1/heat", data={"csrf": client.csrf})
    text = client.get(f"/series/{site.uid}").text
    assert "The scoring worker has no model: the weights of model ms_iqa_small are missing" in text


def test_a_viewer_sees_maps_and_asks_for_none(site):
    client = logged_in(site, Role.VIEWER)
    assert "heat maps</button>" not in client.get(f"/series/{site.uid}").text
    assert client.post(f"/series/{site.uid}/v1/heat", data={"csrf": client.csrf}).status_code == 403
    assert client.get(f"/series/{site.uid}/v1/heat").status_code == 200
    assert client.get(f"/series/{site.uid}/v2/heat").status_code == 404
    assert client.get(f"/series/{site.uid}/v99999999999/heat").status_code == 404


def test_the_api_asks_and_tells(site):
    client, path = stranger(site), f"/api/v1/series/{site.uid}/heat-maps"
    assert client.post(path).status_code == 401
    assert client.post(path, headers=bearer(site, Role.VIEWER)).status_code == 403
    header = bearer(site, Role.REVIEWER)
    assert client.get(path, headers=header).json()["state"] == "possible"
    answer = client.post(path, headers=header)
    assert answer.status_code == 202
    assert json.loads(answer.text) | {"text": ""} == {
        "version": 1, "state": "waiting", "made": [1], "slices": 7, "text": ""
    }  # fmt: skip
    worked_off(site)
    assert client.get(path, headers=header).json()["made"] == [1, 2, 3, 4, 5, 6, 7]
    refused = client.post(path, headers=header)
    assert (refused.status_code, "every slice" in refused.text) == (409, True)
    assert client.get(f"{path}?version=7", headers=header).status_code == 404
    outcomes = [row.outcome.value for row in site.audit.entries() if row.event == "series.heat_maps"]
    assert outcomes == ["failed", "success"]
