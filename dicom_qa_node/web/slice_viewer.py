"""What the viewer of the slices that a verdict rests on shows: on the page of a series, and in the review queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request

from dicom_qa_node.domain.results import LogEntry
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import ImageManifest, read_manifest
from dicom_qa_node.web.heat_map_state import heat_of
from dicom_qa_node.web.site import Site, site_of
from dicom_qa_node.web.slice_images import LABELS, Look, looks_of

__all__ = ["manifest_of", "slices_of"]


def manifest_of(site: Site, uid: str, version: int) -> tuple[Path, ImageManifest | None]:
    """Return the folder of a version's pictures and its index; the folder may not exist."""
    folder = SpoolLayout(site.config.spool_dir).pictures(uid, version)
    return folder, read_manifest(folder)


def slices_of(request: Request, entry: LogEntry) -> dict[str, Any]:
    """Return what the template ``series/_slices.html`` needs of a scored version.

    The address may name a slice (``slice``) and how it is shown (``look``); without a name the worst slice is shown.
    """
    site, uid = site_of(request), entry.facts.series_instance_uid
    folder, manifest = manifest_of(site, uid, entry.version)
    found = {
        "uid": uid,
        "heat": heat_of(site, entry),
        "numbers": {item.sop_instance_uid: number for number, item in enumerate(entry.result.slices, start=1)},
    }
    if manifest is None or not manifest.slices:
        return {"manifest": None, **found}
    asked = request.query_params
    shown = next((item for item in manifest.slices if str(item.number) == asked.get("slice", "")), None)
    if shown is None:
        worst = min(entry.result.slices, key=lambda item: item.score, default=None)
        shown = next((s for s in manifest.slices if worst and s.index == worst.index), manifest.slices[0])
    looks = looks_of(shown, folder)
    return {
        **found,
        "manifest": manifest,
        "shown": shown,
        "looks": looks,
        "look": next((item for item in looks if item.value == asked.get("look", "")), looks[0] if looks else None),
        "look_labels": LABELS,
        "judged": Look.JUDGED,
        "whole": asked.get("field") == "whole",
        "by_number": dict(enumerate(entry.result.slices, start=1)),
    }
