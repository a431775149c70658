"""One series in the API: verdict, versions, report, deliveries, history, reviews and actions."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.domain.dose import SeriesDose
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import LogEntry, SeriesResult
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.dose.series_dose import dose_of_series
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry, SeriesRow
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.quality_log.reviews import ReviewReason, Reviews
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.web.access import Account, note
from dicom_qa_node.web.api.dependencies import Actor, PatientViewer, Reviewer, Viewer
from dicom_qa_node.web.api.log import LogLine, ReviewOut
from dicom_qa_node.web.heat_map_state import HeatMaps, HeatState, ask_for_maps, heat_of
from dicom_qa_node.web.log_query import fields_of
from dicom_qa_node.web.site import Site
from dicom_qa_node.web.views.series import act_on

__all__ = ["router"]

Uid = Annotated[str, Path(max_length=64, pattern=r"^[0-9.]+$")]
Version = Annotated[int | None, Query(ge=1, le=1_000_000, description="a scored version; without it the latest")]
_PATIENT = ("patient_id", "patient_name", "patient_birth_date", "patient_sex", "accession_number", "study_id")


class DeliveryOut(BaseModel):
    """One report on its way to one target."""

    delivery_id: int
    target: str
    document: str
    state: str
    attempts: int
    last_answer: str
    delivered_at: dt.datetime | None
    version: int
    report_uid: str


class EventOut(BaseModel):
    """One change of state."""

    model_config = ConfigDict(extra="ignore")

    at: dt.datetime
    version: int
    old_state: str
    new_state: str
    reason: str
    actor: str


class SeriesOut(BaseModel):
    """Everything about one series; ``facts`` are its DICOM attributes, without the patient's for a viewer."""

    series_instance_uid: str
    state: SeriesState
    state_since: dt.datetime
    version: int
    received: int
    expected: int | None
    parked_reason: str
    facts: dict[str, str]
    scored_version: int | None
    scored_at: dt.datetime | None
    verdict: SeriesResult | None
    deliveries: list[DeliveryOut]
    history: list[EventOut]
    reviews: list[ReviewOut]
    dose: SeriesDose | None


class NewReview(BaseModel):
    """A review to sign; who disagrees gives a score, a reason or a comment."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, le=1_000_000)
    agrees: bool
    score: float | None = Field(None, ge=0, le=4)
    reason: ReviewReason | None = None
    comment: str = Field("", max_length=2000)


class Wanted(BaseModel):
    """What to do with a series."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["rescore", "release", "park", "resend", "take-newer", "keep-stored"]
    reason: str = Field("", max_length=500)


class HeatOut(BaseModel):
    """The heat maps of one scored version: ``made`` are the numbers of the slices that have one, of ``slices``.

    ``text`` says what stands in the way, why the last request failed, or what a waiting one waits for.
    """

    version: int
    state: HeatState
    made: list[int]
    slices: int
    text: str


class Done(BaseModel):
    """The state of the series after an action."""

    state: SeriesState
    version: int


def router(site: Site) -> APIRouter:
    """Return the routes of this file."""
    made = APIRouter(tags=["series"])
    _reading(made, site)
    _changing(made, site)
    _heat_maps(made, site)
    return made


def _reading(made: APIRouter, site: Site) -> None:
    @made.get("/series/{uid}")
    def one(account: Viewer, uid: Uid, request: Request, version: Version = None) -> SeriesOut:
        """Read everything about a series."""
        row = _row(site, uid)
        entry = QualityLog(site.database).entry(uid, version)
        if entry is None and version is not None:
            raise HTTPException(404, "no such scored version")
        if account.sees_patients:
            _note(request, "series.view", row)
        return _out(site, row, entry, account)

    @made.get("/series/{uid}/versions")
    def versions(account: Viewer, uid: Uid) -> list[LogLine]:
        """List every scored version, the latest first."""
        _row(site, uid)
        found = LogSearch(site.database).versions(uid)
        return [LogLine(**fields_of(item, patients=account.sees_patients)) for item in found]

    @made.get("/series/{uid}/report", response_class=FileResponse)
    def report(_account: PatientViewer, uid: Uid, request: Request, version: Version = None) -> FileResponse:
        """Read the Structured Report as a DICOM file (PS3.10); it names the patient."""
        row = _row(site, uid)
        found = Outbox(site.database).report(uid, version)
        path = SpoolLayout(site.config.spool_dir).absolute(found.path) if found else None
        if path is None or not path.is_file():
            raise HTTPException(404, "no report of this version in the spool")
        _note(request, "report.export", row)
        return FileResponse(path, media_type="application/dicom")

    @made.get("/series/{uid}/reviews")
    def reviews(_account: Viewer, uid: Uid) -> list[ReviewOut]:
        """List the reviews of a series, oldest first."""
        _row(site, uid)
        return [ReviewOut.model_validate(item) for item in Reviews(site.database).of(uid)]


