"""Reference levels in scoring: they count in place of the general limits where they hold, and the finding says so."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.quality_and_dose import QualityAndDose
from dicom_qa_node.charts.reference_levels import ReferenceLevelStore, proposed_level
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.tables import series_header_of
from dicom_qa_node.domain.reference_levels import LevelForm, ReferenceLevel
from dicom_qa_node.domain.results import Finding, Measurement
from dicom_qa_node.phantom import ct_series, write
from dicom_qa_node.score.pipeline import Options, score_series
from dicom_qa_node.score.rules.evaluation import evaluate_rules
from dicom_qa_node.score.why import with_reference_level
from tests.realistic_life import live
from tests.scored_series import add_series
from tests.stub_model import TinyScorer
from tests.unit.synthetic_volumes import volume
from tests.web_site import web_config

NOW = dt.datetime(2026, 11, 28, 9, tzinfo=dt.UTC)


def level(quantity: str = "global_noise_level", at_300: float = 12.0, limit: float = 14.4) -> ReferenceLevel:
    """Return a size curve of +0.45 % per mm from 240 to 360 mm with a tolerance of 20 %."""
    return ReferenceLevel(
        quantity, LevelForm.SIZE_CURVE, at_300, math.log(at_300), 0.0045, 300.0, 240.0, 360.0, limit, 120,
        revision=3, frozen_at=NOW, tolerance_percent=20.0,
    )  # fmt: skip


NOISE = {"global_noise_level": level()}


def judged(levels: Mapping[str, ReferenceLevel], **found: float) -> dict[str, Finding]:
    made = volume(np.zeros((5, 8, 8), np.float32), (3.0, 50.0, 50.0))
    measured = [Measurement(name, name, value, "1", detail="Br60") for name, value in found.items()]
    return {item.key: item for item in evaluate_rules(made, measured, levels=levels)}


@pytest.mark.parametrize(
    ("noise", "size", "outside"),
    [
        (14.3, 300.0, False),
        (14.5, 300.0, True),
        # A small patient beyond the tolerance, and below the stated limit.
        (13.0, 250.0, False),
        (14.5, 250.0, True),
        # A large one within the tolerance of its size, though above the limit.
        (18.5, 360.0, False),
        (19.0, 360.0, True),
    ],
)
def test_noise_is_outside_beyond_the_level_of_its_size_and_the_limit(noise: float, size: float, outside: bool) -> None:
    found = judged(NOISE, global_noise_level=noise, water_equivalent_diameter=size)
    assert ("noise_high" in found) is outside


def test_the_finding_names_the_level_that_was_used() -> None:
    found = judged(NOISE, global_noise_level=18.0, water_equivalent_diameter=300.0)["noise_high"]
    assert found.evidence == (
        "global noise level 18 HU, reference level 12 HU at 300 mm (size curve, revision 3 of 2026-11-28), "
        "tolerance 20 %, stated limit 14.4 HU"
    )
    assert "where 12 HU are usual for this protocol and patient size" in found.sentence


def test_within_its_level_a_series_passes_the_general_limit() -> None:
    high = {"global_noise_level": level(at_300=30.0, limit=36.0)}
    assert "noise_high" not in judged(high, global_noise_level=31.0, water_equivalent_diameter=300.0)
    assert "noise_high" in judged({}, global_noise_level=31.0, water_equivalent_diameter=300.0)


@pytest.mark.parametrize("size", [230.0, 370.0, None])
def test_where_the_level_does_not_hold_the_general_limit_counts(size: float | None) -> None:
    more = {} if size is None else {"water_equivalent_diameter": size}
    assert "noise_high" not in judged(NOISE, global_noise_level=19.0, **more)
    found = judged(NOISE, global_noise_level=31.0, **more)["noise_high"]
    assert "reference level" not in found.evidence


def test_a_sharp_kernel_is_rated_by_a_level_of_its_own() -> None:
    sharp = {"global_noise_level": level(at_300=60.0, limit=72.0)}
    kept = judged(sharp, global_noise_level=61.0, kernel_sharpness=1.0, water_equivalent_diameter=300.0)
    assert {"noise_high", "sharp_kernel"}.isdisjoint(kept)
    noisy = judged(sharp, global_noise_level=80.0, kernel_sharpness=1.0, water_equivalent_diameter=300.0)
    assert "noise_high" in noisy
    assert "sharp_kernel" in judged({}, global_noise_level=80.0, kernel_sharpness=1.0)


@pytest.mark.parametrize(("quantity", "words"), [("ctdi_vol", "CTDIvol"), ("ssde", "SSDE")])
def test_dose_is_judged_by_its_level(quantity: str, words: str) -> None:
    levels = {quantity: level(quantity, 8.0, 9.6)}
    found = judged(levels, **{quantity: 10.0, "water_equivalent_diameter": 300.0})["dose_high"]
    assert found.evidence.startswith(f"{words} 10 mGy, reference level 8 mGy at 300 mm")
    assert "dose_high" not in judged(levels, **{quantity: 9.5, "water_equivalent_diameter": 300.0})
    # Its own level stands above the general limit of 30 mGy.
    high = {"ctdi_vol": level("ctdi_vol", 32.0, 38.0)}
    assert "dose_high" not in judged(high, ctdi_vol=33.0, water_equivalent_diameter=300.0)
    assert "dose_high" in judged({}, ctdi_vol=33.0, water_equivalent_diameter=300.0)


def test_the_sentence_compares_with_the_level() -> None:
    values = {"global_noise_level": 18.0, "water_equivalent_diameter": 300.0}
    outside = with_reference_level("Limited by the noise.", NOISE, values)
    assert outside == (
        "Limited by the noise. The noise, 18 HU, is 50 % above the reference level of this protocol and patient size, "
        "12 HU."
    )
    inside = with_reference_level("Limited by the noise.", NOISE, values | {"global_noise_level": 12.6})
    assert inside.endswith("agrees with the reference level of this protocol and patient size, 12 HU (+5 %).")
    assert with_reference_level("Why.", {}, values) == "Why."
    assert with_reference_level("Why.", NOISE, values | {"water_equivalent_diameter": 400.0}) == "Why."


# -- which levels hold for a series ----------------------------------------------------------------------------


@pytest.fixture
def lived(any_database: Database) -> Database:
    live(any_database, 400, until=NOW)
    return any_database


def test_a_scanner_has_the_levels_that_were_frozen_for_its_strata(lived: Database) -> None:
    reader, store = QualityAndDose(lived), ReferenceLevelStore(lived, lambda: NOW)
    with lived.read() as connection:
        row = connection.execute(sa.select(t.series).where(t.series.c.station_name == "CT-L1").limit(1)).one()
        named = sa.select(s.scanners.c.scanner_id).where(s.scanners.c.name == "CT-L1")
        scanner = connection.execute(named).scalar_one()
        other = connection.execute(sa.select(t.series).where(t.series.c.manufacturer == "Borealis").limit(1)).one()
    stratum = reader.strata(scanner)[0]
    chosen = reader.chosen(stratum.label, scanner)
    assert chosen is not None
    made = proposed_level(chosen.points, "global_noise_level")
    assert made is not None
    store.freeze(stratum.groups[0][0], made, limit=15.0, reason="r", author="ada")
    store.set_tolerance(stratum.protocol, "global_noise_level", 12.0, reason="r", author="ada")
    found = store.of_scanner(series_header_of(row))
    assert set(found.by_stratum) == {stratum.label}
    held = found.of(stratum.label)["global_noise_level"]
    assert (held.revision, held.limit, held.tolerance_percent, held.frozen_at) == (1, 15.0, 12.0, NOW)
    assert held.at(300) == pytest.approx(made.at(300))
    assert store.of_scanner(series_header_of(other)).by_stratum == {}
    # A scanner that is shown under another has the levels of that chart.
    with lived.write() as connection:
        joined = s.groups.join(s.scanners, s.scanners.c.scanner_id == s.groups.c.scanner_id)
        query = sa.select(s.groups.c.group_id, s.groups.c.protocol).select_from(joined)
        moved = connection.execute(query.where(s.scanners.c.manufacturer == "Borealis").limit(1)).one()
        shown = s.groups.update().where(s.groups.c.group_id == moved.group_id)
        connection.execute(shown.values(charted_as=stratum.groups[0][0]))
    assert set(store.of_scanner(series_header_of(other)).by_stratum) == {moved.protocol}
    store.withdraw(stratum.groups[0][0], "global_noise_level", reason="r", author="ada")
    assert store.of_scanner(series_header_of(row)).by_stratum == {}


def test_a_series_is_scored_by_the_level_of_the_stratum_it_is_charted_in(tmp_path: Path) -> None:
    images = ct_series(3, 12, 96, "routine", spacing_mm=25)
    paths = write(images, tmp_path)
    plain = score_series(paths, scorer=TinyScorer()).result
    values = {item.name: item.value for item in plain.measurements}
    noise, size = values["global_noise_level"], values["water_equivalent_diameter"]
    assert noise is not None
    assert size is not None
    database = Database(f"sqlite:///{tmp_path}/q.db")
    database.upgrade()
    uid = add_series(web_config(tmp_path), database, tmp_path / "work", images)
    ChartIngest(database).take_in()
    with database.read() as connection:
        row = connection.execute(sa.select(t.series).where(t.series.c.series_instance_uid == uid)).one()
        group = connection.execute(sa.select(s.groups)).one()
    store = ReferenceLevelStore(database, lambda: NOW)
    half = ReferenceLevel(
        "global_noise_level", LevelForm.TYPICAL_VALUE, noise / 2, math.log(noise / 2), 0.0, size, size - 5, size + 5,
        noise / 2, 30,
    )  # fmt: skip
    store.freeze(group.group_id, half, limit=noise / 2, reason="r", author="ada")
    levels = store.of_scanner(series_header_of(row))
    assert set(levels.by_stratum) == {group.protocol}
    result = score_series(paths, scorer=TinyScorer(), options=Options(levels=levels)).result
    finding = next(item for item in result.findings if item.key == "noise_high")
    assert "typical value, revision 1 of 2026-11-28" in finding.evidence
    assert "100 % above the reference level" in result.why
    database.close()
