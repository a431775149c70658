"""The review queue: one series at a time with its pictures, its grade and why, and the keys that decide."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.accounts import AccountRow
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import LogEntry, Measurement, gravest_first
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.models.card import SCORE_SCALE
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.quality_log.review_queue import MOST_COUNTED, REVIEWERS, QueueItem, QueueScope, ReviewQueue
from dicom_qa_node.quality_log.reviews import NEAR, ReviewReason, Reviews
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.web.access import Permission, account_of, form_of, guarded, note
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.series_comparison import plain_unit
from dicom_qa_node.web.site import Site, site_of
from dicom_qa_node.web.slice_viewer import slices_of
from dicom_qa_node.web.views.reviews import sign

__all__ = ["routes"]

_LISTED = 10
_SCOPES = {
    QueueScope.OPEN: "Open to me",
    QueueScope.MINE: "Assigned to me",
    QueueScope.ALL: "Everybody's",
}
_AGES = ("", "all")


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/review", guarded(Permission.REVIEW, _show), methods=["GET"]),
        Route("/review/{uid}/v{version:int}", guarded(Permission.REVIEW, _decide), methods=["POST"]),
        Route("/review/{uid}/assign", guarded(Permission.REVIEW, _assign), methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _View:
    """Which queue an address or a form asks for; ``age`` "all" shows series of any age."""

    scope: QueueScope
    age: str
    since: dt.datetime | None

    def address(self, **more: str | None) -> str:
        """Return the words of this queue, and ``more``, as they stand after the question mark."""
        words: dict[str, str | None] = {"scope": None if self.scope is QueueScope.OPEN else self.scope.value}
        words |= {"age": self.age or None} | more
        return urlencode({name: value for name, value in words.items() if value})


def _view_of(request: Request, words: Any) -> _View:
    site, scope, age = site_of(request), str(words.get("scope", "")), str(words.get("age", ""))
    days = dt.timedelta(days=site.config.web.review_days)
    return _View(
        QueueScope(scope) if scope in set(QueueScope) else QueueScope.OPEN,
        age if age in _AGES else "",
        None if age == "all" else site.clock() - days,
    )


def _show(request: Request) -> Response:
    site, me, view = site_of(request), account_of(request), _view_of(request, request.query_params)
    queue = ReviewQueue(site.database, clock=site.clock)
    wanted = request.query_params.get("series", "")
    first = queue.page(view.scope, me.account_id, since=view.since, limit=_LISTED)
    shown = first[0] if first else None
    if wanted:
        shown = queue.item(wanted) if is_uid(wanted) else None
    ahead = _beyond(queue, view, me.account_id, shown)
    behind = _beyond(queue, view, me.account_id, shown, back=True)
    uid = wanted if wanted and is_uid(wanted) else shown.row.facts.series_instance_uid if shown else ""
    context: dict[str, Any] = {
        "view": view, "scopes": _SCOPES, "item": shown, "gone": bool(wanted) and shown is None,
        "next": ahead[0] if ahead else None, "previous": behind[0] if behind else None,
        "listed": ahead or [item for item in first if shown is None or item.place != shown.place],
        "count": queue.count(view.scope, me.account_id, since=view.since), "most_counted": MOST_COUNTED,
        "days": site.config.web.review_days, "sees_patients": me.sees_patients, "scale": SCORE_SCALE,
        "reasons": list(ReviewReason), "near": NEAR, "plain_unit": plain_unit,
        "said": request.query_params.get("said", ""), "of": _uid_or_none(request.query_params.get("of", "")),
        "problem": request.query_params.get("problem", "")[:300],
    }  # fmt: skip
    return page(request, "review/queue.html", **context, **_series(request, uid))


def _beyond(
    queue: ReviewQueue, view: _View, account_id: int, item: QueueItem | None, *, back: bool = False
) -> list[QueueItem]:
    if item is None:
        return []
    limit = 1 if back else _LISTED
    return queue.page(view.scope, account_id, since=view.since, beyond=item.place, back=back, limit=limit)


def _series(request: Request, uid: str) -> dict[str, Any]:
    """Return what the page shows of a series, whether it waits or not."""
    site = site_of(request)
    entry = QualityLog(site.database).entry(uid) if uid else None
    # A QC phantom is measured, not reviewed.
    if entry is None or entry.result.qc_phantom is not None:
        return {"entry": None}
    facts = entry.facts
    if account_of(request).sees_patients:
        note(
            request, "series.view", kind="series", ident=uid,
            study_instance_uid=facts.study_instance_uid, patient_id=facts.patient_id,
        )  # fmt: skip
    own = next((row for row in LogSearch(site.database).versions(uid) if row.version == entry.version), None)
    return {
        "entry": entry, "facts": facts, "verdict": entry.result, "own": own, "outside": _outside(entry),
        "findings": gravest_first(entry.result.findings),
        "reviews": Reviews(site.database).of(uid), "people": _reviewers(site), **slices_of(request, entry),
    }  # fmt: skip


def _outside(entry: LogEntry) -> list[Measurement]:
    """Return the measurements outside their usual range."""
    return [
        item
        for item in entry.result.measurements
        if item.value is not None
        and ((item.low is not None and item.value < item.low) or (item.high is not None and item.value > item.high))
    ]


def _reviewers(site: Site) -> list[AccountRow]:
    return [row for row in site.accounts.all() if row.active and row.role in REVIEWERS]


def _decide(request: Request) -> Response:
    site, me, uid = site_of(request), account_of(request), request.path_params["uid"]
    view = _view_of(request, form_of(request))
    queue = ReviewQueue(site.database, clock=site.clock)
    item = queue.item(uid) if is_uid(uid) else None
    # Before the decision: afterwards the series has no place that others could follow.
    ahead = [found.row.facts.series_instance_uid for found in _beyond(queue, view, me.account_id, item)]
    try:
        review = sign(request, uid, request.path_params["version"])
    except Permanent as error:
        return redirect(request, f"/review?{view.address(series=uid, problem=str(error)[:300])}")
    said = "agree" if review.agrees else "disagree"
    return redirect(request, f"/review?{view.address(series=ahead[0] if ahead else None, said=said, of=uid)}")


def _assign(request: Request) -> Response:
    site, uid, form = site_of(request), request.path_params["uid"], form_of(request)
    if not is_uid(uid):
        raise HTTPException(404)
    view, queue = _view_of(request, form), ReviewQueue(site.database, clock=site.clock)
    number = str(form.get("account", ""))
    try:
        if number == "":
            queue.withdraw(uid)
            name = "nobody"
        else:
            person = int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else 0
            asked = queue.assign(uid, person, by=account_of(request).name, note=str(form.get("note", "")))
            name = asked.name
    except Permanent as error:
        return redirect(request, f"/review?{view.address(series=uid, problem=str(error)[:300])}")
    note(request, "review.assign", kind="series", ident=uid, detail=f"to {name}")
    return redirect(request, f"/review?{view.address(series=uid, said='assigned')}")


def _uid_or_none(text: str) -> str | None:
    return text if is_uid(text) else None
