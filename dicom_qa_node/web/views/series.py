"""Everything about one series: its verdict, slices, measurements, versions, report, deliveries, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.accounts.audit import Outcome
from dicom_qa_node.config.scoring import priority_name
from dicom_qa_node.domain.delivery import ReportRef
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import LogEntry, gravest_first
from dicom_qa_node.domain.states import DeliveryState, SeriesState
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.dose.series_dose import dose_of_series, reports_of_study
from dicom_qa_node.flow.conflicts import Conflicts
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry, SeriesRow
from dicom_qa_node.models.card import SCORE_SCALE
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.quality_log.filters import LogRow
from dicom_qa_node.quality_log.reviews import ReviewReason, Reviews
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.web.access import Permission, account_of, form_of, guarded, note
from dicom_qa_node.web.heat_map_state import ask_for_maps, heat_of
from dicom_qa_node.web.page_rendering import page, redirect
from dicom_qa_node.web.series_comparison import compared, plain_unit, trends_of
from dicom_qa_node.web.site import Site, site_of
from dicom_qa_node.web.slice_images import Look
from dicom_qa_node.web.slice_viewer import slices_of
from dicom_qa_node.web.sr_tree import read_tree

__all__ = ["act_on", "possible_actions", "routes"]

_MOST_VERSIONS = 1_000_000
_RESCORABLE = (SeriesState.SCORED, SeriesState.REPORTED, SeriesState.DELIVERED, SeriesState.PARKED)


@dataclass(frozen=True, slots=True)
class Action:
    """Something an administrator can do with a series as it stands."""

    word: str
    label: str
    explained: str
    reason: bool = False


_ACTIONS = {
    "rescore": Action("rescore", "Score again", "Queues the series as a new version; its report names the old one."),
    "release": Action(
        "release", "Release", "Tries a parked series again, or scores a receiving one with what is there."
    ),
    "park": Action("park", "Park", "Takes the series out of the flow; its images stay in the spool.", reason=True),
    "take-newer": Action(
        "take-newer",
        "Take the newer images",
        "Scores the images that came again, with their patient and study; the new report replaces the old one.",
    ),
    "keep-stored": Action("keep-stored", "Keep the stored images", "Settles the conflict; nothing is scored again."),
    "resend": Action("resend", "Send the report again", "Sends every parked or waiting delivery of it at once."),
}


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    return [
        Route("/series/{uid}", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route("/series/{uid}/v{version:int}/report.dcm", guarded(Permission.VIEW_PATIENT, _report), methods=["GET"]),
        Route("/series/{uid}/v{version:int}/heat", guarded(Permission.VIEW, _heat), methods=["GET"]),
        Route("/series/{uid}/v{version:int}/heat", guarded(Permission.REVIEW, _ask_heat), methods=["POST"]),
        Route("/series/{uid}/{action}", guarded(Permission.ACT, _act), methods=["POST"]),
    ]


def possible_actions(row: SeriesRow, waiting: bool, conflict: bool = False) -> list[Action]:
    """Return what can be done with a series.

    ``waiting``: it has deliveries that are parked or still to be sent; ``conflict``: images of it came again with other
    content.
    """
    words = ["rescore"] if row.state in _RESCORABLE else []
    words += ["take-newer", "keep-stored"] if conflict else []
    words += ["release"] if row.state in (SeriesState.PARKED, SeriesState.RECEIVING) else []
    words += ["resend"] if waiting else []
    words += ["park"] if row.state is not SeriesState.PARKED else []
    return [_ACTIONS[word] for word in words]


def act_on(site: Site, uid: str, action: str, reason: str, actor: str) -> bool:
    """Do what an action says by the functions that the commands use too; False where the state does not allow it.

    Raises
    ------
    Permanent
        It cannot be done; the text says why.
    """
    registry, outbox = Registry(site.database), Outbox(site.database, clock=site.clock)
    if action == "rescore":
        return registry.rescore(uid, actor=actor)
    if action == "release":
        return registry.release(uid, actor=actor)
    if action == "park":
        return registry.park(uid, reason or "parked by an operator", actor=actor)
    if action == "take-newer":
        return Conflicts(site.database).take_newer(uid, SpoolLayout(site.config.spool_dir), actor=actor)
    if action == "keep-stored":
        return Conflicts(site.database).keep_stored(uid, actor=actor)
    if action == "resend":
        waiting = [item.delivery_id for item in outbox.deliveries_of(uid) if _can_go(item.state)]
        return bool(waiting) and outbox.retry(waiting, actor=actor) > 0
    raise Permanent(f"there is no action {action!r}")


def _can_go(state: DeliveryState) -> bool:
    return state in (DeliveryState.PARKED, DeliveryState.PENDING)


def _series(request: Request) -> SeriesRow:
    uid = request.path_params["uid"]
    row = Registry(site_of(request).database).series(uid) if is_uid(uid) else None
    if row is None:
        raise HTTPException(404, "The node has never seen this series.")
    return row


def _show(request: Request) -> Response:
    site, row = site_of(request), _series(request)
    uid, wanted = row.facts.series_instance_uid, request.query_params.get("version", "")
    version = int(wanted) if wanted.isascii() and wanted.isdecimal() and len(wanted) < 9 else None
    entry = QualityLog(site.database).entry(uid, version)
    if entry is None and version is not None:
        raise HTTPException(404, f"This series has no scored version {version}.")
    account = account_of(request)
    if account.sees_patients:
        facts = row.facts
        note(
            request, "series.view", kind="series", ident=uid,
            study_instance_uid=facts.study_instance_uid, patient_id=facts.patient_id,
        )  # fmt: skip
    deliveries, conflict = Outbox(site.database).deliveries_of(uid), Conflicts(site.database).of(uid)
    context: dict[str, Any] = {
        "row": row,
        "entry": entry,
        "sees_patients": account.sees_patients,
        "deliveries": deliveries,
        "history": Registry(site.database).history(uid),
        "actions": possible_actions(row, any(_can_go(item.state) for item in deliveries), conflict is not None),
        "conflict": conflict,
        "said": request.query_params.get("done", ""),
        "labels": _ACTIONS,
        "plain_unit": plain_unit,
        "dose": dose_of_series(site.database, uid),
        "dose_reports": reports_of_study(site.database, row.facts.study_instance_uid),
        "priority": priority_name(row.priority),
    }
    return page(request, "series/series.html", **context, **_verdict(request, entry))


def _verdict(request: Request, entry: LogEntry | None) -> dict[str, Any]:
    """Return what belongs to one scored version."""
    site = site_of(request)
    if entry is None:
        return {"verdict": None}
    uid, names = entry.facts.series_instance_uid, account_of(request).sees_patients
    search = LogSearch(site.database)
    versions = search.versions(uid)
    own = next((item for item in versions if item.version == entry.version), None)
    earlier = [item for item in search.history(own.result_id) if item[0] != own.result_id] if own else []
    report = Outbox(site.database).report(uid, entry.version)
    tree = read_tree(_file(site, report), names=names) if report else None
    return {
        "verdict": entry.result,
        "own": own,
        "versions": versions,
        "changes": compared(_results(site, uid, versions)),
        "explanations": site.explanations,
        "trends": trends_of(entry.result.measurements, [payload for _, _, payload in earlier]),
        "findings": gravest_first(entry.result.findings),
        "report": report,
        "tree": tree,
        "reviews": Reviews(site.database).of(uid),
        "reasons": list(ReviewReason),
        "scale": SCORE_SCALE,
        **slices_of(request, entry),
    }


def _version(request: Request) -> LogEntry:
    uid, version = request.path_params["uid"], min(request.path_params["version"], _MOST_VERSIONS)
    entry = QualityLog(site_of(request).database).entry(uid, version) if is_uid(uid) else None
    if entry is None:
        raise HTTPException(404, "This series has no such scored version.")
    return entry


def _heat(request: Request) -> Response:
    entry = _version(request)
    heat, uid = heat_of(site_of(request), entry), entry.facts.series_instance_uid
    # Asked for by the page's script, which knows the slice that is shown.
    known: dict[str, Any] = {
        "entry": entry, "verdict": entry.result, "uid": uid, "shown": None, "look": None,
        "ask_for_maps": account_of(request).may(Permission.REVIEW),
    }  # fmt: skip
    return page(request, "series/_heat.html", heat=heat, **known)


def _ask_heat(request: Request) -> Response:
    site, entry = site_of(request), _version(request)
    uid, outcome, message = entry.facts.series_instance_uid, Outcome.SUCCESS, ""
    try:
        ask_for_maps(site, entry, account_of(request).name)
    except Permanent as error:
        outcome, message = Outcome.FAILED, str(error)
    note(
        request, "series.heat_maps", kind="series", ident=uid, outcome=outcome,
        study_instance_uid=entry.facts.study_instance_uid, detail=f"v{entry.version} {message}".strip(),
    )  # fmt: skip
    form = form_of(request)
    number, look = str(form.get("slice", "")), str(form.get("look", ""))
    place = f"&slice={number}" if number.isascii() and number.isdecimal() and len(number) < 5 else ""
    place += f"&look={look}" if look in set(Look) else ""
    return redirect(request, f"/series/{uid}?version={entry.version}{place}#slices")


def _results(site: Site, uid: str, versions: tuple[LogRow, ...]) -> list[LogEntry]:
    log = QualityLog(site.database)
    found = [log.entry(uid, item.version) for item in versions[:8]]
    return [entry for entry in found if entry is not None]


def _file(site: Site, report: ReportRef) -> Path:
    return SpoolLayout(site.config.spool_dir).absolute(report.path)


def _report(request: Request) -> Response:
    site, row = site_of(request), _series(request)
    uid, version = row.facts.series_instance_uid, request.path_params["version"]
    found = Outbox(site.database).report(uid, version)
    path = _file(site, found) if found else None
    if found is None or path is None or not path.is_file():
        raise HTTPException(404, "There is no report of this version in the spool.")
    note(
        request, "report.export", kind="report", ident=found.sop_instance_uid,
        study_instance_uid=row.facts.study_instance_uid, patient_id=row.facts.patient_id,
    )  # fmt: skip
    return FileResponse(path, media_type="application/dicom", filename=f"report-v{version}.dcm")


def _act(request: Request) -> Response:
    row, action = _series(request), request.path_params["action"]
    uid = row.facts.series_instance_uid
    if action not in _ACTIONS:
        raise HTTPException(404)
    reason = str(form_of(request).get("reason", "")).strip()[:500]
    outcome, message = _tried(site_of(request), uid, action, reason, account_of(request).name)
    note(
        request, f"series.{action}", kind="series", ident=uid, outcome=outcome,
        study_instance_uid=row.facts.study_instance_uid, detail=reason,
    )  # fmt: skip
    return redirect(request, f"/series/{uid}?done={message}")


def _tried(site: Site, uid: str, action: str, reason: str, name: str) -> tuple[Outcome, str]:
    try:
        done = act_on(site, uid, action, reason, f"web {name}")
        return (Outcome.SUCCESS, action) if done else (Outcome.FAILED, "refused")
    except Permanent:
        return Outcome.FAILED, "gone"
