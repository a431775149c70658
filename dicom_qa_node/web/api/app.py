"""The API as a FastAPI application: schema at ``/api/v1/openapi.json``, errors as problem documents (RFC 9457)."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_qa_node import __version__
from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.domain.errors import NodeError, Transient
from dicom_qa_node.web.access import SAFE, note
from dicom_qa_node.web.api import accounts, alerts, dose, log, node, scanners, series
from dicom_qa_node.web.page_rendering import problem
from dicom_qa_node.web.site import Site

__all__ = ["Problem", "create_api"]

_LOGGER = logging.getLogger(__name__)
#: Modules with ``router(site)``; one line each.
_AREAS = (accounts, log, series, scanners, node, alerts, dose)
_HELP = """Quality of CT and PET/CT series as this node judges it, and the actions of its pages.

Send `Authorization: Bearer TOKEN`. Lists are paged: `limit` and `cursor`, and `next` in the answer.
Errors are problem documents (RFC 9457). Patient data appears only for roles that may see it.
"""


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSALS = {
    400: "the request could not be read",
    401: "no valid token or session",
    403: "the role does not allow it, or the token against forgery is missing",
    404: "not there",
    409: "not possible in the present state",
    413: "too large",
    422: "a value is not allowed",
    429: "too many calls",
    503: "the database does not answer",
}


def create_api(site: Site) -> FastAPI:
    """Build the API."""
    api = FastAPI(
        title="dicom-qa-node",
        version=__version__,
        description=_HELP,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={
            status: {"description": text, "model": Problem, "content": _PROBLEM} for status, text in _REFUSALS.items()
        },
        exception_handlers={
            HTTPException: _refused,
            RequestValidationError: _invalid,
            NodeError: _impossible,
        },
        middleware=[Middleware(_Edge)],
    )
    for area in _AREAS:
        api.include_router(area.router(site))
    return api


class _Edge:
    """Turns a failure into an answer without details, and leaves a row in the audit log for every change."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        status = 0

        async def watching(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watching)
        except Exception as error:
            _LOGGER.error("request failed", exc_info=error, extra={"qa_event": "api_failed", "qa_fields": {}})
            if status:
                raise
            answer = problem(500, "something failed on the node; the log of the role web says what")
            await answer(scope, receive, watching)
        state = scope["state"]
        if scope["method"] not in SAFE and state.get("account") is not None and not state.get("noted"):
            await run_in_threadpool(_note, Request(scope), status)


def _note(request: Request, status: int) -> None:
    outcome = Outcome.SUCCESS if status < 400 else Outcome.FAILED
    event = f"api.{request.method.lower()}"
    note(request, event, kind="api", ident=request.url.path, outcome=outcome, detail=str(status))


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Neither the value nor its context is repeated: a value may be a name.
    errors = [{"at": ".".join(map(str, item["loc"])), "problem": item["msg"]} for item in error.errors()]
    return problem(422, "; ".join(f"{item['at']}: {item['problem']}" for item in errors)[:500], errors=errors)


async def _impossible(_request: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, Transient) else 409
    return problem(status, str(error), {"Retry-After": "5"} if status == 503 else None)
