"""The sweep moves what is complete, once, and leaves the rest."""

from __future__ import annotations

import datetime as dt

import pytest

from dicom_qa_node.config import Complete
from dicom_qa_node.domain.series import AssociationEnd, AssociationStart, SeriesHeader, StoredInstance
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.completion import sweep
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.registry import Registry

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
RULES = Complete()


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def instance(number: int, series: str = "1.2.3", modality: str = "CT", **changes: object) -> StoredInstance:
    facts = SeriesHeader(series, "1.2", modality, frame_of_reference_uid="1.9")
    values = {
        "sop_instance_uid": f"{series}.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "path": f"{series}/{number}",
        "sha256": "0" * 64,
        "size_bytes": 10,
        "received_at": T0,
        "calling_ae": "SCANNER",
        "association_id": "a1",
        "series": facts,
    }
    return StoredInstance(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def database(any_database):
    return any_database


@pytest.fixture
def registry(database):
    return Registry(database)


def test_counted_series_waits_only_for_its_association(registry, database):
    start = AssociationStart("a1", "SCANNER", "127.0.0.1", "r", T0)
    registry.record([start, instance(1, expected=2), instance(2, expected=2)])
    assert sweep(registry, RULES, at(1)) == 0
    registry.record([AssociationEnd("a1", at(1))])
    assert sweep(registry, RULES, at(1)) == 1
    assert sweep(registry, RULES, at(1)) == 0
    assert registry.series("1.2.3").complete_reason == "all 2 images"
    assert Jobs(database, clock=lambda: at(1)).waiting() == 1


def test_pet_goes_with_its_ct(registry):
    registry.record([instance(1, "1.2.4", "PT", expected=1), instance(1)])
    assert sweep(registry, RULES, at(10)) == 0
    assert sweep(registry, RULES, at(60)) == 1
    assert sweep(registry, RULES, at(60.5)) == 1
    row = registry.series("1.2.4")
    assert (row.state, row.pair_series_uid) == (SeriesState.COMPLETE, "1.2.3")


def test_late_image_starts_a_new_age(registry):
    registry.record([instance(1, expected=1)])
    assert sweep(registry, RULES, at(0)) == 1
    late = 2 * RULES.force_age_s
    registry.record([instance(2, received_at=at(late), association_id="a2")])
    assert sweep(registry, RULES, at(late + 1)) == 0
    assert sweep(registry, RULES, at(late + RULES.quiet_s)) == 1
