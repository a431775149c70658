"""The quality log and the reviews in the API: the filters of the log page, by the same words."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from dicom_qa_node.domain.dose import DoseSource, SeriesDose
from dicom_qa_node.dose.series_dose import doses_of_series
from dicom_qa_node.quality_log.export_formats import MEDIA_TYPES, ExportFormat
from dicom_qa_node.quality_log.filters import LogQuery
from dicom_qa_node.quality_log.reviews import Reviews, label_lines
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.web.access import Account, note
from dicom_qa_node.web.api.dependencies import Cursor as CursorWord
from dicom_qa_node.web.api.dependencies import Limit, PageOf, Reviewer, Viewer, decode_cursor, encode_cursor
from dicom_qa_node.web.log_export import export_response
from dicom_qa_node.web.log_query import fields_of, in_chunks, log_request_of, read_place, write_place
from dicom_qa_node.web.site import Site, site_of

__all__ = ["LogLine", "ReviewOut", "router"]

Word = Annotated[str, Query(max_length=200)]
Grades = Annotated[list[str], Query(max_length=8, description="diagnostic, limited, non-diagnostic, none")]


def _filter_words(
    q: Word = "",
    period: Annotated[str, Query(max_length=8, description="24h, 7d, 30d, 90d, 1y")] = "",
    since: Word = "",
    until: Word = "",
    by: Annotated[str, Query(max_length=16, description="what since, until and period mean: scored, acquired")] = "",
    site_name: Annotated[str, Query(alias="site", max_length=200)] = "",
    scanner: Word = "",
    protocol: Word = "",
    modality: Word = "",
    kind: Word = "",
    body_part: Word = "",
    grade: Grades = [],  # noqa: B006 - FastAPI copies it
    finding: Word = "",
    severity: Word = "",
    delivery: Word = "",
    review: Word = "",
    score_from: Word = "",
    score_to: Word = "",
    versions: Word = "",
    sort: Annotated[str, Query(max_length=16, description="time, acquired, score, deviation")] = "",
    dir: Annotated[str, Query(max_length=8, description="asc, desc")] = "",  # noqa: A002 - the address says so
) -> None:
    """Declare the words of the log page's address; `_query` reads them."""


FilterWords = Annotated[None, Depends(_filter_words)]


def _query(request: Request, account: Account) -> LogQuery:
    items = list(request.query_params.multi_items())
    asked = log_request_of(items, patients=account.sees_patients, now=site_of(request).clock())
    if asked.problems:
        raise HTTPException(422, "; ".join(asked.problems))
    return asked.query


class LogLine(BaseModel):
    """One scored version; ``score``, ``low`` and ``high`` are 0 to 4. The patient's fields are null for a viewer."""

    scored_at: dt.datetime
    patient_name: str | None = None
    patient_id: str | None = None
    patient_birth_date: str | None = None
    accession_number: str | None = None
    site: str
    scanner: str
    protocol: str
    series_description: str
    modality: str
    kind: str
    body_part: str
    score: float | None
    low: float | None
    high: float | None
    grade: str | None = Field(description="best grade that the interval reaches")
    grade_low: str | None = Field(description="worst grade that the interval reaches, where it is another")
    decided_by: str | None = Field(description="part that gave the score: ct, pet or display")
    ct_score: float | None
    pet_score: float | None
    display_score: float | None
    qc: str | None = Field(description="outcome of a QC phantom, which has no score; null for a patient")
    why: str = Field(description="one sentence: what pulled the score down, or why there is none")
    deviation: float | None = Field(description="robust standard deviations from the scanner's earlier scores")
    findings: list[str]
    severity: str | None
    state: str
    delivery: str
    review: str
    version: int
    latest: bool
    series_instance_uid: str
    study_instance_uid: str
    ctdi_vol_mgy: float | None = Field(None, description="of the linked event of a dose report, else of the images; CT")
    dlp_mgy_cm: float | None = Field(None, description="as ctdi_vol_mgy")
    ssde_mgy: float | None = Field(None, description="size-specific dose estimate, measured; CT")
    dose_source: DoseSource | None = Field(None, description="where CTDIvol and DLP come from")


