"""The pictures of a scored version: thumbnails, slices in any window, heat maps, the overview. They name no patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.quality_log.search import LogSearch
from dicom_qa_node.spool.rendered_images import SHEET, ImageManifest, RenderedSlice
from dicom_qa_node.web.access import Permission, guarded
from dicom_qa_node.web.body_crop import Box, crop_of
from dicom_qa_node.web.site import Site, site_of
from dicom_qa_node.web.slice_images import Look, draw, heat_overlay, thumbnail
from dicom_qa_node.web.slice_viewer import manifest_of

__all__ = ["routes"]

# A version's pictures never change; the browser may keep them, other people's caches may not.
_KEPT = "private, max-age=86400"


def routes(_site: Site) -> list[BaseRoute]:
    """Return the routes of this file."""
    base = "/series/{uid}/v{version:int}"
    views: dict[str, Callable[[Request], Response]] = {
        "/thumb.png": _thumb,
        "/thumb/{number:int}.png": _thumb,
        "/slice/{number:int}.png": _slice,
        "/heat/{number:int}.png": _heat,
        "/coronal.png": _coronal,
        "/sheet.png": _sheet,
    }
    return [Route(base + path, guarded(Permission.VIEW, _found(view)), methods=["GET"]) for path, view in views.items()]


def _found(view: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        try:
            return view(request)
        except (FileNotFoundError, NotADirectoryError):
            raise HTTPException(404, "This picture is not in the spool (any more).") from None

    return answer


def _folder(request: Request) -> tuple[Path, ImageManifest]:
    uid, version = request.path_params["uid"], request.path_params["version"]
    if not is_uid(uid):
        raise HTTPException(404)
    folder, manifest = manifest_of(site_of(request), uid, version)
    if manifest is None:
        raise FileNotFoundError(uid)
    return folder, manifest


def _thumb(request: Request) -> Response:
    folder, manifest = _folder(request)
    number = request.path_params.get("number") or _worst(request)
    return _png(thumbnail(folder, manifest, number))


def _worst(request: Request) -> int:
    versions = LogSearch(site_of(request).database).versions(request.path_params["uid"])
    row = next((row for row in versions if row.version == request.path_params["version"]), None)
    return row.worst_slice if row else 1


def _slice(request: Request) -> Response:
    folder, manifest = _folder(request)
    number, word = request.path_params["number"], request.query_params.get("look", Look.JUDGED.value)
    item = next((item for item in manifest.slices if item.number == number), None)
    if item is None or word not in set(Look):
        raise HTTPException(404)
    return _png(draw(folder, item, Look(word), _box(request, folder, item)))


def _box(request: Request, folder: Path, item: RenderedSlice) -> Box | None:
    """Return where to crop: to the body, unless the whole image is asked for."""
    return None if request.query_params.get("field") == "whole" else crop_of(folder, item)


def _heat(request: Request) -> Response:
    folder, manifest = _folder(request)
    item = next((item for item in manifest.slices if item.number == request.path_params["number"]), None)
    if item is None:
        raise HTTPException(404)
    return _png(heat_overlay(folder, item, _box(request, folder, item)))


def _coronal(request: Request) -> Response:
    folder, manifest = _folder(request)
    if manifest.overview is None:
        raise FileNotFoundError("coronal")
    return _png((folder / manifest.overview.file).read_bytes())


def _sheet(request: Request) -> Response:
    folder, _ = _folder(request)
    return _png((folder / SHEET).read_bytes())


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"Cache-Control": _KEPT})
