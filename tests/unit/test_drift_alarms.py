"""One cause is one alarm; what arrives late alarms about nothing; names are given and taken back without loss."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from dicom_qa_node.charts.arrival_order import late_arrivals
from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.chart_records import Light
from dicom_qa_node.charts.chart_scale import least_shift
from dicom_qa_node.charts.control_charts import Drift
from dicom_qa_node.charts.drifts import Drifts, Moved, sentence_of
from dicom_qa_node.charts.naming import Naming
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.config import Config
from dicom_qa_node.db import chart_tables as s
from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import log_facets
from dicom_qa_node.domain.acquisition_parameters import Acquisition
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Measurement, ModelRef, SeriesKind, SeriesResult
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.jobs import result_row
from dicom_qa_node.ops.alert_evaluation import AlertEvaluator
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.rows import add_log_row
from dicom_qa_node.quality_log.search import LogSearch

START = dt.datetime(2026, 3, 2, 8, tzinfo=dt.UTC)
WORDS = {
    "global_noise_level": ("Noise", "lower is better"),
    "snr": ("Signal to noise", "higher is better"),
    "ctdi_vol": ("CTDIvol", "context"),
    "water_equivalent_diameter": ("Size", "context"),
}


@pytest.fixture
def database(tmp_path):
    (tmp_path / "q.db").touch()
    found = Database(f"sqlite:///{tmp_path}/q.db")
    found.upgrade()
    yield found
    found.close()


class Hospital:
    """Writes results as the scorer leaves them: noise, signal to noise and dose of one stratum that hold together."""

    def __init__(self, database: Database, seed: int = 1) -> None:
        self.database, self.generator, self.number = database, np.random.default_rng(seed), 0

    def scan(self, count, *, start=None, noise=1.0, dose=1.0, size=300.0, scored=None, **header):
        """Add series, one an hour; ``scored`` is the time of scoring where it is not the acquisition's."""
        with self.database.write() as connection:
            for step in range(count):
                self.number += 1
                taken = (start or START) + dt.timedelta(hours=self.number if start is None else step)
                at = (scored or taken) + dt.timedelta(seconds=self.number)
                self._add(connection, taken, at, noise, dose, size, header)

    def _add(self, connection, taken, at, noise, dose, size, header):
        uid = f"1.2.{self.number}"
        names = {"station_name": "CT1", "device_serial_number": "S1", "protocol_name": "Chest"} | header
        facts = SeriesHeader(uid, "1.2", "CT", manufacturer="M", manufacturer_model_name="X", **names)
        mm = self.generator.normal(size, 30)
        share = dose * self.generator.lognormal(0, 0.05)
        level = 12 * noise * share**-0.5 * np.exp(0.0045 * (mm - 300) + self.generator.normal(0, 0.08))
        values = {
            "global_noise_level": level, "snr": 1045 / level, "ctdi_vol": 6 * share * np.exp(0.006 * (mm - 300)),
            "water_equivalent_diameter": mm,
        }  # fmt: skip
        measured = tuple(Measurement(n, WORDS[n][0], float(v), "1", WORDS[n][1]) for n, v in values.items())
        result = SeriesResult(
            uid, "CT", SeriesKind.CT, None, None, None, (), measured, (), ModelRef("m", "1", "f" * 64), 1,
            acquisition=Acquisition(taken.replace(tzinfo=None)),
        )  # fmt: skip
        row = {name: getattr(facts, name) for name in facts.__slots__}
        times = {"state_since": at, "first_received_at": at, "last_received_at": at}
        connection.execute(
            t.series.insert().values(**row, **times, calling_ae="SC", state=SeriesState.SCORED.value, expected={})
        )
        new = t.results.insert().values(**result_row(uid, 1, result, facts, at)).returning(t.results.c.result_id)
        add_log_row(connection, int(connection.execute(new).scalar_one()), facts, 1, result, at)

    def chart(self, rules=None):
        """Bring everything into the charts and judge it; return the new alarms."""
        told = []
        ingest, naming = ChartIngest(self.database), Naming(self.database)
        while ingest.take_in():
            pass
        while naming.move(limit=7):
            pass
        while ingest.refresh_weeks():
            pass
        drifts = Drifts(self.database, rules or ChartRules())

        def note(begun):
            told.extend(begun)
            return []

        while drifts.look(note):
            pass
        return told