def _changing(made: APIRouter, site: Site) -> None:
    @made.post("/series/{uid}/reviews", status_code=201)
    def review(account: Reviewer, uid: Uid, wanted: NewReview, request: Request) -> ReviewOut:
        """Sign a review; it is never changed."""
        row = _row(site, uid)
        review = Reviews(site.database, clock=site.clock).add(
            uid, wanted.version, reviewer=account.name, agrees=wanted.agrees, score=wanted.score,
            reason=wanted.reason.value if wanted.reason else "", comment=wanted.comment.strip(),
        )  # fmt: skip
        _note(request, "series.review", row, detail=f"v{wanted.version}")
        return ReviewOut.model_validate(review)

    @made.post("/series/{uid}/actions")
    def act(account: Actor, uid: Uid, wanted: Wanted, request: Request) -> Done:
        """Re-score, release or park a series, send its waiting reports at once, or settle its conflicting images."""
        row = _row(site, uid)
        done = act_on(site, uid, wanted.action, wanted.reason.strip(), f"api {account.name}")
        outcome = Outcome.SUCCESS if done else Outcome.FAILED
        _note(request, f"series.{wanted.action}", row, outcome=outcome, detail=wanted.reason.strip())
        if not done:
            raise HTTPException(409, f"not possible in the state {row.state.value}")
        now = _row(site, uid)
        return Done(state=now.state, version=now.version)


def _heat_maps(made: APIRouter, site: Site) -> None:
    @made.get("/series/{uid}/heat-maps")
    def heat_maps(_account: Viewer, uid: Uid, version: Version = None) -> HeatOut:
        """Tell which slices have a heat map; their pictures are at ``/series/{uid}/v{version}/heat/{number}.png``."""
        entry = _entry(site, uid, version)
        return _heat_out(entry, heat_of(site, entry))

    @made.post("/series/{uid}/heat-maps", status_code=202)
    def ask(account: Reviewer, uid: Uid, request: Request, version: Version = None) -> HeatOut:
        """Ask the scoring workers for the missing heat maps of a version; one makes them when no series waits."""
        entry, row = _entry(site, uid, version), _row(site, uid)
        try:
            heat = ask_for_maps(site, entry, account.name)
        except Permanent as error:
            _note(request, "series.heat_maps", row, outcome=Outcome.FAILED, detail=f"v{entry.version} {error}")
            raise HTTPException(409, str(error)) from None
        _note(request, "series.heat_maps", row, detail=f"v{entry.version}")
        return _heat_out(entry, heat)


def _entry(site: Site, uid: str, version: int | None) -> LogEntry:
    _row(site, uid)
    entry = QualityLog(site.database).entry(uid, version)
    if entry is None:
        raise HTTPException(404, "no such scored version")
    return entry


def _heat_out(entry: LogEntry, heat: HeatMaps) -> HeatOut:
    return HeatOut(version=entry.version, state=heat.state, made=sorted(heat.made), slices=heat.slices, text=heat.text)


def _row(site: Site, uid: str) -> SeriesRow:
    row = Registry(site.database).series(uid) if is_uid(uid) else None
    if row is None:
        raise HTTPException(404, "the node has never seen this series")
    return row


def _note(
    request: Request, event: str, row: SeriesRow, *, outcome: Outcome = Outcome.SUCCESS, detail: str = ""
) -> None:
    note(
        request, event, kind="series", ident=row.facts.series_instance_uid, outcome=outcome, detail=detail,
        study_instance_uid=row.facts.study_instance_uid, patient_id=row.facts.patient_id,
    )  # fmt: skip


def _out(site: Site, row: SeriesRow, entry: LogEntry | None, account: Account) -> SeriesOut:
    uid = row.facts.series_instance_uid
    hidden = () if account.sees_patients else _PATIENT
    return SeriesOut(
        series_instance_uid=uid,
        state=row.state,
        state_since=row.state_since,
        version=row.version,
        received=row.received,
        expected=row.expected,
        parked_reason=row.parked_reason,
        facts={name: value for name, value in asdict(row.facts).items() if value and name not in hidden},
        scored_version=entry.version if entry else None,
        scored_at=entry.scored_at if entry else None,
        verdict=entry.result if entry else None,
        deliveries=[
            DeliveryOut(
                delivery_id=item.delivery_id, target=item.target, document=item.report.kind.value,
                state=item.state.value, attempts=item.attempts,
                last_answer=item.last_answer, delivered_at=item.delivered_at, version=item.report.version,
                report_uid=item.report.sop_instance_uid,
            )
            for item in Outbox(site.database).deliveries_of(uid)
        ],
        history=[EventOut(**event) for event in Registry(site.database).history(uid)],
        reviews=[ReviewOut.model_validate(item) for item in Reviews(site.database).of(uid)],
        dose=dose_of_series(site.database, uid),
    )  # fmt: skip
