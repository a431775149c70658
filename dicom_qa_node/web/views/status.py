"""The node as it is: checks, states, processes and the latest scores, without patient data."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.web.access import Permission, guarded
from dicom_qa_node.web.pages import page
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [Route("/node", guarded(Permission.VIEW, _status), methods=["GET"])]


def _status(request: Request) -> Response:
    return page(request, "status.html", status=200, page=site_of(request).node.page())