def test_what_drifts_together_is_one_alarm_named_by_its_cause(database):
    hospital, scanners = Hospital(database), Scanners(database)
    hospital.scan(100)
    assert hospital.chart() == []
    hospital.scan(60, noise=1.2)
    (begun,) = hospital.chart()
    assert (begun.quantity, begun.others) == ("global_noise_level", ("Signal to noise",))
    assert begun.sentence.startswith("Image chain: Noise rose by ")
    assert begun.sentence.endswith("; the dose is what it was.")
    (alarm,) = scanners.alarms()
    assert (alarm.sentence, alarm.others) == (begun.sentence, ("Signal to noise",))
    (card,) = scanners.overview()
    assert (card.alarms, card.light) == (1, Light.DRIFT)
    words = [alert.text for alert in AlertEvaluator(Config()).drifts([begun])]
    assert words == [f"{begun.sentence} (CT, Chest)"]
    # Rules name the protocol, whatever else is in the stratum.
    narrow = Config(alerts={"rules": [{"name": "d", "about": "drift", "protocol": "chest"}]})
    of_stratum = replace(begun, protocol="Chest · soft kernel · 3 mm")
    assert len(AlertEvaluator(narrow).drifts([of_stratum])) == 1


def test_the_protocol_changed_where_the_dose_left_its_baseline_too(database):
    hospital = Hospital(database)
    hospital.scan(100)
    hospital.scan(60, dose=0.7)
    (begun,) = hospital.chart()
    assert begun.sentence.startswith("Protocol changed: CTDIvol fell by 28 %")
    assert "Noise rose by " in begun.sentence


def test_improvements_are_notes(database):
    hospital, scanners = Hospital(database), Scanners(database)
    hospital.scan(100)
    hospital.scan(60, noise=0.8)
    assert hospital.chart() == []
    assert scanners.alarms() == []
    (note,) = scanners.alarms(notes=True)
    assert note.sentence.startswith("Improved: Noise fell by ")
    (card,) = scanners.overview()
    assert (card.alarms, card.notes, card.light) == (0, 1, Light.STEADY)
    # What gets worse afterwards is an alarm, though the note was there first.
    hospital.scan(90, noise=1.3)
    assert len(hospital.chart()) == 1
    assert len(scanners.alarms()) == 1


def test_an_improvement_that_a_higher_dose_joins_becomes_an_alarm(database):
    hospital, scanners = Hospital(database), Scanners(database)
    hospital.scan(100)
    hospital.scan(60, noise=0.8)
    assert hospital.chart() == []
    (note,) = scanners.alarms(notes=True)
    hospital.scan(60, noise=0.8, dose=1.4)
    (begun,) = hospital.chart()
    assert begun.alarm_id == note.alarm_id
    assert begun.sentence.startswith("Protocol changed: ")
    assert "CTDIvol rose by " in begun.sentence
    (alarm,) = scanners.alarms()
    assert (alarm.alarm_id, alarm.sentence, alarm.improvement) == (note.alarm_id, begun.sentence, False)


def test_an_accepted_change_begins_a_new_baseline_and_ends_the_alarm(database):
    hospital, scanners = Hospital(database), Scanners(database)
    hospital.scan(100)
    hospital.scan(40, noise=1.25)
    hospital.chart()
    (alarm,) = scanners.alarms()
    (group,) = scanners.groups(1)
    scanners.accept_change(group, alarm.began_at, reason="new protocol", author="mp")
    hospital.chart()
    assert scanners.alarms() == []
    chart = scanners.chart(group, "global_noise_level")
    assert chart.baseline is None
    assert (chart.too_few.needed, chart.too_few.from_at) == (50, alarm.began_at)
    assert 25 <= chart.too_few.count < 50
    (card,) = scanners.overview()
    assert (card.light, card.collected) == (Light.TOO_FEW, (chart.too_few.count, 50))
    hospital.scan(60, noise=1.25)
    assert hospital.chart() == []
    chart = scanners.chart(group, "global_noise_level")
    assert (chart.baseline.author, chart.baseline.from_at) == ("mp", alarm.began_at)
    assert chart.baseline.limits.centre == pytest.approx(15, rel=0.06)
    hospital.scan(60, noise=1.5)
    assert len(hospital.chart()) == 1


def test_larger_patients_alone_are_no_drift(database):
    hospital = Hospital(database)
    hospital.scan(100)
    hospital.scan(150, size=325)
    assert hospital.chart() == []
    raw = Hospital(database, seed=2)
    raw.number = 1000
    raw.scan(100, protocol_name="Other")
    raw.scan(150, protocol_name="Other", size=325, noise=1.15)
    assert [alarm.protocol for alarm in raw.chart()] == ["Other"]


