"""Views of the log that an account saves under a name, each with a link of its own."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.quality_log.saved_filters import SavedFilters
from dicom_qa_node.web.access import Permission, account_of, form_of, guarded, note
from dicom_qa_node.web.log_query import log_request_of
from dicom_qa_node.web.page_rendering import redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/log/views", guarded(Permission.VIEW, _save), methods=["POST"]),
        Route("/log/views/{number:int}", guarded(Permission.VIEW, _open), methods=["GET"]),
        Route("/log/views/{number:int}/remove", guarded(Permission.VIEW, _remove), methods=["POST"]),
    ]


def _open(request: Request) -> Response:
    """Lead to the log with the filters of a view; periods such as the last 30 days count from now."""
    number = min(request.path_params["number"], LARGEST_ID)
    found = SavedFilters(site_of(request).database).one(number, account_of(request).account_id)
    if found is None:
        raise HTTPException(404, "There is no such view, or it is not shared.")
    return redirect(request, f"/log?{found.query}" if found.query else "/log")


def _save(request: Request) -> Response:
    site, account, form = site_of(request), account_of(request), form_of(request)
    # Read as the log reads its address: what is kept is what the log would show.
    words = parse_qsl(str(form.get("query", ""))[:4000])
    asked = log_request_of(words, patients=account.sees_patients, now=site.clock())
    query, shared = asked.address(), form.get("shared") == "yes"
    try:
        if shared and asked.word("q"):
            raise Permanent("a view that searches for words may name a patient; keep it for yourself")
        number = SavedFilters(site.database, clock=site.clock).save(
            account.account_id, str(form.get("name", "")), query, shared=shared
        )
    except Permanent as error:
        back = f"{query}&" if query else ""
        return redirect(request, f"/log?{back}problem={quote(str(error)[:200])}")
    note(request, "log.view.save", kind="view", ident=str(number), detail="shared" if shared else "own")
    return redirect(request, f"/log?{query}" if query else "/log")


def _remove(request: Request) -> Response:
    number = min(request.path_params["number"], LARGEST_ID)
    if not SavedFilters(site_of(request).database).remove(number, account_of(request).account_id):
        raise HTTPException(404, "You have no such view.")
    note(request, "log.view.remove", kind="view", ident=str(number))
    return redirect(request, "/log")
