"""The addresses of DICOMweb, behind the same accounts and tokens as every page; only for roles that see patients."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from itertools import chain
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.index.attributes import UNIQUE_KEYS
from dicom_qa_node.index.catalogue import Catalogue
from dicom_qa_node.index.find import SearchTooLong
from dicom_qa_node.index.header_cache import LAYOUT, HeaderCache
from dicom_qa_node.index.matching import Identifier
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.web.access import Permission, address_of, authenticate, note, path_of
from dicom_qa_node.web.dicomweb.content_negotiation import JSON, json_accepted, wanted_form
from dicom_qa_node.web.dicomweb.qido import json_array, matches, read_search
from dicom_qa_node.web.dicomweb.wado import metadata, respond, select
from dicom_qa_node.web.site import Site, site_of

__all__ = ["BASE", "routes"]

BASE = "/dicom-web"
_STUDY, _SERIES, _INSTANCE = "/studies/{study}", "/series/{series}", "/instances/{instance}"
_PLACES = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_LEVELS = {"study": "STUDY", "series": "SERIES", "instance": "IMAGE"}
_NOT_FUZZY = (
    '299 dicom-qa-node "The fuzzymatching parameter is not supported. Only literal matching has been performed."'
)

View = Callable[[Request, "_Holdings"], Response]


class _Holdings:
    """The catalogue of one site, with what was reported since the last request."""

    def __init__(self, site: Site) -> None:
        self.layout = SpoolLayout(site.config.spool_dir)
        self.catalogue = Catalogue(site.database, images=site.config.query.images, layout=LAYOUT)
        self._indexer = HeaderCache(self.catalogue, self.layout)

    def catch_up(self) -> None:
        """Index new reports."""
        self._indexer.catch_up()


def routes(site: Site) -> list[BaseRoute]:
    """Return the routes of this file; none where queries are switched off."""
    if not site.config.query.enabled:
        return []
    holdings = _Holdings(site)
    searches = {
        "/studies": "STUDY",
        "/series": "SERIES",
        "/instances": "IMAGE",
        f"{_STUDY}/series": "SERIES",
        f"{_STUDY}/instances": "IMAGE",
        f"{_STUDY}{_SERIES}/instances": "IMAGE",
    }
    views: dict[str, View] = {path: _search(level) for path, level in searches.items()}
    for path in (_STUDY, _STUDY + _SERIES, _STUDY + _SERIES + _INSTANCE):
        views[path] = _instances
        views[f"{path}/metadata"] = _metadata
    return [Route(BASE + path, _guarded(view, holdings), methods=["GET"]) for path, view in views.items()]


def _guarded(view: View, holdings: _Holdings) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    def run(request: Request) -> Response:
        site = site_of(request)
        account = authenticate(request)
        if account is None:
            wait_s = site.api_rate.wait_s(f"address {address_of(request)}")
            if wait_s > 0:
                raise HTTPException(429, headers={"Retry-After": str(int(wait_s) + 1)})
            raise HTTPException(401, "A valid bearer token or session is needed.", {"WWW-Authenticate": "Bearer"})
        request.state.account = account
        if not account.may(Permission.VIEW_PATIENT):
            note(request, "access", outcome=Outcome.REFUSED, kind="dicomweb", ident=request.url.path)
            raise HTTPException(403, f"The role {account.role.value} may not see patients.")
        return view(request, holdings)

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(run, request)

    return endpoint


def _search(level: str) -> View:
    def view(request: Request, holdings: _Holdings) -> Response:
        json_accepted(request.headers.get("accept", ""))
        place = _place(request)
        search = read_search(level, place, request.query_params.multi_items())
        headers = {"Content-Type": JSON, "Cache-Control": "no-store"}
        if search.fuzzy:
            headers["Warning"] = _NOT_FUZZY
        holdings.catch_up()
        base = f"{request.url.scheme}://{request.url.netloc}{path_of(request, BASE)}"
        found = matches(holdings.catalogue, search, base, site_of(request).config.query.search_s)
        note(request, "dicomweb.search", kind=level.lower(), study_instance_uid=place.get("StudyInstanceUID", ""))
        try:
            first = next(found, None)
        except SearchTooLong as error:
            # PS3.18 10.6.3.1: too many to be searched; after the first match the answer can only break off.
            raise HTTPException(413, f"{str(error).capitalize()}.") from error
        if first is None:
            return Response(status_code=204, headers={key: headers[key] for key in headers if key != "Content-Type"})
        return StreamingResponse(json_array(chain([first], found)), headers=headers)

    return view


def _instances(request: Request, holdings: _Holdings) -> Response:
    place = _place(request)
    wanted = wanted_form(request.headers.get("accept", ""), single="SOPInstanceUID" in place)
    holdings.catch_up()
    response = respond(select(holdings.catalogue, holdings.layout, _identifier(place)), wanted)
    _note_retrieval(request, place)
    response.headers["Cache-Control"] = "no-store"
    return response


def _metadata(request: Request, holdings: _Holdings) -> Response:
    json_accepted(request.headers.get("accept", ""))
    place = _place(request)
    holdings.catch_up()
    selection = select(holdings.catalogue, holdings.layout, _identifier(place))
    _note_retrieval(request, place)
    headers = {"Content-Type": JSON, "Cache-Control": "no-store"}
    return StreamingResponse(json_array(metadata(selection)), headers=headers)


def _note_retrieval(request: Request, place: dict[str, str]) -> None:
    keyword, uid = list(place.items())[-1]
    kind = next(level.lower() for level, name in UNIQUE_KEYS.items() if name == keyword)
    note(request, "dicomweb.retrieve", kind=kind, ident=uid, study_instance_uid=place["StudyInstanceUID"])


def _place(request: Request) -> dict[str, str]:
    place = {_PLACES[name]: str(value) for name, value in request.path_params.items()}
    for keyword, uid in place.items():
        if not is_uid(uid):
            raise HTTPException(400, f"{keyword} in the path is not a UID.")
    return place


def _identifier(place: dict[str, str]) -> Identifier:
    search = read_search(_LEVELS[[name for name, keyword in _PLACES.items() if keyword in place][-1]], place, ())
    return search.identifier