def test_a_shift_that_does_not_matter_is_none(database):
    hospital = Hospital(database)
    hospital.scan(100)
    hospital.scan(60, noise=1.2)
    assert hospital.chart(ChartRules(least_shift={"*": 0.5})) == []
    assert least_shift("ctdi_vol", {}, 10.0) == pytest.approx(1.0)
    assert least_shift("global_noise_level", {}, 12.0) == pytest.approx(0.6)
    assert least_shift("score", {}, 3.0) == pytest.approx(0.1)
    assert least_shift("score", {"*": 0.2}, 3.0) == pytest.approx(0.6)


def test_late_arrivals_are_drawn_in_their_place_and_judge_nothing(database):
    hospital, scanners = Hospital(database), Scanners(database)
    hospital.scan(140)
    hospital.chart()
    (group,) = scanners.groups(1)
    before = scanners.chart(group, "global_noise_level", points=1000)
    hospital.scan(60, start=START + dt.timedelta(hours=20), scored=START + dt.timedelta(hours=200), noise=2.0)
    assert hospital.chart() == []
    assert scanners.alarms() == []
    after = scanners.chart(group, "global_noise_level", points=1000)
    assert after.baseline == before.baseline
    assert sum(point.late for point in after.points) == 60
    assert [p.acquired_at for p in after.points] == sorted(p.acquired_at for p in after.points)
    on_time = [p for p in after.points if not p.late]
    assert [p.series_instance_uid for p in on_time] == [p.series_instance_uid for p in before.points]
    assert after.judgement.smoothed == before.judgement.smoothed
    # By the scoring date they are the last ones, and they count.
    scored = scanners.chart(group, "global_noise_level", points=1000, axis=type(after.axis)("scored"))
    assert [p.series_instance_uid for p in scored.points[-60:]] == [f"1.2.{n}" for n in range(141, 201)]
    assert not any(p.late for p in scored.points)


def test_series_that_wait_some_hours_are_not_late():
    at = [START + dt.timedelta(hours=hour) for hour in range(10)]
    assert not late_arrivals(at, list(reversed(at))).any()
    week = dt.timedelta(days=7)
    assert late_arrivals([START, START + week], [START + 2 * week, START + week]).tolist() == [True, False]
    # A backfill into an empty chart, oldest first, is in order.
    assert not late_arrivals(at, [START + week + dt.timedelta(minutes=n) for n in range(10)]).any()


def test_too_few_are_counted(database):
    hospital, scanners = Hospital(database), Scanners(database)
    hospital.scan(34)
    hospital.chart()
    (card,) = scanners.overview()
    assert (card.light, card.collected) == (Light.TOO_FEW, (34, 50))
    chart = scanners.chart(card.groups[0], "global_noise_level")
    assert (chart.baseline, chart.too_few.count, chart.too_few.needed) == (None, 34, 50)


def test_merged_scanners_share_charts_and_come_apart_again(database):
    hospital, scanners, naming = Hospital(database), Scanners(database), Naming(database)
    hospital.scan(30)
    hospital.scan(25, station_name="unknown", device_serial_number="")
    hospital.chart()
    first, second = scanners.overview()
    assert {first.scanner.name, second.scanner.name} == {"CT1", "X"}
    one = next(card.scanner for card in (first, second) if card.scanner.name == "CT1")
    other = next(card.scanner for card in (first, second) if card.scanner.name == "X")
    naming.merge(other.scanner_id, one.scanner_id, author="mp")
    hospital.chart()
    (card,) = scanners.overview()
    assert (card.count, card.scanner.parts) == (55, (other.scanner_id,))
    assert len(scanners.chart(card.groups[0], "global_noise_level").points) == 55
    assert sum(week.spread.count for week in scanners.weeks(card.groups[0].group_id, 1)) == 55
    assert facets(database) == {"CT1"}
    # What comes later goes to the same chart at once.
    hospital.scan(5, station_name="unknown", device_serial_number="")
    hospital.chart()
    assert scanners.overview()[0].count == 60
    with pytest.raises(Permanent, match="itself"):
        naming.merge(one.scanner_id, one.scanner_id, author="mp")
    with pytest.raises(Permanent, match="is part of"):
        naming.merge(one.scanner_id, other.scanner_id, author="mp")
    naming.merge(other.scanner_id, None, author="mp")
    hospital.chart()
    assert sorted(card.count for card in scanners.overview()) == [30, 30]
    assert facets(database) == {"CT1", "X"}


def facets(database):
    with database.read() as connection:
        return set(connection.execute(sa.select(log_facets.c.shown_scanner)).scalars())


