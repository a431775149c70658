"""Applies the completion rules to every series in RECEIVING; a periodic task of the role ``schedule`` calls it."""

from __future__ import annotations

import datetime as dt
import logging

from dicom_qa_node.complete.ages import Ages
from dicom_qa_node.complete.rules import Fragment, Ready, decide
from dicom_qa_node.config import Complete
from dicom_qa_node.log import log_event
from dicom_qa_node.records import SeriesProgress
from dicom_qa_node.store import Registry

__all__ = ["sweep"]

_LOGGER = logging.getLogger(__name__)


def sweep(registry: Registry, rules: Complete, now: dt.datetime, ages: Ages | None = None) -> int:
    """Move every series that is complete at ``now`` to COMPLETE with its job queued; return how many.

    A series that grew between the look and the move is left for the next sweep. ``ages`` keeps the waits right when the
    wall clock is set between two sweeps.
    """
    moved = 0
    receiving = registry.receiving()
    for progress in receiving if ages is None else ages.corrected(receiving, now):
        decision = decide(progress, rules, now)
        if isinstance(decision, Fragment):
            _park(registry, progress, decision.reason, now)
        if not isinstance(decision, Ready):
            continue
        pair = decision.pair_series_uid
        if registry.complete(progress, reason=decision.reason, pair_series_uid=pair, at=now):
            moved += 1
            uid = progress.series_instance_uid
            log_event(_LOGGER, logging.INFO, "complete", series=uid, version=progress.version, reason=decision.reason)
    return moved


def _park(registry: Registry, progress: SeriesProgress, reason: str, now: dt.datetime) -> None:
    uid = progress.series_instance_uid
    if registry.park(uid, reason, actor="complete", at=now):
        log_event(_LOGGER, logging.WARNING, "parked", series=uid, version=progress.version, reason=reason)
