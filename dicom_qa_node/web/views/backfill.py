"""Past series from an archive, for administrators: start a run, see how far it is, pause, resume and stop it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.config.backfill import source_named, source_names
from dicom_qa_node.domain.backfill import BackfillRequest, EntryState
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.flow.backfill_runs import BackfillRuns
from dicom_qa_node.web.access import Permission, account_of, guarded, note, word_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_RUNS_SHOWN = 20
_FAILED_SHOWN = 20
_MODALITIES = ("CT", "PT")


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    one = "/backfill/{run_id:int}"
    return [
        Route("/backfill", guarded(Permission.ADMIN, _show), methods=["GET"]),
        Route("/backfill", guarded(Permission.ADMIN, _start), methods=["POST"]),
        Route("/backfill/now", guarded(Permission.ADMIN, _now), methods=["GET"]),
        *(
            Route(f"{one}/{word}", guarded(Permission.ADMIN, _changes(word)), methods=["POST"])
            for word in ("pause", "resume", "stop")
        ),
    ]


def _show(request: Request, status: int = 200, problem: str = "") -> Response:
    site = site_of(request)
    form = request.state.form if problem else {}
    return page(
        request, "backfill/backfill.html", status, problem=problem, form=form, modalities=_MODALITIES,
        sources=source_names(site.config.backfill, site.config.deliver), settings=site.config.backfill,
        today=site.clock().date(), **_current(site),
    )  # fmt: skip


def _now(request: Request) -> Response:
    return page(request, "backfill/_runs.html", **_current(site_of(request)))


def _current(site: Site) -> dict[str, Any]:
    runs = BackfillRuns(site.database)
    found = runs.runs(_RUNS_SHOWN)
    failed = {run.run_id: runs.entries(run.run_id, EntryState.FAILED, _FAILED_SHOWN) for run in found if run.failed}
    return {"runs": found, "failed": failed}


def _start(request: Request) -> Response:
    site = site_of(request)
    try:
        asked = _request_of(request, site)
    except ValueError as error:
        return _show(request, 422, str(error))
    number = BackfillRuns(site.database).start(asked, by=account_of(request).name)
    words = f"{asked.source}, {asked.first_day} to {asked.last_day}, {asked.rate_per_hour:g} an hour"
    note(request, "backfill.start", kind="backfill", ident=str(number), detail=words)
    return redirect(request, f"/backfill?started={number}")


def _request_of(request: Request, site: Site) -> BackfillRequest:
    """Read the form; a ValueError has the sentence for the page."""
    config, source = site.config, word_of(request, "source")
    if source_named(config.backfill, config.deliver, source) is None:
        raise ValueError("Choose an archive.")
    first, last = _day(request, "since"), _day(request, "until")
    if last < first:
        raise ValueError("The last day lies before the first.")
    modalities = tuple(word for word in _MODALITIES if word_of(request, f"modality_{word}"))
    if not modalities:
        raise ValueError("Choose CT, PET or both.")
    try:
        rate = float(word_of(request, "rate").replace(",", ".") or config.backfill.rate_per_hour)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 3600:
        raise ValueError("The rate lies above 0 and is 3600 series an hour at most.")
    scanner, deliver = word_of(request, "scanner")[:200], bool(word_of(request, "deliver"))
    return BackfillRequest(source, first, last, modalities, rate, scanner, deliver)


def _changes(word: str) -> Callable[[Request], Response]:
    def change(request: Request) -> Response:
        number = min(request.path_params["run_id"], LARGEST_ID)
        done: Callable[[int], bool] = getattr(BackfillRuns(site_of(request).database), word)
        if not done(number):
            raise HTTPException(409, "This backfill is in a state that does not allow this.")
        note(request, f"backfill.{word}", kind="backfill", ident=str(number))
        return redirect(request, "/backfill")

    return change


def _day(request: Request, name: str) -> dt.date:
    try:
        return dt.date.fromisoformat(word_of(request, name))
    except ValueError:
        raise ValueError("Give the first and the last day.") from None
