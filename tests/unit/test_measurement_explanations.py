"""Each measurement on the page of a series has its formula, its source and what is usual for the protocol."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.ops.web_server import actions_of, measurement_explanations
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.web.series_comparison import side_by_side, trends_of
from tests.scored_series import add_ct, add_petct
from tests.web_site import Role, logged_in, open_site


def test_no_name_stands_for_two_formulas():
    formulas: dict[str, set[str]] = {}
    for quantity in (*CT_QUANTITIES, *PET_QUANTITIES, *GEOMETRY_QUANTITIES):
        formulas.setdefault(quantity.name, set()).add(quantity.formula)
    assert [name for name, found in formulas.items() if len(found) > 1] == []
    assert all(item.formula and item.reference for item in measurement_explanations().values())


@pytest.mark.parametrize("add", [add_ct, add_petct])
def test_every_measurement_of_a_series_is_explained(tmp_path, add):
    site = open_site(tmp_path)
    site = replace(site, actions=actions_of(site.config))
    uid = add(site.config, site.database, tmp_path, rows=96)
    measured = QualityLog(site.database).entry(uid).result.measurements
    page = logged_in(site, Role.VIEWER).get(f"/series/{uid}").text
    assert {item.name for item in measured} <= set(measurement_explanations())
    assert page.count('<details class="how">') == len(measured)
    site.database.close()


def test_the_usual_range_is_that_of_the_quartiles():
    payloads = [f'{{"measurements": [{{"name": "noise", "value": {value}}}]}}' for value in range(1, 22)]
    (trend,) = trends_of([Measurement("noise", "Noise", 30.0, "1")], payloads)
    assert (trend.quartiles, trend.median, trend.odd) == ((6.0, 16.0), 11.0, True)
    (few,) = trends_of([Measurement("noise", "Noise", 30.0, "1")], payloads[:9])
    assert few.quartiles is None


def test_two_series_stand_side_by_side():
    one = [Measurement("a", "A", 10.0, "HU"), Measurement("b", "B", None, "1"), Measurement("c", "C", 0.0, "1")]
    two = [Measurement("a", "A", 12.0, "HU"), Measurement("c", "C", 1.0, "1"), Measurement("d", "D", -4.0, "1")]
    pairs = {pair.name: (pair.first, pair.second, pair.change) for pair in side_by_side(one, two)}
    assert pairs == {"a": (10.0, 12.0, pytest.approx(20.0)), "c": (0.0, 1.0, None), "d": (None, -4.0, None)}
