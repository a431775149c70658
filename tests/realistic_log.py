"""Fills a database with the quality log of three hospitals: nine scanners, protocols, drift, outliers, reviews.

    fill(database, series=20_000, seed=1)
    fill(database, series=3000, days=90, scanners=3)     # quality, dose and size that hold together: `realistic_life`

The same arguments give the same log. Scores drift on CT-A2 (a detector that ages), step down and up again on CT-B1
(a wrong calibration that a service visit corrects) and scatter more on PET-C3. A million rows take some minutes:
rows go in by the thousand, and ``light=True`` leaves out histories and long measurement lists.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import sqlalchemy as sa

from dicom_qa_node.db import tables as t
from dicom_qa_node.db.engine import Database
from dicom_qa_node.db.log_tables import log_facets, log_findings, log_found, log_rows, reviews
from dicom_qa_node.domain.results import (
    Finding,
    Grade,
    Measurement,
    ModelRef,
    ScoredSlice,
    SeriesKind,
    SeriesResult,
    Severity,
    result_to_json,
)
from dicom_qa_node.domain.series import SeriesHeader
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.quality_log.full_text import index_patient, patient_words
from dicom_qa_node.quality_log.rows import Bits, deviation_from, facet_row, found_rows, log_row, scanner_name
from tests.realistic_life import LIFE_SCANNERS, acquisition, header_names, measured
from tests.realistic_names import (
    CT_FINDINGS,
    CT_PROTOCOLS,
    CT_QUANTITIES,
    FAMILY_NAMES,
    GIVEN_NAMES,
    PET_FINDINGS,
    PET_PROTOCOLS,
    PET_QUANTITIES,
    SCANNERS,
    WORLD_NAMES,
    Device,
    Protocol,
)

__all__ = ["fill"]

_AT_ONCE = 2000
_ROOT = "1.2.826.0.1.3680043.10.77"
_MODEL = ModelRef("ms_iqa_small", "1.1.0", "5d1f0c9e" * 8)


def fill(
    database: Database,
    series: int = 20_000,
    seed: int = 1,
    *,
    until: dt.datetime | None = None,
    days: int | None = None,
    light: bool = False,
    scanners: int | None = None,
) -> None:
    """Write the log.

    Parameters
    ----------
    until
        The time of the last series (UTC); None is now.
    days
        The length of the log; None is 240 days, or four years for more than 100,000 series.
    light
        Leave out the histories and all but three measurements.
    scanners
        Three (or fewer) CT scanners whose noise, dose and size hold together (`realistic_life`), instead of nine.
    """
    end = until or dt.datetime.now(dt.UTC)
    length = dt.timedelta(days=days or (240 if series <= 100_000 else 1460))
    made = _Maker(
        random.Random(seed), series, end, length, light, SCANNERS if scanners is None else LIFE_SCANNERS[:scanners]
    )
    with database.write() as connection:
        first = int(connection.execute(sa.select(sa.func.max(t.results.c.result_id))).scalar_one() or 0) + 1
    batch: list[_Made] = []
    for item in made.items(first):
        batch.append(item)
        if len(batch) == _AT_ONCE:
            _write(database, batch, made, light=light)
            batch = []
    _write(database, batch, made, light=light)
    with database.write() as connection:
        known = set(connection.execute(sa.select(log_findings.c.bit)).scalars())
        new = [{"key": key, "bit": bit} for key, bit in made.bits.named().items() if bit not in known]
        if new:
            connection.execute(log_findings.insert(), new)
        for facet in made.facets.values():
            same = log_facets.c.facet_id == facet["facet_id"]
            connection.execute(log_facets.update().where(same).values(rows=facet["rows"]))


@dataclass
class _Made:
    """Everything one scored version writes."""

    facts: SeriesHeader
    version: int
    latest: bool
    at: dt.datetime
    result_id: int
    result: SeriesResult
    row: dict[str, object]
    delivery: str
    review: list[dict[str, object]]


class _Maker:
    def __init__(
        self, rnd: random.Random, count: int, end: dt.datetime, length: dt.timedelta, light: bool,
        devices: tuple[Device, ...],
    ) -> None:  # fmt: skip
        self.devices, self.living = devices, devices is not SCANNERS
        self.rnd, self.count, self.end, self.length, self.light = rnd, count, end, length, light
        self.bits = Bits({})
        self.facets: dict[str, dict[str, object]] = {}
        self._history: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=100))

    def items(self, first: int) -> Iterator[_Made]:
        """Yield the versions in the order of their scoring."""
        number = first
        weights = [device.share for device in self.devices]
        for serial in range(self.count):
            part = (serial + self.rnd.random()) / self.count
            at = self.end - self.length * (1 - part)
            device = self.rnd.choices(self.devices, weights)[0]
            facts, protocol = self._facts(first + serial, device, at)
            versions = 2 if self.rnd.random() < 0.02 else 1
            for version in range(1, versions + 1):
                moment = at + dt.timedelta(minutes=20 * (version - 1), seconds=version)
                yield self._made(number, facts, device, protocol, version, version == versions, moment, part)
                number += 1

    def _facts(self, serial: int, device: Device, at: dt.datetime) -> tuple[SeriesHeader, Protocol]:
        rnd = self.rnd
        protocols = CT_PROTOCOLS if device.kind is SeriesKind.CT else PET_PROTOCOLS
        protocol = rnd.choices(protocols, [item.share for item in protocols])[0]
        name = (
            f"{rnd.choice(FAMILY_NAMES)}^{rnd.choice(GIVEN_NAMES)}" if rnd.random() > 0.05 else rnd.choice(WORLD_NAMES)
        )
        patient = rnd.randrange(1 + self.count // 3)
        born = f"{rnd.randrange(1935, 2008)}{rnd.randrange(1, 13):02d}{rnd.randrange(1, 28):02d}"
        facts = SeriesHeader(
            series_instance_uid=f"{_ROOT}.3.{serial}",
            study_instance_uid=f"{_ROOT}.2.{serial // 2}",
            modality="CT" if device.kind is SeriesKind.CT else "PT",
            frame_of_reference_uid=f"{_ROOT}.4.{serial // 2}",
            patient_id=f"P{patient:07d}",
            patient_name=name,
            patient_birth_date=born,
            patient_sex=rnd.choice("MF"),
            accession_number=f"A{serial:08d}",
            study_date=at.strftime("%Y%m%d"),
            study_time=at.strftime("%H%M%S"),
            study_description=protocol.study,
            series_number=str(rnd.randrange(2, 9)),
            series_description=protocol.description,
            body_part_examined=protocol.body_part,
            protocol_name=protocol.name,
            manufacturer=device.manufacturer,
            manufacturer_model_name=device.model,
            station_name=device.station,
            device_serial_number=device.serial,
            institution_name=device.site,
        )
        return (replace(facts, **header_names(device, protocol, rnd)) if self.living else facts), protocol

    def _made(
        self, number: int, facts: SeriesHeader, device: Device, protocol: Protocol, version: int, latest: bool,
        at: dt.datetime, part: float,
    ) -> _Made:  # fmt: skip
        shift, outlier = self._shift(device, part)
        taken, physics = None, None
        if self.living:
            taken = acquisition(device, protocol, at, self.rnd)
            # What was acquired three weeks ago has the noise of three weeks ago.
            known = taken.moment(dt.UTC)
            then = part if known is None else max(0.0, part - (at - known) / self.length)
            off, physics = measured(device, protocol, then, self.rnd)
            shift -= 1.5 * off
        score = min(3.9, max(0.2, self.rnd.gauss(protocol.score + shift, 0.17)))
        scored = self.rnd.random() > 0.015
        result = self._result(facts, device, protocol, score if scored else None, shift, outlier)
        if physics is not None:
            result = replace(result, measurements=tuple(physics), acquisition=taken)
        facet = facet_row(facts, result)
        known = self.facets.setdefault(str(facet["digest"]), facet | {"facet_id": len(self.facets) + 1, "rows": 0})
        known["rows"] = int(str(known["rows"])) + 1
        facet_id = int(str(known["facet_id"]))
        row = log_row(number, version, facts, result, at, facet_id, self.bits)
        history = self._history[facet_id]
        # The median of a hundred scores changes slowly; a million rows need not sort them each time.
        row["deviation"] = deviation_from(result.score, list(history)[-(25 if self.light else 100) :])
        if result.score is not None:
            history.append(result.score)
        delivery = self._delivery(at)
        marks = {"DELIVERED": 2, "PENDING": 1, "PARKED": 3, "": 0}
        review = self._reviews(facts, version, at, result) if latest else []
        row |= {"latest": int(latest), "delivery": marks[delivery], "review": _mark(review)}
        return _Made(facts, version, latest, at, number, result, row, delivery, review)

    def _shift(self, device: Device, part: float) -> tuple[float, bool]:
        shift = 0.0
        if device.fault == "drift":
            shift -= 0.9 * max(0.0, part - 0.55) / 0.45
        elif device.fault == "step" and 0.7 < part < 0.86:
            shift -= 0.7
        elif device.fault == "old":
            shift -= 0.25
        elif device.fault == "scatter":
            shift += self.rnd.gauss(0, 0.35)
        outlier = self.rnd.random() < 0.02
        return shift - (self.rnd.uniform(0.9, 1.9) if outlier else 0.0), outlier

    def _result(
        self, facts: SeriesHeader, device: Device, protocol: Protocol, score: float | None, shift: float, outlier: bool
    ) -> SeriesResult:
        pet = device.kind is not SeriesKind.CT
        findings = self._findings(pet, score, outlier)
        quantities = PET_QUANTITIES if pet else CT_QUANTITIES
        measurements = tuple(self._measured(item, shift) for item in quantities[: 3 if self.light else None])
        half = 0.28 + 0.2 * self.rnd.random()
        return SeriesResult(
            series_instance_uid=facts.series_instance_uid,
            modality=facts.modality,
            kind=device.kind,
            score=None if score is None else round(score, 3),
            interval=None if score is None else (round(max(0, score - half), 3), round(min(4, score + half), 3)),
            grade=_grade(score),
            slices=() if score is None else self._slices(facts, score),
            measurements=measurements,
            findings=findings,
            model=_MODEL,
            instances_used=self.rnd.randrange(60, 420),
            timings_ms={"total": round(self.rnd.uniform(900, 4200), 1)},
        )

    def _findings(self, pet: bool, score: float | None, outlier: bool) -> tuple[Finding, ...]:
        found = []
        if score is None:
            found.append(
                Finding("outside_domain", Severity.WARNING, "The model does not know such pictures.", "12 slices")
            )
        pool = PET_FINDINGS if pet else CT_FINDINGS
        chance = 0.9 if outlier else 0.5 if score is not None and score < 2.2 else 0.06
        for key, severity, sentence, evidence in self.rnd.sample(pool, 2):
            if self.rnd.random() < chance:
                found.append(Finding(key, severity, sentence, evidence))
        return tuple(found)

    def _measured(self, item: tuple[object, ...], shift: float) -> Measurement:
        name, meaning, unit, direction, usual, spread, low, high, effect = item
        value = max(0.0, self.rnd.gauss(float(str(usual)) + float(str(effect)) * shift, float(str(spread))))
        return Measurement(
            str(name), str(meaning), round(value, 4), str(unit), str(direction), None,
            None if low is None else float(str(low)), None if high is None else float(str(high)),
        )  # fmt: skip

    def _slices(self, facts: SeriesHeader, score: float) -> tuple[ScoredSlice, ...]:
        reasons = ("most noise", "sharpest edges", "most metal", "largest body", "middle", "upper third", "lower third")
        weights = [self.rnd.uniform(0.6, 1.4) for _ in reasons]
        total = sum(weights)
        return tuple(
            ScoredSlice(
                f"{facts.series_instance_uid}.{number}", "1.2.840.10008.5.1.4.1.1.2", 20 + 30 * number,
                round(-400 + 90.0 * number, 1), round(min(4, max(0, score + self.rnd.gauss(0, 0.25))), 3),
                round(weights[number] / total, 4), reason,
            )
            for number, reason in enumerate(reasons)
        )  # fmt: skip

    def _delivery(self, at: dt.datetime) -> str:
        if self.end - at < dt.timedelta(minutes=30):
            return "PENDING"
        return self.rnd.choices(("DELIVERED", "PARKED", "PENDING", ""), (0.985, 0.004, 0.001, 0.01))[0]

    def _reviews(
        self, facts: SeriesHeader, version: int, at: dt.datetime, result: SeriesResult
    ) -> list[dict[str, object]]:
        poor = result.grade is not None and result.grade is not Grade.DIAGNOSTIC
        if self.rnd.random() > (0.25 if poor else 0.01):
            return []
        found = []
        for reviewer in self.rnd.sample(("m.keller", "a.osei", "s.tanaka"), self.rnd.choice((1, 1, 2))):
            agrees = self.rnd.random() < 0.75
            own = (
                None
                if agrees or result.score is None
                else round(min(4, max(0, result.score + self.rnd.choice((-1, 1)))) * 2) / 2
            )
            found.append(
                {
                    "series_instance_uid": facts.series_instance_uid, "version": version,
                    "at": at + dt.timedelta(hours=self.rnd.uniform(1, 30)), "reviewer": reviewer, "agrees": agrees,
                    "score": own, "reason": "" if agrees else self.rnd.choice(("noise", "motion", "coverage")),
                    "comment": "" if agrees else "Diagnostic question can still be answered.",
                }
            )  # fmt: skip
        return found


def _grade(score: float | None) -> Grade | None:
    if score is None:
        return None
    return Grade.DIAGNOSTIC if score >= 2.5 else Grade.LIMITED if score >= 1.5 else Grade.NON_DIAGNOSTIC


def _mark(review: list[dict[str, object]]) -> int:
    opinions = {item["agrees"] for item in review}
    return 0 if not opinions else 3 if len(opinions) == 2 else 1 if opinions == {True} else 2


def _write(database: Database, batch: list[_Made], made: _Maker, *, light: bool) -> None:
    if not batch:
        return
    latest = [item for item in batch if item.latest]
    with database.write() as connection:
        known = set(connection.execute(sa.select(log_facets.c.facet_id)).scalars())
        fresh = [row for row in made.facets.values() if row["facet_id"] not in known]
        if fresh:
            _insert(connection, log_facets, fresh)
        seen = {item.facts.series_instance_uid: item for item in batch}
        uids = list(seen)
        there = set(
            connection.execute(
                sa.select(t.series.c.series_instance_uid).where(t.series.c.series_instance_uid.in_(uids))
            ).scalars()
        )
        new = [_series(seen[uid]) for uid in uids if uid not in there]
        if new:
            _insert(connection, t.series, new)
        _insert(connection, t.results, [_stored(item) for item in batch])
        reported = [item for item in batch if item.delivery]
        _insert(connection, t.reports, [_report(item) for item in reported])
        _insert(connection, t.outbox, [_sent(item) for item in reported])
        _insert(connection, log_rows, [item.row for item in batch])
        _insert(connection, log_found, [found for item in batch for found in found_rows(item.row)])
        index_patient(connection, [{"result_id": item.result_id, "words": patient_words(item.facts)} for item in batch])
        reviewed = [review for item in batch for review in item.review]
        if reviewed:
            _insert(connection, reviews, reviewed)
        if not light:
            _insert(connection, t.events, [event for item in latest for event in _events(item)])


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, object]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _state(item: _Made) -> SeriesState:
    states = {"DELIVERED": SeriesState.DELIVERED, "PENDING": SeriesState.REPORTED, "PARKED": SeriesState.PARKED}
    return states.get(item.delivery, SeriesState.REPORTED)


def _series(item: _Made) -> dict[str, object]:
    return {name: getattr(item.facts, name) for name in t.HEADER_COLUMNS} | {
        "calling_ae": item.facts.station_name,
        "state": _state(item).value,
        "state_since": item.at + dt.timedelta(seconds=20),
        "version": item.version,
        "received": item.result.instances_used,
        "expected": {},
        "first_received_at": item.at - dt.timedelta(seconds=90),
        "last_received_at": item.at - dt.timedelta(seconds=30),
        "complete_reason": "every announced image is there",
        "parked_reason": "report not delivered to pacs: 0xA700 out of resources" if item.delivery == "PARKED" else "",
    }


def _stored(item: _Made) -> dict[str, object]:
    result = item.result
    return {
        "result_id": item.result_id, "series_instance_uid": result.series_instance_uid, "version": item.version,
        "scored_at": item.at, "modality": result.modality, "kind": result.kind.value, "score": result.score,
        "grade": None if result.grade is None else result.grade.value, "scanner": scanner_name(item.facts),
        "model": f"{result.model.name} {result.model.version}", "model_sha256": result.model.sha256,
        "payload": result_to_json(result),
    }  # fmt: skip


def _report(item: _Made) -> dict[str, object]:
    return {
        "sop_instance_uid": f"{_ROOT}.5.{item.result_id}", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33",
        "report_series_uid": f"{_ROOT}.6.{item.result_id}", "series_instance_uid": item.facts.series_instance_uid,
        "version": item.version, "path": f"reports/{item.result_id}.dcm", "created_at": item.at,
        "predecessor_uid": None, "unindexed": False,
    }  # fmt: skip


def _sent(item: _Made) -> dict[str, object]:
    answers = {"DELIVERED": "0x0000", "PENDING": "", "PARKED": "0xA700 out of resources"}
    delivered = item.delivery == "DELIVERED"
    return {
        "report_uid": f"{_ROOT}.5.{item.result_id}", "series_instance_uid": item.facts.series_instance_uid,
        "target": "pacs", "state": DeliveryState(item.delivery).value, "attempts": int(delivered),
        "created_at": item.at, "next_attempt_at": item.at, "last_answer": answers[item.delivery],
        "delivered_at": item.at + dt.timedelta(seconds=3) if delivered else None,
    }  # fmt: skip


def _events(item: _Made) -> Iterator[dict[str, object]]:
    way = ["", *(state.value for state in (
        SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.SCORING, SeriesState.SCORED, SeriesState.REPORTED,
        SeriesState.DELIVERED,
    ))]  # fmt: skip
    actors = ("receive", "complete", "scorer 1", "score", "report", "deliver")
    last = {SeriesState.DELIVERED: 6, SeriesState.REPORTED: 5, SeriesState.PARKED: 5}[_state(item)]
    for step, (old, new, actor) in enumerate(zip(way[:last], way[1 : last + 1], actors, strict=False)):
        yield _event(item, old, new, "", actor, 6 * step - 24)
    if _state(item) is SeriesState.PARKED:
        yield _event(item, "REPORTED", "PARKED", "report not delivered to pacs: 0xA700 out of resources", "deliver", 20)


def _event(item: _Made, old: str, new: str, reason: str, actor: str, seconds: int) -> dict[str, object]:
    return {
        "at": item.at + dt.timedelta(seconds=seconds), "series_instance_uid": item.facts.series_instance_uid,
        "version": item.version, "old_state": old, "new_state": new, "reason": reason, "actor": actor,
    }  # fmt: skip