def test_a_scanner_gets_a_name_and_loses_it(database):
    hospital, scanners, naming = Hospital(database), Scanners(database), Naming(database)
    hospital.scan(3, station_name="0", device_serial_number="77")
    hospital.scan(3)
    hospital.chart()
    assert [card.scanner.name for card in scanners.overview()] == ["CT1", "X 77"]
    number = scanners.overview()[1].scanner.scanner_id
    assert naming.name_scanner(number, " Room  3 ", author="mp") == "Room 3"
    assert facets(database) == {"CT1", "Room 3"}
    with pytest.raises(Permanent, match="another scanner"):
        naming.name_scanner(number, "ct1", author="mp")
    with pytest.raises(Permanent, match="characters"):
        naming.name_scanner(number, "x" * 101, author="mp")
    with pytest.raises(Permanent, match="no scanner"):
        naming.name_scanner(99, "x", author="mp")
    assert naming.name_scanner(number, "", author="mp") == "X 77"
    assert naming.scanners()[number].author == "mp"


def test_protocols_of_two_spellings_share_a_chart(database):
    hospital, scanners, naming = Hospital(database), Scanners(database), Naming(database)
    hospital.scan(20)
    hospital.scan(15, protocol_name="CHEST V2")
    hospital.chart()
    naming.map_protocol("CHEST V2", "Chest", author="mp")
    hospital.scan(5, protocol_name="CHEST V2")
    hospital.chart()
    (group,) = scanners.groups(1)
    assert (group.protocol, group.count) == ("Chest", 40)
    with database.read() as connection:
        shown = dict(connection.execute(sa.select(log_facets.c.protocol, log_facets.c.shown_protocol)).all())
    assert shown == {"Chest": None, "CHEST V2": "Chest"}
    with pytest.raises(Permanent, match="other protocols"):
        naming.map_protocol("Chest", "Thorax", author="mp")
    with pytest.raises(Permanent, match="itself shown"):
        naming.map_protocol("Lung", "CHEST V2", author="mp")
    naming.map_protocol("CHEST V2", "", author="mp")
    hospital.chart()
    assert sorted((group.protocol, group.count) for group in scanners.groups(1)) == [("CHEST V2", 20), ("Chest", 20)]
    with database.read() as connection:
        assert connection.execute(sa.select(s.groups.c.group_id).where(s.groups.c.moving)).all() == []


def test_the_log_shows_and_finds_series_by_the_names_that_people_gave(database):
    hospital, naming, log = Hospital(database), Naming(database), LogSearch(database)
    hospital.scan(3, station_name="0", device_serial_number="77", protocol_name="CHEST V2")
    hospital.scan(2)
    hospital.chart()
    naming.name_scanner(1, "Room 3", author="mp")
    naming.map_protocol("CHEST V2", "Chest", author="mp")
    assert log.choices().scanners == ("CT1", "Room 3")
    assert log.choices().protocols == ("Chest",)

    def found(**chosen):
        page = log.page(LogQuery(**chosen))
        return sorted((row.scanner, row.facts.protocol_name) for row in page.rows)

    assert found(scanner="Room 3") == [("Room 3", "Chest")] * 3
    # A link of before the change still works.
    assert found(scanner="X 77") == [("Room 3", "Chest")] * 3
    assert len(found(protocol="Chest")) == 5
    assert found(words="room") == [("Room 3", "Chest")] * 3
    naming.name_scanner(1, "", author="mp")
    naming.map_protocol("CHEST V2", "", author="mp")
    assert found(scanner="X 77") == [("X 77", "CHEST V2")] * 3


def moved(name, side, direction="lower is better", change=0.15):
    return Moved(name, WORDS.get(name, (name, ""))[0], direction, Drift(0, side, 2.0 * side), START, side * change)


def test_sentences_say_what_kind_of_cause_it_is():
    noise, dose, snr = moved("global_noise_level", 1), moved("ctdi_vol", -1), moved("snr", 1, "higher is better")
    assert sentence_of([noise], dose_known=False) == "Image chain: Noise rose by 15 %."
    assert sentence_of([noise], dose_known=True) == "Image chain: Noise rose by 15 %; the dose is what it was."
    assert sentence_of([dose, noise], dose_known=True) == "Protocol changed: CTDIvol fell by 15 %, Noise rose by 15 %."
    assert sentence_of([snr], dose_known=True) == "Improved: Signal to noise rose by 15 %."
    assert not moved("skin_edge_f50", 1, "target").improvement
