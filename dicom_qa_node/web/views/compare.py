"""Two series side by side, and single slices of the images in the spool for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.domain.results import LogEntry
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.quality_log.entries import QualityLog
from dicom_qa_node.quality_log.filters import LogRow
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.quality_log.similar_series import Similar, SimilarSeries
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.web.access import Permission, account_of, guarded, note, path_of
from dicom_qa_node.web.original_slices import Busy, SeriesFiles, SliceStack, Unreadable
from dicom_qa_node.web.page_rendering import page, problem
from dicom_qa_node.web.series_comparison import plain_unit, side_by_side
from dicom_qa_node.web.site import Site, site_of
from dicom_qa_node.web.slice_viewer import manifest_of

__all__ = ["routes"]

#: What noise means for the median series, the first that a result has.
_NOISES = ("global_noise_level", "liver_cov", "body_noise")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_KEPT = "private, max-age=3600"
_CHOICES = {
    "prior": "Prior of the patient",
    "median": "Scanner's median score",
    "noise": "Scanner's median noise",
}
_GONE = "The images of this series are no longer in the spool."


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    base = "/series/{uid}"
    return [
        Route(f"{base}/compare", guarded(Permission.VIEW, _show), methods=["GET"]),
        Route(f"{base}/images", guarded(Permission.VIEW, _answered(_index)), methods=["GET"]),
        Route(f"{base}/images/view.png", guarded(Permission.VIEW, _answered(_drawn)), methods=["GET"]),
        Route(
            f"{base}/images/{{stack:int}}/{{index:int}}", guarded(Permission.VIEW, _answered(_pixels)), methods=["GET"]
        ),
    ]


def _show(request: Request) -> Response:
    site, account = site_of(request), account_of(request)
    first = _entry(site, request.path_params["uid"])
    wanted = request.query_params.get("with", "prior" if account.sees_patients else "median").strip()[:400]
    own = _row(site, first)
    chosen = _similar(request, first, own, wanted) if own else Similar(None, "the log does not list this series yet")
    second = _entry(site, chosen.row.facts.series_instance_uid) if chosen.row else None
    for entry in (first, second):
        if entry is not None and account.sees_patients:
            note(
                request, "series.view", kind="series", ident=entry.facts.series_instance_uid, detail="compare",
                study_instance_uid=entry.facts.study_instance_uid, patient_id=entry.facts.patient_id,
            )  # fmt: skip
    context: dict[str, Any] = {
        "first": first, "second": second, "rows": (own, chosen.row), "why": chosen.why, "wanted": wanted,
        "choices": {k: v for k, v in _CHOICES.items() if k != "prior" or account.sees_patients},
        "other": wanted if wanted not in _CHOICES else "",
        "sees_patients": account.sees_patients, "plain_unit": plain_unit,
        "pairs": side_by_side(first.result.measurements, second.result.measurements) if second else [],
        "same_frame": second is not None and _same_frame(first, second), "view": _view_words(request),
    }  # fmt: skip
    return page(request, "series/compare.html", **context)


def _entry(site: Site, uid: str) -> LogEntry:
    entry = QualityLog(site.database).entry(uid) if is_uid(uid) else None
    if entry is None:
        raise HTTPException(404, "The node has no score of this series.")
    return entry


def _row(site: Site, entry: LogEntry) -> LogRow | None:
    rows = LogSearch(site.database).versions(entry.facts.series_instance_uid)
    return next((row for row in rows if row.version == entry.version), None)


def _similar(request: Request, entry: LogEntry, own: LogRow, wanted: str) -> Similar:
    site = site_of(request)
    similar = SimilarSeries(site.database)
    if wanted == "prior" and account_of(request).sees_patients:
        return similar.prior(own)
    if wanted == "median":
        return similar.median_score(own)
    if wanted == "noise":
        has = {item.name for item in entry.result.measurements if item.value is not None}
        name = next((name for name in _NOISES if name in has), None)
        return similar.median_noise(own, name) if name else Similar(None, "this series has no measurement of noise")
    # A link to a series holds its UID, and so does one copied from an archive.
    for uid in _UID.findall(wanted):
        other = QualityLog(site.database).entry(uid) if is_uid(uid) else None
        if other is not None:
            return Similar(_row(site, other), "chosen by its UID")
    return Similar(None, "the node has no score of a series of that UID")


def _same_frame(one: LogEntry, two: LogEntry) -> bool:
    frame = one.facts.frame_of_reference_uid
    return bool(frame) and frame == two.facts.frame_of_reference_uid


def _view_words(request: Request) -> dict[str, str]:
    """Return place and window of the pictures that need no script."""
    at = _number(request.query_params.get("at", ""), 0.5)
    window = request.query_params.get("window", "")
    return {"at": f"{min(1.0, max(0.0, at)):.3g}", "window": window if window in _WINDOWS else ""}


_WINDOWS = {"soft": (-160.0, 240.0), "lung": (-1350.0, 150.0), "bone": (-450.0, 1350.0), "brain": (0.0, 80.0)}


def _number(text: str, otherwise: float) -> float:
    return float(text) if re.fullmatch(r"-?\d{1,7}(\.\d{1,6})?", text) else otherwise


def _answered(view: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        try:
            return view(request)
        except Unreadable as error:
            return problem(422, f"The images cannot be shown: {error}.")
        except Busy as error:
            return problem(503, str(error), {"Retry-After": "5"})
        except FileNotFoundError:
            return problem(410, _GONE)

    return answer


def _files(request: Request) -> SeriesFiles:
    """Return the files of a series in the spool.

    Raises
    ------
    FileNotFoundError
        They have left it.
    """
    uid = request.path_params["uid"]
    if not is_uid(uid):
        raise HTTPException(404)
    site = site_of(request)
    layout = SpoolLayout(site.config.spool_dir)
    stored = [item for item in Registry(site.database).instances(uid) if not item.conflict]
    files = SeriesFiles.of([layout.absolute(item.path) for item in stored])
    if not files.paths:
        raise FileNotFoundError(uid)
    return files


def _index(request: Request) -> Response:
    uid, site = request.path_params["uid"], site_of(request)
    try:
        files = _files(request)
        stacks = site.original_slices.stacks(files)
    except FileNotFoundError:
        return _kept_slices(request)
    base = path_of(request, f"/series/{uid}/images")
    found = [
        _described(stack) | {"at": f"{base}/{number}", "query": f"?of={files.stamp}"}
        for number, stack in enumerate(stacks)
    ]
    return JSONResponse({"source": "spool", "stacks": found})


def _described(stack: SliceStack) -> dict[str, Any]:
    return {
        "name": stack.name, "unit": {"SUVbw": "SUV", "BQML": "Bq/ml"}.get(stack.unit, stack.unit), "kind": stack.kind,
        "positions": stack.positions, "normal": stack.normal, "low": stack.low, "high": stack.high,
    }  # fmt: skip


def _kept_slices(request: Request) -> Response:
    """Answer the slices that the verdict rests on: they stay when the images go."""
    uid, site = request.path_params["uid"], site_of(request)
    entry = _entry(site, uid)
    _, manifest = manifest_of(site, uid, entry.version)
    if manifest is None or not manifest.slices:
        return problem(410, f"{_GONE} Nor are pictures of its slices.")
    kept = sorted(manifest.slices, key=lambda item: item.position_mm)
    base = path_of(request, f"/series/{uid}/v{entry.version}/slice")
    stack = {
        "name": "", "unit": "", "kind": manifest.kind, "positions": [item.position_mm for item in kept],
        "normal": [0, 0, 0], "low": 0, "high": 0, "pictures": [f"{base}/{item.number}.png" for item in kept],
    }  # fmt: skip
    words = f"{_GONE} Shown are the slices that the verdict rests on."
    return JSONResponse({"source": "kept", "note": words, "stacks": [stack]})


def _pixels(request: Request) -> Response:
    given = site_of(request).original_slices.slice(
        _files(request), request.path_params["stack"], request.path_params["index"]
    )
    headers = {
        "Cache-Control": _KEPT, "Content-Encoding": "gzip", "X-Rows": str(given.rows), "X-Columns": str(given.columns),
        "X-Scale": repr(given.scale),
    }  # fmt: skip
    return Response(given.packed, media_type="application/octet-stream", headers=headers)


def _drawn(request: Request) -> Response:
    """Answer one slice in a window, for pages without a script: ``at`` is its place in the stack, 0 to 1."""
    words, slices = _view_words(request), site_of(request).original_slices
    try:
        files = _files(request)
    except FileNotFoundError:
        return _png(_kept_picture(request, float(words["at"])))
    (stack, *_) = slices.stacks(files)
    window = (stack.low, stack.high)
    if stack.unit == "HU":
        window = _WINDOWS.get(words["window"], window)
    shown = slices.slice(files, 0, round(float(words["at"]) * (len(stack.positions) - 1)))
    return _png(shown.png(*window, invert=stack.kind == "pt"))


def _kept_picture(request: Request, at: float) -> bytes:
    uid, site = request.path_params["uid"], site_of(request)
    folder, manifest = manifest_of(site, uid, _entry(site, uid).version)
    if manifest is None or not manifest.slices:
        raise FileNotFoundError(uid)
    kept = sorted(manifest.slices, key=lambda item: item.position_mm)
    return (folder / kept[round(at * (len(kept) - 1))].display).read_bytes()


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"Cache-Control": _KEPT})
