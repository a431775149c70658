"""Which irradiation event a series belongs to: by UID, as the only event of its study, or by protocol and CTDIvol.

A series that fits several events, or contradicts the only one, stays unlinked and says why: a dose that is missing can
be looked up, one of another acquisition cannot be noticed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_qa_node.domain.dose import DoseHeader, IrradiationEvent, LinkRule

__all__ = ["CTDI_AGREES", "Link", "StudySeries", "link"]

CTDI_AGREES = 0.05
"""CTDIvol of report and images agree within this share of the report's value."""

_ONE_ACQUISITION = dt.timedelta(seconds=10)
"""Ranges of one acquisition that are reconstructed apart follow each other within seconds, contrast phases do not."""


@dataclass(frozen=True, slots=True)
class StudySeries:
    """A series as linking sees it; ``ctdi_vol_mgy`` is the CTDIvol that its images state."""

    series_instance_uid: str
    header: DoseHeader
    protocol: str = ""
    ctdi_vol_mgy: float | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The event of a series by its key, and how it was found; or None, and why."""

    event_key: str | None
    rule: LinkRule | None = None
    reason: str = ""


def link(series: StudySeries, events: Sequence[IrradiationEvent], study: Sequence[StudySeries]) -> Link:
    """Return the event that a series belongs to.

    Parameters
    ----------
    events
        Every irradiation event of the study, localizers included.
    study
        Every CT series of the study, with this one.
    """
    if not events:
        return Link(None, reason="no dose report of the study has been received")
    if series.header.event_uids:
        return _by_uid(series, events)
    scans = [event for event in events if not event.localizer]
    if not scans:
        return Link(None, reason="the dose reports of the study hold localizers only")
    if len(scans) == 1:
        return _only(series, scans[0], study)
    return _by_protocol(series, scans)


def _by_uid(series: StudySeries, events: Sequence[IrradiationEvent]) -> Link:
    uids = series.header.event_uids
    if len(uids) > 1:
        return Link(None, reason=f"the images name {len(uids)} irradiation events")
    found = [event for event in events if event.uid == uids[0]]
    if not found:
        return Link(None, reason="no dose report of the study holds the irradiation event that the images name")
    if len(found) > 1:
        return Link(None, reason=f"the dose report holds {len(found)} acquisitions under the same event UID")
    if found[0].localizer:
        return Link(None, reason="the event that the images name is a localizer")
    return Link(found[0].key, LinkRule.EVENT_UID)


def _only(series: StudySeries, event: IrradiationEvent, study: Sequence[StudySeries]) -> Link:
    contradiction = _contradiction(series, event)
    if contradiction:
        return Link(None, reason=f"the only event of the study does not fit: {contradiction}")
    acquisitions = _acquisitions(study)
    if acquisitions > 1:
        return Link(None, reason=f"the study holds {acquisitions} acquisitions, its dose reports one event")
    return Link(event.key, LinkRule.ONLY_EVENT)


def _by_protocol(series: StudySeries, scans: Sequence[IrradiationEvent]) -> Link:
    wanted, ctdi = _name(series.protocol), series.ctdi_vol_mgy
    if ctdi is None:
        return Link(None, reason=f"{len(scans)} events, and the images state no CTDIvol")
    if not wanted:
        return Link(None, reason=f"{len(scans)} events, and the images state no protocol")
    if not any(event.protocol for event in scans):
        return Link(None, reason=f"{len(scans)} events, and the dose report states no protocol")
    close = [event for event in scans if _close(ctdi, event) and not _other_phantom(series, event)]
    # An event without a protocol may be the right one as well.
    fitting = [event for event in close if _name(event.protocol) in (wanted, "")]
    if len(fitting) > 1:
        return Link(None, reason=f"{len(fitting)} events fit protocol and CTDIvol")
    if not fitting or not fitting[0].protocol:
        return Link(None, reason=f"none of {len(scans)} events has this protocol and CTDIvol within 5 %")
    return Link(fitting[0].key, LinkRule.PROTOCOL_AND_CTDI)


def _contradiction(series: StudySeries, event: IrradiationEvent) -> str:
    if _other_phantom(series, event):
        return f"its CTDIvol is for the {event.phantom_cm} cm phantom, that of the images for another"
    stated, value = series.header.ctdi_vol_range, event.ctdi_vol_mgy
    if stated is None or value is None:
        return ""
    slack = CTDI_AGREES * value
    if stated[0] - slack <= value <= stated[1] + slack:
        return ""
    return f"its CTDIvol is {value:.2f} mGy, that of the images {_range(stated)} mGy"


def _range(stated: tuple[float, float]) -> str:
    low, high = (f"{value:.2f}" for value in stated)
    return low if low == high else f"{low} to {high}"


def _other_phantom(series: StudySeries, event: IrradiationEvent) -> bool:
    stated = series.header.phantom_cm
    return stated is not None and event.phantom_cm is not None and stated != event.phantom_cm


def _close(ctdi: float, event: IrradiationEvent) -> bool:
    return event.ctdi_vol_mgy is not None and abs(ctdi - event.ctdi_vol_mgy) <= CTDI_AGREES * event.ctdi_vol_mgy


def _acquisitions(study: Sequence[StudySeries]) -> int:
    """Return how many acquisitions the series come from, by the gaps between their times; 1 where these are unknown."""
    spans = sorted(
        (dt.datetime.fromisoformat(item.header.acquired_from), dt.datetime.fromisoformat(item.header.acquired_until))
        for item in study
        if item.header.acquired_from and item.header.acquired_until
    )
    count, until = min(len(spans), 1), None
    for begin, end in spans:
        if until is not None and begin - until > _ONE_ACQUISITION:
            count += 1
        until = end if until is None else max(until, end)
    return max(count, 1)


def _name(protocol: str) -> str:
    return " ".join(protocol.casefold().split())
