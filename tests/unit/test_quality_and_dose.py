"""Quality against dose and size: what is usual is computed right, on the page, in its files, and in frozen levels."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from dicom_qa_node.accounts.audit import AuditFilter
from dicom_qa_node.charts.quality_and_dose import (
    SIZE_GROUPS_MM,
    Point,
    QualityAndDose,
    band_of,
    day_bounds,
    dose_constant,
    size_curve,
    size_groups,
)
from dicom_qa_node.charts.reference_levels import ReferenceLevelStore, proposed_level
from dicom_qa_node.cli.app import run
from dicom_qa_node.db.dose_tables import reference_levels, reference_tolerances
from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.reference_levels import LevelForm
from dicom_qa_node.web.quality_and_dose_drawing import noise_against_dose, value_against_size
from dicom_qa_node.web.site import Site
from tests.realistic_life import live
from tests.web_site import bearer, logged_in, open_site, stranger

START = dt.datetime(2026, 9, 1, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 11, 28, 9, tzinfo=dt.UTC)


def post(client: Any, address: str, form: dict[str, str]) -> Any:
    return client.post(address, data={"csrf": client.csrf, **form})


def patients(count: int, seed: int = 1, *, noise: float = 12.0, low: float = 215, high: float = 405) -> list[Point]:
    """Return series whose noise at 300 mm is ``noise``, +0.45 % per mm, with 8 % of scatter."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = float(np.clip(rng.normal(300, 40), low, high))
        value = noise * math.exp(0.0045 * (size - 300) + 0.08 * rng.standard_normal())
        at = START + dt.timedelta(hours=number)
        found.append(Point(f"1.2.{number}", 1, "CT1", at, value, 8.0, 9.0, 0.35, size))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_size_curve_is_within_5_percent_from_240_to_360_mm(seed: int) -> None:
    curve = size_curve(patients(200, seed), "global_noise_level")
    assert curve is not None
    for size in range(240, 361, 10):
        assert float(curve.at(size)) == pytest.approx(12.0 * math.exp(0.0045 * (size - 300)), rel=0.05)


def test_noise_goes_with_the_inverse_root_of_dose() -> None:
    points = [Point(f"1.{n}", 1, "CT1", START, 30.0 / math.sqrt(dose), dose) for n, dose in enumerate(range(2, 30))]
    assert dose_constant(points, "ctdi_vol") == pytest.approx(30.0)
    assert dose_constant(points[:19], "ctdi_vol") is None


def test_groups_below_ten_print_no_quartiles() -> None:
    points = patients(9, low=300, high=310)
    group = size_groups(points, points, "global_noise_level")[2]
    assert (group.count, group.q1, group.q3) == (9, None, None)
    assert group.median == pytest.approx(float(np.median([p.global_noise_level for p in points])))
    points = patients(10, low=300, high=310)
    group = size_groups(points, points, "global_noise_level")[2]
    assert group.q1 is not None
    assert group.q3 is not None
    assert group.q1 < group.median < group.q3


def test_a_size_on_the_edge_belongs_to_one_group() -> None:
    edges = sorted({edge for group in SIZE_GROUPS_MM for edge in group})
    points = [Point(f"1.{n}", 1, "CT1", START, 10.0, None, None, None, edge) for n, edge in enumerate(edges)]
    assert [group.count for group in size_groups(points, points, "global_noise_level")] == [1, 1, 1, 1, 1]


def test_bands_begin_at_twenty_series() -> None:
    assert band_of(patients(19), "global_noise_level") == []
    steps = band_of(patients(400), "global_noise_level")
    at_300 = next(step for step in steps if step.diameter_mm == 300)
    assert at_300.median == pytest.approx(12.0, rel=0.04)
    assert at_300.q1 < at_300.median < at_300.q3


def test_a_typical_value_needs_20_series_and_a_size_curve_50() -> None:
    assert proposed_level(patients(19), "global_noise_level") is None
    typical = proposed_level(patients(49), "global_noise_level")
    curve = proposed_level(patients(50), "global_noise_level")
    assert typical is not None
    assert curve is not None
    assert (typical.form, curve.form) == (LevelForm.TYPICAL_VALUE, LevelForm.SIZE_CURVE)
    assert typical.at(300) == pytest.approx(12.0, rel=0.1)
    # One value for all sizes would be wrong for large patients.
    assert typical.at(380) is None
    assert curve.at(360) == pytest.approx(12.0 * math.exp(0.27), rel=0.1)
    assert curve.at(500) is None
    assert curve.at(None) is None
    assert proposed_level(patients(60), "snr") is None


