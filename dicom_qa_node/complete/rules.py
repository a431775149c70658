"""When is a series complete? Pure functions of what was counted, the settings and the time.

A series is complete by itself

1. at once, when as many images arrived as their headers announce and no association that brought any is open
   (a multi-frame object announces one);
2. else after ``quiet_s`` without a new image and without an open association. A count that was not reached ends
   here too, as "N of M": scanners announce what they acquired, not what they chose to send. A count that was
   exceeded is no count any more, so that a wrong header does not cut a series in pieces;
3. at the latest ``force_age_s`` after the first image of this version, whatever is open or missing.

A PET series that is complete by itself then waits for the CT of the same study and frame of reference, until
every such CT has left RECEIVING or ``pair_wait_s`` have passed since its own last image; after that it goes with
the CT that is there, or alone. A CT never waits. ``force_age_s`` bounds the wait for a CT as well.

Images that come to a series whose earlier images retention has removed do not make a new version out of a
fragment: unless they are the whole series again, it is parked, and the earlier report stands.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from dicom_qa_node.config import Complete
from dicom_qa_node.records import SeriesProgress, SeriesState

__all__ = ["Decision", "Fragment", "Ready", "Wait", "decide"]


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
