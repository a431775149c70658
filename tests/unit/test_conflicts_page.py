"""The pages name conflicting images and settle them; deliveries name their document; one scale everywhere."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket

import pytest

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.models.card import SCORE_SCALE
from dicom_qa_node.ops.label_export import export_labels
from dicom_qa_node.ops.rebuild import rebuild
from tests.received_series import Carrier, Ticking
from tests.report_samples import T0
from tests.web_site import bearer, logged_in, open_site, stranger


@pytest.fixture
def carrier(tmp_path):
    site = open_site(tmp_path)
    shelf = [{"kind": "folder", "name": "shelf", "path": tmp_path / "shelf", "companion": {"key_objects": True}}]
    values = site.config.model_dump() | {"deliver": {"targets": shelf}}
    config = Config.model_validate(values)
    carrier = Carrier(config, site.database, tmp_path, Ticking(T0 + dt.timedelta(hours=1)))
    carrier.site = site
    yield carrier
    site.database.close()


def corrected(carrier):
    images = carrier.images(1)
    for ds in images:
        ds.PatientID = "RIGHT"
    return images


@pytest.mark.parametrize(
    ("action", "state", "patient"), [("take-newer", "COMPLETE", "RIGHT"), ("keep-stored", "DELIVERED", "SAMPLE-7")]
)
def test_the_page_tells_of_a_conflict_and_a_button_settles_it(carrier, action, state, patient):
    uid = carrier.whole_way(1)
    client, path = logged_in(carrier.site), f"/series/{uid}"
    assert "came again" not in client.get(path).text
    assert client.post(f"{path}/{action}", data={"csrf": client.csrf}).headers["location"].endswith("done=refused")
    carrier.receive(corrected(carrier))
    page = client.get(path).text
    assert "3 images of this series came again under the same UIDs with other patient" in page
    assert f'action="{path}/{action}"' in page
    assert "came again" in logged_in(carrier.site, Role.VIEWER).get(path).text
    assert client.post(f"{path}/{action}", data={"csrf": client.csrf}).headers["location"].endswith(f"done={action}")
    row = carrier.registry.series(uid)
    assert (row.state, row.facts.patient_id) == (SeriesState(state), patient)
    assert "came again" not in client.get(path).text


def test_the_api_takes_the_newer_images(carrier):
    uid = carrier.whole_way(1)
    client, header = stranger(carrier.site), bearer(carrier.site)
    carrier.receive(corrected(carrier))
    answer = client.post(f"/api/v1/series/{uid}/actions", json={"action": "take-newer"}, headers=header)
    assert answer.json() == {"state": "COMPLETE", "version": 2}
    assert (
        client.post(f"/api/v1/series/{uid}/actions", json={"action": "keep-stored"}, headers=header).status_code == 409
    )


def test_deliveries_name_their_document_and_nothing_is_said_before_routing(carrier):
    images = carrier.images(1)
    carrier.receive(images)
    uid = str(images[0].SeriesInstanceUID)
    carrier.score(uid)
    client = logged_in(carrier.site)
    assert "The report is not made yet." in client.get(f"/series/{uid}").text
    rows = client.get("/log").text
    assert "not yet</span>" in rows
    assert "</span> no target" not in rows
    carrier.report()
    text = client.get(f"/series/{uid}").text
    assert "<td>report</td>" in text
    assert "<td>key objects</td>" in text
    deliveries = stranger(carrier.site).get(f"/api/v1/series/{uid}", headers=bearer(carrier.site)).json()["deliveries"]
    assert sorted(item["document"] for item in deliveries) == ["key_objects", "report"]


def test_the_review_form_has_the_scale_of_the_card(carrier):
    uid = carrier.whole_way(1)
    page = logged_in(carrier.site, Role.REVIEWER).get(f"/series/{uid}").text
    for points, words in SCORE_SCALE.items():
        assert f">{points} {words}</option>" in page
    assert "acceptable" not in page


def test_an_export_of_labels_says_what_their_scores_mean(carrier, tmp_path):
    export_labels(carrier.database, carrier.config.spool_dir, tmp_path / "labels")
    written = json.loads((tmp_path / "labels" / "scale.json").read_text())
    assert {int(points): words for points, words in written.items()} == SCORE_SCALE


def test_a_database_with_heartbeats_of_processes_that_are_gone_is_rebuilt_at_once(tmp_path):
    config = Config.model_validate({"spool_dir": tmp_path / "spool", "database_url": f"sqlite:///{tmp_path}/q.db"})
    config.spool_dir.mkdir()
    database = Database(config.database_url)
    database.upgrade()
    Heartbeats(database).beat("receive")
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE heartbeats SET pid = {_gone()}")
    rebuild(config)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE heartbeats SET pid = {os.getpid()}")
    with pytest.raises(Misconfigured, match="the node is running"):
        rebuild(config)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE heartbeats SET pid = {_gone()}, host = 'not-{socket.gethostname()}'")
    with pytest.raises(Misconfigured, match="on another host"):
        rebuild(config)
    database.close()


def _gone() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