def test_a_series_is_outside_only_beyond_tolerance_and_limit() -> None:
    level = proposed_level(patients(300), "global_noise_level")
    assert level is not None
    at = level.at(260)
    assert at is not None
    assert at * 1.2 < level.limit
    assert level.outside(at * 1.25, 260) is False
    assert level.outside(level.limit * 1.01, 260) is True
    large = level.at(360)
    assert large is not None
    assert level.limit < large * 1.19
    assert level.outside(large * 1.19, 360) is False
    assert level.outside(large * 1.21, 360) is True
    assert level.outside(1000.0, 600) is None


@pytest.mark.parametrize("day", [dt.date.min, dt.date(1, 1, 2), dt.date.max, dt.date(2026, 3, 29)])
def test_whole_days_of_any_year_bound_a_period(day: dt.date) -> None:
    begin, end = day_bounds(day, day)
    assert begin is not None
    assert end is not None
    assert dt.timedelta(hours=23) <= end - begin <= dt.timedelta(hours=25)
    assert day_bounds(None, None) == (None, None)


def test_plots_hold_every_series_and_stay_inside() -> None:
    points = patients(120)
    for plot in (
        noise_against_dose(points, "ssde", "SSDE (mGy)"),
        value_against_size(points, "global_noise_level", "Noise (HU)"),
    ):
        assert plot is not None
        assert len(plot.dots) == 120
        assert all(48 <= dot.x <= 472 and 8 <= dot.y <= 290 for dot in plot.dots)
        assert len(plot.x_ticks) > 1
    assert value_against_size([], "ssde", "SSDE") is None
    same = [Point("1.1", 1, "CT1", START, 12.0, 8.0, 9.0, 0.3, 300.0)]
    assert noise_against_dose(same, "ctdi_vol", "") is not None


# -- on a log of three scanners --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life")
    site = open_site(folder)
    live(site.database, 900, until=NOW)
    site.database.checkpoint()
    site.database.close()
    return folder / "quality.db"


@pytest.fixture
def site(lived: Path, tmp_path: Path) -> Iterator[Site]:
    copied = open_site(tmp_path, clock=lambda: NOW)
    copied.database.close()
    (tmp_path / "quality.db").write_bytes(lived.read_bytes())
    again = Site(copied.config, type(copied.database)(copied.config.database_url), copied.node, copied.actions,
                 clock=lambda: NOW)  # fmt: skip
    yield again
    again.database.close()


def busiest(site: Site) -> tuple[str, int]:
    reader = QualityAndDose(site.database)
    scanner = reader.scanners()[0][0]
    return reader.strata(scanner)[0].label, scanner


def test_the_page_shows_each_series_as_a_link(site: Site) -> None:
    label, scanner = busiest(site)
    client = logged_in(site, Role.VIEWER)
    answer = client.get("/dose", params={"stratum": label, "scanner": scanner})
    assert answer.status_code == 200
    chosen = QualityAndDose(site.database).chosen(label, scanner)
    assert chosen is not None
    assert len(chosen.points) >= 50
    for point in chosen.points[:20]:
        assert answer.text.count(f'<a href="/series/{point.series_instance_uid}" tabindex="-1">') == 4
    assert "noisier at less dose: raise it" in answer.text
    assert "Freeze" not in answer.text
    assert client.get("/dose").status_code == 200
    assert stranger(site).get("/dose").status_code == 303


def test_the_file_obeys_the_filter_of_the_page(site: Site) -> None:
    label, scanner = busiest(site)
    client = logged_in(site, Role.VIEWER)
    params = {"stratum": label, "scanner": scanner, "since": "2026-10-01", "until": "2026-10-31"}
    page = client.get("/dose", params=params).text
    links = re.findall(r'href="(/dose/\w+\.csv\?[^"]+)"', page)
    files = [list(csv.DictReader(io.StringIO(client.get(link.replace("&amp;", "&")).text))) for link in links]
    groups, series = files
    shown = re.search(r"(\d+) series, the latest in this period", page)
    assert shown is not None
    assert int(shown[1]) == len(series) > 20
    # The last day counts in the node's time zone.
    assert all("2026-09-30" <= row["acquired_at"][:10] <= "2026-10-31" for row in series)
    assert len({row["scanner"] for row in series}) == 1
    noise = [row for row in groups if row["quantity"] == "global_noise_level"]
    for row, (low, high) in zip(noise, SIZE_GROUPS_MM, strict=True):
        own = [float(item["noise_hu"]) for item in series if low <= float(item["water_equivalent_diameter_mm"]) < high]
        assert int(row["series"]) == len(own)
        if own:
            assert float(row["median"]) == pytest.approx(float(np.median(own)), rel=1e-4)
        assert bool(row["lower_quartile"]) == (len(own) >= 10)
    assert any(int(row["fleet_series"]) > int(row["series"]) for row in noise)


