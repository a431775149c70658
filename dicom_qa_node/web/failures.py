"""What is answered when something goes wrong: a page without details, or a problem document (RFC 9457) for programs."""

from __future__ import annotations

import logging
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dicom_qa_node.errors import Transient
from dicom_qa_node.web.pages import page

__all__ = ["on_client_left", "on_error", "on_http_error", "problem"]

_LOGGER = logging.getLogger(__name__)
_SENTENCES = {
    400: "The request could not be understood.",
    401: "Log in first.",
    403: "Your role does not allow this.",
    404: "There is nothing here.",
    408: "The request took too long to arrive.",
    405: "This page does not take such a request.",
    410: "This is no longer here.",
    413: "The request is too large.",
    429: "Too many requests. Try again in a minute.",
    500: "Something failed on the node. The log of the role web says what; nothing was lost.",
    503: "The database does not answer at the moment. Try again soon.",
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: object) -> Response:
    """Return a problem document."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer a refusal."""
    assert isinstance(error, HTTPException)
    plain = error.detail == HTTPStatus(error.status_code).phrase
    sentence = _SENTENCES.get(error.status_code, error.detail) if plain else error.detail
    response = await _answer(request, error.status_code, sentence)
    response.headers.update(error.headers or {})
    return response


async def on_error(request: Request, error: Exception) -> Response:
    """Answer a failure without saying more than that; the log has its type and place."""
    status = 503 if isinstance(error, Transient) else 500
    fields = {"path": request.scope.get("route_path", request.scope["path"].split("/")[1:2])}
    _LOGGER.error("request failed", exc_info=error, extra={"qa_event": "request_failed", "qa_fields": fields})
    try:
        return await _answer(request, status, _SENTENCES[status])
    except Exception:  # noqa: BLE001 - the edge of the web: the page of an error must not fail
        return Response(_SENTENCES[status], status, media_type="text/plain")


async def on_client_left(_request: Request, _error: Exception) -> Response:
    """Answer nobody: a client that goes away before its request is complete is not a failure of the node."""
    return Response(status_code=400)


async def _answer(request: Request, status: int, sentence: str) -> Response:
    if "text/html" not in request.headers.get("accept", "text/html"):
        return problem(status, sentence)
    title = HTTPStatus(status).phrase
    return await run_in_threadpool(
        page, request, "errors/error.html", status, code=status, title=title, sentence=sentence
    )
