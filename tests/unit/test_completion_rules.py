"""The completion rules: a table of cases, and what must hold for every case."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_qa_node.config import Complete
from dicom_qa_node.domain.series import SeriesProgress
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.completion import Ready, Wait, decide

T0 = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)
RULES = Complete(quiet_s=60, pair_wait_s=900, force_age_s=3600)
CT_IN, CT_DONE = ("1.9.1", SeriesState.RECEIVING), ("1.9.2", SeriesState.SCORED)


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def progress(**changes: object) -> SeriesProgress:
    values = {
        "series_instance_uid": "1.2.3",
        "study_instance_uid": "1.2",
        "modality": "CT",
        "frame_of_reference_uid": "1.5",
        "received": 10,
        "expected": None,
        "open_associations": 0,
        "first_received_at": T0,
        "last_received_at": T0,
        "version": 1,
    }
    return SeriesProgress(**(values | changes))  # type: ignore[arg-type]


CASES = [
    ("count reached", {"expected": 10}, 0, Ready("all 10 images")),
    ("multi-frame by itself", {"received": 1, "expected": 1}, 0, Ready("all 1 image")),
    ("count reached, association open", {"expected": 10, "open_associations": 1}, 59, "open"),
    ("association open, long silence", {"open_associations": 2}, 3599, "open"),
    ("no count, silence too short", {}, 59.9, "no count announced), waiting"),
    ("no count, silence", {}, 60, Ready("10 images (no count announced) after 60 s of silence")),
    ("images missing, silence too short", {"expected": 12}, 59, "10 of 12 images, waiting"),
    ("images missing, silence", {"expected": 12}, 60, Ready("10 of 12 images after 60 s of silence")),
    ("more than announced, too early", {"expected": 8}, 59, "10 images (8 announced), waiting"),
    ("more than announced, silence", {"expected": 8}, 60, Ready("10 images (8 announced) after 60 s of silence")),
    ("announced zero", {"expected": 0}, 60, Ready("10 images (0 announced) after 60 s of silence")),
    (
        "forced with an open association",
        {"expected": 12, "open_associations": 1, "last_received_at": at(3590)},
        3600,
        Ready("10 of 12 images, scored at the age limit of 3600 s"),
    ),
    ("CT never waits for PET", {"expected": 10, "paired_series": (CT_IN,)}, 0, Ready("all 10 images")),
    ("PET, no CT yet", {"modality": "PT", "expected": 10}, 899, "waiting for the CT"),
    ("PET, its CT is arriving", {"modality": "PT", "expected": 10, "paired_series": (CT_IN,)}, 1, "waiting for the CT"),
    (
        "PET, its CT is there",
        {"modality": "PT", "expected": 10, "paired_series": (CT_DONE,)},
        0,
        Ready("all 10 images; with its CT", "1.9.2"),
    ),
    (
        "PET, one CT is there and one arriving",
        {"modality": "PT", "expected": 10, "paired_series": (CT_IN, CT_DONE)},
        10,
        "waiting for the CT",
    ),
    (
        "PET, one CT is there and one never ends",
        {"modality": "PT", "expected": 10, "paired_series": (CT_IN, CT_DONE)},
        900,
        Ready("all 10 images; with its CT", "1.9.2"),
    ),
    (
        "PET alone",
        {"modality": "PT", "expected": 10},
        900,
        Ready("all 10 images; its CT did not come in time"),
    ),
    (
        "PET without a frame of reference",
        {"modality": "PT", "expected": 10, "frame_of_reference_uid": ""},
        0,
        Ready("all 10 images"),
    ),
    ("PET itself not complete", {"modality": "PT", "paired_series": (CT_DONE,)}, 59, "waiting for silence"),
    (
        "PET forced takes the CT that is there",
        {"modality": "PT", "open_associations": 1, "paired_series": (CT_IN, CT_DONE)},
        3600,
        Ready("10 images (no count announced), scored at the age limit of 3600 s; with its CT", "1.9.2"),
    ),
]


@pytest.mark.parametrize(("changes", "seconds", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_case(changes, seconds, expected):
    decision = decide(progress(**changes), RULES, at(seconds))
    if isinstance(expected, Ready):
        assert decision == expected
    else:
        assert isinstance(decision, Wait)
        assert expected in decision.reason
        assert decision.until > at(seconds)


@pytest.mark.parametrize(
    ("changes", "until"),
    [
        ({}, 60),
        ({"last_received_at": at(30)}, 90),
        ({"open_associations": 1}, 3600),
        ({"last_received_at": at(3590)}, 3600),
        ({"modality": "PT", "expected": 10}, 900),
    ],
)
def test_wait_says_until_when(changes, until):
    decision = decide(progress(**changes), RULES, at(1))
    assert isinstance(decision, Wait)
    assert decision.until == at(until)


seconds = st.floats(0, 10_000)
pairs = st.lists(st.tuples(st.sampled_from(["1.9.1", "1.9.2"]), st.sampled_from(list(SeriesState))), max_size=3)
settings = st.builds(
    Complete,
    quiet_s=st.floats(0, 4000),
    pair_wait_s=st.floats(0, 4000),
    force_age_s=st.floats(1, 8000),
)


@st.composite
def any_progress(draw):
    first, gap = draw(seconds), draw(seconds)
    return progress(
        modality=draw(st.sampled_from(["CT", "PT"])),
        frame_of_reference_uid=draw(st.sampled_from(["", "1.5"])),
        received=draw(st.integers(1, 100)),
        expected=draw(st.none() | st.integers(0, 100)),
        open_associations=draw(st.integers(0, 3)),
        first_received_at=at(first),
        last_received_at=at(first + gap),
        paired_series=tuple(draw(pairs)),
    )


@given(any_progress(), settings, seconds)
def test_nothing_waits_beyond_the_age_limit(item, rules, now):
    force_at = item.first_received_at + dt.timedelta(seconds=rules.force_age_s)
    decision = decide(item, rules, at(now))
    if at(now) >= force_at:
        assert isinstance(decision, Ready)
    elif isinstance(decision, Wait):
        assert at(now) < decision.until <= force_at


@given(any_progress(), settings, seconds, seconds)
def test_once_ready_it_stays_ready(item, rules, now, later):
    if isinstance(decide(item, rules, at(now)), Ready):
        assert isinstance(decide(item, rules, at(now + later)), Ready)


@given(any_progress(), settings, seconds)
def test_it_is_ready_when_it_said_it_would_be(item, rules, now):
    decision = decide(item, rules, at(now))
    for _ in range(3):
        if isinstance(decision, Ready):
            return
        decision = decide(item, rules, decision.until)
    assert isinstance(decision, Ready)


@given(any_progress(), settings, seconds)
def test_an_open_association_is_only_overruled_by_age(item, rules, now):
    young = at(now) < item.first_received_at + dt.timedelta(seconds=rules.force_age_s)
    if item.open_associations and young:
        assert isinstance(decide(item, rules, at(now)), Wait)


@given(any_progress(), settings, seconds)
def test_a_reached_count_makes_a_ct_ready_at_once(item, rules, now):
    if item.modality == "CT" and item.expected == item.received and not item.open_associations:
        assert isinstance(decide(item, rules, at(now)), Ready)


@given(any_progress(), settings, seconds)
def test_a_pair_is_a_ct_that_left_receiving(item, rules, now):
    decision = decide(item, rules, at(now))
    if isinstance(decision, Ready) and decision.pair_series_uid is not None:
        assert item.modality == "PT"
        assert item.frame_of_reference_uid
        states = {state for uid, state in item.paired_series if uid == decision.pair_series_uid}
        assert states - {SeriesState.RECEIVING}