class ReviewOut(BaseModel):
    """One signed review."""

    model_config = ConfigDict(from_attributes=True)

    review_id: int
    series_instance_uid: str
    version: int
    at: dt.datetime
    reviewer: str
    agrees: bool
    score: float | None
    reason: str
    comment: str


def router(site: Site) -> APIRouter:
    """Return the routes of this file."""
    made = APIRouter(tags=["log"])
    _about_log(made, site)
    _about_export(made)
    _about_reviews(made, site)
    return made


def _about_log(made: APIRouter, site: Site) -> None:
    @made.get("/series")
    def series(
        account: Viewer,
        request: Request,
        _words: FilterWords,
        limit: Limit = 100,
        cursor: CursorWord = None,
    ) -> PageOf[LogLine]:
        """List scored series, the latest first; the words of the log page's address work here."""
        query = _query(request, account)
        place = read_place(cursor) if cursor else None
        if cursor and place is None:
            raise HTTPException(422, "cursor: not one of this list")
        found = LogSearch(site.database).page(query, place, limit)
        doses = doses_of_series(site.database, [row.facts.series_instance_uid for row in found.rows])
        items = [
            LogLine(
                **fields_of(row, patients=account.sees_patients),
                **_dose_fields(doses.get(row.facts.series_instance_uid)),
            )
            for row in found.rows
        ]
        return PageOf(items=items, next=write_place(found.older) if found.older else None)


def _dose_fields(dose: SeriesDose | None) -> dict[str, Any]:
    if dose is None:
        return {}
    return {
        "ctdi_vol_mgy": dose.ctdi_vol_mgy,
        "dlp_mgy_cm": dose.dlp_mgy_cm,
        "ssde_mgy": dose.ssde_mgy,
        "dose_source": dose.source,
    }


def _about_export(made: APIRouter) -> None:
    @made.get("/log/export", response_class=StreamingResponse, responses=_FILES)
    def export(
        account: Viewer,
        request: Request,
        _words: FilterWords,
        wanted: Annotated[ExportFormat, Query(alias="format", description="csv, xlsx or parquet")] = ExportFormat.CSV,
    ) -> Response:
        """Read every scored series that a filter selects as a file; the words of `/series` work here.

        The columns and their order are those of the page and of the command (docs/exports.md). A workbook holds 50,000
        series at most, the other formats any number.
        """
        return export_response(request, wanted, _query(request, account))


_FILES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()}},
    413: {"description": "More than a workbook holds here."},
    501: {"description": "The format needs a package that is not installed."},
}


def _about_reviews(made: APIRouter, site: Site) -> None:
    @made.get("/reviews")
    def reviews(_account: Reviewer, limit: Limit = 100, cursor: CursorWord = None) -> PageOf[ReviewOut]:
        """List the reviews of all series, the latest first."""
        place = decode_cursor(cursor, int)
        before = None if place is None else int(str(place[0]))
        if before is not None and not 0 <= before < 1 << 62:
            raise HTTPException(422, "cursor: not one of this list")
        found = Reviews(site.database).latest(limit, before)
        following = encode_cursor(found[-1].review_id) if len(found) == limit else None
        return PageOf(items=[ReviewOut.model_validate(item) for item in found], next=following)

    @made.get("/reviews/labels.csv", response_class=StreamingResponse)
    def labels(account: Reviewer, request: Request) -> StreamingResponse:
        """Read the label table (file, score, reference, kind) that training reads; the pictures: `reviews export`."""
        _exported(request, account)
        lines = in_chunks(label_lines(Reviews(site.database).labels()))
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8")


def _exported(request: Request, account: Account) -> None:
    note(request, "reviews.export", kind="reviews", detail=account.role.value)
