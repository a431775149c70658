"""Names of scanners and protocols: what they are shown as in charts, log and exports."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.charts.naming import Naming
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.uids import LARGEST_ID
from dicom_qa_node.web.access import Permission, account_of, guarded, note, word_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    base = "/scanners/names"
    return [
        Route(base, guarded(Permission.VIEW, _names), methods=["GET"]),
        Route(f"{base}/scanner/{{scanner_id:int}}", guarded(Permission.REVIEW, _name), methods=["POST"]),
        Route(f"{base}/merge/{{scanner_id:int}}", guarded(Permission.REVIEW, _merge), methods=["POST"]),
        Route(f"{base}/protocol", guarded(Permission.REVIEW, _protocol), methods=["POST"]),
    ]


def _names(request: Request, status: int = 200, problem: str = "") -> Response:
    site = site_of(request)
    naming, devices = Naming(site.database, site.clock), Scanners(site.database, clock=site.clock).every_device()
    context = {
        "devices": devices, "names": {scanner.scanner_id: scanner.name for scanner, _ in devices},
        "chosen": naming.scanners(), "protocols": naming.protocols(), "written": naming.written_protocols(),
        "problem": problem,
    }  # fmt: skip
    return page(request, "scanners/names.html", status, **context)


def _name(request: Request) -> Response:
    site, number = site_of(request), min(request.path_params["scanner_id"], LARGEST_ID)
    try:
        shown = Naming(site.database, site.clock).name_scanner(
            number, word_of(request, "name"), author=account_of(request).name
        )
    except Permanent as error:
        return _names(request, 422, str(error))
    note(request, "scanner.name", kind="scanner", ident=str(number), detail=f"called {shown}")
    return redirect(request, "/scanners/names")


def _merge(request: Request) -> Response:
    site, number, into = site_of(request), min(request.path_params["scanner_id"], LARGEST_ID), word_of(request, "into")
    try:
        if into and not (into.isascii() and into.isdigit()):
            raise Permanent("choose a scanner")
        other = min(int(into[:12]), LARGEST_ID) if into else None
        Naming(site.database, site.clock).merge(number, other, author=account_of(request).name)
    except Permanent as error:
        return _names(request, 422, str(error))
    detail = "stands for itself" if other is None else f"shown as scanner {other}"
    note(request, "scanner.merge", kind="scanner", ident=str(number), detail=detail)
    return redirect(request, "/scanners/names")


def _protocol(request: Request) -> Response:
    site, written, shown = site_of(request), word_of(request, "written"), word_of(request, "shown")
    try:
        Naming(site.database, site.clock).map_protocol(written, shown, author=account_of(request).name)
    except Permanent as error:
        return _names(request, 422, str(error))
    note(request, "protocol.name", kind="protocol", ident=written[:200], detail=f"shown as {shown or written}"[:500])
    return redirect(request, "/scanners/names#protocols-head")
