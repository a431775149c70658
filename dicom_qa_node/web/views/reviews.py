"""Reviews: a signed opinion on a verdict, never changed afterwards, and their export as labels for training."""

from __future__ import annotations

from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.reviews import Review, Reviews, label_lines
from dicom_qa_node.web.access import Permission, account_of, form_of, guarded, note
from dicom_qa_node.web.log_query import in_chunks
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes", "sign"]

_ROWS = 100


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/reviews", guarded(Permission.REVIEW, _list), methods=["GET"]),
        Route("/reviews/labels.csv", guarded(Permission.REVIEW, _labels), methods=["GET"]),
        Route("/series/{uid}/v{version:int}/review", guarded(Permission.REVIEW, _add), methods=["POST"]),
    ]


def _add(request: Request) -> Response:
    uid, version = request.path_params["uid"], request.path_params["version"]
    try:
        sign(request, uid, version)
    except Permanent as error:
        return redirect(request, f"/series/{uid}?version={version}&problem={quote(str(error)[:300])}#review")
    return redirect(request, f"/series/{uid}?version={version}&done=review#review")


def sign(request: Request, uid: str, version: int) -> Review:
    """Sign the review of a form and audit it; its ``opinion`` is agree, disagree, or own (the score decides).

    Raises
    ------
    Permanent
        The form makes no sense; the text says why.
    """
    if not is_uid(uid):
        raise HTTPException(404)
    form, site = form_of(request), site_of(request)
    opinion, own = str(form.get("opinion", "")), _score(str(form.get("score", "")))
    words = {
        "reviewer": account_of(request).name,
        "reason": str(form.get("reason", "")),
        "comment": str(form.get("comment", "")).strip(),
    }
    reviews = Reviews(site.database, clock=site.clock)
    if opinion == "own":
        review = reviews.score(uid, version, own, **words)
    elif opinion in ("agree", "disagree"):
        review = reviews.add(uid, version, agrees=opinion == "agree", score=own, **words)
    else:
        raise Permanent("say whether you agree")
    row = Registry(site.database).series(uid)
    note(
        request, "series.review", kind="series", ident=uid,
        detail=f"v{version} {'agree' if review.agrees else 'disagree'} {review.reason}".strip(),
        study_instance_uid=row.facts.study_instance_uid if row else "",
    )  # fmt: skip
    return review


def _score(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise Permanent("a score is a number from 0 to 4") from None


def _list(request: Request) -> Response:
    before = request.query_params.get("before", "")
    number = int(before) if before.isascii() and before.isdecimal() and len(before) < 16 else None
    found = Reviews(site_of(request).database).latest(_ROWS, number)
    older = found[-1].review_id if len(found) == _ROWS else None
    return page(request, "series/reviews.html", reviews=found, older=older, paged=number is not None)


def _labels(request: Request) -> Response:
    note(request, "reviews.export", kind="reviews")
    lines = in_chunks(label_lines(Reviews(site_of(request).database).labels()))
    headers = {"Content-Disposition": 'attachment; filename="labels.csv"'}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)
