"""What the charts show is what the quality log holds, also after a kill, and whatever comes twice or late."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dicom_qa_node.charts.alerts import Alerts, AlertSubject, NewAlert
from dicom_qa_node.charts.arrival_order import monday_of
from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.drifts import Drifts
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvents
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.chart_tables import pack, unpack
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import (
    Grade,
    Measurement,
    ModelRef,
    SeriesKind,
    SeriesResult,
    result_from_json,
    result_to_json,
)
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import SeriesState
from tests.realistic_log import fill

DERIVED = (s.points, s.weeks, s.groups, s.counters, s.stale_weeks)
START = dt.datetime(2026, 3, 2, 8, tzinfo=dt.UTC)


@pytest.fixture
def database(any_database):
    return any_database


def add(database, number, score, *, version=1, at=None, noise=None, station="CT1", serial="S1", protocol="Chest"):
    """Put one result in, as the scorer leaves it."""
    uid, when = f"1.2.{number}", at or START + dt.timedelta(hours=number)
    facts = SeriesHeader(
        uid, "1.2", "CT", station_name=station, device_serial_number=serial, manufacturer="M",
        manufacturer_model_name="X", protocol_name=protocol, patient_name="Doe^Jane", patient_id="PID-1",
    )  # fmt: skip
    measured = () if noise is None else (Measurement("noise", "Noise", noise, "[hnsf'U]", "lower is better"),)
    result = SeriesResult(
        uid, "CT", SeriesKind.CT, score, None, Grade.LIMITED, (), measured, (), ModelRef("m", "1", "f" * 64), 1,
        timings_ms={"total": 1500.0},
    )  # fmt: skip
    with database.write() as connection:
        if version == 1:
            values = {name: getattr(facts, name) for name in facts.__slots__}
            connection.execute(
                t.series.insert().values(
                    **values, calling_ae="SC", state=SeriesState.SCORED.value, state_since=when, received=100,
                    expected={}, first_received_at=when, last_received_at=when - dt.timedelta(seconds=45),
                )
            )  # fmt: skip
        connection.execute(
            t.results.insert().values(
                series_instance_uid=uid, version=version, scored_at=when, modality="CT", kind="ct", score=score,
                grade="limited", scanner=station, model="m 1", model_sha256="f" * 64, payload=result_to_json(result),
            )
        )  # fmt: skip


def fold_all(database, **kwargs):
    ingest = ChartIngest(database)
    while ingest.take_in(**kwargs):
        pass
    while ingest.refresh_weeks():
        pass


def derived(database):
    with database.read() as connection:
        return {
            table.name: sorted(
                tuple(value for name, value in row._mapping.items() if name != "judged")
                for row in connection.execute(sa.select(table))
            )
            for table in DERIVED
        }


def test_cells_keep_every_bit_of_a_value():
    cells = [pack({3: 0.1, 1: -1e300}), pack({}), pack({3: 2.0})]
    found = unpack(cells, [None, 1.5, 2.5])
    assert [list(part) for part in found[3]] == [[0, 2], [0.1, 2.0]]
    assert [list(part) for part in found[1]] == [[0], [-1e300]]
    assert [list(part) for part in found[0]] == [[1, 2], [1.5, 2.5]]
    assert unpack([], []) == {}


def test_charts_weeks_and_counters_are_those_of_a_plain_recount(database):
    fill(database, series=1500, seed=3)
    fold_all(database)
    with database.read() as connection:
        rows = connection.execute(
            sa.select(t.results, t.series.c.protocol_name, t.series.c.device_serial_number).join(t.series)
        ).all()
    latest = {}
    for row in rows:
        if row.version >= latest.get(row.series_instance_uid, row).version:
            latest[row.series_instance_uid] = row
    first = {}
    for row in rows:
        first[row.series_instance_uid] = min(row.scored_at, first.get(row.series_instance_uid, row.scored_at))
    wanted = {}
    for uid, row in latest.items():
        key = (row.device_serial_number, row.kind, row.protocol_name)
        for m in result_from_json(row.payload).measurements:
            if m.value is not None:
                wanted.setdefault((key, monday_of(first[uid]), m.name), []).append(m.value)
        if row.score is not None:
            wanted.setdefault((key, monday_of(first[uid]), "score"), []).append(row.score)
    scanners = Scanners(database)
    seen = set()
    for card in scanners.overview():
        for group in card.groups:
            key = (card.scanner.serial, group.kind, group.protocol)
            for quantity in scanners.chart(group, points=5000).quantities:
                for week in scanners.weeks(group.group_id, quantity.quantity_id):
                    values = wanted[key, week.monday, quantity.name]
                    assert week.spread.count == len(values)
                    assert week.spread.median == pytest.approx(float(np.median(values)))
                    seen.add((key, week.monday, quantity.name))
    assert seen == set(wanted)
    assert sum(card.count for card in scanners.overview()) == len(latest)


def test_a_recount_from_the_log_gives_the_same(database):
    fill(database, series=600, seed=5)
    fold_all(database, limit=70)
    before = derived(database)
    ChartIngest(database).forget()
    assert derived(database) != before
    fold_all(database)
    after = derived(database)
    # Sums of the same values in another order differ in the last bits.
    for name in before:
        for one, other in zip(before[name], after[name], strict=True):
            assert one[:-1] == other[:-1] if name == "counters" else one == other
            assert one[-1] == (pytest.approx(other[-1]) if name == "counters" else other[-1])


KILLED = """
import sys
from dicom_qa_node.db.engine import Database; from dicom_qa_node.charts.chart_ingest import ChartIngest
folding = ChartIngest(Database(sys.argv[1]))
print("ready", flush=True)
while folding.take_in(limit=7) or folding.refresh_weeks(limit=1):
    pass
