"""Reference levels and dose reports in the API."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from dicom_qa_node.charts.quality_and_dose import Chosen, QualityAndDose, day_bounds
from dicom_qa_node.charts.reference_levels import FrozenLevel, ReferenceLevelStore, proposed_level
from dicom_qa_node.domain.reference_levels import LevelForm
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.dose.series_dose import latest_reports
from dicom_qa_node.web.access import note
from dicom_qa_node.web.api.dependencies import Actor, CurrentSite, Viewer
from dicom_qa_node.web.site import Site

__all__ = ["router"]

Quantity = Literal["global_noise_level", "ctdi_vol", "ssde"]
_SCANNER = Field(ge=1, le=LARGEST_ID)
_STRATUM = Field(min_length=1, max_length=400, description="label of the stratum, as the page names it")
_REASON = Field(min_length=1, max_length=500)

api = APIRouter(tags=["dose"])


class StratumOut(BaseModel):
    """Series that can be compared; ``scanners`` are the numbers of those that have some."""

    label: str
    protocol: str
    series: int
    scanners: list[int]


class LevelOut(BaseModel):
    """A reference level that stands, in HU or mGy; sizes are water-equivalent diameters in mm."""

    scanner: str
    stratum: str
    quantity: str
    revision: int
    form: LevelForm
    typical: float
    slope_per_mm: float
    centre_mm: float
    low_mm: float
    high_mm: float
    limit: float
    series: int
    reason: str
    author: str
    frozen_at: dt.datetime


class NewLevel(BaseModel):
    """A level to freeze from the latest series of one scanner and stratum."""

    model_config = ConfigDict(extra="forbid")

    scanner_id: int = _SCANNER
    stratum: str = _STRATUM
    quantity: Quantity
    limit: float | None = Field(None, gt=0, description="stated limit; default: the typical value with its tolerance")
    since: dt.date | None = None
    until: dt.date | None = None
    reason: str = _REASON


class OldLevel(BaseModel):
    """A level to withdraw."""

    model_config = ConfigDict(extra="forbid")

    scanner_id: int = _SCANNER
    stratum: str = _STRATUM
    quantity: Quantity
    reason: str = _REASON


class ToleranceOut(BaseModel):
    """A choice of a tolerance, in percent; the protocol "" stands for every other one."""

    model_config = ConfigDict(from_attributes=True)

    protocol: str
    quantity: str
    percent: float
    reason: str
    author: str
    created_at: dt.datetime


class NewTolerance(BaseModel):
    """A tolerance to set."""

    model_config = ConfigDict(extra="forbid")

    protocol: str = Field("", max_length=200)
    quantity: Quantity
    percent: float = Field(gt=0, le=500)
    reason: str = _REASON


class DoseReportOut(BaseModel):
    """A dose report that was received."""

    model_config = ConfigDict(from_attributes=True)

    sop_instance_uid: str
    study_instance_uid: str
    received_at: dt.datetime
    calling_ae: str
    events: int
    dlp_total_mgy_cm: float | None
    manufacturer: str
    model: str
    kept: bool


@api.get("/dose/reports")
def dose_reports(
    site: CurrentSite, account: Viewer, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[DoseReportOut]:
    """List the dose reports received, the latest first."""
    return [DoseReportOut.model_validate(item) for item in latest_reports(site.database, limit)]


@api.get("/dose/strata")
def strata(
    site: CurrentSite, account: Viewer, scanner_id: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None
) -> list[StratumOut]:
    """List the strata of CT series, the one with the most series first."""
    return [
        StratumOut(
            label=item.label, protocol=item.protocol, series=item.total, scanners=[pair[1] for pair in item.groups]
        )
        for item in QualityAndDose(site.database).strata(scanner_id)
    ]


@api.get("/reference-levels")
def levels(site: CurrentSite, account: Viewer) -> list[LevelOut]:
    """List the reference levels that stand."""
    return [_level(*found) for found in ReferenceLevelStore(site.database, site.clock).everything()]


@api.post("/reference-levels", status_code=201)
def freeze(request: Request, site: CurrentSite, account: Actor, new: NewLevel) -> LevelOut:
    """Freeze a level as its next revision; 409 with fewer than 20 series."""
    chosen = _one_group(site, new.scanner_id, new.stratum, new.since, new.until)
    proposed = proposed_level(chosen.points, new.quantity)
    if proposed is None:
        raise HTTPException(409, "fewer than 20 series of this period have the quantity and a size")
    store = ReferenceLevelStore(site.database, site.clock)
    limit = new.limit or proposed.limit
    made = store.freeze(chosen.stratum.groups[0][0], proposed, limit=limit, reason=new.reason, author=account.name)
    detail = f"{new.quantity}, revision {made.revision}, {proposed.count} series, limit {limit:g}"
    note(request, "level.freeze", kind="stratum", ident=new.stratum[:200], detail=detail)
    return _level(_scanner_name(site, new.scanner_id), new.stratum, made)


@api.post("/reference-levels/withdraw", status_code=204)
def withdraw(request: Request, site: CurrentSite, account: Actor, old: OldLevel) -> None:
    """Take a level back; its revisions stay. 409 where none stands."""
    chosen = _one_group(site, old.scanner_id, old.stratum, None, None)
    store = ReferenceLevelStore(site.database, site.clock)
    store.withdraw(chosen.stratum.groups[0][0], old.quantity, reason=old.reason, author=account.name)
    note(request, "level.withdraw", kind="stratum", ident=old.stratum[:200], detail=old.quantity)


@api.get("/reference-levels/tolerances")
def tolerances(site: CurrentSite, account: Viewer) -> list[ToleranceOut]:
    """List every choice of a tolerance, the latest first."""
    return [ToleranceOut.model_validate(item) for item in ReferenceLevelStore(site.database).tolerances()]


@api.post("/reference-levels/tolerances", status_code=201)
def tolerate(request: Request, site: CurrentSite, account: Actor, new: NewTolerance) -> ToleranceOut:
    """Set a tolerance from now on."""
    store = ReferenceLevelStore(site.database, site.clock)
    store.set_tolerance(new.protocol, new.quantity, new.percent, reason=new.reason, author=account.name)
    ident, detail = new.protocol or "every other protocol", f"{new.quantity}: {new.percent:g} %"
    note(request, "level.tolerance", kind="protocol", ident=ident, detail=detail)
    return ToleranceOut.model_validate(store.tolerances(1)[0])


def router(_site: Site) -> APIRouter:
    """Return the calls of this file."""
    return api


def _one_group(site: Site, scanner_id: int, stratum: str, since: dt.date | None, until: dt.date | None) -> Chosen:
    first, last = day_bounds(since, until)
    chosen = QualityAndDose(site.database).chosen(stratum, scanner_id, since=first, until=last)
    if chosen is None or len(chosen.stratum.groups) != 1:
        raise HTTPException(404, "there is no such stratum on this scanner")
    return chosen


def _scanner_name(site: Site, scanner_id: int) -> str:
    return next((name for number, name in QualityAndDose(site.database).scanners() if number == scanner_id), "")


def _level(scanner: str, stratum: str, item: FrozenLevel) -> LevelOut:
    level = item.level
    assert level is not None
    return LevelOut(
        scanner=scanner, stratum=stratum, quantity=item.quantity, revision=item.revision, form=level.form,
        typical=level.typical, slope_per_mm=level.slope_per_mm, centre_mm=level.centre_mm, low_mm=level.low_mm,
        high_mm=level.high_mm, limit=level.limit, series=level.count, reason=item.reason, author=item.author,
        frozen_at=item.created_at,
    )  # fmt: skip