@pytest.mark.parametrize(
    "query", ["stratum=nothing", "scanner=x", "scanner=99999999&stratum=nothing", "stratum=' OR 1=1"]
)
def test_what_is_not_there_is_not_found(site: Site, query: str) -> None:
    assert logged_in(site).get(f"/dose?{query}").status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "since=x&until=0000-00-00",
        "dose=nothing",
        "since=9999-12-31",
        "until=0001-01-01",
        "since=0001-01-01&until=9999-12-31",
        "scanner=9999",
    ],
)
def test_a_filter_that_selects_nothing_is_a_page(site: Site, query: str) -> None:
    assert logged_in(site).get(f"/dose?{query}").status_code == 200


def test_a_level_is_frozen_by_a_person_versioned_and_audited(site: Site) -> None:
    label, scanner = busiest(site)
    client, place = logged_in(site), f"/dose?scanner={scanner}&stratum={label.replace(' ', '+')}"
    form = {"quantity": "global_noise_level", "limit": "15.5", "reason": "after acceptance"}
    assert post(client, place.replace("/dose", "/dose/levels"), form).status_code == 303
    assert post(client, place.replace("/dose", "/dose/levels"), form | {"limit": "16"}).status_code == 303
    store = ReferenceLevelStore(site.database)
    group = QualityAndDose(site.database).strata(scanner)[0].groups[0][0]
    standing = store.current(group)["global_noise_level"]
    assert standing.level is not None
    assert (standing.revision, standing.level.limit, standing.author) == (2, 16.0, "ada")
    assert [item.revision for item in store.history(group)] == [2, 1]
    page = client.get(place).text
    assert "revision 2, ada" in page
    assert "reference level, revision 2" in page
    withdraw = place.replace("/dose", "/dose/levels/withdraw")
    assert post(client, withdraw, {"quantity": "global_noise_level", "reason": "new tube"}).status_code == 303
    assert store.current(group) == {}
    assert post(client, withdraw, {"quantity": "global_noise_level", "reason": "again"}).status_code == 422
    said = [entry.event for entry in site.audit.entries(AuditFilter(), limit=50)]
    assert said.count("level.freeze") == 2
    assert said.count("level.withdraw") == 1