"""


@pytest.mark.integration
def test_kill_9_at_any_moment_counts_nothing_twice(database, tmp_path):
    fill(database, series=400, seed=7)
    url = f"sqlite:///{tmp_path}/q.db"
    for pause in (0.0, 0.05, 0.15, 0.3):
        child = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE)
        child.stdout.readline()
        try:
            child.wait(pause or 0.001)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
        child.stdout.close()
    fold_all(database)
    killed = derived(database)
    ChartIngest(database).forget()
    fold_all(database)
    fresh = derived(database)
    for name in ("chart_points", "chart_weeks", "chart_groups"):
        assert [row[1:] for row in killed[name]] == [row[1:] for row in fresh[name]]
    assert [row[:2] for row in killed["counters"]] == [row[:2] for row in fresh["counters"]]
    assert [row[2] for row in killed["counters"]] == pytest.approx([row[2] for row in fresh["counters"]])


def test_a_later_version_takes_the_place_and_the_time_of_the_first(database):
    for number in range(3):
        add(database, number, 3.0)
    fold_all(database)
    later = START + dt.timedelta(days=30)
    add(database, 1, 1.0, version=2, at=later)
    fold_all(database)
    scanners = Scanners(database)
    (card,) = scanners.overview()
    chart = scanners.chart(card.groups[0])
    assert [point.value for point in chart.points] == [3.0, 1.0, 3.0]
    assert (chart.points[1].version, chart.points[1].at) == (2, START + dt.timedelta(hours=1))
    assert card.count == 3
    (week,) = scanners.weeks(card.groups[0].group_id, 0)
    assert week.spread.count == 3


def test_two_versions_in_one_batch_make_one_point(database):
    add(database, 1, 3.0)
    add(database, 1, 2.0, version=2, at=START + dt.timedelta(days=1))
    fold_all(database)
    (card,) = Scanners(database).overview()
    assert [point.value for point in Scanners(database).chart(card.groups[0]).points] == [2.0]
    assert card.count == 1


def test_devices_are_told_apart_by_serial_and_keep_together_when_renamed(database):
    add(database, 1, 3.0, station="CT1", serial="S1")
    add(database, 2, 3.0, station="CT1-NEW", serial="S1")
    add(database, 3, 3.0, station="CT1", serial="S2")
    fold_all(database)
    assert sorted(card.count for card in Scanners(database).overview()) == [1, 2]


def test_a_protocol_per_patient_does_not_make_a_chart_per_patient(database):
    for number in range(205):
        add(database, number, 3.0, protocol=f"P{number}")
    fold_all(database)
    (card,) = Scanners(database).overview()
    assert len(card.groups) == 201
    assert next(group for group in card.groups if group.protocol == "(other protocols)").count == 5


def test_alerts_of_a_batch_come_once_with_it(database):
    add(database, 1, 3.0)

    def judge(new):
        return [
            NewAlert(f"x {n.series_instance_uid}", "r", AlertSubject.GRADE, n.scanner, series_instance_uid=None)
            for n in new
        ]

    fold_all(database, judge=judge)
    fold_all(database, judge=judge)
    assert [alert.text for alert in Alerts(database).history()] == ["CT1"]


def test_the_first_points_are_the_baseline_until_somebody_chooses(database):
    generator = np.random.default_rng(1)
    for number in range(120):
        add(database, number, float(generator.normal(3.0, 0.1)), noise=10.0)
    fold_all(database)
    scanners = Scanners(database, ChartRules(baseline_points=50))
    group = scanners.overview()[0].groups[0]
    chart = scanners.chart(group)
    assert chart.baseline.automatic
    assert chart.baseline.limits.count == 50
    assert chart.baseline.limits.centre == pytest.approx(np.mean([p.value for p in chart.points[:50]]))
    day = (START + dt.timedelta(days=3)).date()
    scanners.choose_baseline(group, "score", day, day + dt.timedelta(days=1), reason="new tube", author="mp")
    chosen = scanners.chart(group).baseline
    inside = [p.value for p in chart.points if day <= p.at.date() <= day + dt.timedelta(days=1)]
    assert (chosen.author, chosen.limits.count) == ("mp", len(inside))
    assert chosen.limits.centre == pytest.approx(np.mean(inside))
    scanners.automatic_baseline(group, "score", reason="", author="mp")
    assert scanners.chart(group).baseline.automatic
    assert len(scanners.baselines(group.group_id, "score")) == 2
    with pytest.raises(Permanent, match="fewer than 20"):
        scanners.choose_baseline(group, "score", dt.date(2020, 1, 1), dt.date(2020, 2, 1), reason="", author="mp")


def test_what_people_wrote_cannot_be_changed(database):
    add(database, 1, 3.0)
    fold_all(database)
    events = ServiceEvents(database)
    first = events.add(1, START, EventKind.TUBE, "new tube", author="mp")
    second = events.correct(first, START, EventKind.TUBE, "new tube and filter", author="ph")
    assert [(e.text, e.author) for e in events.of(1)] == [("new tube and filter", "ph")]
    with pytest.raises(Permanent):
        events.correct(first, START, EventKind.TUBE, "another", author="mp")
    events.withdraw(second, "wrong scanner", author="mp")
    assert events.of(1) == []
    assert [e.text for e in events.of(1, everything=True)] != []
    with pytest.raises(Permanent):
        events.add(99, START, EventKind.OTHER, "x", author="mp")
    with pytest.raises(Permanent):
        events.add(1, START, EventKind.OTHER, "  ", author="mp")
    for change in (s.events.update().values(text="x"), s.events.delete()):
        with pytest.raises(DBAPIError, match="append-only"), database.write() as connection:
            connection.execute(change)


def test_drift_begins_once_and_ends_after_a_new_baseline(database):
    generator = np.random.default_rng(2)
    for number in range(160):
        shift = -0.25 if number >= 100 else 0.0
        add(database, number, float(generator.normal(3.0 + shift, 0.1)))
    fold_all(database)
    drifts, scanners = Drifts(database, ChartRules()), Scanners(database)
    told = []

    def judge(alarms):
        told.extend(alarms)
        return [NewAlert(f"drift {a.alarm_id}", "drift", AlertSubject.DRIFT, a.quantity) for a in alarms]

    assert drifts.look(judge) == 1
    assert drifts.look(judge) == 0
    (alarm,) = scanners.alarms()
    assert (alarm.side, alarm.quantity) == (-1, "score")
    assert START + dt.timedelta(hours=100) <= alarm.began_at <= START + dt.timedelta(hours=125)
    assert alarm.shift_sigma < -1
    add(database, 160, 2.7)
    fold_all(database)
    assert drifts.look(judge) == 1
    assert len(told) == 1
    assert len(Alerts(database).history()) == 1
    group = scanners.overview()[0].groups[0]
    day = (START + dt.timedelta(hours=112)).date()
    scanners.choose_baseline(group, "score", day, day + dt.timedelta(days=3), reason="detector replaced", author="mp")
    drifts.look(judge)
    assert scanners.alarms() == []
    (ended,) = scanners.alarms(only_open=False)
    assert ended.ended_at is not None


def test_another_network_leaves_one_event(database):
    add(database, 1, 3.0)
    fold_all(database)
    for number in (2, 3):
        add(database, number, 3.0)
    with database.write() as connection:
        connection.execute(t.results.update().where(t.results.c.result_id > 1).values(model="m 2"))
    fold_all(database)
    assert [(e.kind, e.text) for e in ServiceEvents(database).of(1)] == [
        (EventKind.NETWORK, "scored by m 2 from here on, before by m 1")
    ]


def test_latency_is_counted_in_buckets(database):
    add(database, 1, 3.0)
    fold_all(database)
    from dicom_qa_node.charts.counters import read_counters

    with database.read() as connection:
        found = read_counters(connection)
    assert found["score_duration_seconds"] == [({"le": "2.5"}, 1.0)]
    assert found["score_duration_seconds_sum"] == [({}, 1.5)]
    assert found["turnaround_seconds"] == [({"le": "60"}, 1.0)]
    assert found["scored_images"] == [({}, 100.0)]
