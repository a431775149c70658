"""Heat maps of one scored version as pages see them: what is made, what was asked for, what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dicom_qa_node.db.heartbeats import Heartbeats
from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.domain.results import LogEntry, ModelRef
from dicom_qa_node.flow.heat_map_requests import HeatRequests
from dicom_qa_node.models.registry import card_of
from dicom_qa_node.spool.layout import SpoolLayout
from dicom_qa_node.spool.rendered_images import heat_name, read_manifest
from dicom_qa_node.web.site import Site

__all__ = ["HeatMaps", "HeatState", "ask_for_maps", "heat_of"]

_SILENT_S = 30.0
_NO_MODEL = "no model"


class HeatState(StrEnum):
    """How the maps of a version stand."""

    READY = "ready"
    WAITING = "waiting"
    POSSIBLE = "possible"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class HeatMaps:
    """``made`` are the numbers of the slices that have a map, of ``slices`` in all.

    ``text`` says why there can be no more, why the last request failed, or what a waiting one waits for.
    """

    state: HeatState
    made: frozenset[int]
    slices: int
    text: str = ""

    @property
    def can_ask(self) -> bool:
        """Whether a request would be taken."""
        return self.state in (HeatState.POSSIBLE, HeatState.FAILED)


def heat_of(site: Site, entry: LogEntry) -> HeatMaps:
    """Return how the maps of a scored version stand now."""
    uid, version = entry.facts.series_instance_uid, entry.version
    folder = SpoolLayout(site.config.spool_dir).pictures(uid, version)
    numbers, there = _pictures(folder)
    made = frozenset(number for number in numbers if (folder / heat_name(number)).is_file())
    if numbers and len(made) == len(numbers):
        return HeatMaps(HeatState.READY, made, len(numbers))
    request = HeatRequests(site.database).of(uid, version)
    obstacle = _obstacle(site, entry, there)
    if obstacle:
        return HeatMaps(HeatState.IMPOSSIBLE, made, len(numbers), obstacle)
    if request is not None and request.ended_at is None:
        return HeatMaps(HeatState.WAITING, made, len(numbers), _waits_for(site))
    if request is not None and request.problem:
        return HeatMaps(HeatState.FAILED, made, len(numbers), request.problem)
    return HeatMaps(HeatState.POSSIBLE, made, len(numbers))


def ask_for_maps(site: Site, entry: LogEntry, by: str) -> HeatMaps:
    """Ask for the missing maps of a version, durably, and return how they stand now.

    Raises
    ------
    Permanent
        There can be none, or none is missing; the text says why.
    """
    found = heat_of(site, entry)
    if found.state is HeatState.IMPOSSIBLE:
        raise Permanent(found.text)
    if found.state is HeatState.READY:
        raise Permanent("every slice of this version has its heat map")
    requests = HeatRequests(site.database, clock=site.clock)
    requests.ask(entry.facts.series_instance_uid, entry.version, by=by)
    return heat_of(site, entry)


def _pictures(folder: Path) -> tuple[list[int], bool]:
    """Return the numbers of the slices, and whether what the network saw of each is still there."""
    manifest = read_manifest(folder)
    if manifest is None or not manifest.slices:
        return [], False
    return [item.number for item in manifest.slices], all((folder / item.display).is_file() for item in manifest.slices)


def _obstacle(site: Site, entry: LogEntry, pictures: bool) -> str:
    result = entry.result
    if result.score is None:
        return "there is no score that a map could explain"
    if not pictures:
        return "the pictures of this version are no longer in the spool"
    try:
        card = card_of(site.config.score.model)
    except Misconfigured as error:
        return str(error)
    if result.model != ModelRef(card.name, card.version, card.sha256):
        return (
            f"this version was judged by {result.model.name} {result.model.version} and the node now has {card.name} "
            f"{card.version}; score the series again to have maps"
        )
    return ""


def _waits_for(site: Site) -> str:
    """Return what keeps the workers from a request, in their own words; empty where one will come to it."""
    beats = [beat for beat in Heartbeats(site.database).all() if beat.role == "score"]
    alive = [beat for beat in beats if (site.clock() - beat.seen_at).total_seconds() <= _SILENT_S]
    if not alive:
        return "no scoring worker is running; the maps are made when one is"
    if all(beat.detail.startswith(_NO_MODEL) for beat in alive):
        return f"the scoring worker has {alive[0].detail}; the maps are made once it is installed"
    return ""
