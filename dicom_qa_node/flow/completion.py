"""Completion: when a series is complete (pure rules), and the task that applies them: RECEIVING -> COMPLETE."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dicom_qa_node.config import Complete
from dicom_qa_node.domain.series import SeriesProgress
from dicom_qa_node.domain.states import SeriesState
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.log import log_event

__all__ = ["ArrivalAges", "Decision", "Fragment", "Ready", "Wait", "decide", "sweep"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet; if nothing else happens, ask again at ``until``."""

    until: dt.datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Complete, for a reason that the operator reads; ``pair_series_uid`` is the CT that goes with a PET series."""

    reason: str
    pair_series_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Fragment:
    """Never complete: the images that came before are no longer there."""

    reason: str


Decision = Ready | Wait | Fragment


def decide(progress: SeriesProgress, rules: Complete, now: dt.datetime) -> Decision:
    """Decide on one series in RECEIVING.

    Parameters
    ----------
    progress
        What arrived; ``first_received_at`` is that of this version.
    rules
        The waits, in seconds.
    now
        The current time, UTC.

    Returns
    -------
    Decision
        `Ready`, `Fragment`, or `Wait` with a time that is later than ``now``.
    """
    decision = _decide(progress, rules, now)
    whole = progress.expected or progress.forgotten
    if isinstance(decision, Ready) and progress.forgotten and progress.received < whole:
        return Fragment(
            f"{_images(progress.received)} came after the earlier {progress.forgotten} had been removed from the "
            "spool: send the whole series again, or release it to score what is there"
        )
    return decision


def _decide(progress: SeriesProgress, rules: Complete, now: dt.datetime) -> Ready | Wait:
    force_at = progress.first_received_at + dt.timedelta(seconds=rules.force_age_s)
    if now >= force_at:
        text = f"{_counted(progress)}, scored at the age limit of {rules.force_age_s:g} s"
        return _with_pair(progress, text, waited=True)
    alone = _by_itself(progress, rules, now)
    decision = alone if isinstance(alone, Wait) else _paired(progress, rules, now, alone.reason)
    return decision if isinstance(decision, Ready) else Wait(min(decision.until, force_at), decision.reason)


def _by_itself(progress: SeriesProgress, rules: Complete, now: dt.datetime) -> Ready | Wait:
    if progress.open_associations:
        return Wait(dt.datetime.max.replace(tzinfo=dt.UTC), "an association is open")
    if progress.expected == progress.received:
        return Ready(f"all {_images(progress.received)}")
    quiet_at = progress.last_received_at + dt.timedelta(seconds=rules.quiet_s)
    if now < quiet_at:
        return Wait(quiet_at, f"{_counted(progress)}, waiting for silence")
    return Ready(f"{_counted(progress)} after {rules.quiet_s:g} s of silence")


def _paired(progress: SeriesProgress, rules: Complete, now: dt.datetime, reason: str) -> Ready | Wait:
    if not _wants_pair(progress):
        return Ready(reason)
    states = [state for _, state in progress.paired_series]
    settled = bool(states) and SeriesState.RECEIVING not in states
    wait_end = progress.last_received_at + dt.timedelta(seconds=rules.pair_wait_s)
    if settled or now >= wait_end:
        return _with_pair(progress, reason, waited=not settled)
    return Wait(wait_end, f"{reason}, waiting for the CT")


def _with_pair(progress: SeriesProgress, reason: str, *, waited: bool) -> Ready:
    if not _wants_pair(progress):
        return Ready(reason)
    # The registry lists the CT with the most images first: a localizer of the same frame never comes before it.
    pair = next((uid for uid, state in progress.paired_series if state is not SeriesState.RECEIVING), None)
    if pair is not None:
        return Ready(f"{reason}; with its CT", pair)
    return Ready(f"{reason}; its CT did not come in time" if waited else reason)


def _wants_pair(progress: SeriesProgress) -> bool:
    # Without a frame of reference (PS3.3 C.7.4.1) no CT can be told to lie in the same space.
    return progress.modality == "PT" and bool(progress.frame_of_reference_uid)


def _counted(progress: SeriesProgress) -> str:
    if progress.expected is None:
        return f"{_images(progress.received)} (no count announced)"
    if progress.received > progress.expected:
        return f"{_images(progress.received)} ({progress.expected} announced)"
    return f"{progress.received} of {_images(progress.expected)}"


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


# The count stands beside the stamp: the registry keeps the latest stamp, also when images come with an earlier one.
_Stamp = tuple[dt.datetime, int]


class ArrivalAges:
    """Remembers since when each stamp is known.

    The wall clock says how old a stamp is at the first look only, of the process or after it changed. A stamp in the
    future counts as new, and one that was not there at the look before is no older than that look.

    Parameters
    ----------
    steady
        Returns seconds that only ever go forward.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._looked: float | None = None
        self._since: dict[tuple[str, str], tuple[_Stamp, float]] = {}

    def corrected(self, series: Sequence[SeriesProgress], now: dt.datetime) -> list[SeriesProgress]:
        """Return the series with the stamps that they would have if the wall clock had never been set."""
        at, known = self._steady(), self._since
        self._since = {}
        for item in series:
            uid = item.series_instance_uid
            for name, stamp in (
                ("first", (item.first_received_at, 0)),
                ("last", (item.last_received_at, item.received)),
            ):
                before = known.get((uid, name))
                if before is None or before[0] != stamp:
                    before = stamp, at - self._age_s(stamp[0], now, at)
                self._since[uid, name] = before
        self._looked = at
        return [self._corrected(item, now, at) for item in series]

    def _age_s(self, stamp: dt.datetime, now: dt.datetime, at: float) -> float:
        age_s = max(0.0, (now - stamp).total_seconds())
        return age_s if self._looked is None else min(age_s, at - self._looked)

    def _corrected(self, item: SeriesProgress, now: dt.datetime, at: float) -> SeriesProgress:
        first, last = (
            now - dt.timedelta(seconds=at - self._since[item.series_instance_uid, name][1])
            for name in ("first", "last")
        )
        return replace(item, first_received_at=first, last_received_at=last)


_LOGGER = logging.getLogger(__name__)


def sweep(registry: Registry, rules: Complete, now: dt.datetime, ages: ArrivalAges | None = None) -> int:
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