@pytest.mark.parametrize(
    "form",
    [
        {"quantity": "global_noise_level", "limit": "x", "reason": "r"},
        {"quantity": "global_noise_level", "limit": "-1", "reason": "r"},
        {"quantity": "global_noise_level", "limit": "nan", "reason": "r"},
        {"quantity": "global_noise_level", "limit": "15", "reason": " "},
        {"quantity": "snr", "limit": "15", "reason": "r"},
    ],
)
def test_a_level_that_cannot_be_frozen_changes_nothing(site: Site, form: dict[str, str]) -> None:
    label, scanner = busiest(site)
    answer = post(logged_in(site), f"/dose/levels?scanner={scanner}&stratum={label.replace(' ', '+')}", form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert ReferenceLevelStore(site.database).everything() == []


def test_who_may_not_act_freezes_nothing(site: Site) -> None:
    label, scanner = busiest(site)
    address = f"/dose/levels?scanner={scanner}&stratum={label.replace(' ', '+')}"
    form = {"quantity": "global_noise_level", "limit": "15", "reason": "r"}
    for role in (Role.VIEWER, Role.REVIEWER):
        assert post(logged_in(site, role), address, form).status_code == 403
    assert ReferenceLevelStore(site.database).everything() == []


def test_tolerances_belong_to_protocol_and_quantity(site: Site) -> None:
    label, scanner = busiest(site)
    client, query = logged_in(site), f"scanner={scanner}&stratum={label.replace(' ', '+')}"
    store = ReferenceLevelStore(site.database)
    protocol = QualityAndDose(site.database).strata(scanner)[0].protocol
    assert store.tolerance(protocol, "global_noise_level") == 20.0
    every = {"quantity": "global_noise_level", "percent": "25", "reason": "site", "every": "yes"}
    own = {"quantity": "global_noise_level", "percent": "15", "reason": "strict"}
    for form in (every, own):
        assert post(client, f"/dose/tolerances?{query}", form).status_code == 303
    assert store.tolerance(protocol, "global_noise_level") == 15.0
    assert store.tolerance("Another", "global_noise_level") == 25.0
    assert store.tolerance(protocol, "ssde") == 30.0
    assert post(client, f"/dose/tolerances?{query}", own | {"percent": "0"}).status_code == 422
    assert "15 %" in client.get(f"/dose?{query}").text


def test_levels_and_tolerances_can_only_be_added_to(site: Site) -> None:
    store = ReferenceLevelStore(site.database)
    level = proposed_level(patients(60), "ssde")
    assert level is not None
    store.freeze(1, level, limit=9.0, reason="r", author="a")
    store.set_tolerance("P", "ssde", 10, reason="r", author="a")
    for table in (reference_levels, reference_tolerances):
        for change in (table.update().values(reason="other"), table.delete()):
            with pytest.raises(sa.exc.DatabaseError), site.database.write() as connection:
                connection.execute(change)
    with pytest.raises(Permanent):
        store.freeze(99999, level, limit=9.0, reason="r", author="a")


def test_levels_in_the_api_are_those_of_the_page(site: Site) -> None:
    label, scanner = busiest(site)
    client = stranger(site, **bearer(site))
    new = {"scanner_id": scanner, "stratum": label, "quantity": "global_noise_level", "reason": "acceptance"}
    made = client.post("/api/v1/reference-levels", json=new)
    assert made.status_code == 201, made.text
    group = QualityAndDose(site.database).strata(scanner)[0].groups[0][0]
    standing = ReferenceLevelStore(site.database).current(group)["global_noise_level"].level
    assert standing is not None
    assert made.json()["limit"] == standing.limit
    assert client.get("/api/v1/reference-levels").json() == [made.json()]
    strata = client.get("/api/v1/dose/strata", params={"scanner_id": scanner}).json()
    assert strata[0]["label"] == label
    assert client.post("/api/v1/reference-levels", json=new | {"until": "1990-01-01"}).status_code == 409
    assert client.post("/api/v1/reference-levels", json=new | {"stratum": "nothing"}).status_code == 404
    assert client.post("/api/v1/reference-levels", json=new | {"quantity": "snr"}).status_code == 422
    assert client.post("/api/v1/reference-levels", json=new | {"limit": 0}).status_code == 422
    old = {name: new[name] for name in ("scanner_id", "stratum", "quantity", "reason")}
    assert client.post("/api/v1/reference-levels/withdraw", json=old).status_code == 204
    assert client.post("/api/v1/reference-levels/withdraw", json=old).status_code == 409
    wanted = {"protocol": "P", "quantity": "ssde", "percent": 12.5, "reason": "r"}
    assert client.post("/api/v1/reference-levels/tolerances", json=wanted).json()["percent"] == 12.5
    assert ReferenceLevelStore(site.database).tolerance("P", "ssde") == 12.5
    viewer = stranger(site, **bearer(site, Role.VIEWER))
    assert viewer.get("/api/v1/dose/reports").json() == []
    assert viewer.post("/api/v1/reference-levels", json=new).status_code == 403


def test_levels_in_the_commands_are_those_of_the_page(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    label, scanner = busiest(site)
    name = dict(QualityAndDose(site.database).scanners())[scanner]
    config = tmp_path / "config.yaml"
    config.write_text(f"database_url: {site.config.database_url}\nspool_dir: {tmp_path}/spool\n")

    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dicom-qa-node", "--config", str(config), *words])
        code = run()
        return code, capsys.readouterr().out

    own = ("--scanner", name, "--stratum", label, "--quantity", "noise", "--reason", "acceptance")
    assert command("levels", "freeze", *own, "--limit", "17") == (
        0, f"froze the size curve of {_count(site, label, scanner)} series as revision 1\n",
    )  # fmt: skip
    code, shown = command("levels", "list", "--json")
    assert code == 0
    (row,) = json.loads(shown)
    assert (row["scanner"], row["stratum"], row["limit"], row["revision"]) == (name, label, 17.0, 1)
    assert command("levels", "tolerance", "15", "--quantity", "noise", "--reason", "r")[0] == 0
    assert command("levels", "withdraw", *own)[0] == 0
    assert command("levels", "list")[1] == "no reference levels\n"
    assert command("levels", "freeze", *own[:3], "nothing", *own[4:])[0] != 0
    assert command("dose", "reports")[1] == "no dose reports\n"
    kinds = {(entry.event, entry.kind) for entry in site.audit.entries(AuditFilter(), limit=20)}
    assert {("level.freeze", "stratum"), ("level.withdraw", "stratum"), ("level.tolerance", "protocol")} <= kinds


def _count(site: Site, label: str, scanner: int) -> int:
    chosen = QualityAndDose(site.database).chosen(label, scanner)
    assert chosen is not None
    return len(chosen.points)
