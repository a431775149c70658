"""Monthly reports: the months to choose from, and the report of the site or one scanner as a download."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.domain.errors import NotFound
from dicom_qa_node.monthly_report.gather import gather_month, known_scanners, months_with_series
from dicom_qa_node.monthly_report.month import Month
from dicom_qa_node.monthly_report.sent_reports import SentReports
from dicom_qa_node.quality_log.export_formats import MEDIA_TYPES, ExportFormat
from dicom_qa_node.web.access import Permission, guarded, note
from dicom_qa_node.web.page_rendering import page
from dicom_qa_node.web.site import Site, site_of

__all__ = ["routes"]

_LONGEST_NAME = 200


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/reports", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/reports/monthly", guarded(Permission.REVIEW, _download), methods=["GET"]),
    ]


def _show(request: Request) -> Response:
    site = site_of(request)
    return page(
        request,
        "reports/reports.html",
        months=months_with_series(site.database),
        scanners=known_scanners(site.database),
        chosen=request.query_params.get("scanner", "")[:_LONGEST_NAME],
        sent=SentReports(site.database, site.clock).latest(),
        settings=site.config.monthly_report,
    )


def _download(request: Request) -> Response:
    """Answer a report; a reviewer's right is needed, since notes and reviewers are named in it."""
    site, asked = site_of(request), request.query_params
    scanner = asked.get("scanner", "").strip()[:_LONGEST_NAME]
    try:
        month = Month.parse(asked.get("month", ""))
        figures = gather_month(site.database, site.config, month, scanner, now=site.clock())
    except ValueError as error:
        raise HTTPException(422, f"{error}.") from error
    except NotFound as error:
        raise HTTPException(404, f"{error}.") from error
    if asked.get("format", "pdf") == "xlsx":
        from dicom_qa_node.monthly_report.workbook import as_workbook

        content, media, ending = as_workbook(figures), MEDIA_TYPES[ExportFormat.XLSX], "xlsx"
    else:
        from dicom_qa_node.monthly_report.document import as_pdf

        content, media, ending = as_pdf(figures), "application/pdf", "pdf"
    note(request, "report.export", kind="report", ident=f"{month}", detail=f"{ending} {scanner}".strip())
    headers = {"Content-Disposition": f'attachment; filename="image-quality-{month}.{ending}"'}
    return Response(content, media_type=media, headers=headers)
